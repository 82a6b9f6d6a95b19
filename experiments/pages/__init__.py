"""How a record is shown: in a terminal, as HTML, on W&B. Nothing is judged here.

`view` reads an entry once into the classes of `display`; terminal (console), HTML (report, of index, page and section)
and W&B lay it out. Figures are drawn by curves, diagram, differences, forest and scatter, with `drawing`.

Door: view.of, display, console, progress.Board, numbers, report.build, wandb_verdict, wandb_workspace.
"""
