"""CopyScope (arXiv 2311.12847): who in a diffusion workflow made the images look like an original.

`base`, `lora` and `control` are a small workflow's parts, trained one after another; `workflow` makes the images of all
coalitions; `table` scores them; `games` and `attribution` say what each part contributed. `stable_diffusion` is the
published workflow.
"""
