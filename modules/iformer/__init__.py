"""iformer"""
