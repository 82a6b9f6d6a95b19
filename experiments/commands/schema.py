"""`make schema`: what papers' files and recipes may say, as JSON schemas for editors. Imports no torch."""

from __future__ import annotations

import ast
import inspect
import json
import sys
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from experiments.commands import cli
from experiments.common import files
from experiments.common.errors import InputError
from experiments.config import reading, schema

HELP = """\
Write conf/schema/paper.json and conf/schema/recipe.json from experiments/config/schema.py. A file names its own in a
comment (yaml-language-server), so that editors complete keys, show what they mean and mark what is wrong.

  python -m experiments.commands.schema

"""

WRITTEN = ("paper", "recipe")  # of schema.FILES, those that people write by hand again and again


def document(kind: str) -> dict[str, Any]:
    """The JSON schema of a kind of file; what schema.py says of a class or field is its description."""
    made = TypeAdapter(schema.FILES[kind]).json_schema()
    told = _descriptions()
    for node in (made, *made.get("$defs", {}).values()):
        about, of_fields = told.get(node.get("title", ""), ("", {}))
        if about:
            node["description"] = about
        for name, item in node.get("properties", {}).items():
            item.pop("title", None)
            if item.get("default", 0) is None:
                del item["default"]  # null only says that nothing is there
            if name in of_fields:
                item["description"] = of_fields[name]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **made}


def _descriptions() -> dict[str, tuple[str, dict[str, str]]]:
    """By class its docstring and those under its fields, a base class's fields too."""
    told: dict[str, tuple[str, dict[str, str]]] = {}
    for node in ast.parse(inspect.getsource(schema)).body:
        if not isinstance(node, ast.ClassDef):
            continue
        of_fields: dict[str, str] = {}
        for base in node.bases:
            of_fields |= told.get(ast.unparse(base), ("", {}))[1]
        for line, after in zip(node.body, node.body[1:], strict=False):
            text = after.value.value if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) else None
            if isinstance(line, ast.AnnAssign) and isinstance(text, str):
                of_fields[ast.unparse(line.target)] = " ".join(text.split())
        told[node.name] = " ".join((ast.get_docstring(node) or "").split()), of_fields
    return told


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
