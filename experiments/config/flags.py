"""Hydra's own flags (`--cfg job`, `--info`, `-m`, ...), apart from the overrides."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser

from experiments.common.errors import InputError, unknown

WITHOUT_CONFIGURATION = ("hydra_help", "version", "shell_completion")  # Hydra answers them by itself
SHOW = ("cfg", "info", *WITHOUT_CONFIGURATION)  # something is shown and nothing runs
INFO = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
REFUSED = {
    "config_path": "the configuration is conf/; a folder of your own groups is added with --config-dir",
    "config_name": "the configuration is conf/config.yaml; a folder of your own groups is added with --config-dir",
    "experimental_rerun": "finished stages are kept: the same command continues",
}


Flags = dict[str, str | bool]  # by Hydra's name of them; true where one takes no value


def read(argv: Sequence[str]) -> tuple[Flags, list[str]]:
    """Flags by Hydra's name of them, and the other arguments.

    Raises InputError for an unknown flag, one that lacks its value, and one that has no place here.
    """
    actions = {name: action for action in get_args_parser()._actions for name in action.option_strings}
    flags: Flags = {}
    lines: list[str] = []
    waiting = list(argv)
    while waiting:
        argument = waiting.pop(0)
        if not argument.startswith("-"):
            lines.append(argument)
            continue
        name, equals, value = argument.partition("=")
        if name not in actions:
            raise unknown("flag", name, actions)
        action = actions[name]
        if action.dest in REFUSED:
            raise InputError(f"{name}: {REFUSED[action.dest]}")
        if not equals and _takes_next(action, waiting):
            value = waiting.pop(0)
        flags[action.dest] = True if action.nargs == 0 else _valued(name, action, value)
    return flags, lines


def _takes_next(action: argparse.Action, waiting: Sequence[str]) -> bool:
    if not waiting or action.nargs == 0:
        return False
    return waiting[0] in INFO if action.dest == "info" else not waiting[0].startswith("-")


def _valued(name: str, action: argparse.Action, value: str) -> str:
    if action.dest == "info":
        value = value or "all"
    valid = INFO if action.dest == "info" else action.choices
    if valid and value not in valid:
        raise InputError(f"{name} {value}: expected one of {', '.join(map(str, valid))}")
    if not value:
        raise InputError(f"{name}: expected a value")
    return value


def written(flags: Flags) -> list[str]:
    """The flags as Hydra reads them."""
    names = {action.dest: action.option_strings[0] for action in get_args_parser()._actions if action.option_strings}
    return [part for key, value in flags.items() for part in _as_typed(names[key], value)]


def _as_typed(name: str, value: str | bool) -> list[str]:
    return [name] if value is True else [name, str(value)]


def first_of_each(overrides: Sequence[str]) -> list[str]:
    """A sweep's first job: of every swept key the first value."""
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    return [
        f"{override.get_key_element()}={next(iter(override.sweep_string_iterator()))}"
        if override.is_choice_sweep() or override.is_range_sweep()
        else str(override.input_line)
        for override in parsed
    ]
