"""Data of Diffusion Models Beat GANs on Image Classification (arXiv 2307.08702)."""
