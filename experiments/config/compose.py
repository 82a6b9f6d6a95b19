"""From a command line to one resolved configuration. Imports no torch, so that --help and listings are instant.

Four things are added to Hydra's override grammar, all before Hydra sees the line:

- `variant=NAME`: the overrides listed under `variants: NAME:` in the paper's file; what the user gives wins over them.
- `stages.*.key=value` and `data@stages.*.data=name`: one override for every stage that fits the pattern or belongs to
  the group, and that no `~stages.name` takes away (see experiments.config.overrides).
- `data=NAME`: other images in place of the paper's own (see experiments.config.own_data).
- a wrong name ends in one line with the nearest valid one, instead of a trace.

Files are read by experiments.config.reading; what other rooms ask of them they may ask here.
"""

from __future__ import annotations

import os
import pickle
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, grammar_parser
from omegaconf import _utils as omegaconf_utils
from omegaconf import base as omegaconf_base
from omegaconf.errors import OmegaConfBaseException

from experiments.common import overlay
from experiments.common.errors import InputError, unknown
from experiments.common.plain import Config
from experiments.config import flags, frame, own_data, reading, recipes
from experiments.config import overrides as lines
from experiments.config.overrides import split
from experiments.config.reading import (
    CONF,
    STANDS_ASIDE,
    TEXTS,
    default,
    groups,
    known_stages,
    load,
    options,
    paper_file,
    papers,
    recipe_files,
    search,
    search_path,
    sweep_file,
)

__all__ = [
    "CONF",
    "STANDS_ASIDE",
    "TEXTS",
    "Request",
    "compose",
    "default",
    "groups",
    "known_stages",
    "load",
    "options",
    "paper_file",
    "papers",
    "recipe_files",
    "request",
    "resolve",
    "resolve_each",
    "search",
    "search_path",
    "sweep_file",
]

ENVIRONMENT = ("REPRISE_DATA",)  # variables of the environment that a configuration may read


@dataclass(frozen=True)
class Request:
    """A command line after expansion: what to run, and the overrides that Hydra gets."""

    paper: str
    scale: str
    variant: str | None
    given: tuple[str, ...]  # as typed, without paper, scale, variant and data
    overrides: tuple[str, ...]  # expanded, ready for Hydra
    data: str | None = None  # what stands in place of the paper's own

    @property
    def told(self) -> tuple[str, ...]:
        """What a record says of the command line beyond paper, scale and variant."""
        return (*self.given, *([f"data={self.data}"] if self.data else []))


def request(argv: Sequence[str]) -> Request:
    """Read and expand a command line.

    Raises InputError for an unknown paper, scale, variant or group option, and for a line that does not parse.
    """
    paper, scale, variant, data, typed = _chosen(argv)
    swept = any(mark in paper for mark in ",(")  # then each paper is looked at by itself, once it is composed
    about = {} if swept else paper_file(paper)
    _check_setting(paper, scale, variant, about.get("variants") or {})
    if not swept:
        _check_recipe(paper, scale)
    recipe = {} if swept else reading.recipe_file(paper, scale)
    named = {} if swept else groups(paper)
    every_stage = list({**(about.get("stages") or {}), **(recipe.get("stages") or {})})
    of_variant = list(about["variants"][variant]["overrides"]) if variant else []
    of_variant = [line for line in of_variant if not _adds_nothing(line, recipe, paper)]
    of_variant = [each for line in of_variant for each in lines.each_removed(line, every_stage, named)]
    of_user = [each for line in typed for each in lines.each_removed(line, every_stage, named)]
    removed = {line.removeprefix("~stages.") for line in [*of_variant, *of_user] if line.startswith("~stages.")}
    stages = [name for name in every_stage if name not in removed]

    chosen = [f"paper={paper}", f"scale={scale}"]
    options_of_user = _expand([line for line in of_user if lines.chooses_option(line)], chosen, stages, named)
    if variant:
        each_of_variant = [each for line in of_variant for each in lines.for_each_stage(line, stages, named)]
        frame.check_lines(each_of_variant, f"conf/paper/{paper}.yaml: variants.{variant}")
    keys_of_user = {split(line)[0] for line in options_of_user}
    of_variant = [line for line in of_variant if split(line)[0] not in keys_of_user]
    expanded = _expand([*of_variant, *of_user], chosen, stages, named)
    last = {split(line)[0]: line for line in expanded}  # what the user gives comes later and wins over the variant
    overrides = [*chosen, *last.values()]
    if variant:
        overrides.append(f"variant={variant}")
    if overlay.current() is not None and "runs_dir" not in last:
        overrides.append(f"runs_dir={overlay.home() / 'runs'}")
    lines.check_options(overrides)
    if data:
        if any(mark in word for word in (paper, scale, data) for mark in ",("):
            raise InputError(f"data={data}: expected one name, for one paper and scale")
        overrides += own_data.lines(data, paper, compose(flags.first_of_each(overrides)), typed)
    return Request(paper, scale, variant, tuple(typed), tuple(overrides), data)


def _chosen(argv: Sequence[str]) -> tuple[str, str, str | None, str | None, list[str]]:
    """Paper, scale, variant and data of a command line, and its other lines.

    Raises InputError for a key that nothing reads.
    """
    chosen = {"paper": default("paper"), "scale": default("scale"), "variant": "", "data": ""}
    typed = []
    for line in argv:
        key, value = split(line)
        if key.lstrip("+") in chosen:
            chosen[key.lstrip("+")] = value
        elif key.startswith("+") and not set("./@") & set(key):
            raise InputError(f"{key}: nothing reads such a key; one of a stage is added as +stages.NAME.KEY=value")
        else:
            typed.append(f"{key}={lines.quoted(value)}" if key in lines.SENTENCES else line)
    return chosen["paper"], chosen["scale"], chosen["variant"] or None, chosen["data"] or None, typed


def _check_setting(paper: str, scale: str, variant: str | None, variants: Mapping[str, Any]) -> None:
    """Raises InputError for a scale or variant that does not exist, or one that is not for the other."""
    if not any(mark in scale for mark in ",(") and scale not in options("scale"):
        raise unknown("scale", scale, options("scale"))
    if variant is None:
        return
    if variant not in variants:
        raise unknown(f"variant of {paper}", variant, variants)
    made_for = variants[variant]["scale"]
    if scale not in (made_for, "smoke"):
        raise InputError(f"variant={variant} is one of scale={made_for}, not of scale={scale}")


def _check_recipe(paper: str, scale: str) -> None:
    """Raises InputError, with the scales that a paper is written for, where this is none of them."""
    scales = options("scale")
    written = [name for name in reading.recipe_files(paper) if name in scales]
    if written and scale in scales and scale not in written:
        raise InputError(f"scale={scale}: {paper} has no recipe for it; expected {' or '.join(written)}")


def _adds_nothing(line: str, recipe: Mapping[str, Any], paper: str) -> bool:
    """Whether a variant's line adds what the recipe holds already: smoke's may hold all that mini's variants add."""
    key, value = split(line)
    group = f"recipe/{paper}@_global_"
    if key != f"+{group}":
        return False
    held = [item[f"/{group}"] for item in recipe.get("defaults") or [] if f"/{group}" in item]
    names = {name for names in held for name in ([names] if isinstance(names, str) else names)}
    return names.issuperset(value.strip("[]").split(","))


def _expand(typed: Sequence[str], chosen: Sequence[str], stages: Sequence[str], named: recipes.Groups) -> list[str]:
    """Each line once for every stage that it means and that has its key.

    Args:
        typed: lines of the user or of a variant.
        chosen: paper and scale, which decide what keys a stage has.
        stages: stage names.
        named: the paper's groups of them.
    """
    expanded = [lines.for_each_stage(line, stages, named) for line in typed]
    options_chosen = [line for each in expanded for line in each if lines.chooses_option(line)]
    base: DictConfig | None = None
    for index, each in enumerate(expanded):
        if len(each) > 1 and not lines.chooses_option(each[0]):
            if base is None:
                lines.check_options(options_chosen)
                base = _without_values((reading.CONF, *reading.search_path()), (*chosen, *options_chosen))
            expanded[index] = [line for line in each if _has(base, split(line)[0])]
            if not expanded[index]:
                raise InputError(f"{typed[index]}: no stage has this key")
    return [line for each in expanded for line in each]


@lru_cache(maxsize=8)
def _without_values(folders: tuple[Any, ...], overrides: tuple[str, ...]) -> DictConfig:
    """What the groups alone compose to, to look up keys in: the same for many variants of a paper.

    `folders` are where the configuration is, so that another one is not answered from this one.
    """
    return compose(overrides)


def _has(config: DictConfig, key: str) -> bool:
    head, _, last = key.rpartition(".")
    parent = OmegaConf.select(config, head)
    return OmegaConf.is_dict(parent) and last in parent


def _read_environment(name: str, default: Any = None) -> Any:
    """The resolver `oc.env`, for the variables in ENVIRONMENT alone: no secret gets into a record.

    Raises:
        ValueError: another variable. OmegaConf names the key.
    """
    if name not in ENVIRONMENT:
        raise ValueError(f"the environment variable {name!r} is not allowed; expected one of {', '.join(ENVIRONMENT)}")
    return os.environ.get(name, default)


OmegaConf.register_new_resolver("oc.env", _read_environment, replace=True)


@lru_cache(maxsize=4096)
def _parsed(text: str, rule: str = "configValue", mode: str = "DEFAULT_MODE") -> Any:
    """OmegaConf's parser of interpolations: the same few stand in all stages, and to parse one takes a millisecond."""
    return grammar_parser.parse(text, rule, mode)


omegaconf_base.parse = omegaconf_utils.parse = _parsed  # type: ignore[assignment,attr-defined]


def compose(overrides: Sequence[str]) -> DictConfig:
    """Compose conf/config.yaml with these overrides.

    Raises InputError naming the key and the nearest valid one.
    """
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(reading.CONF), version_base="1.3"):
        try:
            config = _composed(overrides)
            reading.place_arm(config)
            return config
        except HydraException as error:
            raise _explain(error, overrides) from error
        except OmegaConfBaseException as error:
            raise InputError(f"configuration: {str(error).splitlines()[0]}") from error
        except yaml.YAMLError as error:
            raise InputError(f"a configuration file is no YAML: {' '.join(str(error).split())}") from error


def _composed(overrides: Sequence[str]) -> DictConfig:
    """What Hydra composes, with the options of groups from before where a line of before chose the same.

    To merge an option's file takes Hydra as long as all that was merged before it, to set a value hardly any time.
    """
    values = [line for line in overrides if _sets_value(line)]
    parsed = OverridesParser.create().parse_overrides(values)
    if any(override.is_sweep_override() or override.is_hydra_override() for override in parsed):
        return hydra_compose("config", [*overrides, *reading.search_path()])
    choices = (*(line for line in overrides if not _sets_value(line)), *reading.search_path())
    config: DictConfig = pickle.loads(_of_options(reading.CONF, reading.state(), choices))  # noqa: S301 - our own
    ConfigLoaderImpl._apply_overrides_to_config(parsed, config)
    return config


def _sets_value(line: str) -> bool:
    """Whether a line sets, adds or takes away a value, and leaves which files are read alone."""
    key = split(line)[0].lstrip("+~")
    return not lines.chooses_option(line) and not set("/@") & set(key) and not (reading.CONF / key).is_dir()


@lru_cache(maxsize=64)
def _of_options(folder: Path, state: tuple[int, ...], choices: tuple[str, ...]) -> bytes:
    """What these options of groups compose to, pickled: who gets it may change it.

    Args:
        folder, state: where the files are and when each was changed, so that others are not answered from these.
        choices: lines for Hydra that choose options.
    """
    return pickle.dumps(hydra_compose("config", list(choices)))


def _explain(error: HydraException, overrides: Sequence[str]) -> InputError:
    text = str(error)
    match = re.search(r"Could not override '([^']+)'", text)
    if match is None:
        told = [line.strip() for line in text.splitlines() if line.strip()]
        return InputError("configuration: " + " ".join(told[:2]))
    key = match.group(1)
    node: Any = hydra_compose("config", [o for o in overrides if lines.chooses_option(o)])
    walked: list[str] = []
    parts = key.split(".")
    while OmegaConf.is_dict(node) and parts and parts[0] in node:
        walked.append(parts.pop(0))
        node = OmegaConf.select(node, walked[-1]) if node is not None else None
    names = [str(name) for name in node] if OmegaConf.is_dict(node) else []
    where = ".".join(walked) or "the configuration"
    return unknown(f"{key}: key of {where}", parts[0] if parts else key, names)


def resolve(config: DictConfig, seed: int | None = None) -> Config:
    """The configuration as plain data, every interpolation resolved, for one seed, with the paper's TEXTS.

    Raises InputError for an interpolation that leads nowhere or a value still missing (`???`).
    """
    composed_seed = config.get("seed")
    try:
        if seed is not None:
            config.seed = seed
        value = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise InputError(f"configuration: {str(error).splitlines()[0]}") from error
    finally:
        if seed is not None:
            config.seed = composed_seed
    assert isinstance(value, dict)
    told = paper_file(value["key"]) if value.get("key") in papers() else {}
    aside = [key for key in TEXTS if key in told and value.get(key) == STANDS_ASIDE]  # not after `~published`
    return {str(key): item for key, item in value.items()} | {key: told[key] for key in aside}


_STAND_IN = 7_046_029_254_386_353_087  # a seed that nothing else in a configuration equals


def resolve_each(config: DictConfig, seeds: Sequence[int]) -> list[Config]:
    """resolve() for several seeds in the time of one: the seed is put in where it stands, alone or inside a text."""
    if len(seeds) < 2:
        return [resolve(config, seed) for seed in seeds]
    template = resolve(config, _STAND_IN)
    return [_with_seed(template, seed) for seed in seeds]


def _with_seed(value: Any, seed: int) -> Any:
    if isinstance(value, dict):
        return {key: _with_seed(item, seed) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_seed(item, seed) for item in value]
    if isinstance(value, str):
        return value.replace(str(_STAND_IN), str(seed)) if str(_STAND_IN) in value else value
    return seed if value == _STAND_IN and isinstance(value, int) else value
