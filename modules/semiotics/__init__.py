"""Semiotics Networks Representing Perceptual Inference (arXiv 2310.05212): module.py is the method."""
