"""Data of one paper: SPARSE (arXiv 2508.06429)."""
