"""How explainable are adversarially-robust CNNs?

arXiv 2205.13042: explain.py is the study, advprop.py the training that no other paper uses.
"""
