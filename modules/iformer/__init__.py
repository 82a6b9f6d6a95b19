"""iFormer (arXiv 2205.12956): module.py is the method."""
