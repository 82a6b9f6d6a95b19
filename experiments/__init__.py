"""What runs papers. Knows no paper by name.

Rooms, from the ground up; each imports those before it alone (tests/experiments/test_rooms.py):
common, identity, config, running, evidence, pages, commands, benchmarks. `run`, `reproduce` and `catalog` beside them
are what `python -m` starts.
"""
