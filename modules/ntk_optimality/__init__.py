"""Wide and Deep Neural Networks Achieve Optimality for Classification (arXiv 2204.14126): module.py is the method."""
