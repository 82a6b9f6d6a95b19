"""nasnet"""
