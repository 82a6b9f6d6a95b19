"""How a record is shown: in a terminal, as HTML, on W&B. Nothing is judged here.

Door: console, report.build, wandb_verdict, wandb_workspace.
"""
