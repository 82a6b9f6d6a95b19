"""How a record stands in its file: valid JSON that shows in a diff what changed. Imports no torch.

What follows from one seed stands on one line, with the metrics' names once above:

    "metrics": ["train/loss", "test/top1"],
    "runs": {
     "1000": {"fingerprint": "76d3210d981a", "seconds": 3.23, "values": [1.1274347305297852, 86.0999984741211]},

so that a further seed is one further line for each stage. A curve stands on one line too. Floats are written as
Python's repr, which reads back to the same bits; what is not finite is written as a text.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.common.plain import Plain
from experiments.evidence.records import FORMAT, Entry, Record

WIDTH = 120
ROWS = ("runs", "curves")  # of these, each item stands on a line of its own, however long
ROW = {"fingerprint", "seconds", "cpu_seconds", "values"}
NOT_FINITE = ("NaN", "Infinity", "-Infinity")


def text(record: Record) -> str:
    """A record as its file holds it."""
    plain = {"format": FORMAT, **record.plain()}
    plain["entries"] = {name: arrange(entry) for name, entry in record.entries.items()}
    return _text(_finite(plain), 0) + "\n"


def arrange(entry: Entry) -> Plain:
    """An entry as its file holds it, a row for each seed that a stage ran for."""
    plain = entry.plain()
    plain["stages"] = {name: _rows(stage, entry.seeds) for name, stage in plain["stages"].items()}
    return plain


def _rows(stage: Mapping[str, Any], seeds: Sequence[int]) -> Plain:
    """A stage with `runs` in place of the lists that have one value for each seed."""
    metrics: dict[str, list[float | None]] = stage["metrics"]
    columns = {
        name: values
        for name in ("fingerprints", "seconds", "cpu_seconds")
        if (values := stage.get(name) or [None] * len(seeds))
    }

    runs = {}
    lists = [*columns.values(), *metrics.values()]
    for seed, fingerprint, seconds, cpu_seconds, *values in zip(seeds, *lists, strict=True):
        measured = {} if cpu_seconds is None else {"cpu_seconds": cpu_seconds}
        if fingerprint is not None or seconds is not None or any(value is not None for value in values):
            runs[str(seed)] = {"fingerprint": fingerprint, "seconds": seconds, **measured, "values": values}

    told: Plain = {}
    for name, value in stage.items():
        if name == "metrics":
            told |= {"metrics": list(metrics), "runs": runs}
        elif name not in columns:
            told[name] = value
    return told


def read(value: Mapping[str, Any]) -> Plain:
    """The inverse of `text`, of what JSON gave; its content is not looked at beyond the rows.

    Raises ValueError that says where a row does not fit its entry's seeds or its stage's metrics.
    """
    plain = {name: part for name, part in value.items() if name != "format"}
    if isinstance(plain.get("entries"), dict):
        plain["entries"] = {name: _read_entry(name, entry) for name, entry in plain["entries"].items()}
    return plain


def _read_entry(name: str, entry: Any) -> Any:
    if not isinstance(entry, dict) or not isinstance(entry.get("stages"), dict) or not _is_list(entry.get("seeds")):
        return entry  # what is wrong with it is told where it is read
    where = f"entries.{name}.stages"
    stages = {key: _columns(stage, entry["seeds"], f"{where}.{key}") for key, stage in entry["stages"].items()}
    return {**entry, "stages": stages}


def _columns(stage: Any, seeds: Sequence[Any], where: str) -> Any:
    """The inverse of _rows."""
    if not isinstance(stage, dict) or "runs" not in stage:
        return stage
    runs: Any = stage["runs"]
    metrics: Any = stage.get("metrics")
    if not isinstance(runs, dict) or not _is_list(metrics) or not all(isinstance(name, str) for name in metrics):
        raise ValueError(f"{where}: expected metrics with the names and runs with a row for each seed")

    for seed, row in runs.items():
        if seed not in map(str, seeds):
            raise ValueError(f"{where}.runs.{seed}: a seed that its entry does not have")
        if not isinstance(row, dict) or not {"fingerprint", "seconds", "values"} <= {*row} <= ROW:
            raise ValueError(f"{where}.runs.{seed}: expected fingerprint, seconds and values")
        if not _is_list(row["values"]) or len(row["values"]) != len(metrics):
            raise ValueError(f"{where}.runs.{seed}: expected {len(metrics)} values, one for each metric")

    rows = [runs.get(str(seed), {}) for seed in seeds]
    values = {name: [row["values"][place] if row else None for row in rows] for place, name in enumerate(metrics)}
    told = {name: part for name, part in stage.items() if name != "runs"}
    told |= {"metrics": values, "fingerprints": [row.get("fingerprint") for row in rows]}
    told["seconds"] = [row.get("seconds") for row in rows]
    measured = [row.get("cpu_seconds") for row in rows]
    return {**told, "cpu_seconds": measured} if any(value is not None for value in measured) else told


def from_text(content: str) -> Any:
    """What JSON says, numbers that are not finite among it.

    Raises ValueError for what is not valid JSON or names a key twice, as after a merge; RecursionError for what is
    nested too deeply.
    """
    value = json.loads(content, object_pairs_hook=_each_key_once)
    return _numbers(value) if any(f'"{word}"' in content for word in NOT_FINITE) else value


def _each_key_once(pairs: Sequence[tuple[str, Any]]) -> Plain:
    value = dict(pairs)
    if len(value) != len(pairs):
        twice = next(key for key in value if sum(key == other for other, _ in pairs) > 1)
        raise ValueError(f"the key {twice!r} stands twice")
    return value


def _finite(value: Any) -> Any:
    """With texts in place of numbers that JSON does not know."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, Mapping):
        return {key: _finite(part) for key, part in value.items()}
    return [_finite(part) for part in value] if isinstance(value, list) else value


def _numbers(value: Any) -> Any:
    """The inverse of _finite."""
    if isinstance(value, dict):
        return {key: _numbers(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_numbers(part) for part in value]
    return float(value) if value in NOT_FINITE else value


def _text(value: Any, depth: int) -> str:
    """Nested values by indentation; on one line what fits there, and a list of plain values however long it is."""
    line = _plain(value)
    if not isinstance(value, dict | list) or not value:
        return line
    if len(line) + depth <= WIDTH and not _nested(value):
        return line
    if isinstance(value, list):
        if not any(isinstance(part, dict | list) for part in value):
            return line
        return _block("[]", [_text(part, depth + 1) for part in value], depth)
    parts = []
    for key, part in value.items():
        if key in ROWS and isinstance(part, dict) and part:
            rows = [f"{_plain(name)}: {_plain(row)}" for name, row in part.items()]
            parts.append(f"{_plain(key)}: {_block('{}', rows, depth + 1)}")
        else:
            parts.append(f"{_plain(key)}: {_text(part, depth + 1)}")
    return _block("{}", parts, depth)


def _plain(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _nested(value: Any) -> bool:
    """Whether a mapping or list holds mappings that hold something: then it stands on several lines."""
    parts = value.values() if isinstance(value, dict) else value
    return any(isinstance(part, dict) and part for part in parts)


def _block(ends: str, lines: Sequence[str], depth: int) -> str:
    indent = "\n" + " " * (depth + 1)
    return ends[0] + indent + f",{indent}".join(lines) + "\n" + " " * depth + ends[1]


def _is_list(value: Any) -> bool:
    return isinstance(value, list)
