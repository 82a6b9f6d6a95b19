"""A record as the pages get it, and pages as a browser reads them."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

from experiments.evidence.judged import Against, CheckResult, SeedsThatHold
from experiments.evidence.ran import Dataset, StageRecord
from experiments.evidence.records import Record
from experiments.pages import display, index, view
from tests import example

HOSTILE = "<script>alert(1)</script>\"'&"
DATA = {
    "name": "digits",
    "source": "real",
    "identity": "ab",
    "split": "at random",
    "sizes": {"train": 400, "val": 397, "test": 1000},
}


def stage(needs: list[str], top1: list[float], **more: Any) -> StageRecord:
    curves = {name: example.curve() for name in ("train/loss", "val/top1", "train/kl")}
    facts = {"needs": needs, "data": Dataset(**DATA), "curves": curves}
    return example.stage(3, **{**facts, "metrics": {"test/top1": top1, "test/n": [1000.0] * 3}, **more})


judged = example.claim


def claim(name: str, verdict: str, values: list[float], interval: list[float] | None) -> display.Claim:
    return view.claim(judged(name, verdict, values, interval))


def sample() -> Record:
    checks = [CheckResult(name="it learns", text="a > b", values=[2.0, 1.0], holds=True, reason="")]
    lost = {"metrics": {}, "failed": "seed 1: loss is NaN", "curves": {}, "data": None, "precision": None}
    lost |= {"fingerprints": [None] * 3, "seconds": [None] * 3}
    entry = example.entry(
        [0, 1, 2],
        checks=checks,
        claims=[
            judged("the student is better", "supported", [1.0, 2.0, 3.0], [-0.48, 4.48], main=True),
            judged("no harm is done", "undecided", [0.1, 0.2, 0.3], [-0.04, 0.44], within=0.5),
            judged("nothing came of it", "not run", [], None, reason="lost did not finish for every seed"),
        ],
        published=[example.published(ours=93.0, interval=[92.0, 94.0])],
        stages={
            "init": stage([], [90.0, 91.0, 92.0]),
            "student": stage(["init"], [91.0, 93.0, 95.0]),
            "ensemble": stage(["init", "student"], [95.0] * 3, fit=False, epochs=None, curves={}),
            "lost": stage(["init"], [], **lost),
        },
    )
    return Record(
        key="meal_v2",
        title="A title",
        arxiv="2009.08453",
        about="What it is.",
        deviations=[],
        entries={"mini": entry},
    )


def with_rivals(rival: str) -> Record:
    """The main claim beats its baseline, not a rival; one dead seed of three."""
    record = sample()
    main = record.entries["mini"].claims[0]
    seeds = {"per_seed": [1.0, 2.0, 3.0], "difference": 2.0, "interval": [0.5, 3.5]}
    close = {"per_seed": [0.1, 0.2, -0.3], "difference": 0.0, "interval": [-0.4, 0.4]}
    main.verdict, main.reason = "effect only", f"no gain against {rival}"
    main.against = [
        Against(name="hard labels", than="init/test/top1", verdict="supported", **seeds),
        Against(name=rival, than="ensemble/test/top1", verdict="no gain", reason="none either way", **close),
    ]
    counted = {"share": 0.9, "held": 2, "fails_in": [1], "interval": [0.13, 0.99], "verdict": "undecided"}
    main.requires_each = [SeedsThatHold(text="student/train/top1 > 20", **counted)]
    return record


class Seen(HTMLParser):
    """Elements and attributes as a browser reads them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.text = re.sub(r"\s+", " ", " ".join(self.words))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))

    def handle_data(self, data: str) -> None:
        if not self.elements or self.elements[-1][0] not in ("style", "script"):
            self.words.append(data)


def without_script(text: str) -> str:
    """A page without the script that is this project's own."""
    return text.replace(f"<script>{index.script()}</script>", "")
