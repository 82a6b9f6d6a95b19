"""st_protopnet"""
