"""What a first-party definition rests on: every other that it reaches, and a hash of them all.

A definition rests on every definition whose name it mentions outside of annotations (base classes, decorators and
defaults included), followed through imports, and on the statements that its module runs when it is imported. Neither
the file nor the path that an import takes counts, nor do comments, docstrings, layout and the annotations of functions;
so a definition can move without changing anything.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

from experiments.identity import definitions
from experiments.identity.definitions import (
    EFFECTS,
    WHOLE,
    Definition,
    Function,
    Module,
    bound_by,
    inside,
    is_text,
    names_bound,
)


@dataclass(frozen=True)
class Content:
    """A definition's statements in a canonical form, and what they mention: (the words for it, the definition)."""

    text: str
    mentions: frozenset[tuple[str, Definition]]

    @cached_property
    def mark(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()[:16]


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
                return definitions.locate(imported[name])
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
            target = definitions.locate(f"{target.module}.{chain[used]}")
            used += 1
        if isinstance(target, str):
            name: ast.expr = ast.Name(target, ast.Load())
        elif target is None:
            return node
        else:
            name = self._mention(target.name if target.name != WHOLE else target.module.rpartition(".")[2], target)
        for step in chain[used:]:
            name = ast.Attribute(name, step, ast.Load())
        return name

    def visit_Import(self, node: ast.Import) -> ast.AST:
        return ast.Pass()  # what an import brings counts where it is used

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST:
        return ast.Pass()

    def _in_scope(self, node: ast.AST) -> ast.AST:
        own = list(_own(node))
        imported = {name: dotted for n in own for name, dotted in bound_by(n, self.module.name).items()}
        shared = {name for n in own if isinstance(n, ast.Global) for name in n.names}
        self.hidden.append(names_bound(node) - shared)
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
    return [statement for statement in body if not is_text(statement)] or [ast.Pass()]


def _own(node: ast.AST) -> Iterator[Any]:
    """The statements in a function's own body, not those in functions and classes below it."""
    queue = inside(node)
    while queue:
        child = queue.pop()
        yield child
        if not isinstance(child, Function | ast.ClassDef):
            queue += inside(child)


@cache
def content(definition: Definition) -> Content:
    """A definition's canonical text and what it mentions."""
    module = definitions.read_module(definition.module)
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
        target = definitions.read_module(name)
        if target is None or name in seen:
            continue
        seen.add(name)
        queue += [part for dotted in target.imports for part in (dotted, dotted.rpartition(".")[0])]
    modules = {name: definitions.read_module(name) for name in seen}
    return frozenset(Definition(name, EFFECTS) for name, read in modules.items() if read is not None and read.effects)


@cache
def reach(targets: tuple[str, ...]) -> frozenset[Definition]:
    """Every first-party definition that these dotted names rest on."""
    seen: set[Definition] = set()
    queue = [target for name in targets if isinstance(target := definitions.locate(name), Definition)]
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
    definitions.forget()
    for cached in (content, _run_on_import, reach, identity):
        cached.cache_clear()
