"""reassess_imagenet"""
