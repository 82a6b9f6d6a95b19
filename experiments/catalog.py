"""`python -m experiments.catalog`: every paper and how its main claim stands."""

from __future__ import annotations

import sys

from experiments.commands import catalog, cli

if __name__ == "__main__":
    sys.exit(cli.main(catalog.main, catalog.HELP, overlays=True, exits="0, or 2 on wrong input"))
