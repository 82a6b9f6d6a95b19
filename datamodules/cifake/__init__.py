"""Data of one paper.

CIFAKE: Image Classification and Explainable Identification of AI-Generated Synthetic Images (arXiv 2303.14126).
"""
