"""What an entry states beside its numbers, held against what can be looked up. Imports no torch.

Its seal shows a slip of the hand, and whoever forges a record can seal it anew. What is looked up here lies elsewhere:
in the history of the repository, in the registration's file, in the entry's own numbers and in other records. What no
look-up can tell without running something is said in docs/records.md.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from experiments.config import expressions
from experiments.evidence.order import History
from experiments.evidence.records import Entry, Record
from experiments.evidence.registrations import Filed

FINGERPRINT = re.compile("[0-9a-f]{12}")
TELLING = 4  # different values that two claims do not have in common by chance
SHORTEST = 6  # seeds


def shapes(entry: Entry) -> Iterator[str]:
    """Fingerprints that no stage could have, and confirmations that do not fit what they confirm."""
    for name, stage in entry.stages.items():
        wrong = [mark for mark in stage.fingerprints if mark is not None and not FINGERPRINT.fullmatch(mark)]
        if wrong:
            yield f"{name}: {wrong[0]!r} is no fingerprint; expected twelve hex digits"
    for item in entry.restarts:
        wrong = [mark for mark in item.fingerprints.values() if mark is not None and not FINGERPRINT.fullmatch(mark)]
        if wrong:
            yield f"try {item.attempt} of seed {item.of}: {wrong[0]!r} is no fingerprint; expected twelve hex digits"
    for name, shown in entry.confirmed.items():
        if name not in entry.stages or shown.seed not in entry.seeds:
            yield f"confirmed: {name} of seed {shown.seed} is not in the record"
            continue
        place = entry.seeds.index(shown.seed)
        count = sum(values[place] is not None for values in entry.stages[name].metrics.values())
        if shown.numbers != count:
            yield f"confirmed: {name} of seed {shown.seed}: {shown.numbers} numbers; the record has {count}"
        if not FINGERPRINT.fullmatch(shown.fingerprint):
            yield f"confirmed: {name}: {shown.fingerprint!r} is no fingerprint; expected twelve hex digits"


def commits(entry: Entry, history: History, lost: Collection[str] = ()) -> Iterator[str]:
    """Commits that an entry says its numbers, its history or its confirmations are of, and that did not lead here.

    Args:
        lost: commits that are told of elsewhere.
    """
    pairs = [pair for pair in named(entry) if pair[1] not in lost]
    absent = history.missing(sorted({commit for _, commit in pairs}))
    for what, commit in pairs:
        if commit in absent:
            yield f"{what}: the commit {commit[:12]} is not in the history"


def named(entry: Entry) -> list[tuple[str, str]]:
    """What of an entry names a commit, and the commit, as often as it names one."""
    told = {"code": entry.provenance.code.commit}
    for index, item in enumerate(entry.history):
        told[f"history {index}"] = item.commit
    for name, shown in entry.confirmed.items():
        told |= {f"confirmed {name}": shown.commit, f"confirmed {name} against": shown.against}

    # A text may name several commits, or None where git did not say.
    return [(what, word) for what, text in told.items() for word in (text or "").split() if word != "None"]


def registered(entry: Entry, filed: Filed) -> Iterator[str]:
    """Stages, their data and the registration that their runs name, where they are not those of the entry's own."""
    stages, data = filed.bound["stages"], filed.bound["data"]
    for name in dict.fromkeys([*stages, *entry.stages]):
        if name not in entry.stages or name not in stages:
            yield f"stages: {name} is not in {'the record' if name in stages else filed.path.name}"
        elif entry.stages[name].content and data.get(name) != entry.stages[name].content:
            yield f"stages: {name}: its data is not what {filed.path.name} says"


def under(entry: Entry) -> Iterator[str]:
    """Stages that ran under another registration than the entry's, as their manifests said."""
    for name, stage in entry.stages.items():
        for mark in stage.under:
            if not entry.registered.binds(mark):
                yield f"{name} ran under registration {mark[:12]}, not {entry.registered.hash}"
    for item in entry.restarts:
        for mark in item.under:
            if not entry.registered.binds(mark):
                told = f"registration {mark[:12]}, not {entry.registered.hash}"
                yield f"try {item.attempt} of seed {item.of} ran under {told}"


def copies(records: Mapping[str, Record]) -> Iterator[str]:
    """Main claims that have the same difference for each seed, of stages that are not the same.

    Args:
        records: by paper.
    """
    shown: dict[tuple[float, ...], tuple[str, Any]] = {}
    for paper, record in records.items():
        for title, entry in record.entries.items():
            main = entry.main_claim()
            if main is None or entry.registered.by_hand:
                continue
            values = tuple(main.per_seed[:SHORTEST])
            if len(values) < SHORTEST or len(set(values)) < TELLING:
                continue
            where, marks = f"{paper}: {title}", _marks(entry)
            other, others = shown.setdefault(values, (where, marks))
            if other != where and marks != others:
                yield f"{where}: its differences are those of {other}, seed for seed"


def _marks(entry: Entry) -> set[str | None]:
    """The fingerprints of the stages that the main claim compares, of the first seeds."""
    main = entry.main_claim()
    assert main is not None
    named = {metric.stage for side in main.claim().sides() for metric in expressions.metrics(side)}
    compared = [expressions.fitting(expressions.Metric(stage, ""), entry.stages) for stage in named]
    names = set(itertools.chain.from_iterable(compared))
    return {mark for name in names for mark in entry.stages[name].fingerprints[:SHORTEST]}
