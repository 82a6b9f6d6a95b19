"""What a terminal shows: progress while a paper runs, then its numbers and verdicts."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from experiments.claims import FAILED, INCONCLUSIVE, MATCHED, NOT_RUN, PARTIAL, REFUTED, SUPPORTED, estimate

out = Console(highlight=False)
if not out.is_terminal:
    out = Console(highlight=False, width=140)  # into a file or a pipe nothing needs to fit a window
STYLES = {
    SUPPORTED: "green",
    MATCHED: "green",
    REFUTED: "red",
    FAILED: "red",
    INCONCLUSIVE: "yellow",
    PARTIAL: "yellow",
    NOT_RUN: "dim",
}
COLUMNS = 8  # of metrics, those that claims are about first; a terminal has no room for more
SHOWN = ("test/top1", "test/top5", "test/ece", "test/nll")  # first, where a stage has them


class Board:
    """One bar over all stages of all seeds; a line for each stage that ends when there is no terminal to draw on."""

    def __init__(self, title: str, total: int) -> None:
        self.title, self.total, self.done, self.began = title, total, 0, time.monotonic()
        self.fractions: dict[tuple[int, str], float] = {}
        self.bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[now]}", markup=False),
            TimeElapsedColumn(),
            console=out,
            disable=not out.is_terminal,
        )
        self.task = self.bar.add_task(escape(title), total=total, now="")

    def __enter__(self) -> Board:
        self.bar.start()
        return self

    def __exit__(self, *ended: object) -> None:
        self.bar.stop()

    def __call__(self, event: dict[str, Any]) -> None:
        kind = event["event"]
        if kind == "warning":
            out.print(f"[yellow]warning[/]: {escape(event['text'])}")
        elif kind == "start":
            self._show(event, 0.0)
        elif kind == "progress":
            self._show(event, event["fraction"])
        elif kind == "stage":
            self._ended(event)

    def _show(self, event: Mapping[str, Any], fraction: float) -> None:
        self.fractions[event["seed"], event["stage"]] = fraction
        now = ", ".join(f"{stage} of seed {seed} {done:.0%}" for (seed, stage), done in self.fractions.items())
        self.bar.update(self.task, completed=self.done + sum(self.fractions.values()), now=now)

    def _ended(self, event: Mapping[str, Any]) -> None:
        self.fractions.pop((event["seed"], event["stage"]), None)
        self.done += 1
        self.bar.update(self.task, completed=self.done + sum(self.fractions.values()))
        if event["status"] == "failed":
            out.print(f"[red]failed[/]  seed {event['seed']} {escape(event['stage'])}: ", end="")
            out.print(event["reason"], markup=False)
        elif not out.is_terminal and not event["cached"] and event["status"] == "done":
            metric = next((f"{m} {event['metrics'][m]:.2f}" for m in SHOWN if m in event["metrics"]), "")
            elapsed = time.monotonic() - self.began
            line = f"{self.done:>4}/{self.total} seed {event['seed']} {event['stage']:<20} {metric}  ({elapsed:.0f} s)"
            out.print(line, markup=False)


def number(value: float) -> str:
    """Enough digits for the size of the value."""
    if not math.isfinite(value):
        return str(value)
    size = abs(value)
    return f"{value:.2f}" if size >= 10 else f"{value:.3f}" if size >= 0.1 else f"{value:.4f}"


def _cell(values: Sequence[float]) -> str:
    measured = estimate(values)
    half = measured.high - measured.mean
    return f"{number(measured.mean)} ± {number(half)}" if math.isfinite(half) else number(measured.mean)


def stage_table(found: Mapping[str, Any], title: str) -> Table:
    """Mean and 95% interval over seeds for every stage and metric."""
    names = list(dict.fromkeys(m for s in found["stages"].values() for m in s["metrics"] if not m.endswith("/n")))
    judged = {m.split("/", 1)[1] for c in found["claims"] for m in (c["better"], c["than"]) if isinstance(m, str)}
    names.sort(key=lambda name: (name not in judged, SHOWN.index(name) if name in SHOWN else len(SHOWN)))
    names, more = names[:COLUMNS], names[COLUMNS:]
    table = Table(
        title=f"{escape(title)}: mean ± half of the 95% interval over {len(found['seeds'])} seeds", title_justify="left"
    )
    table.add_column("stage")
    for name in names:
        table.add_column(escape(name.removeprefix("test/")), justify="right")
    table.add_column("seconds", justify="right")
    for stage, item in found["stages"].items():
        if item["metrics"]:
            cells = [_cell(item["metrics"][n]) if n in item["metrics"] else "" for n in names]
            table.add_row(escape(stage), *cells, f"{sum(item['seconds']):.0f}")
        else:
            table.add_row(escape(stage), f"[red]{'failed' if item['failed'] else 'skipped'}[/]", *[""] * len(names))
    if more:
        table.caption = f"and on the report page: {', '.join(name.removeprefix('test/') for name in more)}"
    return table


def claim_table(found: Mapping[str, Any], title: str) -> Table:
    """A verdict per claim, with what it was computed from."""
    table = Table(title=f"{escape(title)}: claims", title_justify="left")
    table.add_column("verdict")
    table.add_column("claim", ratio=1)
    table.add_column("difference", justify="right")
    table.add_column("95% interval", justify="right", no_wrap=True)
    for claim in found["claims"]:
        style = STYLES[claim["verdict"]]
        interval = claim["interval"]
        table.add_row(
            f"[{style}]{claim['verdict']}[/]",
            escape(claim["name"]) + (f" [dim]({escape(claim['reason'])})[/]" if claim["reason"] else ""),
            f"{claim['difference']:+.2f}" if claim["difference"] is not None else "",
            f"{interval[0]:+.2f} to {interval[1]:+.2f}" if interval else "",
        )
    return table


def published_table(found: Mapping[str, Any], title: str) -> Table:
    """Published numbers beside ours."""
    below = "" if found["scale"] == "full" else f" ({found['scale']} is a smaller recipe: not comparable)"
    table = Table(title=f"{escape(title)}: published beside ours{below}", title_justify="left")
    for column in ("stage", "metric", "published", "ours", "verdict", "protocol"):
        table.add_column(column)
    for item in found["published"]:
        ours = number(item["ours"]) if item["ours"] is not None else ""
        judged = item["verdict"] if found["scale"] == "full" else "not judged"
        verdict = f"[{STYLES.get(judged, 'dim')}]{judged}[/]"
        protocol = f"{item['dataset']}, {item['protocol']}"
        table.add_row(
            escape(item["stage"]), escape(item["metric"]), number(item["value"]), ours, verdict, escape(protocol)
        )
    return table
