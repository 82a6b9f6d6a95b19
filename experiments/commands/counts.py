"""`make counts`: how large networks are, beside the numbers of papers' tables, for results/counts/. No training."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from experiments.commands import cli
from experiments.common.memory import EVERYTHING, remember
from experiments.common.paths import ROOT
from experiments.config import compose
from experiments.config.networks import Counted
from experiments.evidence import counts
from experiments.evidence.counts import Row
from experiments.pages import console

HELP = """\
Count the networks of full recipes whose size their papers print, and write results/counts/<paper>.json.

  python -m experiments.commands.counts            all papers that print sizes
  python -m experiments.commands.counts nasnet     one of them

"""


def main(argv: list[str]) -> int:
    papers = cli.papers_named(argv) or [paper for paper in compose.papers() if counts.declared(paper)]
    for paper in papers:
        rows = derive(paper)
        if not rows:
            console.say(f"{paper}: its file has no `counted` rows")
            continue
        place = counts.write(paper, rows)
        console.out.print(console.counts_table(rows, paper))
        console.say(f"counts:  {place.relative_to(ROOT)}", "")
    return 0


def derive(paper: str) -> list[Row]:
    """Every declared row of a paper counted anew; from memory where none of its files changed."""
    asked = counts.declared(paper)
    if not asked:
        return []
    counted = remember("counts", paper, "", EVERYTHING, lambda: [_count(paper, row) for row in asked])
    pairs = zip(asked, counted, strict=True)
    return [counts.judge(row, what, ours[what]) for row, ours in pairs for what in counts.WHAT if what in ours]


def _count(paper: str, row: Counted) -> dict[str, int]:
    from experiments.running import counting

    config = _resolved(paper, row.variant)
    network = counting.build_on_meta(config, row.network, row.set)
    ours: dict[str, int] = {}
    if row.parameters is not None:
        without = counting.build_on_meta(config, row.less, row.set) if row.less else None
        ours["parameters"] = counting.parameters(network) - (counting.parameters(without) if without else 0)
    if row.mult_adds is not None:
        ours["mult_adds"] = counting.multiply_adds_of_image(network, row.input, row.norms)
    return ours


def _resolved(paper: str, variant: str | None) -> Mapping[str, Any]:
    lines = [f"paper={paper}", "scale=full", *([f"variant={variant}"] if variant else [])]
    return compose.resolve(compose.compose(compose.request(lines).overrides), 0)


if __name__ == "__main__":
    sys.exit(cli.main(main, HELP))
