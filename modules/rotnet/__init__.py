"""RotNet (arXiv 1803.07728): module.py is the method."""
