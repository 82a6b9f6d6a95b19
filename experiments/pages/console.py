"""What a terminal shows: progress while a paper runs, then its numbers and verdicts."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from experiments.config import expressions
from experiments.evidence import merge
from experiments.evidence.records import Entry, JudgedClaim
from experiments.evidence.sequences import t_interval
from experiments.evidence.words import (
    FAILED,
    FAILS,
    HOLDS,
    MATCHED,
    NO_GAIN,
    NOT_RUN,
    REFUTED,
    SUPPORTED,
    UNDECIDED,
    UNTESTED,
)
from experiments.running import cost

out = Console(highlight=False)
if not out.is_terminal:
    out = Console(highlight=False, width=140)  # into a file or a pipe nothing needs to fit a window
STYLES = {
    SUPPORTED: "green",
    HOLDS: "green",
    MATCHED: "green",
    REFUTED: "red",
    FAILS: "red",
    FAILED: "red",
    NO_GAIN: "blue",
    UNDECIDED: "yellow",
    UNTESTED: "magenta",
    NOT_RUN: "dim",
}
COLUMNS = 8  # of metrics, those that claims are about first; a terminal has no room for more
SHOWN = ("test/top1", "test/top5", "test/ece", "test/nll")  # first, where a stage has them


class Board:
    """One bar over all stages of all seeds; a line for each stage that ends when there is no terminal to draw on.

    Args:
        title: left of the bar.
        total: stages.
        seconds: what stages are expected to last, so that the bar grows evenly; others count as their mean.
    """

    def __init__(self, title: str, total: int, seconds: Mapping[str, float] | None = None) -> None:
        self.title, self.total, self.done, self.began = title, total, 0, time.monotonic()
        self.seconds = dict(seconds or {})
        self.usual = sum(self.seconds.values()) / len(self.seconds) if self.seconds else 1.0
        self.behind = 0.0  # seconds of the stages that ended
        self.fractions: dict[tuple[int, str], float] = {}
        self.bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[ended]}"),
            TextColumn("{task.fields[now]}", markup=False),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=out,
            disable=not out.is_terminal,
        )
        self.task = self.bar.add_task(escape(title), total=total * self.usual, now="", ended=f"0/{total}")

    def plan(self, stages: Sequence[str]) -> Board:
        """Say which stages will run, by name, once per seed; returns itself."""
        self.bar.update(self.task, total=sum(self.weight(stage) for stage in stages))
        return self

    def weight(self, stage: str) -> float:
        return max(0.1, self.seconds.get(stage, self.usual))

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
        self._draw(now=now)

    def _draw(self, **fields: Any) -> None:
        under_way = sum(self.weight(stage) * done for (_, stage), done in self.fractions.items())
        self.bar.update(self.task, completed=self.behind + under_way, ended=f"{self.done}/{self.total}", **fields)

    def _ended(self, event: Mapping[str, Any]) -> None:
        self.fractions.pop((event["seed"], event["stage"]), None)
        self.done += 1
        self.behind += self.weight(event["stage"])
        self._draw()
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


def _cell(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known or not all(math.isfinite(value) for value in known):
        return "" if not known else "not finite"
    estimate = t_interval(known)
    half = estimate.high - estimate.mean
    return f"{number(estimate.mean)} ± {number(half)}" if math.isfinite(half) else number(estimate.mean)


def signed(value: float) -> str:
    return f"{value:+.2f}" if abs(value) >= 1 or value == 0 else f"{value:+.3f}"


def span(claim: JudgedClaim) -> str:
    """A claim's difference with unit and interval, in words."""
    if claim.difference is None:
        return "no difference"
    unit = f" {claim.unit}" if claim.unit else ""
    ends = f" [{signed(claim.interval[0])}, {signed(claim.interval[1])}]" if claim.interval else ""
    return f"{signed(claim.difference)}{ends}{unit}"


def main_line(entry: Entry, title: str) -> str:
    """The answer, first: the main claim, its verdict, how sure, from how many seeds."""
    claim = entry.main_claim()
    if claim is None:
        return f"[bold]{escape(title)}[/]: no main claim in this setting"
    style = STYLES[claim.verdict]
    why = f" ({escape(claim.reason)})" if claim.reason else ""
    seeds = f"{len(claim.seeds)} seed{'s' * (len(claim.seeds) != 1)}"
    stopped = f"; stopped: {escape(entry.stopped)}" if entry.stopped else ""
    lines = [f"[bold {style}]{claim.verdict}[/]{why}: [bold]{escape(claim.name)}[/]"]
    lines.append(f"  {escape(span(claim))}, {seeds}{stopped}")
    if claim.published:
        said = f"{claim.published.difference:+g} {claim.unit}, {claim.published.source}"
        lines.append(f"  published: {escape(said)}")
    return "\n".join(lines)


def first_line(entry: Entry, began: float, behind: int) -> str:
    """How the main claim stands once its own stages are done, with so many others behind them."""
    claim = entry.main_claim()
    assert claim is not None
    spent = cost.in_words(time.monotonic() - began)
    others = "1 other stage follows" if behind == 1 else f"{behind} other stages follow"
    return (
        f"main claim after {len(entry.seeds)} seeds, {spent}: [bold]{claim.verdict}[/], {escape(span(claim))}; {others}"
    )


def look_line(entry: Entry, began: float, minutes: float) -> str:
    """How far a decision is, between two looks."""
    claim = entry.main_claim()
    assert claim is not None
    left = max(0.0, minutes - (time.monotonic() - began) / 60)
    needed = f"about {claim.needed} would decide" if claim.needed else "how many would decide is not in sight"
    return (
        f"look after {len(entry.seeds)} seeds: {escape(span(claim))} {claim.verdict}; {needed}; "
        f"{left:.0f} min left for further seeds"
    )


def beside(recorded: Entry, entry: Entry) -> str:
    """What is recorded and what came out now, one under the other."""
    lines = []
    for word, item in (("recorded", recorded), ("here", entry)):
        claim = item.main_claim()
        if claim is not None:
            seeds = f"{len(claim.seeds)} seeds of stream {item.registered.stream}"
            lines.append(f"{word + ':':<10}{claim.verdict}, {escape(span(claim))}, {seeds}")
    differs = merge.differing(entry.provenance, recorded.provenance)
    if differs:
        changes = ", ".join(f"{name} {here} (recorded: {there})" for name, (there, here) in differs.items())
        lines.append(f"{'differs:':<10}{escape(changes)}")
    return "\n".join(lines)


def judged_metrics(entry: Entry) -> set[str]:
    """The metrics that claims look at."""
    sides = [side for claim in entry.claims for side in (claim.better, claim.than)]
    return {metric.name for side in sides for metric in expressions.metrics(expressions.parse(side, "claim"))}


def stage_table(entry: Entry, title: str) -> Table:
    """Mean and 95% t interval over seeds for every stage and metric of the test."""
    names = list(dict.fromkeys(m for s in entry.stages.values() for m in s.metrics))
    judged = judged_metrics(entry)
    names = [name for name in names if not name.endswith("/n") and (name.startswith("test/") or name in judged)]
    names.sort(key=lambda name: (name not in judged, SHOWN.index(name) if name in SHOWN else len(SHOWN)))
    names, more = names[:COLUMNS], names[COLUMNS:]
    seeds = len(entry.seeds)
    table = Table(title=f"{escape(title)}: mean ± half of the 95% interval, up to {seeds} seeds", title_justify="left")
    table.add_column("stage")
    for name in names:
        table.add_column(escape(name.removeprefix("test/")), justify="right")
    table.add_column("seconds", justify="right")
    for stage, item in entry.stages.items():
        if item.metrics or (item.total_seconds() and not item.failed):
            cells = [_cell(item.metrics.get(n, [])) for n in names]
            table.add_row(escape(stage), *cells, f"{item.total_seconds():.0f}")
        else:
            table.add_row(escape(stage), f"[red]{'failed' if item.failed else 'skipped'}[/]", *[""] * len(names))
    if more:
        table.caption = f"and on the report page: {', '.join(name.removeprefix('test/') for name in more)}"
    return table


def claim_table(entry: Entry, title: str) -> Table:
    """A verdict per claim, the main one first, with what it was computed from."""
    table = Table(title=f"{escape(title)}: claims", title_justify="left")
    table.add_column("verdict")
    table.add_column("claim", ratio=1)
    table.add_column("difference", justify="right")
    table.add_column("95% interval", justify="right", no_wrap=True)
    table.add_column("seeds", justify="right")
    for claim in sorted(entry.claims, key=lambda claim: not claim.main):
        style, interval = STYLES[claim.verdict], claim.interval
        kind = "" if claim.main else " [dim](exploratory)[/]" if not claim.found else " [dim](found)[/]"
        name = f"[bold]{escape(claim.name)}[/]" if claim.main else escape(claim.name) + kind
        table.add_row(
            f"[{style}]{claim.verdict}[/]",
            name + (f" [dim]({escape(claim.reason)})[/]" if claim.reason else ""),
            f"{signed(claim.difference)} {escape(claim.unit)}" if claim.difference is not None else "",
            f"{signed(interval[0])} to {signed(interval[1])}" if interval else "",
            str(len(claim.seeds)),
        )
    return table


def check_table(entry: Entry, title: str) -> Table:
    """Checks: what must be so for the run to make sense; no evidence."""
    table = Table(title=f"{escape(title)}: checks", title_justify="left")
    for column in ("", "check", "values"):
        table.add_column(column)
    for item in entry.checks:
        mark = {True: "[green]holds[/]", False: "[red]fails[/]", None: "[dim]not run[/]"}[item.holds]
        values = " against ".join(number(v) for v in item.values) if item.values else escape(item.reason)
        table.add_row(mark, escape(item.name), values)
    return table


def published_table(entry: Entry, title: str) -> Table:
    """Published numbers beside ours."""
    below = "" if entry.scale == "full" else f" ({entry.scale} is a smaller recipe: not comparable)"
    table = Table(title=f"{escape(title)}: published beside ours{below}", title_justify="left")
    for column in ("stage", "metric", "published", "ours", "verdict", "protocol"):
        table.add_column(column)
    for item in entry.published:
        ours = number(item.ours) if item.ours is not None else ""
        judged = item.verdict if entry.scale == "full" or item.kind == "exact" else "not judged"
        verdict = f"[{STYLES.get(judged, 'dim')}]{judged}[/]"
        protocol = f"{item.dataset}, {item.protocol}"
        table.add_row(escape(item.stage), escape(item.metric), number(item.value), ours, verdict, escape(protocol))
    return table
