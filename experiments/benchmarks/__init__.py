"""What the frame and the papers' networks cost, side by side in one process, what a graphics card does with them, and
how often the decision procedure is wrong.

Door: nothing: `make bench`, `make gpu` and `python -m experiments.benchmarks.decisions` start it.
"""
