"""Do Input Gradients Highlight Discriminative Features?

arXiv 2102.12781: module.py is the method.
"""
