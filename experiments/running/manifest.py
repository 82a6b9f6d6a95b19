"""The record in a stage's folder: metrics.json, and manifest.json that is written last and marks it as done.

Imports no torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from experiments.common import files
from experiments.identity import content
from experiments.running.plan import Plan, Stage

SPENT = "spent.json"  # in the folder of a stage that has not ended: the time it has taken so far
Report = Callable[[dict[str, Any]], None]  # where the engine tells what happens


class Damaged(Exception):
    """A finished stage whose checkpoint or artifact cannot be read."""

    def __init__(self, stage: str, reason: str) -> None:
        super().__init__(f"{stage}: {reason}")
        self.stage = stage


def silent(event: dict[str, Any]) -> None:
    """A Report that drops everything."""


def finished(stage: Stage) -> dict[str, Any] | None:
    """The manifest of a stage that is done, with its metrics; None otherwise."""
    manifest = files.read_json(stage.directory / "manifest.json")
    metrics = files.read_json(stage.directory / "metrics.json")
    if not isinstance(manifest, dict) or not isinstance(metrics, dict):
        return None
    if manifest.get("fingerprint") != stage.fingerprint or manifest.get("metrics_hash") != hash_metrics(metrics):
        return None
    if content.differs(stage.data, str(manifest.get("content") or "")):
        return None  # the data's files are not those it was trained on
    return {**manifest, "metrics": metrics}


def hash_metrics(metrics: Mapping[str, float]) -> str:
    """Ties metrics.json to its manifest: a number changed afterwards is noticed."""
    return hashlib.sha256(json.dumps(metrics, sort_keys=True).encode()).hexdigest()[:16]


def to_json(plan: Plan, stage: Stage) -> str:
    """A stage and all that it needs as JSON, for a process of its own."""
    stages = {name: {**item.config(), "directory": str(item.directory)} for name, item in plan.stages.items()}
    return json.dumps({**vars(plan), "stages": stages, "stage": stage.name})


def from_json(text: str) -> tuple[Plan, Stage]:
    """The inverse of to_json."""
    value = json.loads(text)
    name = value.pop("stage")
    stages = {key: Stage(**{**item, "directory": Path(item["directory"])}) for key, item in value["stages"].items()}
    return Plan(**{**value, "stages": stages}), stages[name]
