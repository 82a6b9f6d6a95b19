"""From a command line to one resolved configuration, and what a paper's file may say. Imports no torch.

On the way: reading (files), written, schema (what they may say), recipes (what they leave unsaid), overrides, frame,
compose, instantiate and allowed (objects). Beside it: overlay, arms and own_data, what a user brings.

Door: compose.request, compose.compose, overlay.opened, claims.read, written.read, instantiate.build; what files may
say: schema, comparisons, published, networks, summary, stages, trials, arms.
"""
