"""Records of format 1, as they stand in the repository's history: read, never written. Imports no torch.

Format 1 has no `format`. Each metric of a stage has a list with a value for each seed, and `seconds` lists those of
the seeds that ran.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from experiments.common.plain import Plain


def read(value: Mapping[str, Any]) -> Plain:
    """What JSON gave of a record of format 1, as records.Record takes it; what is damaged stays so.

    Raises ValueError where a stage's lists do not fit its entry's seeds.
    """
    plain = dict(value)
    if isinstance(plain.get("entries"), dict):
        plain["entries"] = {name: _entry(entry) for name, entry in plain["entries"].items()}
    return plain


def is_sealed(entry: Mapping[str, Any]) -> bool:
    """Whether an entry of format 1 is what was written."""
    rest = {key: value for key, value in entry.items() if key != "seal"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()[:16] == entry.get("seal")


def _entry(entry: Any) -> Any:
    if not isinstance(entry, dict) or not isinstance(entry.get("stages"), dict):
        return entry
    seeds = entry.get("seeds")
    count = len(seeds) if isinstance(seeds, list) else 0
    return {**entry, "stages": {name: _stage(stage, count, name) for name, stage in entry["stages"].items()}}


def _stage(stage: Any, count: int, name: str) -> Any:
    """With a time, or None, for each of `count` seeds. Raises ValueError where a list has more or fewer."""
    if not isinstance(stage, dict) or not isinstance(stage.get("fingerprints"), list):
        return stage  # what is wrong with it is told where it is read
    times, marks, metrics = stage.get("seconds"), stage["fingerprints"], stage.get("metrics")
    for key, values in {"fingerprints": marks, **(metrics if isinstance(metrics, dict) else {})}.items():
        if not isinstance(values, list) or len(values) != count:
            raise ValueError(f"stages.{name}: {key}: expected a list with a value for each of {count} seeds")
    if not isinstance(times, list) or len(times) != sum(mark is not None for mark in marks):
        raise ValueError(f"stages.{name}: seconds: expected one for each seed that has a fingerprint")
    left = iter(times)
    return {**stage, "seconds": [None if mark is None else next(left) for mark in marks]}
