"""simclr_v2"""
