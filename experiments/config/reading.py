"""Configuration files: found, read, checked against their schema and written out. Imports no torch.

Hydra reads them through here too (FileConfigSource). What a paper's file tells about it (TEXTS) is kept from Hydra,
which would make a node of every line several times over: a word stands for it, and it joins the resolved values.
"""

from __future__ import annotations

import os
import pickle
import re
from collections.abc import Iterable, Mapping
from dataclasses import fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from hydra._internal.core_plugins import file_config_source
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult, ConfigSource
from omegaconf import DictConfig, OmegaConf
from omegaconf._utils import get_yaml_loader

from experiments.common import overlay
from experiments.common.errors import InputError, unknown
from experiments.common.paths import CONF
from experiments.common.plain import Plain
from experiments.config import arms, limits, recipes, schema, written
from experiments.config.stages import Trainer

# Of a paper's file: most of it, and no part of a composition.
TEXTS = ("variants", "published", "deviations", "groups", "finding", "scope", "covers", "metrics", "own_data")
STANDS_ASIDE = "conf/paper"  # what stands for each of them there, so that an override can take it away

_searched: list[Path] = []  # besides CONF and the open overlay's


def search(folder: str | None) -> None:
    """Look for options of groups in this folder too (Hydra's --config-dir). Raises InputError if it is none."""
    if folder is not None and not Path(folder).is_dir():
        raise InputError(f"--config-dir {folder}: no such folder; expected one with groups, as {folder}/data/mine.yaml")
    _searched[:] = [] if folder is None else [Path(folder).resolve()]


def search_path() -> list[str]:
    """The override that makes Hydra look where `search` says, and in the open overlay."""
    folders = _roots()[1:]
    return [f"hydra.searchpath=[{','.join(f'file://{folder}' for folder in folders)}]"] if folders else []


def _roots() -> tuple[Path, ...]:
    """The folders of configuration: the first that has a file gives it."""
    extra = overlay.current()
    return (CONF, *_searched, *([extra.conf] if extra is not None else []))


def _place(*parts: str) -> Path:
    """The file of these parts: the suite's, or else the open overlay's."""
    extra = overlay.current()
    path = CONF.joinpath(*parts)
    return path if extra is None or path.exists() else extra.conf.joinpath(*parts)


def shown(path: Path) -> str:
    """A file of configuration as messages name it: from conf/ on, an overlay's with its name in front."""
    extra = overlay.current()
    if extra is not None and path.is_relative_to(extra.folder):
        return f"{extra.name}/{path.relative_to(extra.folder).as_posix()}"
    return path.relative_to(CONF.parent).as_posix() if path.is_relative_to(CONF.parent) else str(path)


def state() -> tuple[int, ...]:
    """When each configuration file was changed; another tuple once a file has changed, come or gone."""
    folders = [entry for root in _roots() for entry in os.walk(root)]
    paths = [os.path.join(folder, name) for folder, _, names in sorted(folders) for name in sorted(names)]
    return tuple(os.stat(path).st_mtime_ns for path in paths)


def data_file(name: str) -> Path | None:
    """Where a data set of this name is said, in the suite's folder first; None where nobody says it."""
    paths = [root / "data" / f"{name}.yaml" for root in _roots()]
    return next((path for path in paths if path.is_file()), None)


def options(group: str) -> list[str]:
    """What a group offers; a paper's own data as `<paper>/<name>`."""
    names: set[str] = set()
    for root in _roots():
        for folder, _, files in os.walk(root / group):
            inside = Path(folder).relative_to(root / group)
            names |= {str(inside / name.removesuffix(".yaml")) for name in files if name.endswith(".yaml")}
    return sorted(names)


def papers() -> list[str]:
    return options("paper")


@lru_cache
def default(group: str) -> str:
    """What conf/config.yaml chooses for a group."""
    config = yaml.safe_load((CONF / "config.yaml").read_text(encoding="utf-8"))
    return next(entry[group] for entry in config["defaults"] if isinstance(entry, dict) and group in entry)


def own_values(config: Mapping[str, Any]) -> list[str]:
    """The keys of a composed configuration that are a recipe's own: values that other lines read by `${...}`."""
    frame = yaml.safe_load((CONF / "config.yaml").read_text(encoding="utf-8"))
    keys_of_frame = set(frame)
    for entry in frame["defaults"]:
        keys_of_frame |= set(map(str, entry)) if isinstance(entry, dict) else set()  # a group
    for kind in (schema.Recipe, schema.PaperFile):
        keys_of_frame |= {field.name for field in fields(kind)}
    return [str(key) for key in config if key not in keys_of_frame]


# --- papers, recipes and sweeps, written out -------------------------------------------------------------------------


@lru_cache
def paper_file(paper: str) -> Plain:
    """conf/paper/<paper>.yaml as plain data, checked and written out, before composition."""
    path = _place("paper", f"{paper}.yaml")
    if not path.exists():
        raise unknown("paper", paper, papers())
    own = arm_files(paper)
    return arms.join(_written_out(("paper", paper), load(path)), own, {name: _arm_place(paper, name) for name in own})


def arm_files(paper: str) -> dict[str, Plain]:
    """What the open overlay's arms of a paper say, by name."""
    extra = overlay.current()
    folder = extra.conf / "arms" / paper if extra is not None else None
    return {path.stem: load(path) for path in sorted(folder.glob("*.yaml"))} if folder is not None else {}


def _arm_place(paper: str, name: str) -> str:
    extra = overlay.current()
    return shown(extra.conf / "arms" / paper / f"{name}.yaml") if extra is not None else name


def recipe_file(paper: str, scale: str) -> Plain:
    """conf/recipe/<paper>/<scale>.yaml as plain data, checked and written out; empty if there is none."""
    path = _place("recipe", paper, f"{scale}.yaml")
    return _recipe(_roots(), path, path.stat().st_mtime_ns, ()) if path.exists() else {}


def recipe_files(paper: str) -> dict[str, Plain]:
    """All of a paper's recipes by scale; one may name stages of those before it."""
    names = list(paper_file(paper).get("stages") or {})
    files: dict[str, Plain] = {}
    for path in sorted(_place("recipe", paper).glob("*.yaml")):
        files[path.stem] = _recipe(_roots(), path, path.stat().st_mtime_ns, tuple(names))
        names += files[path.stem].get("stages") or {}
    return files


@lru_cache(maxsize=256)
def _recipe(roots: tuple[Path, ...], path: Path, changed: int, stages: tuple[str, ...]) -> Plain:
    """A recipe's file, checked and written out, which may name these stages; read anew once it has changed."""
    return _written_out(("recipe", path.parent.name, path.stem), load(path), stages)


@lru_cache
def known_stages(paper: str) -> tuple[str, ...]:
    """Every stage that a paper's file or any of its recipes names, whatever a setting leaves out."""
    names = list(paper_file(paper).get("stages") or {})
    for recipe in recipe_files(paper).values():
        names += recipe.get("stages") or {}
    return tuple(dict.fromkeys([*names, *arm_files(paper)]))


def place_arm(config: DictConfig) -> None:
    """Add the arm that a configuration's variant stands for, in place; nothing where it stands for none."""
    paper, variant = str(config.get("key")), config.get("variant")
    own = arm_files(paper) if variant is not None else {}
    if variant in own:
        arms.place(config, variant, own[variant], groups(paper), _arm_place(paper, variant))


def groups(paper: str) -> recipes.Groups:
    """The paper's names for stages that share settings, known to be right. Raises InputError."""
    named = paper_file(paper).get("groups") or {}
    recipes.check_groups(named, known_stages(paper), shown(_place("paper", f"{paper}.yaml")))
    return named


def sweep_file(paper: str, name: str) -> schema.Sweep:
    """conf/sweep/<paper>/<name>.yaml. Raises InputError for an unknown name."""
    folder = _place("sweep", paper)
    if not (folder / f"{name}.yaml").exists():
        raise unknown(f"sweep of {paper}", name, [path.stem for path in folder.glob("*.yaml")])
    return written.read(schema.Sweep, load(folder / f"{name}.yaml"), shown(folder / f"{name}.yaml"))


def _written_out(parts: tuple[str, ...], content: Plain, stages: Iterable[str] = ()) -> Plain:
    """A paper's or recipe's content, checked, with nothing left unsaid.

    Args:
        parts: where it lies in conf/, without the ending.
        content: as it is read.
        stages: those that it may name besides its own and the paper's.
    """
    where = shown(_place(*parts[:-1], f"{parts[-1]}.yaml"))
    paper = parts[1]
    kind = schema.FILES[parts[0]]
    _check_own_keys(content, [field.name for field in fields(kind)], paper, where)
    written.read(kind, content, where, later=True)
    if parts[0] == "paper":
        if content["key"] != paper:
            raise InputError(f"{where}: key={content['key']!r}: expected the file's own name, {paper}")
        return recipes.expand(content, where)
    about = paper_file(paper)
    others = list(dict.fromkeys([*(about.get("stages") or {}), *stages]))
    expanded = recipes.expand(content, where, others, about.get("groups") or {})
    _check_data(expanded, where)
    return expanded


def _check_own_keys(content: Mapping[str, Any], names: list[str], paper: str, where: str) -> None:
    """Raises InputError for a key that is none of the schema's and holds no value that another line reads."""
    for key in content:
        if key not in names and not re.search(
            rf"\${{(oc\.select:)?{key}\b|^{key}: &", _text_of(_roots(), paper), re.MULTILINE
        ):
            wrong = str(unknown(f"{where}: key", str(key), names))
            raise InputError(f"{wrong}; a value of one's own is read somewhere as ${{{key}}}")


@lru_cache
def _text_of(roots: tuple[Path, ...], paper: str) -> str:
    """All files that may read a value of a paper's file or of its recipes."""
    places = ("paper", f"{paper}.yaml"), (f"recipe/{paper}", "*.yaml"), ("data", "*.yaml"), (f"data/{paper}", "*.yaml")
    return "\n".join(
        path.read_text(encoding="utf-8")
        for root in roots
        for folder, names in places
        for path in sorted((root / folder).glob(names))
    )


def _check_data(recipe: Mapping[str, Any], where: str) -> None:
    """Raises InputError for data that conf/data does not hold."""
    sets = options("data")
    for line in recipe.get("defaults") or []:
        for key, name in line.items() if isinstance(line, Mapping) else ():
            if str(key).startswith("/data@") and str(name) not in sets:
                raise unknown(f"{where}: data", str(name), sets)


# --- one file --------------------------------------------------------------------------------------------------------


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """YAML as OmegaConf reads it (1e-4 is a number, no key twice), in C where it can be: a tenth of the time."""

    yaml_implicit_resolvers = get_yaml_loader().yaml_implicit_resolvers

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> Any:
        keys = [key.value for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        twice = next((key for key in keys if keys.count(key) > 1), None)
        if twice is not None:
            raise yaml.constructor.ConstructorError(None, None, f"key {twice!r} stands there twice", node.start_mark)
        return super().construct_mapping(node, deep)


def load(path: Path) -> Plain:
    """A configuration file as plain data.

    Raises:
        InputError: it is no YAML, no mapping, larger than experiments.config.limits allows, or holds a character that
            would act where it is shown; it names the file.
    """
    where = shown(path)
    content = limits.read(path, where, _Loader)
    if not isinstance(content, dict):
        raise InputError(f"{where}: expected a mapping")
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
        if root not in _roots() or not path.exists():
            return super().load_config(config_path)
        header, nodes = _for_hydra(parts, path, path.stat().st_mtime_ns)
        return ConfigResult(
            config=pickle.loads(nodes),  # noqa: S301 - pickled below, by this process
            path=f"{self.scheme()}://{self.path}",
            provider=self.provider,
            header=dict(header),
        )


@lru_cache
def _for_hydra(parts: tuple[str, ...], path: Path, changed: int) -> tuple[dict[str, str | None], bytes]:
    """Hydra's header of a file and its nodes, papers and recipes written out; read anew once it has changed.

    Hydra changes the nodes it is given. To unpickle them takes a third of the time that making them anew takes.
    """
    header = ConfigSource._get_header_dict(path.read_text(encoding="utf-8")[:512])
    content = load(path)
    where = shown(path)
    if parts[0] in ("paper", "recipe"):
        content = _written_out(parts, content)
    elif parts[0] == "trainer":
        written.read(Trainer, {key: value for key, value in content.items() if key != "defaults"}, where)
    if parts[0] == "paper":
        content = {key: STANDS_ASIDE if key in TEXTS else value for key, value in content.items()}
    return header, pickle.dumps(OmegaConf.create(content))


def forget() -> None:
    """Read papers and recipes anew: an overlay was opened or closed."""
    for cached in (paper_file, _recipe, known_stages, _text_of, _for_hydra):
        cached.cache_clear()


Plugins.instance()  # registers Hydra's own readers, so that the next line is not undone
SourcesRegistry.instance().types[FileConfigSource.scheme()] = FileConfigSource
