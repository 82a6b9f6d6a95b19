"""`python -m experiments.run`: one run of a paper, and what sweeps launch."""

from __future__ import annotations

import sys

from experiments.commands import cli, run

if __name__ == "__main__":
    sys.exit(cli.main(run.main, run.HELP, overlays=True, composes=True))
