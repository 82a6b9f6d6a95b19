"""Neighbouring recipes: what a recipe's `vary` draws anew for each seed of a replication. Imports no torch.

    vary:
      learning rate: {keys: [stages.students.module.optimizer.lr], times: [0.5, 2]}
      epochs:        {keys: [stages.*.trainer.max_epochs, stages.*.module.schedule.milestones], times: [0.7, 1.5]}
      noise:         {keys: [stages.*.data.label_noise], between: [0.1, 0.4]}
      width:         {keys: [stages.student.module.network.widths], among: [[4, 8], [6, 12]]}
      steps:         {keys: [steps], times: [0.7, 1.5]}      # a value of the recipe's own, which other lines read

One draw of a knob goes to all its keys, so that all arms that are compared get the same. `times` multiplies what
stands there: arms with several base rates keep their ratios, milestones and warm-up follow the epochs. Whole numbers
stay whole numbers of at least 1, and a single epoch stays one. What is drawn hangs on the registration, the seed and
the knob alone, and it is put in before any interpolation is resolved, so that what refers to a varied number follows.
"""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from experiments.common.errors import InputError, unknown
from experiments.common.plain import Config
from experiments.config import reading, recipes, written
from experiments.config.trials import Knob

Drawn = Config  # of one seed: knob -> its factor, or the value itself


def read(config: Mapping[str, Any]) -> dict[str, Knob]:
    """The knobs of a resolved configuration by name. Raises InputError for one that makes no sense."""
    return {str(name): written.read(Knob, item, f"vary.{name}") for name, item in (config.get("vary") or {}).items()}


def draw(knobs: Mapping[str, Knob], registration: str, seed: int) -> Drawn:
    """What each knob is for one seed: the same wherever and whenever it is drawn.

    Args:
        knobs: by name.
        registration: hash of the registration that is replicated.
        seed: of the replication's stream.
    """
    return {name: _draw(knob, random.Random(f"{registration}/{seed}/{name}")) for name, knob in knobs.items()}


def _draw(knob: Knob, chance: random.Random) -> Any:
    """A factor for `times`, a value for the others."""
    if knob.times is not None:
        low, high = map(math.log, knob.times)
        return math.exp(chance.uniform(low, high))
    if knob.between is not None:
        return chance.uniform(*knob.between)
    assert knob.among is not None
    return chance.choice(knob.among)


def turn(
    config: DictConfig, knobs: Mapping[str, Knob], drawn: Drawn, groups: recipes.Groups | None = None
) -> DictConfig:
    """A copy of a composed configuration with every knob turned to what was drawn.

    Raises InputError for a key that neither a stage nor the recipe has as a value of its own: one that refers to
    another number (`${...}`) follows that number and is left to it.
    """
    turned = copy.deepcopy(config)
    for name, knob in knobs.items():
        places = [place for key in knob.keys for place in _places(turned, key, groups or {}, f"vary.{name}")]
        for parent, last in places:
            parent[last] = drawn[name] if knob.times is None else _times(parent[last], drawn[name], f"vary.{name}")
    return turned


def put(config: DictConfig, keys: Sequence[str], value: Any, groups: recipes.Groups | None, where: str) -> DictConfig:
    """A copy of a composed configuration with one value wherever these keys stand.

    Raises InputError as turn() does; it names `where`.
    """
    changed = copy.deepcopy(config)
    for key in keys:
        for parent, last in list(_places(changed, key, groups or {}, where)):
            parent[last] = value
    return changed


def _places(config: DictConfig, key: str, groups: recipes.Groups, where: str) -> Iterator[tuple[DictConfig, str]]:
    """The nodes that hold what a key means, one for each stage that has it and does not refer to another number."""
    if not key.startswith("stages."):
        yield _own(config, key, where)
        return

    _, word, path = key.split(".", 2)
    stages = [str(name) for name in config.stages]
    names = recipes.fitting(word, stages, groups)
    if not names:
        raise unknown(f"{where}.keys: stage", word, [*stages, *groups])

    head, _, last = path.rpartition(".")
    places = []
    for name in names:
        parent = OmegaConf.select(config, f"stages.{name}.{head}" if head else f"stages.{name}")
        if OmegaConf.is_dict(parent) and last in parent and not OmegaConf.is_interpolation(parent, last):
            places.append((parent, last))
    if not places:
        raise InputError(f"{where}.keys: {key}: no stage has this as a number of its own")
    yield from places


def _own(config: DictConfig, key: str, where: str) -> tuple[DictConfig, str]:
    """The node that holds a value of the recipe's own, which other lines read by `${...}`."""
    head, _, last = key.rpartition(".")
    parent = OmegaConf.select(config, head) if head else config
    if key.split(".")[0] not in reading.own_values(config) or not OmegaConf.is_dict(parent) or last not in parent:
        raise unknown(f"{where}.keys: the recipe's own value", key, reading.own_values(config))
    if OmegaConf.is_interpolation(parent, last):
        raise InputError(f"{where}.keys: {key}: refers to another number; expected that one")
    return parent, last


def _times(value: Any, factor: float, where: str) -> Any:
    """A number or a list of numbers times a factor; whole numbers stay whole and at least 1."""
    if isinstance(value, list | ListConfig):
        return [_times(item, factor, where) for item in value]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"{where}: {value!r} is no number; expected one, or a list of them, that a factor changes")
    if isinstance(value, int):
        return 1 if value == 1 else max(1, round(value * factor))
    return value * factor
