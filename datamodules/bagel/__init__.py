"""Data of one paper.

When does dough become a bagel? Analyzing the remaining mistakes on ImageNet (arXiv 2205.04596).
"""
