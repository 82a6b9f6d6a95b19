"""transhp"""
