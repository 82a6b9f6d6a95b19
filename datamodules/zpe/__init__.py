"""Data of one paper.

A Simple Zero-shot Prompt Weighting Technique to Improve Prompt Ensembling in Text-Image Models (arXiv 2302.06235).
"""
