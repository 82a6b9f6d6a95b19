"""inception_next"""
