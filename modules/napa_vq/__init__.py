"""NAPA-VQ (arXiv 2308.09297): module.py is the method."""
