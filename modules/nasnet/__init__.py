"""NASNet (arXiv 1707.07012): module.py is the method."""
