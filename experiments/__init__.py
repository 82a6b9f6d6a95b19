"""What runs papers. Knows no paper by name."""
