"""vit_vqgan"""
