"""Data of one paper: TransHP (arXiv 2304.06385)."""
