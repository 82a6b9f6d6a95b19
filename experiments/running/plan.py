"""What a configuration asks for, as data: stages in the order they run. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from experiments.common.errors import InputError, unknown
from experiments.common.plain import Arguments, Config
from experiments.config import claims, compose, schema
from experiments.config.stages import Stage as WrittenStage
from experiments.config.stages import Trainer
from experiments.config.written import read
from experiments.identity.fingerprint import fingerprint
from experiments.running.devices import decide_precision

PILOTS = 1000  # seeds below are for pilots and play: never recorded
REGISTERED = 1_000_000  # seeds from here follow from the hash of a registration's file
SEEDS = 64  # of one such registration
AGAIN = 1_100_000_000  # seeds from here are further tries of others, above all that registrations have
NO_CONTENT = ("fingerprint", "seed", "needs", "feeds", "dry", "exclusive")  # of a stage's identity, or apart in it


Needs = Mapping[str, str | list[str]]  # argument -> the stage, or the stages, that fill it


def names_in(needs: Needs) -> list[str]:
    """The stages that fill any argument."""
    return [name for names in needs.values() for name in ([names] if isinstance(names, str) else names)]


def fill(needs: Needs, get: Callable[[str], Any]) -> Arguments:
    """Each argument with what `get` gives for its stage, or the list of it for its stages."""
    return {
        argument: get(names) if isinstance(names, str) else [get(name) for name in names]
        for argument, names in needs.items()
    }


@dataclass(frozen=True)
class Stage:
    """One LightningModule fitted and/or tested on one DataModule."""

    name: str
    module: Config
    data: Config
    trainer: Config
    about: str = ""
    needs: dict[str, str | list[str]] = field(default_factory=dict)  # argument of the module -> finished stages
    feeds: dict[str, str | list[str]] = field(default_factory=dict)  # argument of the datamodule -> finished stages
    fit: bool = True
    test: bool = True
    exclusive: bool = False  # it measures time: no other stage of this suite runs on the machine meanwhile
    start_like: str | None = None  # construct with the random state of this name: arms that share it start alike
    reference_batch: int | None = None  # the global batch the learning rate is stated for
    dry: Config = field(default_factory=dict)  # what a dry run shortens, as config.stages.Shortened says
    fingerprint: str = ""
    seed: int = 0
    directory: Path = Path()

    @property
    def predecessors(self) -> list[str]:
        return list(dict.fromkeys([*names_in(self.needs), *names_in(self.feeds)]))

    def config(self) -> Config:
        """What config.yaml records: everything needed to build the stage again."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "directory"}


@dataclass(frozen=True)
class Plan:
    """One run: one paper at one scale with one seed."""

    paper: str
    scale: str
    variant: str | None
    seed: int
    stages: dict[str, Stage]  # in the order they run
    config: Config
    registered: str | None = None  # hash of the registration that its seed follows from
    try_of: int | None = None  # the seed whose arms start again with this one
    attempt: int = 0  # which further try of it this is, from 1

    @property
    def title(self) -> str:
        return f"{self.paper}/{self.scale}" + (f"+{self.variant}" if self.variant else "")


def only(plan_: Plan, names: Iterable[str]) -> Plan:
    """The same plan with these stages and what they need."""
    wanted: set[str] = set()
    queue = list(names)
    while queue:
        name = queue.pop()
        if name not in wanted:
            wanted.add(name)
            queue += plan_.stages[name].predecessors
    return replace(plan_, stages={name: stage for name, stage in plan_.stages.items() if name in wanted})


def plan(config: DictConfig, seed: int, precisions: Mapping[str, str] | None = None) -> Plan:
    """Order the stages of a configuration and fingerprint them for one seed.

    Args:
        config: composed.
        seed: of the run.
        precisions: stage -> what `auto` meant where it ran; what it means on this machine unless given.
    Raises:
        InputError: unknown keys, unknown predecessors, cycles, missing data.
    """
    return plan_each(config, [seed], precisions)[0]


def plan_each(config: DictConfig, seeds: Sequence[int], precisions: Mapping[str, str] | None = None) -> list[Plan]:
    """plan() for several seeds, with one resolution for all of them."""
    for seed in seeds:
        if not isinstance(seed, int) or isinstance(seed, bool):
            raise InputError(f"seed={seed!r}: expected a whole number")
    resolved = compose.resolve_each(config, seeds)
    return [_plan(item, seed, precisions) for item, seed in zip(resolved, seeds, strict=True)]


def _plan(resolved: Config, seed: int, precisions: Mapping[str, str] | None) -> Plan:
    schema.check_settings(resolved)
    if not isinstance(resolved["stages"], dict):
        raise InputError(f"stages={resolved['stages']!r}: expected a mapping")
    paper, scale, variant = resolved["key"], resolved["scale"], resolved.get("variant")
    base = Path(resolved["runs_dir"]) / paper / scale / f"seed={seed}"
    described: dict[str, Stage] = {}
    for name, item in resolved["stages"].items():
        where = f"stages.{name}"
        if not re.fullmatch(r"[A-Za-z0-9_]+", str(name)):
            raise InputError(f"{where}: a stage's name may hold letters, digits and _ alone")
        read(WrittenStage, item, where)
        for key in ("module", "data"):
            if not (item.get(key) or {}).get("_target_"):
                raise InputError(f"{where}.{key}: the recipe {paper}/{scale} says nothing about it")
        trainer = {**resolved["trainer"], **(item.get("trainer") or {})}
        read(Trainer, trainer, f"{where}.trainer")
        if trainer["precision"] == "auto":
            trainer["precision"] = (precisions or {}).get(name) or decide_precision(trainer)
        wiring = {"needs": item.get("needs") or {}, "feeds": item.get("feeds") or {}}
        described[name] = Stage(**{**item, "name": name, "trainer": trainer, "seed": seed, **wiring})
        for needed in described[name].predecessors:
            if needed not in resolved["stages"]:
                raise unknown(f"{where}: needs or feeds: stage", needed, resolved["stages"])
    stages: dict[str, Stage] = {}
    for name in _order(described):
        stage = described[name]
        wired = {**stage.needs, **{f"data.{argument}": names for argument, names in stage.feeds.items()}}
        needs = {argument: [stages[n].fingerprint for n in names_in({"": names})] for argument, names in wired.items()}
        content = {k: v for k, v in stage.config().items() if k not in NO_CONTENT}
        mark = fingerprint(content, seed, needs)
        stages[name] = replace(stage, fingerprint=mark, directory=base / f"{name}-{mark}")
    claims.read(resolved)  # for its errors: nothing should train before they are known to be right
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
