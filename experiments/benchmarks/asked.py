"""What is asked of a graphics card, in the order it is measured. Imports no torch.

Widest first: whether papers run at all, then how fast, then beside others' networks, then switches. Whoever stops in
between has something of every paper.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from experiments.config import claims, compose, written
from experiments.config.networks import Pair
from experiments.running.plan import Plan, Stage, plan

PARTS = ("refusal", "smoke", "steps", "beside", "switch")
PRECISIONS = ("32-true", "bf16-mixed")
SWITCHES = ("channels_last", "fused", "matmul_precision", "compile")  # what takes longest comes last


@dataclass(frozen=True)
class Item:
    """One thing to measure; names as those of evidence.hardware.Row."""

    part: str
    paper: str = ""
    what: str = ""
    how: str = ""

    @property
    def key(self) -> tuple[str, str, str, str]:
        return self.part, self.paper, self.what, self.how

    def __str__(self) -> str:
        return " ".join(word for word in self.key if word)


def items(papers: Sequence[str], parts: Sequence[str], most: int) -> Iterator[Item]:
    """Everything that is asked.

    Args:
        most: stages of a paper's full recipe that are timed.
    """
    if "refusal" in parts:
        yield Item("refusal")
    if "smoke" in parts:
        yield from (Item("smoke", paper, "", how) for paper in papers for how in PRECISIONS)
    timed = {paper: stages(full(paper), most) for paper in papers} if {"steps", "switch"} & set(parts) else {}
    if "steps" in parts:
        for rank in range(most):
            for paper, names in timed.items():
                yield from (Item("steps", paper, name, how) for name in names[rank : rank + 1] for how in PRECISIONS)
    if "beside" in parts:
        yield from (
            Item("beside", paper, pair.name, how) for paper in papers for pair in pairs(paper) for how in PRECISIONS
        )
    if "switch" in parts:
        for switch in SWITCHES:
            yield from (Item("switch", paper, names[0], switch) for paper, names in timed.items() if names)


def full(paper: str, *lines: str) -> Plan:
    """A paper's full recipe, on data that a machine without datasets has."""
    return plan(compose.compose(compose.request([f"paper={paper}", "scale=full", *lines]).overrides), 0)


def stages(this: Plan, most: int) -> list[str]:
    """Trained stages that differ in their network or batch, those that the main claim compares first."""
    main = claims.read(this.config).main_stages
    trained = [stage for stage in this.stages.values() if stage.fit]
    trained.sort(key=lambda stage: main.index(stage.name) if stage.name in main else len(main))
    alike: dict[str, str] = {}
    for stage in trained:
        alike.setdefault(_likeness(stage), stage.name)
    return list(alike.values())[:most]


def _likeness(stage: Stage) -> str:
    return json.dumps([stage.module, stage.data.get("batch_size")], sort_keys=True, default=str)


def pairs(paper: str) -> list[Pair]:
    """The networks that a paper's file has beside independent ones."""
    listed = compose.paper_file(paper).get("bench") or []
    return [written.read(Pair, item, f"bench.{number}") for number, item in enumerate(listed)]
