"""noprop"""
