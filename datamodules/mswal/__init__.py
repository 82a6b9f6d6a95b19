"""mswal"""
