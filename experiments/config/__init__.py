"""From a command line to one resolved configuration, and what a paper's file may say. Imports no torch.

Door: compose.request, compose.compose, claims.read, schema (what files may say), written.read, instantiate.build,
overlay.opened.
"""
