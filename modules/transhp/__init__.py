"""TransHP (arXiv 2304.06385): module.py is the method."""
