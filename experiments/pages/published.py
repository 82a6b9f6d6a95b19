"""The published numbers that were judged, as docs/full-scale.md lists them. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from experiments.evidence.counts import Row
from experiments.evidence.judged import PublishedResult
from experiments.evidence.records import Entry
from experiments.evidence.words import FAILED, MATCHED, NOT_RUN
from experiments.pages.numbers import duration, number

TRAINED = (
    "| paper | setting | number | published | ours, 90% interval | word | seeds | one seed |",
    "|---|---|---|---|---|---|---|---|",
)
EXACT = ("| paper | what is counted | matched | failed |", "|---|---|---|---|")


def trained(entries: Mapping[str, Mapping[str, Entry]]) -> list[str]:
    """A row for each published number that training at full scale tried to reach.

    Args:
        entries: paper -> title of a setting -> what is recorded of it.
    """
    lines = []
    for paper, recorded in entries.items():
        for title, entry in recorded.items():
            core = entry.provenance.cpu_seconds
            cost = f"{duration(core / len(entry.seeds))} of one core" if core and entry.seeds else ""
            for item in entry.published:
                if item.kind == "exact" or item.verdict == NOT_RUN or item.ours is None:
                    continue
                what = f"{item.stage} {item.metric.removeprefix('test/')} ({item.dataset})"
                told = f"{item.value:g} ± {item.tolerance:g} | {_ours(item)} | {item.verdict}"
                lines.append(f"| `{paper}` | {title} | {what} | {told} | {len(entry.seeds)} | {cost} |")
    return [*TRAINED, *lines]


def exact(entries: Mapping[str, Mapping[str, Entry]], counted: Mapping[str, Sequence[Row]]) -> list[str]:
    """A row for each paper whose tables are counted: of label files in a record, of its networks beside the records."""
    lines = []
    for paper, recorded in entries.items():
        of_labels = [item.verdict for entry in recorded.values() for item in entry.published if item.kind == "exact"]
        of_networks = [row.verdict for row in counted.get(paper, [])]
        for what, words in (("labels", of_labels), ("parameters and mult-adds", of_networks)):
            if any(word in (MATCHED, FAILED) for word in words):
                failed = words.count(FAILED)
                lines.append(f"| `{paper}` | {what} | {words.count(MATCHED)} | {failed or ''} |")
    return [*EXACT, *lines]


def section(entries: Mapping[str, Mapping[str, Entry]], counted: Mapping[str, Sequence[Row]]) -> str:
    """Both tables, each with what it shows."""
    return "\n".join(_told(entries, counted))


def _told(entries: Mapping[str, Mapping[str, Entry]], counted: Mapping[str, Sequence[Row]]) -> Iterator[str]:
    yield "Trained at full scale; seeds and hours are those of the whole setting:\n"
    yield from trained(entries)
    yield "\nCounted, without chance (`make counts`; what failed is explained on the paper's page):\n"
    yield from exact(entries, counted)


def _ours(item: PublishedResult) -> str:
    assert item.ours is not None
    ends = f" [{number(item.interval[0])}, {number(item.interval[1])}]" if item.interval else ""
    return number(item.ours) + ends
