"""Which of the project's own definitions execute while something runs, at the price of that alone.

A profiler is told of every call, and while it is there the interpreter takes twice as long for all that it does, also
in libraries. Here the project's own functions say themselves that they are called: each gets, for as long as it is
watched, the code that its file would give with one more line at the beginning of every function.
"""

from __future__ import annotations

import ast
import contextlib
import gc
import sys
import weakref
from collections.abc import Container, Iterator
from functools import cache
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

from experiments.common.paths import ROOT
from experiments.identity.definitions import FIRST_PARTY, Definition

SAY = "__executes__"  # what a watched function calls, among the globals of its module
Place = tuple[int, str]  # the line where a function begins, its name with those around it


class Watch:
    """Finds the functions of modules that are imported, and watches them on demand."""

    def __init__(self) -> None:
        self._functions: list[tuple[weakref.ref[FunctionType], CodeType, CodeType]] = []
        self._modules: dict[str, ModuleType] = {}

    @contextlib.contextmanager
    def watch(self) -> Iterator[set[Definition]]:
        """The definitions, classes and functions of modules, in which anything executes in this block; once it ends.

        Raises AssertionError if the block imports a module of the project: what executes there would not be seen.
        """
        self._look()
        executed: set[Definition] = set()
        watched = [(function, *codes) for known, *codes in self._functions if (function := known()) is not None]
        said: dict[str, set[str]] = {name: set() for name in self._modules}
        for name, module in self._modules.items():
            vars(module)[SAY] = said[name].add
        for function, _, saying in watched:
            function.__code__ = saying
        try:
            yield executed
        finally:
            for function, silent, _ in watched:
                function.__code__ = silent
            for module in self._modules.values():
                vars(module)[SAY] = str  # of no effect: for what was made in the block and lives on
            executed |= {Definition(home, name) for home, names in said.items() for name in names}
        late = own_modules(self._modules)
        assert not late, f"imported while it runs, by no name that it is known to reach: {', '.join(sorted(late))}"

    def _look(self) -> None:
        """Add the functions of modules that were imported since the last time."""
        new = own_modules(self._modules)
        if not new:
            return
        if not self._modules:
            gc.unfreeze()  # what is frozen is not listed
        files = {str(module.__file__): module for module in new.values()}
        for item in gc.get_objects():
            if type(item) is FunctionType and item.__code__.co_filename in files:
                code = item.__code__
                module = files[code.co_filename]
                saying = saying_codes(code.co_filename).get((code.co_firstlineno, code.co_qualname))
                if saying is not None and item.__globals__ is vars(module):
                    self._functions.append((weakref.ref(item), code, saying))
        if not self._modules:
            gc.freeze()
        self._modules |= new


def own_modules(known: Container[str] = ()) -> dict[str, ModuleType]:
    """The modules of the project's rooms that are imported, but for those that are known."""
    rooms = tuple(f"{room}." for room in FIRST_PARTY)
    own = {name: sys.modules[name] for name in list(sys.modules) if name.startswith(rooms) and name not in known}
    return {name: module for name, module in own.items() if str(getattr(module, "__file__", "")).startswith(str(ROOT))}


@cache
def saying_codes(file: str) -> dict[Place, CodeType]:
    """The code of each function of a file that says which definition it is part of; not of two lambdas of one line."""
    tree = ast.parse(Path(file).read_text(encoding="utf-8"))
    for statement in tree.body:
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            _Saying(statement.name).visit(statement)
    codes: dict[Place, CodeType] = {}
    twice: set[Place] = set()
    queue = [compile(ast.fix_missing_locations(tree), file, "exec", dont_inherit=True)]
    while queue:
        for constant in queue.pop().co_consts:
            if isinstance(constant, CodeType):
                place = (constant.co_firstlineno, constant.co_qualname)
                twice |= {place} & codes.keys()
                codes[place] = constant
                queue.append(constant)
    return {place: code for place, code in codes.items() if place not in twice}


class _Saying(ast.NodeTransformer):
    """Begins each function in a definition with a call that says its name."""

    def __init__(self, name: str) -> None:
        self._name = name

    def _call(self) -> ast.Call:
        return ast.Call(ast.Name(SAY, ast.Load()), [ast.Constant(self._name)], [])

    def _function(self, node: Any) -> Any:
        self.generic_visit(node)
        first = int(ast.get_docstring(node, clean=False) is not None)
        node.body.insert(first, ast.copy_location(ast.Expr(self._call()), node.body[0]))
        return node

    visit_FunctionDef = _function
    visit_AsyncFunctionDef = _function

    def visit_Lambda(self, node: ast.Lambda) -> ast.AST:
        self.generic_visit(node)
        both = ast.Tuple([self._call(), node.body], ast.Load())
        node.body = ast.copy_location(ast.Subscript(both, ast.Constant(1), ast.Load()), node.body)
        return node
