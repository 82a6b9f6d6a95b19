"""Data of one paper.

How explainable are adversarially-robust CNNs? (arXiv 2205.13042).
"""
