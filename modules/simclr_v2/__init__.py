"""SimCLR v2 (arXiv 2006.10029): module.py is the method."""
