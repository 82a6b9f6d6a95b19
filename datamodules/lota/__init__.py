"""Bit planes and patches as LOTA sees pictures."""
