"""`python -m experiments.reproduce`: a paper over seeds until its main claim is decided."""

from __future__ import annotations

import sys

from experiments.commands import cli, reproduce

if __name__ == "__main__":
    sys.exit(cli.main(reproduce.main, reproduce.HELP, overlays=True, composes=True))
