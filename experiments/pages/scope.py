"""What a verdict is about, in one line: which data, how much of it, networks of which size. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from experiments.common.errors import InputError
from experiments.config import claims
from experiments.evidence.ran import Dataset, StageRecord
from experiments.evidence.records import Entry

MOST_NAMES = 2  # of data sets that a line names; more are counted
TRIALS = re.compile(r"train counts trials; each has ([\d,]+) train, [\d,]+ val, ([\d,]+) test")  # of a search's data


def of(entry: Entry, added: str = "") -> str:
    """As in `digits, 400 for training, 1,000 for the test; 30% of the training labels replaced; 1,900 parameters`.

    It is about the stages that the main claim compares (about all, where none is main), and about what these learnt
    from. A fact that the record lacks is left out.

    Args:
        added: what the paper's file says besides, see `told`.
    """
    arms = [entry.stages[name] for name in compared(entry)]
    trained = [stage for stage in arms if stage.fit] or [stage for stage in _before(arms, entry) if stage.fit]
    parts = [_data(_with_data(trained), _with_data(arms)), added, _parameters(trained)]
    return "; ".join(part for part in parts if part)


def told(declared: Mapping[str, Any], scale: str, variant: str | None, data: str | None = None) -> str:
    """What a paper's file, or a resolved configuration, adds to a setting's scope: the variant's text, or the scale's.

    What a variant that has gone said is not known: then nothing is added. With other data in place of the paper's, its
    name is said instead: the file's words are about the paper's.
    """
    if data is not None:
        return f"on {data}"
    of_scale = str((declared.get("scope") or {}).get(scale) or "")
    if variant is None:
        return of_scale
    item = (declared.get("variants") or {}).get(variant)
    if item is None:
        return ""
    own = item.get("scope")
    return of_scale if own is None else str(own)


def compared(entry: Entry) -> list[str]:
    """The stages of a recorded setting that its main claim compares; all, where none is main."""
    main = entry.main_claim()
    if main is None:
        return list(entry.stages)
    asked = replace(main.claim(), requires=(), requires_each=())  # a precondition may look at other stages
    try:
        return claims.stages_of(asked, list(entry.stages))
    except InputError:  # the record lacks a stage that its claim names; check-results says so
        return list(entry.stages)


def _before(arms: Iterable[StageRecord], entry: Entry) -> list[StageRecord]:
    """The stages that these need, and what those need."""
    found: dict[str, StageRecord] = {}
    waiting = [name for stage in arms for name in stage.needs]
    while waiting:
        name = waiting.pop(0)
        if name not in found and name in entry.stages:
            found[name] = entry.stages[name]
            waiting += entry.stages[name].needs
    return list(found.values())


def _with_data(stages: Iterable[StageRecord]) -> list[Dataset]:
    return [stage.data for stage in stages if stage.data is not None]


def _data(training: Sequence[Dataset], testing: Sequence[Dataset]) -> str:
    """The names of the data and how much of it was for training and for the test."""
    trained = [(item.name, size) for item in training if (size := _sizes(item)[0])]
    tested = [(item.name, size) for item in testing if (size := _sizes(item)[1])]
    learnt = _names(trained)
    seen = _names(tested)

    parts = [learnt or seen]
    if trained:
        parts.append(f"{_range(size for _, size in trained)} for training")
    if tested:
        others = f": {seen}" if learnt and seen and learnt != seen else ""
        parts.append(f"{_range(size for _, size in tested)} for the test{others}")
    return ", ".join(part for part in parts if part)


def _sizes(data: Dataset) -> tuple[int, int]:
    """How much is for training and for the test: of each trial, where a search's data is made of them."""
    trials = TRIALS.match(data.split)
    if trials:
        train, test = (int(size.replace(",", "")) for size in trials.groups())
        return train, test
    return data.sizes.get("train", 0), data.sizes.get("test", 0)


def _names(used: Iterable[tuple[str, int]]) -> str:
    names = list(dict.fromkeys(name for name, _ in used))
    return " and ".join(names) if len(names) <= MOST_NAMES else f"{names[0]} and {len(names) - 1} others"


def _parameters(stages: Iterable[StageRecord]) -> str:
    counts = [stage.parameters for stage in stages if stage.parameters]
    return f"{_range(counts)} parameters" if counts else ""


def _range(values: Iterable[int]) -> str:
    """The number, or the smallest and the largest."""
    low, *_, high = [*sorted(values)] * 2
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
