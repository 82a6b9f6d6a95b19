"""This Looks Like That, Because ... Explaining Prototypes for Interpretable Image Recognition

arXiv 2011.02863: module.py is the method.
"""
