"""What the frame and the papers' networks cost, as ratios measured side by side in one process.

Door: nothing: `make bench` starts it.
"""
