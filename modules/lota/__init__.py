"""LOTA: bit planes against generated images (arXiv 2510.14230)."""
