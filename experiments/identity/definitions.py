"""The first-party definition that a name stands for, read from the source without importing it.

A definition is what one module-level statement binds: a class with all it holds, a function, a constant.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from experiments.common import overlay
from experiments.common.paths import ROOT

FIRST_PARTY = ("modules", "datamodules")
WHOLE = "*"  # the name of a module that is used as an object
BLOCKS = ("body", "handlers", "orelse", "finalbody", "cases")  # of a node: where statements stand
EFFECTS = "!"  # the name of what a module runs when it is imported
Function = ast.FunctionDef | ast.AsyncFunctionDef
Scope = Function | ast.Lambda | ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp


@dataclass(frozen=True, order=True)
class Definition:
    """A name that a first-party module binds; or WHOLE or EFFECTS of that module."""

    module: str
    name: str


def file_of(module: str) -> Path | None:
    """The file of a first-party module; None for any other name."""
    base = _base(module)
    if base is None:
        return None
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)


def is_first_party(dotted: str) -> bool:
    """Whether a dotted name is one of the project's rooms, or of the open overlay's."""
    return _base(dotted) is not None


def root_of(dotted: str) -> Path:
    """The folder that holds the rooms in which a first-party name lies: the project's, or the overlay's."""
    return ROOT if dotted.split(".")[0] in FIRST_PARTY else overlay.home()


def _base(dotted: str) -> Path | None:
    """Where a first-party name would lie, without an ending; None for any other name."""
    parts = dotted.split(".")
    if parts[0] in FIRST_PARTY:
        return ROOT.joinpath(*parts)
    extra = overlay.current()
    return extra.file(parts) if extra is not None else None


class Module:
    """What a module binds, imports and runs."""

    def __init__(self, name: str, source: str, file: str) -> None:
        self.name = name
        self._lines = source.split("\n")
        self.statements: dict[str, list[ast.stmt]] = {}  # by the name they bind
        self.imported: dict[str, str] = {}  # name -> dotted name of what it stands for
        self.starred: list[str] = []  # modules of `from x import *`
        self.effects: list[ast.stmt] = []
        self.imports: set[str] = set()  # dotted names of modules, wherever in the file they are imported
        tree = ast.parse(source, file)
        for statement in tree.body:
            self._read(statement)
        queue = inside(tree)
        while queue:
            node = queue.pop()
            queue += inside(node)
            if isinstance(node, ast.Import | ast.ImportFrom):
                self.imports |= set(bound_by(node, self.name).values()) | set(_starred(node, self.name))

    def _read(self, statement: ast.stmt) -> None:
        if isinstance(statement, ast.Import | ast.ImportFrom):
            self.imported |= bound_by(statement, self.name)
            self.starred += _starred(statement, self.name)
            return
        if _never_runs_here(statement):
            return
        if isinstance(statement, Function | ast.ClassDef):
            self.statements.setdefault(statement.name, []).append(statement)
            return
        names = names_bound(statement)
        for name in names:
            self.statements.setdefault(name, []).append(statement)
        plain = isinstance(statement, ast.Assign | ast.AnnAssign) and _binds_names_alone(statement)
        if not plain and not isinstance(statement, ast.Pass) and not is_text(statement):
            self.effects.append(statement)
            for node in ast.walk(statement):  # imports below `if` or `try`
                if isinstance(node, ast.Import | ast.ImportFrom):
                    self.imported |= bound_by(node, self.name)

    def read_again(self, statement: ast.stmt) -> ast.stmt:
        """A copy of one of its statements, to be changed: to parse its lines takes a fraction of any other copying."""
        first = min(node.lineno for node in (statement, *getattr(statement, "decorator_list", ())))
        body = ast.parse("\n".join(self._lines[first - 1 : statement.end_lineno])).body
        if len(body) > 1:  # statements that share a line
            body = ast.parse(ast.unparse(statement)).body
        return body[0]

    def find(self, name: str) -> Definition | str | None:
        """What a name stands for in this module: a definition, the dotted name of anything else imported, or None."""
        if name in self.statements:
            return Definition(self.name, name)
        if name in self.imported:
            return locate(self.imported[name])
        for starred in self.starred:
            other = read_module(starred)
            target = other.find(name) if other is not None else None
            if target is not None:
                return target
        return None


def bound_by(node: ast.stmt, module: str) -> dict[str, str]:
    """Local name -> dotted name, of an import statement."""
    if isinstance(node, ast.Import):
        return {a.asname or a.name.split(".")[0]: a.name if a.asname else a.name.split(".")[0] for a in node.names}
    if isinstance(node, ast.ImportFrom):
        base = _absolute(node, module)
        return {a.asname or a.name: f"{base}.{a.name}" for a in node.names if a.name != "*"}
    return {}


def _starred(node: ast.stmt, module: str) -> list[str]:
    starred = isinstance(node, ast.ImportFrom) and any(a.name == "*" for a in node.names)
    return [_absolute(node, module)] if starred and isinstance(node, ast.ImportFrom) else []


def _absolute(node: ast.ImportFrom, module: str) -> str:
    if not node.level:
        return node.module or ""
    path = file_of(module)
    package = module if path is not None and path.name == "__init__.py" else module.rpartition(".")[0]
    base = package.split(".")[: len(package.split(".")) - node.level + 1]
    return ".".join([*base, *([node.module] if node.module else [])])


def _never_runs_here(statement: ast.stmt) -> bool:
    """`if TYPE_CHECKING:` and `if __name__ == "__main__":`."""
    return isinstance(statement, ast.If) and ast.unparse(statement.test) in (
        "TYPE_CHECKING",
        "typing.TYPE_CHECKING",
        "__name__ == '__main__'",
    )


def _binds_names_alone(statement: ast.Assign | ast.AnnAssign) -> bool:
    targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
    return all(isinstance(t, ast.Name | ast.Tuple | ast.List | ast.Starred) for t in targets)


def is_text(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def names_bound(node: ast.AST) -> set[str]:
    """Names that a piece of code binds in its own scope: not those of functions, classes and comprehensions in it."""
    names: set[str] = set()
    queue = list(ast.iter_child_nodes(node)) if isinstance(node, Scope | ast.ClassDef) else [node]
    while queue:
        child = queue.pop()
        if isinstance(child, Function | ast.ClassDef):
            names.add(child.name)
            continue
        if isinstance(child, Scope):
            names |= {n.target.id for n in ast.walk(child) if isinstance(n, ast.NamedExpr)}
            continue
        if isinstance(child, ast.Name) and isinstance(child.ctx, ast.Store | ast.Del):
            names.add(child.id)
        elif isinstance(child, ast.ExceptHandler | ast.MatchAs | ast.MatchStar) and child.name:
            names.add(child.name)
        elif isinstance(child, ast.MatchMapping) and child.rest:
            names.add(child.rest)
        elif isinstance(child, ast.arg):
            names.add(child.arg)
        queue += ast.iter_child_nodes(child)
    return names


def inside(node: ast.AST) -> list[Any]:
    """The statements in a node's blocks, and what holds further blocks; no expression holds any."""
    blocks = [getattr(node, name, None) for name in BLOCKS]
    return [part for block in blocks if isinstance(block, list) for part in block]


@cache
def read_module(name: str) -> Module | None:
    path = file_of(name)
    return Module(name, path.read_text(encoding="utf-8"), str(path)) if path is not None else None


@cache
def locate(dotted: str) -> Definition | str | None:
    """What a dotted name stands for: a first-party definition, or the name itself where it is not first-party.

    A first-party name that nothing defines is None. What follows a class's name (`Class.method`) is dropped.
    """
    base = _base(dotted)
    if base is None:
        return dotted
    parts = dotted.split(".")
    for split in range(len(parts), 0, -1):
        module = read_module(".".join(parts[:split]))
        if module is not None:
            return module.find(parts[split]) if split < len(parts) else Definition(module.name, WHOLE)
    return Definition(dotted, WHOLE) if base.is_dir() else None


def callables(module: str) -> list[str]:
    """The classes and functions that a first-party module defines, without private ones."""
    read = read_module(module)
    if read is None:
        return []
    return [
        name
        for name, statements in read.statements.items()
        if not name.startswith("_") and all(isinstance(s, Function | ast.ClassDef) for s in statements)
    ]


def is_callable(definition: Definition) -> bool:
    """Whether a definition is a class or a function, and none of a module's private ones."""
    return definition.name in callables(definition.module)


@cache
def attribute(target: str, name: str) -> Any:
    """A literal that a first-party class, or the nearest of its bases, gives an attribute; None where none does."""
    definition = locate(target)
    module = read_module(definition.module) if isinstance(definition, Definition) else None
    if module is None or not isinstance(definition, Definition) or definition.name not in module.statements:
        return None
    for statement in module.statements[definition.name]:
        if not isinstance(statement, ast.ClassDef):
            continue
        for inner in statement.body:
            if isinstance(inner, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in inner.targets):
                return ast.literal_eval(inner.value)
        for base in statement.bases:
            parent = module.find(base.id) if isinstance(base, ast.Name) else None
            if isinstance(parent, Definition):
                inherited = attribute(f"{parent.module}.{parent.name}", name)
                if inherited is not None:
                    return inherited
    return None


def forget() -> None:
    """Read every file anew; what rests on it is forgotten by dependencies.forget."""
    for cached in (read_module, locate, attribute):
        cached.cache_clear()
