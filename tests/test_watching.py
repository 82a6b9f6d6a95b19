"""Watching sees each definition in which anything executes, however it is wrapped, and leaves nothing behind."""

from __future__ import annotations

import importlib.util
from collections.abc import Container
from pathlib import Path
from types import ModuleType

import pytest

from experiments.identity.definitions import Definition
from tests import watching
from tests.watching import Watch

SAMPLE = '''
import contextlib
import functools


def wrap(call):
    @functools.wraps(call)
    def run(*arguments):
        """Words of its own."""
        return call(*arguments)

    return run


@wrap
def wrapped(x):
    return x + 1


@functools.cache
def kept(x):
    "Words alone, then a value."
    return 2 * x


@contextlib.contextmanager
def opened():
    yield 3


class Base:
    def __init__(self):
        self.value = 1

    @classmethod
    def make(cls):
        return cls()


class Derived(Base):
    double = staticmethod(lambda x: 2 * x)

    def __init__(self):
        super().__init__()

    @property
    def known(self):
        return self.value


def later():
    return lambda x: unused(x) if x < 0 else x


def unused(x):
    return x


def walk(n):
    yield from range(n)
'''


def import_only(monkeypatch: pytest.MonkeyPatch, modules: dict[str, ModuleType]) -> None:
    """From now on these are the modules of the project that are imported."""

    def own(known: Container[str] = ()) -> dict[str, ModuleType]:
        return {name: module for name, module in modules.items() if name not in known}

    monkeypatch.setattr(watching, "own_modules", own)


@pytest.fixture
def sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    path = tmp_path / "sample.py"
    path.write_text(SAMPLE)
    spec = importlib.util.spec_from_file_location("modules.sample", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    import_only(monkeypatch, {"modules.sample": module})
    for name in ("unfreeze", "freeze"):  # the sample was imported after all that is frozen
        monkeypatch.setattr(watching.gc, name, lambda: None)
    return module


@pytest.mark.parametrize(
    ("call", "result", "names"),
    [
        (lambda m: m.wrapped(1), 2, {"wrap", "wrapped"}),
        (lambda m: m.kept(2), 4, {"kept"}),
        (lambda m: m.opened().__enter__(), 3, {"opened"}),
        (lambda m: m.Base.make().value, 1, {"Base"}),
        (lambda m: m.Derived().known, 1, {"Base", "Derived"}),
        (lambda m: m.Derived.double(4), 8, {"Derived"}),
        (lambda m: m.later()(5), 5, {"later"}),
        (lambda m: m.later()(-5), -5, {"later", "unused"}),
        (lambda m: [*m.walk(2)], [0, 1], {"walk"}),
        (lambda m: m.__name__, "modules.sample", set()),
    ],
)
def test_what_executes_is_seen(sample: ModuleType, call, result, names: set[str]) -> None:  # type: ignore[no-untyped-def]
    with Watch().watch() as executed:
        assert call(sample) == result
    assert executed == {Definition("modules.sample", name) for name in names}


def test_what_was_made_while_watched_lives_on_and_is_not_seen_any_more(sample: ModuleType) -> None:
    before = sample.unused.__code__
    watch = Watch()
    with watch.watch() as executed:
        made = sample.later()
    executed.clear()
    assert made(-3) == -3
    assert executed == set()
    assert sample.unused.__code__ is before
    with watch.watch() as again:
        sample.unused(1)
    assert again == {Definition("modules.sample", "unused")}


def test_a_module_that_comes_too_late_is_named(sample: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AssertionError, match=r"imported while it runs.*: modules\.late"), Watch().watch():
        import_only(monkeypatch, {"modules.sample": sample, "modules.late": sample})
