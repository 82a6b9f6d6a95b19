"""Every mutant of a file, under the name that mutmut gives it, as a diff of that file."""

from __future__ import annotations

import difflib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import libcst as cst
from libcst.metadata import MetadataWrapper, PositionProvider
from mutmut.mutation.file_mutation import create_mutations
from mutmut.utils.format_utils import get_mutant_name, make_mutant_key

from experiments.common.paths import ROOT

SHOWN_ALONE = ("__repr__", "__str__", "extra_repr")  # what a person reads, not what is computed


@dataclass(frozen=True)
class Mutant:
    """One change of one place.

    Args:
        name: mutmut's.
        file: relative to the project's folder.
        line: of the changed expression, from 1.
        removed, added: the lines of its diff.
    """

    name: str
    file: str
    line: int
    removed: tuple[str, ...]
    added: tuple[str, ...]

    def diff(self) -> str:
        return "\n".join([*(f"- {line}" for line in self.removed), *(f"+ {line}" for line in self.added)])


@dataclass(frozen=True)
class Place:
    """A mutation that is not written out yet: a diff costs a pass over the file."""

    name: str
    file: str
    line: int
    module: cst.Module
    original: cst.CSTNode
    mutated: cst.CSTNode

    def write(self) -> Mutant:
        changed = self.module.deep_replace(self.original, self.mutated)
        assert isinstance(changed, cst.Module)
        removed, added = changed_lines(self.module.code, changed.code)
        return Mutant(self.name, self.file, self.line, removed, added)


def changed_lines(before: str, after: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The lines that one text alone has, and those that the other alone has, without indentation."""
    lines = list(difflib.unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=0))[2:]
    removed = tuple(line[1:].strip() for line in lines if line.startswith("-"))
    added = tuple(line[1:].strip() for line in lines if line.startswith("+"))
    return removed, added


def find(files: Iterable[str]) -> list[Place]:
    """Every mutant of these files that is not left out, in the files' order."""
    return [place for file in files for place in of_text(file, (ROOT / file).read_text(encoding="utf-8"))]


def of_text(file: str, text: str) -> Iterator[Place]:
    """The mutants of a file's text. Left out: the text of errors, and what is written or drawn for people."""
    module, mutations, _, _ = create_mutations(file, text)
    positions = MetadataWrapper(module, unsafe_skip_copy=True).resolve(PositionProvider)
    keys = dict(_functions(module))
    unasked = {id(node) for part in _left_out(module) for node in _below(part)}

    numbers: dict[str, int] = defaultdict(int)
    for mutation in mutations:
        key = keys.get(id(mutation.contained_by_top_level_function))
        if key is None:
            continue  # beside any function: it runs once, at import
        numbers[key] += 1
        if id(mutation.original_node) in unasked:
            continue
        name = get_mutant_name(Path(file), f"{key}__mutmut_{numbers[key]}")
        line = positions[mutation.original_node].start.line if mutation.original_node in positions else 0
        yield Place(name, file, line, module, mutation.original_node, mutation.mutated_node)


def _functions(module: cst.Module) -> Iterator[tuple[int, str]]:
    """(id, mutmut's key) of each function and method."""
    for statement in module.body:
        if isinstance(statement, cst.FunctionDef):
            yield id(statement), make_mutant_key(statement.name.value)
        elif isinstance(statement, cst.ClassDef) and isinstance(statement.body, cst.IndentedBlock):
            for method in statement.body.body:
                if isinstance(method, cst.FunctionDef):
                    yield id(method), make_mutant_key(method.name.value, statement.name.value)


def _left_out(module: cst.Module) -> Iterator[cst.CSTNode]:
    for node in _below(module):
        if isinstance(node, cst.Raise) or (isinstance(node, cst.FunctionDef) and _shows(module, node)):
            yield node


def _shows(module: cst.Module, function: cst.FunctionDef) -> bool:
    """Whether a function writes or draws for people."""
    returned = module.code_for_node(function.returns.annotation) if function.returns else ""
    return function.name.value in SHOWN_ALONE or "Figure" in returned


def _below(node: Any) -> Iterator[cst.CSTNode]:
    """A node and all that it holds."""
    waiting = [node]
    while waiting:
        current = waiting.pop()
        yield current
        waiting.extend(current.children)
