"""ntk_optimality"""
