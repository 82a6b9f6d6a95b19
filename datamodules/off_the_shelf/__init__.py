"""Data of one paper: CNN Features off-the-shelf (arXiv 1403.6382)."""
