"""Data of one paper: Re-assessing ImageNet (arXiv 2412.18409)."""
