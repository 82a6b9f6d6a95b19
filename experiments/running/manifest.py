"""The record in a stage's folder: metrics.json, and manifest.json that is written last and marks it as done.

Imports no torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NotRequired, Required, cast

from typing_extensions import TypedDict

from experiments.common import files
from experiments.identity import content
from experiments.identity.provenance import CodeVersion, Machine
from experiments.running.plan import Plan, Stage

SPENT = "spent.json"  # in the folder of a stage that has not ended: the time it has taken so far


class Event(TypedDict, total=False):
    """What happens while stages run: a warning has a text; start, progress and stage are about one stage of a seed.

    Of `stage`, which says that it has ended, the other keys are those of an outcome.
    """

    event: Required[str]  # warning, start, progress or stage
    text: str
    seed: int
    stage: str
    fraction: float  # of a stage in progress
    status: str
    metrics: dict[str, float]
    reason: str
    exit_code: int
    cached: bool
    seconds: float


Report = Callable[[Event], None]  # where the engine tells what happens


class Data(TypedDict):
    """The data of a stage, as its module's specification says."""

    name: str
    source: str
    identity: str
    split: str
    sizes: dict[str, int]


class Measured(TypedDict):
    """What the training and the test of a stage gave. Keys that were added later are not in every folder."""

    metrics: dict[str, float]
    checkpoint: NotRequired[str | None]  # its SHA-256; None of a stage that is only tested
    artifacts: NotRequired[dict[str, str]]  # name -> SHA-256
    seconds: float
    cpu_seconds: NotRequired[float]
    fit_seconds: NotRequired[float]
    peak_memory_mb: NotRequired[int]
    batch: NotRequired[dict[str, int | None]]  # global, devices, reference
    learning_rates: NotRequired[list[float]]
    precision: NotRequired[str]
    switches: NotRequired[list[str]]
    threads: NotRequired[int]
    parameters: NotRequired[int]
    data: NotRequired[Data]


class Manifest(Measured):
    """A finished stage: what it is, what it gave, and with which code and on what machine."""

    paper: str
    scale: str
    variant: str | None
    stage: str
    seed: int
    fingerprint: str
    registered: NotRequired[str | None]
    try_of: NotRequired[int]  # the seed of which it is a further try, see experiments.evidence.restarts
    attempt: NotRequired[int]
    content: NotRequired[str]
    metrics_hash: str
    finished: str
    code: CodeVersion
    versions: dict[str, str]
    hardware: Machine


class Damaged(Exception):
    """A finished stage whose checkpoint or artifact cannot be read."""

    def __init__(self, stage: str, reason: str) -> None:
        super().__init__(f"{stage}: {reason}")
        self.stage = stage


def silent(event: Event) -> None:
    """A Report that drops everything."""


def finished(stage: Stage) -> Manifest | None:
    """The manifest of a stage that is done, with its metrics; None otherwise."""
    manifest = files.read_json(stage.directory / "manifest.json")
    metrics = files.read_json(stage.directory / "metrics.json")
    if not isinstance(manifest, dict) or not isinstance(metrics, dict):
        return None
    if manifest.get("fingerprint") != stage.fingerprint or manifest.get("metrics_hash") != hash_metrics(metrics):
        return None
    if content.differs(stage.data, str(manifest.get("content") or "")):
        return None  # the data's files are not those it was trained on
    return cast(Manifest, {**manifest, "metrics": metrics})


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
