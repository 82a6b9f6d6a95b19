"""From a command line to one resolved configuration. Imports no torch, so that --help and listings are instant.

Three things are added to Hydra's override grammar, all before Hydra sees the line:

- `variant=NAME`: the overrides listed under `variants: NAME:` in the paper's file; what the user gives wins over them.
- `stages.*.key=value` and `data@stages.*.data=name`: one override for every stage whose name fits the pattern and that
  no `~stages.name` takes away; a group of the paper's file (`groups: {students: [...]}`) may stand for the pattern.
- a wrong name ends in one line with the nearest valid one, instead of a trace.

Papers and recipes are written out before Hydra reads them (experiments.config.recipes). What a paper's file tells
about it (TEXTS) is kept from Hydra, which would make a node of every line several times over: a word stands for it,
and it joins the resolved values.
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
from hydra._internal.core_plugins import file_config_source
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.config_source import ConfigResult, ConfigSource
from omegaconf import DictConfig, OmegaConf
from omegaconf._utils import get_yaml_loader
from omegaconf.errors import OmegaConfBaseException

from experiments.common.errors import InputError, unknown
from experiments.common.paths import CONF
from experiments.config import recipes

ENVIRONMENT = ("REPRISE_DATA",)  # variables of the environment that a configuration may read
GROUPS = ("paper", "scale", "trainer", "logger", "launcher", "data")
TEXTS = ("variants", "published", "deviations", "groups")  # of a paper's file: most of it, and no part of a composition
SENTENCES = ("why",)  # whose values are plain words: a comma or a colon in them means nothing
STANDS_ASIDE = "conf/paper"  # what stands for each of them there, so that an override can take it away


@dataclass(frozen=True)
class Request:
    """A command line after expansion: what to run, and the overrides that Hydra gets."""

    paper: str
    scale: str
    variant: str | None
    given: tuple[str, ...]  # as typed, without paper, scale and variant
    overrides: tuple[str, ...]  # expanded, ready for Hydra


_searched: list[Path] = []  # besides CONF


def search(folder: str | None) -> None:
    """Look for options of groups in this folder too (Hydra's --config-dir). Raises InputError if it is none."""
    if folder is not None and not Path(folder).is_dir():
        raise InputError(f"--config-dir {folder}: no such folder; expected one with groups, as {folder}/data/mine.yaml")
    _searched[:] = [] if folder is None else [Path(folder).resolve()]


def options(group: str) -> list[str]:
    """What a group offers; a paper's own data as `<paper>/<name>`."""
    folders = [root / group for root in (CONF, *_searched)]
    names = {str(path.relative_to(folder).with_suffix("")) for folder in folders for path in folder.rglob("*.yaml")}
    return sorted(names)


def papers() -> list[str]:
    return options("paper")


@lru_cache
def default(group: str) -> str:
    """What conf/config.yaml chooses for a group."""
    config = yaml.safe_load((CONF / "config.yaml").read_text(encoding="utf-8"))
    return next(entry[group] for entry in config["defaults"] if isinstance(entry, dict) and group in entry)


@lru_cache
def paper_file(paper: str) -> dict[str, Any]:
    """conf/paper/<paper>.yaml as plain data, before composition."""
    path = CONF / "paper" / f"{paper}.yaml"
    if not path.exists():
        raise unknown("paper", paper, papers())
    return recipes.expand(load(path), f"conf/paper/{paper}.yaml")


@lru_cache
def known_stages(paper: str) -> tuple[str, ...]:
    """Every stage that a paper's file or any of its recipes names, whatever a setting leaves out."""
    names = list(paper_file(paper).get("stages") or {})
    for recipe in recipe_files(paper).values():
        names += recipe.get("stages") or {}
    return tuple(dict.fromkeys(names))


def groups(paper: str) -> recipes.Groups:
    """The paper's names for stages that share settings."""
    return paper_file(paper).get("groups") or {}


def _checked_groups(paper: str) -> recipes.Groups:
    """groups(), known to be right. Raises InputError."""
    recipes.check_groups(groups(paper), known_stages(paper), f"conf/paper/{paper}.yaml")
    return groups(paper)


def recipe_files(paper: str) -> dict[str, dict[str, Any]]:
    """conf/recipe/<paper>/<scale>.yaml by scale, as plain data, before composition."""
    names = list(paper_file(paper).get("stages") or {})
    written: dict[str, dict[str, Any]] = {}
    for path in sorted((CONF / "recipe" / paper).glob("*.yaml")):
        written[path.stem] = recipes.expand(load(path), str(path.relative_to(CONF.parent)), names, groups(paper))
        names += written[path.stem].get("stages") or {}
    return written


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """YAML as OmegaConf reads it (1e-4 is a number, no key twice), in C where it can be: a tenth of the time."""

    yaml_implicit_resolvers = get_yaml_loader().yaml_implicit_resolvers

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> Any:
        keys = [key.value for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        twice = next((key for key in keys if keys.count(key) > 1), None)
        if twice is not None:
            raise yaml.constructor.ConstructorError(None, None, f"key {twice!r} stands there twice", node.start_mark)
        return super().construct_mapping(node, deep)


def load(path: Path) -> dict[str, Any]:
    """A configuration file as plain data; an InputError names it where it is no YAML or no mapping."""
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader)  # noqa: S506 - a safe loader
    except yaml.YAMLError as error:
        told = " ".join(str(error).replace('in "<unicode string>", ', "").split())
        raise InputError(f"{path.relative_to(CONF.parent)}: no YAML: {told}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path.relative_to(CONF.parent)}: expected a mapping")
    return content


class FileConfigSource(file_config_source.FileConfigSource):
    """Hydra's reader of configuration files, with papers and recipes written out (see experiments.config.recipes).

    It keeps the name of the class it stands for: by that, Hydra knows that the scheme is registered, also in the
    processes that a launcher starts.
    """

    def load_config(self, config_path: str) -> ConfigResult:
        parts = Path(self._normalize_file_name(config_path)).with_suffix("").parts
        root = Path(self.path).resolve()
        path = root / Path(*parts).with_suffix(".yaml")
        if root not in (CONF, *_searched) or not path.exists():
            return super().load_config(config_path)
        header, nodes = _written_out(parts, path, path.stat().st_mtime_ns)
        return ConfigResult(
            config=pickle.loads(nodes),  # noqa: S301 - pickled below, by this process
            path=f"{self.scheme()}://{self.path}",
            provider=self.provider,
            header=dict(header),
        )


@lru_cache
def _written_out(parts: tuple[str, ...], path: Path, changed: int) -> tuple[dict[str, str | None], bytes]:
    """Hydra's header of a file and its nodes, papers and recipes written out; read anew once it has changed.

    Hydra changes the nodes it is given. To unpickle them takes a third of the time that making them anew takes.
    """
    header = ConfigSource._get_header_dict(path.read_text(encoding="utf-8")[:512])
    content = load(path)
    if path != CONF / "config.yaml" and parts[0] != "launcher":
        _check_is_no_launcher(header, content, "conf/" + "/".join(parts) + ".yaml")
    if parts[0] in ("paper", "recipe"):
        about = paper_file(parts[1]) if parts[0] == "recipe" else content
        others = list(about.get("stages") or {}) if parts[0] == "recipe" else []
        where = "conf/" + "/".join(parts) + ".yaml"
        content = recipes.expand(content, where, others, about.get("groups") or {})
    if parts[0] == "paper":
        content = {key: STANDS_ASIDE if key in TEXTS else value for key, value in content.items()}
    return header, pickle.dumps(OmegaConf.create(content))


def _read_environment(name: str, default: Any = None) -> Any:
    """The resolver `oc.env`, for the variables in ENVIRONMENT alone: no secret gets into a record.

    Raises:
        ValueError: another variable. OmegaConf names the key.
    """
    if name not in ENVIRONMENT:
        raise ValueError(f"the environment variable {name!r} is not allowed; expected one of {', '.join(ENVIRONMENT)}")
    return os.environ.get(name, default)


def _check_is_no_launcher(header: Mapping[str, Any], content: Mapping[str, Any], where: str) -> None:
    """Hydra builds what its own node names, a launcher hands options to a cluster: both are for the user to set."""
    chosen = [str(key) for item in content.get("defaults") or [] if isinstance(item, dict) for key in item]
    variants = content.get("variants")
    variants = variants if isinstance(variants, dict) else {}
    lines = [str(line) for item in variants.values() if isinstance(item, dict) for line in item.get("overrides") or []]
    package = str(header.get("package") or "")
    for key in (package, *map(str, content), *chosen, *lines):
        if re.match(r"(override\s+)?[/+~]*(hydra|launcher)\b", key) or "@hydra" in key or "@launcher" in key:
            raise InputError(
                f"{where}: {key.partition('=')[0]!r} is not allowed; settings of Hydra and of launchers go on the "
                "command line"
            )


Plugins.instance()  # registers Hydra's own readers, so that the next line is not undone
SourcesRegistry.instance().types[FileConfigSource.scheme()] = FileConfigSource
OmegaConf.register_new_resolver("oc.env", _read_environment, replace=True)


def _unreadable(error: yaml.YAMLError) -> InputError:
    return InputError(f"a configuration file is no YAML: {' '.join(str(error).split())}")


def _split(override: str) -> tuple[str, str]:
    key, separator, value = override.partition("=")
    if not separator and not override.startswith("~"):
        raise InputError(f"{override!r}: expected key=value, as in scale=smoke or stages.student.trainer.max_epochs=3")
    return key, value


def _quoted(sentence: str) -> str:
    """A sentence as Hydra's grammar writes one; what is in quotes already stays."""
    if sentence[:1] in ("'", '"') and sentence[-1:] == sentence[:1] and len(sentence) > 1:
        return sentence
    # A backslash is one, but for those before a quote: they are doubled, and so are those at the end.
    escaped = re.sub(r"(\\*)('|$)", lambda found: 2 * found[1] + ("\\'" if found[2] else ""), sentence)
    return f"'{escaped}'"


def _is_group(override: str) -> bool:
    return _split(override)[0].lstrip("+~").partition("@")[0] in GROUPS


def _expand(overrides: Sequence[str], chosen: Sequence[str], stages: Sequence[str], named: recipes.Groups) -> list[str]:
    """`stages.*.x=1` once for every stage that fits and has the key; anything else unchanged.

    Args:
        overrides: as typed.
        chosen: paper and scale, which decide what keys a stage has.
        stages: stage names.
        named: the paper's groups of them.
    """
    expanded: list[list[str]] = []
    for override in overrides:
        key, value = _split(override)
        match = re.match(r"(.*?stages\.)([^.]+)(\..*)", key)
        if match and match[2] not in named and "*" not in match[2]:
            match = None
        names = recipes.fitting(match[2], stages, named) if match else []
        if match and not names:
            raise unknown("stage pattern or group", match[2], [*stages, *named])
        expanded.append([f"{match[1]}{name}{match[3]}={value}" for name in names] if match else [override])
    groups = [line for lines in expanded for line in lines if _is_group(line)]
    if any(len(lines) > 1 and not _is_group(lines[0]) for lines in expanded):
        _check_options(groups)
        base = _without_values(CONF, (*chosen, *groups))
        for index, lines in enumerate(expanded):
            if len(lines) > 1 and not _is_group(lines[0]):
                kept = [line for line in lines if _has(base, _split(line)[0])]
                if not kept:
                    raise InputError(f"{overrides[index]}: no stage has this key")
                expanded[index] = kept
    return [line for lines in expanded for line in lines]


def _expand_removals(overrides: Sequence[str], stages: Sequence[str], named: recipes.Groups) -> list[str]:
    """`~stages.group` once for each stage of the group; anything else unchanged."""
    expanded = []
    for override in overrides:
        word = override.removeprefix("~stages.") if override.startswith("~stages.") else ""
        names = recipes.fitting(word, stages, named) if word in named or "*" in word else []
        expanded += [f"~stages.{name}" for name in names] if names else [override]
    return expanded


@lru_cache(maxsize=8)
def _without_values(folder: Path, overrides: tuple[str, ...]) -> DictConfig:
    """What the groups alone compose to, to look up keys in: the same for many variants of a paper.

    `folder` is where the configuration is, so that another one is not answered from this one.
    """
    return compose(overrides)


def _has(config: DictConfig, key: str) -> bool:
    head, _, last = key.rpartition(".")
    parent = OmegaConf.select(config, head)
    return OmegaConf.is_dict(parent) and last in parent


def _recipe(paper: str, scale: str) -> dict[str, Any]:
    """conf/recipe/<paper>/<scale>.yaml as plain data, before composition; empty if there is none."""
    path = CONF / "recipe" / paper / f"{scale}.yaml"
    named = list(paper_file(paper).get("stages") or {})
    return recipes.expand(load(path), str(path.relative_to(CONF.parent)), named, groups(paper)) if path.exists() else {}


def _adds_nothing(line: str, recipe: Mapping[str, Any], paper: str) -> bool:
    """Whether a variant's line adds what the recipe holds already: smoke's may hold all that mini's variants add."""
    key, value = _split(line)
    group = f"recipe/{paper}@_global_"
    if key != f"+{group}":
        return False
    held = [item[f"/{group}"] for item in recipe.get("defaults") or [] if f"/{group}" in item]
    names = {name for names in held for name in ([names] if isinstance(names, str) else names)}
    return names.issuperset(value.strip("[]").split(","))


def request(argv: Sequence[str]) -> Request:
    """Read and expand a command line.

    Raises InputError for an unknown paper, scale, variant or group option, and for a line that does not parse.
    """
    chosen = {"paper": default("paper"), "scale": default("scale"), "variant": ""}
    given = []
    for override in argv:
        key, value = _split(override)
        if key.lstrip("+") in chosen:
            chosen[key.lstrip("+")] = value
        else:
            given.append(f"{key}={_quoted(value)}" if key in SENTENCES else override)
    for key in (_split(override)[0] for override in given):
        if key.startswith("+") and not set("./@") & set(key):
            raise InputError(f"{key}: nothing reads such a key; one of a stage is added as +stages.NAME.KEY=value")
    swept = any(mark in chosen["paper"] for mark in ",(")
    if not swept:
        paper_file(chosen["paper"])
    if not any(mark in chosen["scale"] for mark in ",(") and chosen["scale"] not in options("scale"):
        raise unknown("scale", chosen["scale"], options("scale"))
    about = {} if swept else paper_file(chosen["paper"])
    variants = about.get("variants") or {}
    variant = chosen["variant"] or None
    if variant and variant not in variants:
        raise unknown(f"variant of {chosen['paper']}", variant, variants)
    made_for = variants[variant].get("scale") if variant else None
    if made_for and chosen["scale"] not in (made_for, "smoke"):
        raise InputError(f"variant={variant} is one of scale={made_for}, not of scale={chosen['scale']}")
    chosen_lines = [f"paper={chosen['paper']}", f"scale={chosen['scale']}"]
    recipe = {} if swept else _recipe(chosen["paper"], chosen["scale"])
    named = list(variants[variant]["overrides"]) if variant else []
    named = [line for line in named if not _adds_nothing(line, recipe, chosen["paper"])]
    every_stage = list({**(about.get("stages") or {}), **(recipe.get("stages") or {})})
    groups_named = {} if swept else _checked_groups(chosen["paper"])
    named = _expand_removals(named, every_stage, groups_named)
    given = _expand_removals(given, every_stage, groups_named)
    removed = {line.removeprefix("~stages.") for line in [*named, *given] if line.startswith("~stages.")}
    stages = [name for name in every_stage if name not in removed]
    user = _expand([line for line in given if _is_group(line)], chosen_lines, stages, groups_named)
    taken = {_split(line)[0] for line in user}
    named = [line for line in named if _split(line)[0] not in taken]
    lines = _expand([*named, *given], chosen_lines, stages, groups_named)
    last = {_split(line)[0]: line for line in lines}  # what the user gives comes later and wins over the variant
    overrides = [*chosen_lines, *last.values()]
    if variant:
        overrides.append(f"variant={variant}")
    _check_options(overrides)
    return Request(chosen["paper"], chosen["scale"], variant, tuple(given), tuple(overrides))


def _check_options(overrides: Sequence[str]) -> None:
    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
    except HydraException as error:
        raise InputError(f"cannot read the command line: {str(error).splitlines()[0]}") from error
    for override in parsed:
        group = override.key_or_group
        if group in GROUPS and not override.is_sweep_override():
            value = str(override.value())
            if value not in options(group):
                raise unknown(f"{override.get_key_element()}: {group}", value, options(group))


def _search_path() -> list[str]:
    """The override that makes Hydra look where `search` says."""
    return [f"hydra.searchpath=[{','.join(f'file://{folder}' for folder in _searched)}]"] if _searched else []


def compose(overrides: Sequence[str]) -> DictConfig:
    """Compose conf/config.yaml with these overrides.

    Raises InputError naming the key and the nearest valid one.
    """
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        try:
            return hydra_compose("config", [*overrides, *_search_path()])
        except HydraException as error:
            raise _explain(error, overrides) from error
        except OmegaConfBaseException as error:
            raise InputError(f"configuration: {str(error).splitlines()[0]}") from error
        except yaml.YAMLError as error:
            raise _unreadable(error) from error


def _explain(error: HydraException, overrides: Sequence[str]) -> InputError:
    text = str(error)
    match = re.search(r"Could not override '([^']+)'", text)
    if match is None:
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        return InputError("configuration: " + " ".join(lines[:2]))
    key = match.group(1)
    node: Any = hydra_compose("config", [o for o in overrides if _is_group(o)])
    walked: list[str] = []
    parts = key.split(".")
    while OmegaConf.is_dict(node) and parts and parts[0] in node:
        walked.append(parts.pop(0))
        node = OmegaConf.select(node, walked[-1]) if node is not None else None
    names = [str(name) for name in node] if OmegaConf.is_dict(node) else []
    where = ".".join(walked) or "the configuration"
    return unknown(f"{key}: key of {where}", parts[0] if parts else key, names)


def resolve(config: DictConfig, seed: int | None = None) -> dict[str, Any]:
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
    kept = [key for key in TEXTS if key in told and value.get(key) == STANDS_ASIDE]  # not after `~published`
    return {str(key): item for key, item in value.items()} | {key: told[key] for key in kept}


_STAND_IN = 7_046_029_254_386_353_087  # a seed that nothing else in a configuration equals


def resolve_each(config: DictConfig, seeds: Sequence[int]) -> list[dict[str, Any]]:
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
