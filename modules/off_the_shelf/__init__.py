"""CNN Features off-the-shelf (arXiv 1403.6382): module.py is the method."""
