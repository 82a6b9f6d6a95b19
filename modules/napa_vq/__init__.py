"""napa_vq"""
