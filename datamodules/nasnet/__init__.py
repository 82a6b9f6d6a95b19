"""Data of one paper: NASNet (arXiv 1707.07012)."""
