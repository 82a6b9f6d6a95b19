"""`make papers`: every paper with what it claims, what a run costs and what came out. Imports no torch."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from experiments import cli, compose, files, results
from experiments.console import STYLES, out
from experiments.errors import InputError
from experiments.plan import plan

HELP = """\
List every paper of the suite: claims, stages, cost and verdicts, and whether the code moved since.

  python -m experiments.catalog
  python -m experiments.catalog --json        for programs
  python -m experiments.catalog --readme      rewrite the table in README.md

"""


def describe(paper: str) -> dict[str, Any]:
    """One paper as plain data: title, claims, stages, variants, and each recorded entry with verdicts and staleness."""
    config = compose.compose(compose.request([f"paper={paper}"]).overrides)
    this = plan(config, int(config.seed))
    recorded = (results.read(paper) or {}).get("entries", {})
    entries = {}
    for name, found in recorded.items():
        entries[name] = {
            "verdicts": {claim["name"]: claim["verdict"] for claim in found["claims"]},
            "published": {f"{p['stage']}/{p['metric']}": p["verdict"] for p in found["published"]},
            "seeds": len(found["seeds"]),
            "seconds": found["provenance"]["seconds"],
            "metrics": sorted({m for stage in found["stages"].values() for m in stage["metrics"]}),
            "stale": results.stale(paper, found),
        }
    return {
        "key": paper,
        "title": this.config["title"],
        "arxiv": this.config.get("arxiv"),
        "about": this.config.get("about", ""),
        "claims": [claim["name"] for claim in this.config.get("claims") or []],
        "stages": list(this.stages),
        "variants": {name: item["about"] for name, item in (this.config.get("variants") or {}).items()},
        "seeds": this.config["seeds"],
        "entries": entries,
    }


def counted(entry: dict[str, Any]) -> dict[str, int]:
    """How often each verdict was reached, in a fixed order."""
    verdicts = list(entry["verdicts"].values())
    return {verdict: verdicts.count(verdict) for verdict in STYLES if verdict in verdicts}


def _table(papers: list[dict[str, Any]]) -> Table:
    table = Table(title=f"{len(papers)} paper{'s' if len(papers) != 1 else ''}", title_justify="left", show_lines=True)
    for column in ("paper", "title", "stages", "claims", "recorded", "cost", "verdicts"):
        table.add_column(column, no_wrap=column == "paper")
    for paper in papers:
        rows: list[tuple[str, str, str]] = []
        for name, entry in paper["entries"].items():
            parts = [f"[{STYLES[verdict]}]{n} {verdict}[/]" for verdict, n in counted(entry).items()]
            if entry["stale"]:
                parts.append(f"[magenta]stale: {', '.join(entry['stale'])}[/]")
            rows.append((name, f"{entry['seconds'] / 60:.0f} min, {entry['seeds']} seeds", ", ".join(parts)))
        joined = ["\n".join(column) for column in zip(*rows, strict=True)]
        cells = joined or ["[dim]not run[/]", "", ""]
        table.add_row(
            paper["key"], escape(paper["title"]), str(len(paper["stages"])), str(len(paper["claims"])), *cells
        )
    return table


def markdown(papers: list[dict[str, Any]]) -> str:
    """The README's table: one line per recorded entry, one for a paper that was never run."""
    lines = ["| paper | setting | seeds | computing | verdicts |", "|---|---|---|---|---|"]
    for paper in papers:
        link = f"[{paper['title'].split(':')[0]}](https://arxiv.org/abs/{paper['arxiv']}) `{paper['key']}`"
        if not paper["entries"]:
            lines.append(f"| {link} | | | | not run |")
        for name, entry in paper["entries"].items():
            verdicts = ", ".join(f"{n} {verdict}" for verdict, n in counted(entry).items())
            old = " (stale)" if entry["stale"] else ""
            lines.append(f"| {link} | {name} | {entry['seeds']} | {entry['seconds'] / 60:.0f} min | {verdicts}{old} |")
    return "\n".join(lines)


def write_readme(papers: list[dict[str, Any]], path: Path = compose.ROOT / "README.md") -> None:
    """Replace what stands between the README's two markers. Raises InputError if a marker is missing."""
    head, begin, rest = path.read_text(encoding="utf-8").partition("<!-- papers -->\n")
    _, end, tail = rest.partition("<!-- /papers -->")
    if not begin or not end:
        raise InputError(f"{path.name}: the markers <!-- papers --> and <!-- /papers --> are missing")
    files.write_text(path, head + begin + markdown(papers) + "\n" + end + tail)


def main(argv: list[str]) -> int:
    wrong = [a for a in argv if a not in ("--json", "--readme")]
    if wrong:
        raise InputError(f"{wrong[0]!r}: expected --json, --readme or nothing")
    papers = [describe(paper) for paper in compose.papers()]
    if "--json" in argv:
        print(json.dumps(papers, indent=1))
    elif "--readme" in argv:
        write_readme(papers)
    else:
        out.print(_table(papers))
    return 0


if __name__ == "__main__":
    sys.exit(cli.main(main, HELP))
