"""`make schema`: what papers' files and recipes may say, as JSON schemas for editors. Imports no torch."""

from __future__ import annotations

import ast
import inspect
import json
import sys
import textwrap
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

from pydantic import TypeAdapter

from experiments.commands import cli
from experiments.common import files
from experiments.common.errors import InputError
from experiments.common.plain import Plain
from experiments.config import reading, schema, written

HELP = """\
Write conf/schema/paper.json and conf/schema/recipe.json from experiments/config/schema.py. A file names its own in a
comment (yaml-language-server), so that editors complete keys, show what they mean and mark what is wrong.

  python -m experiments.commands.schema

"""

WRITTEN = ("paper", "recipe")  # of schema.FILES, those that people write by hand again and again


def document(kind: str) -> Plain:
    """The JSON schema of a kind of file; what the source says of a class or field is its description."""
    content = TypeAdapter(schema.FILES[kind]).json_schema()
    told = _descriptions()
    for node in (content, *content.get("$defs", {}).values()):
        about, of_fields = told.get(node.get("title", ""), ("", {}))
        if about:
            node["description"] = about
        for name, item in node.get("properties", {}).items():
            item.pop("title", None)
            if item.get("default", 0) is None:
                del item["default"]  # null only says that nothing is there
            if name in of_fields:
                item["description"] = of_fields[name]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **content}


def _descriptions() -> dict[str, tuple[str, dict[str, str]]]:
    """By class its docstring and those under its fields, a base class's fields too."""
    told: dict[str, tuple[str, dict[str, str]]] = {}
    for kind in _with_subclasses(written.Closed):
        of_fields: dict[str, str] = {}
        for base in kind.__bases__:
            of_fields |= told.get(base.__name__, ("", {}))[1]
        told[kind.__name__] = (" ".join((inspect.getdoc(kind) or "").split()), of_fields | _under_fields(kind))
    return told


def _with_subclasses(kind: type) -> Iterator[type]:
    """A class and all that derive from it, bases first."""
    yield kind
    derived: list[type] = kind.__subclasses__()
    for below in derived:
        yield from _with_subclasses(below)


def _under_fields(kind: type) -> dict[str, str]:
    """The docstrings under a class's own fields."""
    of_fields: dict[str, str] = {}
    statements = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0].body  # type: ignore[attr-defined]
    for line, after in pairwise(statements):
        text = after.value.value if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) else None
        if isinstance(line, ast.AnnAssign) and isinstance(text, str):
            of_fields[ast.unparse(line.target)] = " ".join(text.split())
    return of_fields


def text(kind: str) -> str:
    """The content of conf/schema/<kind>.json."""
    return json.dumps(document(kind), indent=1) + "\n"


def path(kind: str) -> Path:
    return reading.CONF / "schema" / f"{kind}.json"


def main(argv: list[str]) -> int:
    if argv:
        raise InputError(f"{argv[0]}: expected no argument")
    for kind in WRITTEN:
        files.write_text(path(kind), text(kind))
        print(path(kind).relative_to(reading.CONF.parent))
    return 0


if __name__ == "__main__":
    sys.exit(cli.main(main, HELP, exits="0, or 2 on wrong input"))
