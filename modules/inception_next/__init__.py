"""InceptionNeXt (arXiv 2303.16900): module.py is the method."""
