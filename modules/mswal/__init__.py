"""MSWAL (arXiv 2503.13560): module.py is the method."""
