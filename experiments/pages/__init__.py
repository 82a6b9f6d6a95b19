"""How a record is shown: in a terminal, as HTML, on W&B. Nothing is judged here.

`view` reads an entry once; terminal, HTML and W&B lay it out.

Door: view.of, console, progress.Board, numbers, report.build, wandb_verdict, wandb_workspace.
"""
