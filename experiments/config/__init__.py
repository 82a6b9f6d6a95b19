"""From a command line to one resolved configuration, and what a paper's file may say. Imports no torch.

Door: compose.request, compose.compose, overlay.opened, claims.read, written.read, instantiate.build; what files may
say: schema, comparisons, published, networks, summary, stages, trials, arms.
"""
