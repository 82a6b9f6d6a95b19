"""A Robust Prototype-Based Network with Interpretable RBF Classifier Foundations

arXiv 2412.15499: module.py is the method.
"""
