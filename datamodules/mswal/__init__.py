"""Data of one paper: MSWAL (arXiv 2503.13560)."""
