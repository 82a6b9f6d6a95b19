"""Which first-party definitions a name rests on, read from the source without importing it.

A definition is what one module-level statement binds: a class with all it holds, a function, a constant. A definition
rests on every definition whose name it mentions outside of annotations (base classes, decorators and defaults
included), followed through imports, and on the statements that its module runs when it is imported. Neither the file
nor the path that an import takes counts, nor do comments, docstrings, layout and the annotations of functions; so a
definition can move without changing anything.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from experiments.common import overlay
from experiments.common.paths import ROOT

FIRST_PARTY = ("modules", "datamodules")
WHOLE = "*"  # the name of a module that is used as an object
EFFECTS = "!"  # the name of what a module runs when it is imported
Function = ast.FunctionDef | ast.AsyncFunctionDef
Scope = Function | ast.Lambda | ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp


@dataclass(frozen=True, order=True)
class Definition:
    """A name that a first-party module binds; or WHOLE or EFFECTS of that module."""

    module: str
    name: str


@dataclass(frozen=True)
class Content:
    """A definition's statements in a canonical form, and what they mention: (the words for it, the definition)."""

    text: str
    mentions: frozenset[tuple[str, Definition]]

    @cached_property
    def mark(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()[:16]


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
        queue = _inside(tree)
        while queue:
            node = queue.pop()
            queue += _inside(node)
            if isinstance(node, ast.Import | ast.ImportFrom):
                self.imports |= set(_bound_by(node, self.name).values()) | set(_starred(node, self.name))

    def _read(self, statement: ast.stmt) -> None:
        if isinstance(statement, ast.Import | ast.ImportFrom):
            self.imported |= _bound_by(statement, self.name)
            self.starred += _starred(statement, self.name)
            return
        if _never_runs_here(statement):
            return
        if isinstance(statement, Function | ast.ClassDef):
            self.statements.setdefault(statement.name, []).append(statement)
            return
        names = _stored(statement)
        for name in names:
            self.statements.setdefault(name, []).append(statement)
        plain = isinstance(statement, ast.Assign | ast.AnnAssign) and _binds_names_alone(statement)
        if not plain and not isinstance(statement, ast.Pass) and not _is_text(statement):
            self.effects.append(statement)
            for node in ast.walk(statement):  # imports below `if` or `try`
                if isinstance(node, ast.Import | ast.ImportFrom):
                    self.imported |= _bound_by(node, self.name)

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
            other = _module(starred)
            target = other.find(name) if other is not None else None
            if target is not None:
                return target
        return None


def _bound_by(node: ast.stmt, module: str) -> dict[str, str]:
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


def _is_text(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def _stored(node: ast.AST) -> set[str]:
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


@cache
def _module(name: str) -> Module | None:
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
        module = _module(".".join(parts[:split]))
        if module is not None:
            return module.find(parts[split]) if split < len(parts) else Definition(module.name, WHOLE)
    return Definition(dotted, WHOLE) if base.is_dir() else None


def callables(module: str) -> list[str]:
    """The classes and functions that a first-party module defines, without private ones."""
    read = _module(module)
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
    module = _module(definition.module) if isinstance(definition, Definition) else None
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


class _Canonical(ast.NodeTransformer):
    """Writes a module's code without what does not count, every imported name as what it stands for."""

    def __init__(self, module: Module) -> None:
        self.module = module
        self.mentions: set[tuple[str, Definition]] = set()
        self.hidden: list[set[str]] = []  # names that enclosing functions bind themselves
        self.local_imports: list[dict[str, str]] = []

    def canonical(self, statements: Iterable[ast.stmt]) -> str:
        return "\n".join(ast.unparse(self.visit(self.module.read_again(s))) for s in statements)

    def _stands_for(self, name: str) -> Definition | str | None:
        for hidden, imported in zip(reversed(self.hidden), reversed(self.local_imports), strict=True):
            if name in imported:
                return locate(imported[name])
            if name in hidden:
                return None
        if name == "globals" and name not in self.module.statements:
            return Definition(self.module.name, WHOLE)
        return self.module.find(name)

    def _mention(self, words: str, target: Definition) -> ast.Name:
        self.mentions.add((words, target))
        return ast.Name(words, ast.Load())

    def visit_Name(self, node: ast.Name) -> ast.AST:
        target = self._stands_for(node.id)
        if isinstance(target, str):
            return ast.Name(target, node.ctx)
        if isinstance(target, Definition):
            if target.name != WHOLE:
                return self._mention(target.name, target)
            self._mention(node.id, target)
        return node

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        """`module.name` as the name alone, whatever path leads to it."""
        chain: list[str] = []
        root: ast.expr = node
        while isinstance(root, ast.Attribute):
            chain.insert(0, root.attr)
            root = root.value
        target = self._stands_for(root.id) if isinstance(root, ast.Name) else None
        if not isinstance(target, Definition) or target.name != WHOLE:
            return self.generic_visit(node)
        used = 0
        while isinstance(target, Definition) and target.name == WHOLE and used < len(chain):
            target = locate(f"{target.module}.{chain[used]}")
            used += 1
        if isinstance(target, str):
            name: ast.expr = ast.Name(target, ast.Load())
        elif target is None:
            return node
        else:
            name = self._mention(target.name if target.name != WHOLE else target.module.rpartition(".")[2], target)
        for attribute in chain[used:]:
            name = ast.Attribute(name, attribute, ast.Load())
        return name

    def visit_Import(self, node: ast.Import) -> ast.AST:
        return ast.Pass()  # what an import brings counts where it is used

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST:
        return ast.Pass()

    def _in_scope(self, node: ast.AST) -> ast.AST:
        own = list(_own(node))
        imported = {name: dotted for n in own for name, dotted in _bound_by(n, self.module.name).items()}
        shared = {name for n in own if isinstance(n, ast.Global) for name in n.names}
        self.hidden.append(_stored(node) - shared)
        self.local_imports.append(imported)
        self.generic_visit(node)
        self.hidden.pop()
        self.local_imports.pop()
        return node

    def _function(self, node: Function) -> ast.AST:
        node.body = _without_text(node.body)
        node.returns = None
        arguments = node.args
        for argument in [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]:
            argument.annotation = None
        for extra in (arguments.vararg, arguments.kwarg):
            if extra is not None:
                extra.annotation = None
        decorators, node.decorator_list = [self.visit(d) for d in node.decorator_list], []
        arguments.defaults = [self.visit(d) for d in arguments.defaults]
        arguments.kw_defaults = [self.visit(d) if d is not None else None for d in arguments.kw_defaults]
        defaults, arguments.defaults = arguments.defaults, []
        keyword_defaults, arguments.kw_defaults = arguments.kw_defaults, [None] * len(arguments.kw_defaults)
        self._in_scope(node)
        node.decorator_list, arguments.defaults, arguments.kw_defaults = decorators, defaults, keyword_defaults
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        return self._function(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        return self._function(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        node.body = _without_text(node.body)
        return self.generic_visit(node)

    def visit_Lambda(self, node: ast.Lambda) -> ast.AST:
        node.args.defaults = [self.visit(d) for d in node.args.defaults]
        return self._in_scope(node)

    def visit_ListComp(self, node: ast.ListComp) -> ast.AST:
        return self._in_scope(node)

    def visit_SetComp(self, node: ast.SetComp) -> ast.AST:
        return self._in_scope(node)

    def visit_DictComp(self, node: ast.DictComp) -> ast.AST:
        return self._in_scope(node)

    def visit_GeneratorExp(self, node: ast.GeneratorExp) -> ast.AST:
        return self._in_scope(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        if not self.hidden and isinstance(node.target, ast.Name):
            return self.generic_visit(node)  # of a class, where a dataclass reads it
        if node.value is None:
            return ast.Pass()
        return self.visit(ast.Assign([node.target], node.value, lineno=node.lineno))


def _without_text(body: list[ast.stmt]) -> list[ast.stmt]:
    return [statement for statement in body if not _is_text(statement)] or [ast.Pass()]


BLOCKS = ("body", "handlers", "orelse", "finalbody", "cases")


def _inside(node: ast.AST) -> list[Any]:
    """The statements in a node's blocks, and what holds further blocks; no expression holds any."""
    blocks = [getattr(node, name, None) for name in BLOCKS]
    return [part for block in blocks if isinstance(block, list) for part in block]


def _own(node: ast.AST) -> Iterator[Any]:
    """The statements in a function's own body, not those in functions and classes below it."""
    queue = _inside(node)
    while queue:
        child = queue.pop()
        yield child
        if not isinstance(child, Function | ast.ClassDef):
            queue += _inside(child)


@cache
def content(definition: Definition) -> Content:
    """A definition's canonical text and what it mentions."""
    module = _module(definition.module)
    if module is None:  # a package without a file of its own
        return Content("", frozenset())
    if definition.name == WHOLE:
        names = [Definition(module.name, name) for name in module.statements]
        mentions = {(d.name, d) for d in names} | {(EFFECTS, Definition(module.name, EFFECTS))}
        return Content("\n".join(sorted(module.statements)), frozenset(mentions))
    writer = _Canonical(module)
    statements = module.effects if definition.name == EFFECTS else module.statements[definition.name]
    text = writer.canonical(statements)
    return Content(text, frozenset(writer.mentions))


@cache
def _run_on_import(module: str) -> frozenset[Definition]:
    """EFFECTS of a module and of all that importing it imports, where they run anything."""
    seen: set[str] = set()
    queue = [module]
    while queue:
        name = queue.pop()
        target = _module(name)
        if target is None or name in seen:
            continue
        seen.add(name)
        queue += [part for dotted in target.imports for part in (dotted, dotted.rpartition(".")[0])]
    return frozenset(Definition(name, EFFECTS) for name in seen if (m := _module(name)) is not None and m.effects)


@cache
def reach(targets: tuple[str, ...]) -> frozenset[Definition]:
    """Every first-party definition that these dotted names rest on."""
    seen: set[Definition] = set()
    queue = [target for name in targets if isinstance(target := locate(name), Definition)]
    while queue:
        definition = queue.pop()
        if definition in seen:
            continue
        seen.add(definition)
        queue += [mentioned for _, mentioned in content(definition).mentions]
        queue += _run_on_import(definition.module)
    return frozenset(seen)


@cache
def identity(targets: tuple[str, ...]) -> str:
    """A hash of all that these names rest on: every definition, and which one each mention means."""
    lines = set()
    for definition in reach(targets):
        own = content(definition)
        lines.add(own.mark)
        lines |= {f"{own.mark} {words} {content(mentioned).mark}" for words, mentioned in own.mentions}
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()[:16]


def forget() -> None:
    """Read every file anew: an overlay was opened, or a test changed code."""
    for cached in (_module, locate, attribute, content, _run_on_import, reach, identity):
        cached.cache_clear()
