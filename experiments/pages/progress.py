"""A bar over the stages of a command while it runs."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.progress import (
    BarColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from experiments.pages.console import Text, out
from experiments.pages.display import FIRST
from experiments.running.manifest import Event


class Board:
    """One bar over all stages of all seeds; a line for each stage that ends when there is no terminal to draw on.

    Args:
        title: left of the bar.
        total: stages.
        seconds: what stages are expected to last, so that the bar grows evenly; others count as their mean.
    """

    def __init__(self, title: str, total: int, seconds: Mapping[str, float] | None = None) -> None:
        self.total = total
        self.done = 0
        self.began = time.monotonic()
        self.seconds = dict(seconds or {})
        self.usual = sum(self.seconds.values()) / len(self.seconds) if self.seconds else 1.0
        self.behind = 0.0  # seconds of the stages that ended
        self.fractions: dict[tuple[int, str], float] = {}
        self.bar = Progress(
            TextColumn("{task.description}", style="bold", markup=False),
            BarColumn(),
            TextColumn("{task.fields[ended]}", markup=False),
            TextColumn("{task.fields[now]}", markup=False),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=out,
            disable=not out.is_terminal,
        )
        self.task = self.bar.add_task(title, total=total * self.usual, now="", ended=f"0/{total}")

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

    def __call__(self, event: Event) -> None:
        kind = event["event"]
        if kind == "warning":
            out.print(Text.assemble(("warning", "yellow"), f": {event['text']}"))
        elif kind == "start":
            self._show(event, 0.0)
        elif kind == "progress":
            self._show(event, event["fraction"])
        elif kind == "stage":
            self._ended(event)

    def _show(self, event: Event, fraction: float) -> None:
        self.fractions[event["seed"], event["stage"]] = fraction
        now = ", ".join(f"{stage} of seed {seed} {done:.0%}" for (seed, stage), done in self.fractions.items())
        self._draw(now=now)

    def _draw(self, **fields: Any) -> None:
        under_way = sum(self.weight(stage) * done for (_, stage), done in self.fractions.items())
        self.bar.update(self.task, completed=self.behind + under_way, ended=f"{self.done}/{self.total}", **fields)

    def _ended(self, event: Event) -> None:
        self.fractions.pop((event["seed"], event["stage"]), None)
        self.done += 1
        self.behind += self.weight(event["stage"])
        self._draw()
        stage = f"seed {event['seed']} {event['stage']}"
        if event["status"] == "failed":
            out.print(Text.assemble(("failed", "red"), f"  {stage}: {event['reason']}"), soft_wrap=True)
        elif not out.is_terminal and not event["cached"] and event["status"] == "done":
            metrics = event["metrics"]
            metric = next((f"{name} {metrics[name]:.2f}" for name in FIRST if name in metrics), "")
            elapsed = time.monotonic() - self.began
            seed = f"seed {event['seed']} {event['stage']:<20}"
            out.print(f"{self.done:>4}/{self.total} {seed} {metric}  ({elapsed:.0f} s)")
