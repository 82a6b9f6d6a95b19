"""What a paper's own files leave to say: places that begin with MARK. They load and run; nothing is registered on them.

`make new` writes them. A value, a comment and a docstring may each be one.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import yaml

from experiments.common.errors import InputError

MARK = "FILL IN:"
SCALES = ("full", "lab", "mini", "smoke")


@dataclass(frozen=True, order=True)
class Place:
    """Where something is left to say.

    Attributes:
        file: as people name it, from the folder that holds conf/.
        line: from 1.
        key: dotted, as claims.0.name; in Python the definition; empty for what stands outside of both.
    """

    file: str
    line: int
    key: str

    def __str__(self) -> str:
        return f"line {self.line} ({self.key})" if self.key else f"line {self.line}"


def own_files(root: Path, paper: str, scale: str) -> list[Path]:
    """The files of a paper's own that a setting of this scale is judged by, tests included; other scales' recipes not.

    Args:
        root: the folder that holds conf/, modules/ and tests/; an overlay's own file is one of them.
    """
    recipes = [p for p in (root / "conf/recipe" / paper).glob("*.yaml") if p.stem == scale or p.stem not in SCALES]
    listed = [root / "conf/paper" / f"{paper}.yaml", *recipes, *(root / "conf/data" / paper).glob("*.yaml")]
    listed.append(root / "overlay.yaml")
    for folder in ("modules", "datamodules", "tests/papers"):
        rooms = [root / folder / f"{paper}.py", root / folder / f"test_{paper}.py"]
        listed += [*rooms, *(root / folder / paper).rglob("*.py")]
    return sorted({path for path in listed if path.is_file()})


def find(root: Path, files: Iterable[Path]) -> list[Place]:
    """Every marked place of these files, in their order. Raises InputError for one that cannot be read."""
    places = []
    for path in files:
        name = path.relative_to(root).as_posix()
        try:
            text = path.read_text(encoding="utf-8")
            keys = _keys_of_values(text) if path.suffix == ".yaml" else _keys_of_definitions(text)
        except (OSError, ValueError, SyntaxError, yaml.YAMLError) as error:
            raise InputError(f"{name}: cannot be read ({str(error).splitlines()[0]})") from error
        places += [Place(name, line, key) for line, key in _marked(text, keys, path.suffix == ".yaml")]
    return places


def check(root: Path, paper: str, scale: str) -> None:
    """Raises InputError, one line that names every place, where a paper's files leave something to say."""
    places = find(root, own_files(root, paper, scale))
    if not places:
        return
    told = [f"{file}: {', '.join(map(str, group))}" for file, group in groupby(places, key=lambda place: place.file)]
    left = "1 place is" if len(places) == 1 else f"{len(places)} places are"
    raise InputError(f"{left} left to fill in, and a registration fixes what they say: {'; '.join(told)}")


def _marked(text: str, keys: list[tuple[int, int, str]], is_yaml: bool) -> Iterator[tuple[int, str]]:
    """(line, key) of each mark: one for each value that holds it, and for each further line that does."""
    lines = [number for number, line in enumerate(text.splitlines(), 1) if MARK in line]
    if is_yaml:
        inside = {number for first, last, _ in keys for number in range(first, last + 1)}
        outside = [(number, "a comment") for number in lines if number not in inside]
        yield from sorted([*((first, key) for first, _, key in keys), *outside])
        return
    for number in lines:
        around = [(first, key) for first, last, key in keys if first <= number <= last]
        yield number, max(around, default=(0, ""))[1]


def _keys_of_values(text: str) -> list[tuple[int, int, str]]:
    """(first line, last line, dotted key) of each value that holds MARK."""
    root = yaml.compose(text, yaml.SafeLoader)
    found: list[tuple[int, int, str]] = []

    def walk(node: yaml.Node, path: tuple[str, ...]) -> None:
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                walk(value, (*path, str(key.value)))
        elif isinstance(node, yaml.SequenceNode):
            for index, value in enumerate(node.value):
                walk(value, (*path, str(index)))
        elif MARK in node.value:
            last = node.end_mark.line + 1 if node.end_mark.column else node.end_mark.line
            found.append((node.start_mark.line + 1, max(last, node.start_mark.line + 1), ".".join(path)))

    if root is not None:
        walk(root, ())
    return sorted(set(found))  # an alias stands for what its anchor names


def _keys_of_definitions(text: str) -> list[tuple[int, int, str]]:
    """(first line, last line, name) of each class and function, the outer ones too."""
    kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, kinds)]
    return [(node.lineno, node.end_lineno or node.lineno, node.name) for node in nodes]
