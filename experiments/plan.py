"""What a configuration asks for, as data: stages in the order they run, claims, published numbers. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from experiments import compose
from experiments.devices import decide_precision
from experiments.errors import InputError, unknown
from experiments.fingerprint import fingerprint

TRAINER = (  # pytorch_lightning.Trainer's arguments that a configuration may set; the engine sets the rest
    "accelerator",
    "devices",
    "num_nodes",
    "strategy",
    "precision",
    "sync_batchnorm",
    "max_epochs",
    "check_val_every_n_epoch",
    "accumulate_grad_batches",
    "gradient_clip_val",
)


@dataclass(frozen=True)
class Stage:
    """One LightningModule fitted and/or tested on one DataModule."""

    name: str
    module: dict[str, Any]
    data: dict[str, Any]
    trainer: dict[str, Any]
    about: str = ""
    needs: dict[str, str | list[str]] = field(default_factory=dict)
    fit: bool = True
    test: bool = True
    alone: bool = False  # it measures time: no other stage of this suite runs on the machine meanwhile
    reference_batch: int | None = None  # the global batch the learning rate is stated for
    dry: dict[str, Any] = field(default_factory=dict)  # what a dry run shortens, see experiments.dry.Shortened
    fingerprint: str = ""
    seed: int = 0
    directory: Path = Path()

    @property
    def predecessors(self) -> list[str]:
        return [name for value in self.needs.values() for name in ([value] if isinstance(value, str) else value)]

    def config(self) -> dict[str, Any]:
        """What config.yaml records: everything needed to build the stage again."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "directory"}


@dataclass(frozen=True)
class Claim:
    """A statement about stage metrics with a rule, written before the run.

    `better` and `than` are `<stage>/<split>/<metric>` (`than` may be a number). With d = better - than, paired by seed:
    supported if the interval of d lies above `margin`, refuted if below it. With `within: w` instead: supported if the
    interval lies inside (-w, w), refuted if it lies outside. `lower_is_better` turns d around.
    """

    name: str
    better: str
    than: str | float
    margin: float = 0.0
    within: float | None = None
    lower_is_better: bool = False
    confidence: float = 0.95
    refuted_by: str = ""

    @property
    def metrics(self) -> list[str]:
        return [m for m in (self.better, self.than) if isinstance(m, str)]


@dataclass(frozen=True)
class Published:
    """A number the paper reports. `tolerance` is how far ours may lie from it and still be `matched`."""

    stage: str
    metric: str
    value: float
    dataset: str
    protocol: str
    source: str
    variant: str | None = None
    tolerance: float = 0.3


@dataclass(frozen=True)
class Plan:
    """One run: one paper at one scale with one seed."""

    paper: str
    scale: str
    variant: str | None
    seed: int
    stages: dict[str, Stage]  # in the order they run
    config: dict[str, Any]

    @property
    def title(self) -> str:
        return f"{self.paper}/{self.scale}" + (f"+{self.variant}" if self.variant else "")


def typed(kind: type, item: Mapping[str, Any], where: str) -> Any:
    """A dataclass from a mapping. Raises InputError for a key it does not have or one it lacks."""
    names = {f.name for f in fields(kind)}
    for key in item:
        if key not in names:
            raise unknown(f"{where}: key", str(key), names)
    try:
        return kind(**item)
    except TypeError as error:
        raise InputError(f"{where}: {str(error).split('__init__() ')[-1]}") from error


def claims(config: Mapping[str, Any]) -> list[Claim]:
    """The paper's claims; every metric must name an existing stage."""
    found = [typed(Claim, item, f"claims.{i}") for i, item in enumerate(config.get("claims") or [])]
    for index, claim in enumerate(found):
        for metric in claim.metrics:
            parts = metric.split("/")
            if len(parts) != 3:
                raise InputError(f"claims.{index}: {metric!r}: expected <stage>/<split>/<metric>")
            if parts[0] not in config["stages"]:
                raise unknown(f"claims.{index}: stage", parts[0], config["stages"])
    return found


def published(config: Mapping[str, Any]) -> list[Published]:
    """The numbers the paper reports for what this configuration runs; below full scale, those of its main setting."""
    items = [typed(Published, item, f"published.{i}") for i, item in enumerate(config.get("published") or [])]
    variant = config.get("variant") if config["scale"] == "full" else None
    return [item for item in items if item.variant == variant]


def plan(config: DictConfig, seed: int, precisions: Mapping[str, str] | None = None) -> Plan:
    """Order the stages of a configuration and fingerprint them for one seed.

    Args:
        config: composed.
        seed: of the run.
        precisions: stage -> what `auto` meant where it ran; what it means on this machine unless given.
    Raises:
        InputError: unknown keys, unknown predecessors, cycles, missing data.
    """
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise InputError(f"seed={seed!r}: expected a whole number")
    resolved = compose.resolve(config, seed)
    seconds = resolved["checkpoint_seconds"]
    if not isinstance(seconds, int | float) or seconds < 0:
        raise InputError(f"checkpoint_seconds={seconds!r}: expected a number of seconds")
    if not isinstance(resolved["stages"], dict):
        raise InputError(f"stages={resolved['stages']!r}: expected a mapping")
    paper, scale, variant = resolved["key"], resolved["scale"], resolved.get("variant")
    base = Path(resolved["runs_dir"]) / paper / scale / f"seed={seed}"
    made: dict[str, Stage] = {}
    for name, item in resolved["stages"].items():
        where = f"stages.{name}"
        if not re.fullmatch(r"[A-Za-z0-9_]+", str(name)):
            raise InputError(f"{where}: a stage's name may hold letters, digits and _ alone")
        for key, value in (("", item), (".needs", item), (".trainer", item)):
            part = value.get(key[1:]) if key and isinstance(value, dict) else value
            if not isinstance(part, dict) and (part is not None or not key):
                raise InputError(f"{where}{key}={part!r}: expected a mapping")
        for key in ("module", "data"):
            if not isinstance(item.get(key), dict) or not item[key].get("_target_"):
                raise InputError(f"{where}.{key}: the recipe {paper}/{scale} says nothing about it")
        trainer = {**resolved["trainer"], **(item.get("trainer") or {})}
        for key in trainer:
            if key not in TRAINER:
                raise unknown(f"{where}.trainer: key", str(key), TRAINER)
        if trainer["precision"] == "auto":
            trainer["precision"] = (precisions or {}).get(name) or decide_precision(trainer)
        needs = item.get("needs") or {}
        made[name] = typed(Stage, {**item, "name": name, "trainer": trainer, "seed": seed, "needs": needs}, where)
        for needed in made[name].predecessors:
            if needed not in resolved["stages"]:
                raise unknown(f"{where}.needs: stage", needed, resolved["stages"])
    stages: dict[str, Stage] = {}
    for name in _order(made):
        stage = made[name]
        needs = {k: [stages[n].fingerprint for n in ([v] if isinstance(v, str) else v)] for k, v in stage.needs.items()}
        content = {k: v for k, v in stage.config().items() if k not in ("fingerprint", "seed", "needs", "dry", "alone")}
        mark = fingerprint(content, seed, needs)
        stages[name] = typed(
            Stage, {**vars(stage), "fingerprint": mark, "directory": base / f"{name}-{mark}"}, f"stages.{name}"
        )
    claims(resolved)
    published(resolved)  # both are read for their errors: nothing should train before they are known to be right
    return Plan(paper, scale, variant, seed, stages, resolved)


def _order(stages: Mapping[str, Stage]) -> Sequence[str]:
    """Topological, and as written where the needs leave a choice."""
    sorter = TopologicalSorter({name: stage.predecessors for name, stage in stages.items()})
    try:
        depth: dict[str, int] = {}
        for name in sorter.static_order():
            depth[name] = 1 + max((depth[n] for n in stages[name].predecessors), default=-1)
    except CycleError as error:
        raise InputError(f"stages need each other in a circle: {' -> '.join(error.args[1])}") from error
    return sorted(stages, key=lambda name: depth[name])
