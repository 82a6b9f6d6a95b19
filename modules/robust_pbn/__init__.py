"""robust_pbn"""
