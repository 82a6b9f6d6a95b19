"""ARIA: detectors of generated art, news and photos across generators (arXiv 2404.14581)."""
