"""Plug & Play Generative Networks (arXiv 1612.00005): first `generator` and `denoiser` are trained, then `sampling`.

The method's three parts: `spaces` (what a chain moves in), `conditions` (where it is pulled), `sampler` (how it steps).
"""
