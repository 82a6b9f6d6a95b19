"""Deep Learning for Case-Based Reasoning through Prototypes (arXiv 1710.04806): module.py is the method."""
