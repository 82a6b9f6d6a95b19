"""From an exception to the line of a paper's or a user's code that it leads to. Imports no torch."""

from __future__ import annotations

import re
import sysconfig
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from experiments.common.paths import ROOT

ENGINE = ROOT / "experiments"
PROJECT = (ENGINE, ROOT / "modules", ROOT / "datamodules")
SHARED = ("modules/common/", "datamodules/common/")  # many call it: who called is shown too
LIBRARIES = tuple(Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "purelib", "platlib"))
FRAME = re.compile(r'^ *File "(?P<file>[^"]+)", line (?P<line>\d+)(?:, in (?P<function>\S+))?', re.MULTILINE)
HEAD = "Traceback (most recent call last):"


@dataclass(frozen=True)
class Place:
    """A line of source."""

    file: Path
    line: int
    function: str = ""

    @property
    def name(self) -> str:
        """The file's name, from the project's folder where it lies there."""
        return self.file.relative_to(ROOT).as_posix() if self.file.is_relative_to(ROOT) else str(self.file)

    def __str__(self) -> str:
        inside = f" in {self.function}" if self.function and self.function != "<module>" else ""
        return f"{self.name}:{self.line}{inside}"


def last_words(error: BaseException) -> str:
    """An exception's type and first line; of one that another process passed on with its trace, what stands last."""
    text = str(error).strip()
    if HEAD in text:
        return text.splitlines()[-1].strip()
    lines = text.splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"


def lead(error: BaseException) -> str:
    """`, at modules/meal_v2.py:131 in training_step`; empty where neither project nor user has a line in the trace.

    Of a line that papers share, it says from which of theirs it was called.
    """
    places = [place for place in _places(error) if _is_ours(place)]
    written = [place for place in places if not place.file.is_relative_to(ENGINE)] or places
    if not written:
        return ""
    last = written[-1]
    callers = [place for place in written if not place.name.startswith(SHARED)]
    called = f", called from {callers[-1]}" if callers and last.name.startswith(SHARED) else ""
    return f", at {last}{called}"


def lead_to_slip(error: BaseException) -> str:
    """lead(), unless a line of ours raised the exception on purpose: its words are meant for the user then."""
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return ""
    last = frames[-1]
    place = Place(Path(last.filename), last.lineno or 0)
    on_purpose = _is_ours(place) and (last.line or "").startswith("raise")
    by_the_call = place.file.is_relative_to(ENGINE)  # wrong arguments: nothing of the callee has run
    return "" if on_purpose or by_the_call else lead(error)


def _places(error: BaseException) -> Iterator[Place]:
    """The lines that an exception passed, the innermost last, those of a process that passed it on included."""
    for frame in traceback.extract_tb(error.__traceback__):
        yield Place(Path(frame.filename), frame.lineno or 0, frame.name)
    for match in FRAME.finditer(str(error) if HEAD in str(error) else ""):
        yield Place(Path(match["file"]), int(match["line"]), match["function"] or "")
    if isinstance(error, SyntaxError) and error.filename:
        yield Place(Path(error.filename), error.lineno or 0)


def _is_ours(place: Place) -> bool:
    """Whether project or user wrote a file: it is there, and neither Python's nor an installed package's."""
    if any(place.file.is_relative_to(folder) for folder in PROJECT):
        return True
    path = place.file.resolve()
    return path.is_file() and not any(path.is_relative_to(folder) for folder in LIBRARIES)
