"""inception_v4"""
