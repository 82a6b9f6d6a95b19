"""Vector-quantized Image Modeling with Improved VQGAN (arXiv 2110.04627): module.py is the method."""
