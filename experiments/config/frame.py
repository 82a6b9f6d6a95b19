"""The frame of a run is the user's: Hydra itself, launcher, logger, folders. No file of a paper takes part in it.

Hydra builds what its own node names (callbacks, sweepers, logging), sets variables of the environment from it, and a
launcher hands options to a cluster. Every composition, also of each job of a sweep, therefore goes through `Loader`:
its frame must equal the one that conf/config.yaml and the user's own lines compose to, without paper, recipe, scale
and trainer. What was composed is compared, so it does not matter by which way something got there. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from hydra._internal import defaults_list
from hydra._internal import hydra as hydra_main
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.default_element import InputDefault, ResultDefault
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.utils import JobRuntime
from hydra.errors import HydraException
from hydra.plugins.config_source import ConfigResult
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, flag_override
from omegaconf.errors import OmegaConfBaseException

from experiments.common.errors import InputError
from experiments.common.plain import Config

# Top-level keys of a configuration that the command line alone may set; papers and scales may set the others.
KEYS = (
    *("hydra", "launcher", "logger", "data_dir", "runs_dir", "jobs"),
    *("record", "from_record", "explore", "why", "dry", "dry_seconds", "only", "data_name"),
)
WITHOUT_PAPER = ("~paper", "~scale", "~trainer", "recipe@_global_=[]")
OF_FILE = "HYDRA_REMOVE_TOP_LEVEL_DEFAULTS"  # Hydra's mark of a file that has a list of defaults
HINT = "settings of Hydra, of launchers and of where a run happens go on the command line"

# What Hydra writes into its own node after everything is composed, from the command line and the files' names.
WRITTEN_BY_HYDRA = ("hydra.overrides", "hydra.runtime.choices", "hydra.runtime.cwd", "hydra.job.override_dirname")

Files = set[tuple[str | None, str | None]]  # where they lie in conf/, and the package that each is put into


def check_lines(lines: Iterable[str], where: str) -> None:
    """Raises InputError for a line of a file that sets something of the frame, or that is no override at all.

    Args:
        lines: as on the command line.
        where: the file, and what of it.
    """
    for line in lines:
        try:
            key = _key_in_frame(line)
        except HydraException as error:
            raise InputError(f"{where}: cannot read {line!r:.200}: {str(error).splitlines()[0]}") from error
        if key is not None:
            raise InputError(f"{where}: {key!r} is not allowed; {HINT}")


@lru_cache(maxsize=4096)
def _key_in_frame(line: str) -> str | None:
    """The key of a line that sets something of the frame. The same lines are read in every run of a paper."""
    (override,) = OverridesParser.create().parse_overrides([line])
    return override.get_key_element().lstrip("+~") if _is_of_frame(override) else None


def _is_of_frame(override: Override) -> bool:
    """Whether a line is about the frame by its key: by what may be a group's or a value's, or by its package."""
    package = (override.package or "").removeprefix("_global_").lstrip(".")
    first = [name.replace("/", ".").split(".")[0] for name in (override.key_or_group, package)]
    return any(name in KEYS for name in first)


class Loader(ConfigLoaderImpl):
    """Hydra's composer, which hands out no configuration whose frame is not the user's."""

    def load_configuration(
        self,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        """As Hydra's own. Raises InputError naming a file that had a part in the frame."""
        composer = _Composer(self.get_search_path())
        config = composer.load_configuration(config_name, overrides, run_mode, from_shell, validate_sweep_overrides)
        if config_name is None:  # Hydra's own help: no file of a paper is read
            return config

        parsed = OverridesParser.create().parse_overrides(list(overrides))
        of_user = tuple(str(each.input_line) for each in parsed if _is_of_frame(each))
        files, frame = _frame(self.get_search_path(), config_name, of_user, run_mode)
        for path in _differences(_plain(config), frame):
            raise InputError(f"{composer.origin(path, files)}: {path!r} is not allowed; {HINT}")

        # A sweep composes each of its jobs with these lines, which a file could have added to.
        told: Any = OmegaConf.to_container(config.hydra.overrides, resolve=False)
        if sorted(str(line) for part in told.values() for line in part) != sorted(
            str(each.input_line) for each in parsed
        ):
            raise InputError(f"{composer.origin('hydra.overrides', files)}: 'hydra.overrides' is not allowed; {HINT}")
        return config


_frames: dict[Any, tuple[Files, Config]] = {}


def _frame(
    search_path: ConfigSearchPath, config_name: str, of_user: tuple[str, ...], run_mode: RunMode
) -> tuple[Files, Config]:
    """The files of the frame and what they compose to with the user's lines about it; kept until a file changes."""
    folders = [Path(item.path.removeprefix("file://")) for item in search_path.get_path() if item.provider == "main"]
    files = [path for folder in folders for path in (folder / "config.yaml", *folder.glob("l*/*.yaml"))]
    changed = tuple((str(path), path.stat().st_mtime_ns) for path in files if path.exists())
    key = (str(search_path), config_name, of_user, run_mode, JobRuntime.instance().get("name"), changed)
    if key not in _frames:
        composer = _Composer(search_path)
        config = composer.load_configuration(config_name, [*of_user, *WITHOUT_PAPER], run_mode)
        parts = {(default.config_path, default.package) for default, _ in composer.contributions}
        _frames[key] = (parts, _plain(config))
    return _frames[key]


class _Composer(ConfigLoaderImpl):
    """Hydra's composer, which remembers what each file contributed."""

    def load_configuration(self, *arguments: Any, **options: Any) -> DictConfig:
        self.contributions: list[tuple[ResultDefault, DictConfig]] = []
        return super().load_configuration(*arguments, **options)

    def _compose_config_from_defaults_list(self, defaults: list[ResultDefault], repo: Any) -> DictConfig:
        """As Hydra's own, which corrects the parents of all nodes after each file: here they are after the last."""
        parts = [self._load_single_config(default, repo).config for default in defaults]
        whole = OmegaConf.create()
        try:
            with flag_override(whole, "no_deepcopy_set_nodes", True):
                whole.merge_with(*parts)
        except OmegaConfBaseException:
            self.contributions.clear()
            return super()._compose_config_from_defaults_list(defaults, repo)  # it names the file
        _strip_defaults(whole)
        return whole

    def _load_single_config(self, default: ResultDefault, repo: Any) -> ConfigResult:
        loaded = super()._load_single_config(default, repo)
        if isinstance(loaded.config, DictConfig):
            self.contributions.append((default, loaded.config))
        return loaded

    def origin(self, path: str, of_frame: Files) -> str:
        """The last file that says something of a key or of what is around it, and is no part of the frame."""
        others = [each for each in self.contributions if (each[0].config_path, each[0].package) not in of_frame]
        parts = path.split(".")
        for depth in range(len(parts), 0, -1):
            for default, content in reversed(others):
                if _says(content, parts[:depth]):
                    asked = default.parent if default.parent not in (None, "config") else None
                    return f"conf/{asked or default.config_path}.yaml"
        return "the command line"


def _strip_defaults(node: Any) -> None:
    """Take away the lists of defaults of files, where Hydra marked them."""
    if not isinstance(node, DictConfig) or node._is_missing() or node._is_none():
        return
    if node._get_node_flag(OF_FILE):
        with flag_override(node, ["readonly", "struct"], False):
            node._set_flag(OF_FILE, None)
            node.pop("defaults", None)
    for _, value in node.items_ex(resolve=False):
        _strip_defaults(value)


def _says(content: DictConfig, path: Sequence[str]) -> bool:
    plain: Any = OmegaConf.to_container(content, resolve=False)
    for key in path:
        if not isinstance(plain, Mapping) or key not in plain:
            return False
        plain = plain[key]
    return True


def _plain(config: DictConfig) -> Config:
    """The frame of a composed configuration as plain data, nothing resolved."""
    part = OmegaConf.masked_copy(config, [key for key in KEYS if key in config])
    return {str(key): value for key, value in OmegaConf.to_container(part, resolve=False).items()}  # type: ignore[union-attr]


def _differences(ours: Any, theirs: Any, path: str = "") -> Iterator[str]:
    """The keys at which two frames differ."""
    if path in WRITTEN_BY_HYDRA:
        return
    if not isinstance(ours, Mapping) or not isinstance(theirs, Mapping):
        if type(ours) is not type(theirs) or ours != theirs:
            yield path
        return
    for key in dict.fromkeys([*ours, *theirs]):
        inside = f"{path}.{key}" if path else str(key)
        if key in ours and key in theirs:
            yield from _differences(ours[key], theirs[key], inside)
        elif inside not in WRITTEN_BY_HYDRA:
            yield inside


_write_down = defaults_list._create_interpolation_map


def _choices(overrides: Any, entries: list[InputDefault], self_added: bool) -> DictConfig | None:
    """What was chosen so far, for entries of a list of defaults that refer to it; Hydra writes it for every list."""
    return _write_down(overrides, entries, self_added) if any(each.is_interpolation() for each in entries) else None


defaults_list._create_interpolation_map = _choices  # type: ignore[assignment]
hydra_main.ConfigLoaderImpl = Loader  # type: ignore[misc,attr-defined]
