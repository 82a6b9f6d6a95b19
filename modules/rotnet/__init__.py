"""rotnet"""
