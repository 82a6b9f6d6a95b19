"""What the suite takes on cards that it was measured on, in words, as terminal tables and as rows of a page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.table import Table

from experiments.evidence import hardware
from experiments.evidence.hardware import Beside, Card, Failed, Found, Refusal, Row, Smoke, Steps
from experiments.pages import console
from experiments.running.measured import amount

GIB = 2**30
TITLES = {
    "refusal": "two processes on one card",
    "smoke": "smoke runs beside the processor's",
    "steps": "steps of full recipes",
    "beside": "networks beside independent ones",
    "switch": "switches beside off",
}


@dataclass(frozen=True)
class MeasuredRow:
    """One thing that was measured, what came of it, and when with which commit."""

    what: str
    found: str
    measured: str


@dataclass(frozen=True)
class CardTable:
    """What a card was asked about one paper."""

    name: str
    memory: str
    rows: Sequence[MeasuredRow]


def in_words(found: Found) -> str:
    """One result in a line."""
    if isinstance(found, Failed):
        return f"failed: {found.reason}"
    if isinstance(found, Refusal):
        return f"refused: {'; '.join(found.reasons)}"
    if isinstance(found, Smoke):
        return _smoke(found)
    if isinstance(found, Steps):
        return _steps(found)
    if isinstance(found, Beside):
        return f"{found.what} of {found.batch} images: {found.ours * 1e3:.3g} ms, {found.ratio:.2f} of the other's"
    ratio, memory = found.ratio, found.memory_on / found.memory_off
    return f"step of {found.batch} images: {found.on * 1e3:.3g} ms, {ratio:.2f} of off; memory {memory:.2f} of off"


def _smoke(found: Smoke) -> str:
    word = "agrees" if found.agrees else "differs"
    strange = f"; on one of the two alone, or finite there: {', '.join(found.strange[:3])}" if found.strange else ""
    return (
        f"{word}: {found.metrics} metrics, median difference {found.median:.1e} (at most {found.tolerance:.0e}), "
        f"largest {found.largest:.1e} in {found.where}{strange}"
    )


def _steps(found: Steps) -> str:
    least = "at least " if found.at_least else ""
    batch = f"batch {found.batch}" + (f" of {found.published}" if found.batch != found.published else "")
    memory = f"{found.memory / GIB:.1f} GiB"
    if found.batch != found.published:
        memory += f", {found.memory_published / GIB:.1f} expected at {found.published}"
    return (
        f"{batch}: {found.step:.3g} s a step, {found.rate:,.0f} images a second, {memory}; "
        f"one seed {least}{amount(found.hours)}{'' if found.real else ' (generated batches)'}"
    )


def tables(card: Card) -> Iterator[Table]:
    """Each part that was measured."""
    for part, title in TITLES.items():
        rows = [row for row in card.rows if row.part == part]
        if rows:
            table = console.table(f"{card.name}: {title}", ("paper", "what", "how", "found"))
            for row in rows:
                table.add_row(row.paper, row.what, row.how, in_words(row.found))
            yield table


def of_paper(paper: str) -> list[CardTable]:
    """For each card in the repository, its rows about a paper, for the paper's page."""
    told = []
    for card in hardware.read_all():
        rows = sorted(hardware.of_paper(card, paper), key=lambda row: list(TITLES).index(row.part))
        if rows:
            told.append(CardTable(card.name, f"{card.memory / GIB:.0f} GiB", [_row(row) for row in rows]))
    return told


def _row(row: Row) -> MeasuredRow:
    what = ", ".join(filter(None, (TITLES[row.part], row.what, row.how)))
    commit = (row.code.commit or "")[:8] + ("+" if row.code.dirty else "")
    return MeasuredRow(what, in_words(row.found), " ".join(filter(None, (row.at[:10], commit))))
