"""bagel"""
