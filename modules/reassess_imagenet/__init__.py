"""Re-assessing ImageNet (arXiv 2412.18409): module.py is the method."""
