"""G-SimCLR (arXiv 2009.12007): module.py is the method."""
