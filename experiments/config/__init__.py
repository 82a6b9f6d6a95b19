"""From a command line to one resolved configuration, and what a paper's file may say. Imports no torch.

Door: compose.request, compose.compose, claims.read, instantiate.instantiate.
"""
