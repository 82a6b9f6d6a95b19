"""semiotics"""
