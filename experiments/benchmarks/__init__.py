"""What the frame and the papers' networks cost, side by side in one process, and what a graphics card does with them.

Door: nothing: `make bench` and `make gpu` start it.
"""
