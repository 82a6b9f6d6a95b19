"""The one place where a configuration becomes an object; experiments.config.allowed says which."""

from __future__ import annotations

import difflib
import functools
import importlib
import inspect
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

from experiments.common.errors import InputError, missing_package
from experiments.config import allowed

SPECIAL = {"_target_", "_partial_"}
PLAIN = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", type(None): "null"}


def locate(target: Any, where: str) -> Callable[..., Any]:
    """The class or function behind a dotted name.

    Raises InputError if the name is not allowed (experiments.config.allowed) or needs a package that is not installed.
    """
    allowed.check_target(target, where)
    module, _, name = str(target).rpartition(".")
    try:
        built: Callable[..., Any] = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        raise InputError(f"{where}._target_: {missing_package(error)}") from error
    return built


def check(config: Any, where: str, added: tuple[str, ...] = ()) -> None:
    """Compare every `_target_`'s keys and plain values with its signature, before anything trains.

    Args:
        config: a configuration node.
        where: its path, for the message.
        added: argument names that the engine adds at the top level (a stage's `needs`).
    Raises InputError naming the key, and the nearest valid one or what was expected.
    """
    if isinstance(config, list):
        for index, item in enumerate(config):
            check(item, f"{where}.{index}")
        return
    if not isinstance(config, Mapping):
        return
    for key, value in config.items():
        check(value, f"{where}.{key}")
    if "_target_" not in config:
        return
    target = locate(config["_target_"], where)
    allowed.check_arguments(config["_target_"], config, where)
    try:
        parameters = _parameters(target)
    except ValueError as error:
        raise InputError(f"{where}._target_: {config['_target_']} does not say what it takes") from error
    for key, kinds in _plain_arguments(target).items():
        value = config.get(key)
        if type(value) in PLAIN and key in config and not _is_one_of(value, kinds):
            words = " or ".join(PLAIN[kind] for kind in kinds)
            raise InputError(f"{where}.{key}={value!r:.200}: expected {words}")
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return
    names = [key for key in config if key not in SPECIAL] + list(added)
    for name in names:
        if name not in parameters:
            close = difflib.get_close_matches(name, parameters, n=1, cutoff=0.5)
            hint = f"; did you mean {close[0]!r}?" if close else f"; it takes {', '.join(parameters)}"
            raise InputError(f"{where}.{name}: {config['_target_']} has no such argument{hint}")
    if config.get("_partial_"):
        return
    required = [n for n, p in parameters.items() if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL,)]
    missing = [name for name in required if name not in names]
    if missing:
        raise InputError(f"{where}: {config['_target_']} needs {', '.join(missing)}")


@functools.cache
def _parameters(target: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """What a class or function takes. Raises ValueError where it does not say."""
    return inspect.signature(target).parameters


@functools.cache
def _plain_arguments(target: Callable[..., Any]) -> dict[str, tuple[type, ...]]:
    """The arguments that take numbers, texts, true, false or null alone, by what their annotations say.

    A class's own and those it hands to the classes it derives from.
    """
    arguments: dict[str, tuple[type, ...]] = {}
    makers = [vars(kind).get("__init__") for kind in reversed(target.__mro__)] if inspect.isclass(target) else [target]
    for maker in makers:
        try:
            hints = typing.get_type_hints(maker) if inspect.isfunction(maker) else {}
        except (NameError, TypeError, AttributeError):  # what an annotation names is there for type checkers alone
            hints = {}
        for name, hint in hints.items():
            kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
            arguments.pop(name, None)
            if name != "return" and all(kind in PLAIN for kind in kinds):
                arguments[name] = kinds
    return arguments


def _is_one_of(value: Any, kinds: tuple[type, ...]) -> bool:
    """A whole number is a number, and true is no number."""
    return type(value) in kinds or (type(value) is int and float in kinds)


def build(config: Any, where: str = "config", **added: Any) -> Any:
    """Build what a configuration node describes; nodes without `_target_` stay plain data.

    `_partial_: true` gives a functools.partial. `added` are further arguments for the top-level target.
    """
    if isinstance(config, Mapping):
        built = {k: build(v, f"{where}.{k}") for k, v in config.items() if k not in SPECIAL}
        if "_target_" not in config:
            return built
        target = locate(config["_target_"], where)
        allowed.check_arguments(config["_target_"], {**config, **added}, where)
        if config.get("_partial_"):
            return functools.partial(target, **built, **added)
        return target(**built, **added)
    if isinstance(config, list):
        return [build(item, f"{where}.{index}") for index, item in enumerate(config)]
    return config
