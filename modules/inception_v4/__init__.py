"""Inception-v4, Inception-ResNet and the Impact of Residual Connections on Learning

arXiv 1602.07261: module.py is the method.
"""
