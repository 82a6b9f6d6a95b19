"""`make mutants`: would the tests of a room notice if its code were wrong in one place?"""
