"""diffroar"""
