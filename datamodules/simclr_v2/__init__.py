"""Data of one paper: SimCLR v2 (arXiv 2006.10029)."""
