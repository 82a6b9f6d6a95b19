"""Data of one paper: G-SimCLR (arXiv 2009.12007)."""
