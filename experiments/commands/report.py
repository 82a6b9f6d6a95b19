"""`make report`: the gallery and the papers' pages as static HTML, from the records. Trains nothing."""

from __future__ import annotations

import sys
from pathlib import Path

from experiments.commands import cli
from experiments.common.overlay import home
from experiments.pages import report

HELP = """\
Write the index and the papers' pages as static HTML, from results/*.json. Trains nothing.

  python -m experiments.commands.report               the index and every paper's page
  python -m experiments.commands.report meal_v2       the index and one page

  site=FOLDER        folder to write into (default: site/)

A paper without results gets a page too: its claims, and how to run it.
"""


def main(argv: list[str]) -> int:
    """Prints the paths written."""
    folders = [word.removeprefix("site=") for word in argv if word.startswith("site=")]
    site = Path(folders[-1]) if folders else home() / "site"
    papers = cli.papers_named([word for word in argv if not word.startswith("site=")])

    for path in report.build(papers or None, site):
        print(path.relative_to(home()) if path.is_relative_to(home()) else path)
    return 0


if __name__ == "__main__":
    sys.exit(cli.main(main, HELP, overlays=True, exits="0, or 2 on wrong input"))
