"""An exception in somebody's code leads to its line."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from experiments.common import failure, tracing
from experiments.common.errors import CodeError, InputError, RunError, explain

MINE = """
import json

def step():
    return partners

def read():
    return json.loads("{")

def refuse():
    raise ValueError("width=3: expected an even number")

def slip():
    return int("x")

def call(function):
    return function()
"""


@pytest.fixture
def mine(tmp_path: Path) -> ModuleType:
    """A file of a user's own, outside the project."""
    path = tmp_path / "mine.py"
    path.write_text(MINE)
    spec = importlib.util.spec_from_file_location("mine", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def raised(function: Any, *arguments: Any) -> Exception:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - whatever it raises is looked at
        function(*arguments)
    return caught.value


def test_the_line_is_the_innermost_that_is_no_library(mine: ModuleType) -> None:
    reason, code = explain(raised(mine.step))
    assert (reason, code) == (f"NameError: name 'partners' is not defined, at {mine.__file__}:5 in step", 1)
    assert tracing.lead(raised(mine.read)) == f", at {mine.__file__}:8 in read"
    assert tracing.lead(NameError("raised nowhere")) == ""


def test_of_a_shared_line_the_caller_is_shown_too(
    mine: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = tmp_path / "shared.py"
    shared.write_text("def scale(x):\n    return x.size\n")
    names: dict[str, Any] = {}
    exec(compile(shared.read_text(), str(shared), "exec"), names)
    monkeypatch.setattr(tracing, "SHARED", (str(shared),))
    lead = tracing.lead(raised(mine.call, lambda: names["scale"](3)))
    assert lead.startswith(f", at {shared}:2 in scale, called from tests/experiments/common/test_tracing.py:")


def test_a_trace_that_another_process_put_into_its_message_is_read(mine: ModuleType) -> None:
    text = (
        "Caught NameError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n"
        f'  File "/nowhere/fetch.py", line 50, in fetch\n    data = x\n  File "{mine.__file__}", line 5, in step\n'
        "    return partners\nNameError: name 'partners' is not defined\n"
    )
    assert explain(NameError(text))[0] == f"NameError: name 'partners' is not defined, at {mine.__file__}:5 in step"


def test_a_file_that_does_not_parse_is_named(tmp_path: Path) -> None:
    path = tmp_path / "broken.py"
    path.write_text("x = 1\ny = = 2\n")
    assert tracing.lead(raised(compile, path.read_text(), str(path), "exec")) == f", at {path}:2"


def test_what_a_constructor_says_on_purpose_needs_no_line(mine: ModuleType) -> None:
    assert tracing.lead_to_slip(raised(mine.refuse)) == ""
    assert tracing.lead_to_slip(raised(mine.slip)) == f", at {mine.__file__}:14 in slip"


def test_the_whole_trace_is_kept_and_named_where_it_tells_more(mine: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "student" / failure.NAME
    reason, code = failure.explain(raised(mine.step), path)
    assert code == 1
    assert reason.endswith(str(path.name))
    assert "; whole trace: " in reason
    assert "return partners" in path.read_text()

    from_a_rank = CodeError("NameError: x, at y.py:3")
    from_a_rank.add_note("the rank's own trace")
    assert "; whole trace: " in failure.explain(from_a_rank, path)[0]
    assert "the rank's own trace" in path.read_text()

    for foreseen in (InputError("paper=x: no"), RunError("the loss is nan")):
        assert failure.explain(foreseen, path)[0] == str(foreseen)
