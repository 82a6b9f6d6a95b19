"""Data of ARIA: generators, modes and categories."""
