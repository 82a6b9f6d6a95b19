"""NoProp (arXiv 2503.24322): module.py is the method."""
