"""What `make new` writes: the files of a paper's room and of an overlay, all of them or none. Imports no torch."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import textwrap
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import jinja2
import yaml

from experiments.common import files
from experiments.common.errors import InputError
from experiments.common.paths import CONF
from experiments.common.plain import Arguments
from experiments.config import schema, unfilled, written

PAPER = {  # template -> where it goes, from the folder that holds conf/
    "paper.yaml.j2": "conf/paper/{key}.yaml",
    "full.yaml.j2": "conf/recipe/{key}/full.yaml",
    "mini.yaml.j2": "conf/recipe/{key}/mini.yaml",
    "smoke.yaml.j2": "conf/recipe/{key}/smoke.yaml",
    "module.py.j2": "modules/{key}.py",
    "test_module.py.j2": "tests/papers/{key}/test_module.py",
    "test_recipe.py.j2": "tests/papers/{key}/test_recipe.py",
}
OVERLAY = {"overlay.yaml.j2": "overlay.yaml", "gitignore.j2": ".gitignore", "ruff.toml.j2": "ruff.toml"}
WIDTH = 120  # of a line
EMPTY_OR_BLOCK = re.compile(r"^allow:[ \t]*(?:\[\])?[ \t]*(#.*)?$", re.MULTILINE)


def paper(key: str, arxiv: str, title: str, root: Path, package: str = "modules") -> dict[str, str]:
    """File -> text of a paper's room, checked by the schema.

    Args:
        root: the folder that will hold them.
        package: what its module is imported from.
    """
    values = {"key": key, "arxiv": arxiv, "title": title, "package": package, "name": class_name(key)}
    texts = {}
    for template, place in PAPER.items():
        name = place.format(key=key)
        up = os.path.relpath(CONF / "schema", (root / name).parent)
        texts[name] = _render(template, **values, schema=up)
    written.read(
        schema.PaperFile, yaml.safe_load(texts[f"conf/paper/{key}.yaml"]), f"conf/paper/{key}.yaml", later=True
    )
    return texts


def class_name(key: str) -> str:
    """Of the paper's module: st_protopnet is StProtopnet."""
    return "".join(part.capitalize() for part in key.split("_"))


def overlay(name: str) -> dict[str, str]:
    """File -> text of an overlay without a paper, whose code is imported below a package of this name."""
    return {place: _render(template, overlay=name, mark=unfilled.MARK) for template, place in OVERLAY.items()}


def allow(text: str, name: str) -> str:
    """The text of an overlay.yaml with one more name under `allow:`. Raises InputError where it cannot be put in."""
    declared = yaml.safe_load(text).get("allow") or []
    if name in declared:
        return text
    indent = re.search(r"^allow:.*\n([ ]*)- ", text, re.MULTILINE)
    line = f"{indent[1] if indent else '  '}- {name}"
    changed = EMPTY_OR_BLOCK.sub(
        lambda match: f"allow:{' ' if match[1] else ''}{match[1] or ''}\n{line}", text, count=1
    )
    if not re.search("^allow:", text, re.MULTILINE):
        changed = f"{text.rstrip()}\nallow:\n{line}\n"
    try:
        names = yaml.safe_load(changed).get("allow")
    except yaml.YAMLError:
        names = None
    if names != [name, *declared]:
        raise InputError(f"overlay.yaml: allow: expected one name a line, so that {name} can be put in")
    return changed


@lru_cache
def _templates() -> jinja2.Environment:
    """What makes YAML and Python; neither is HTML, whose escapes would be wrong in them."""
    loader = jinja2.FileSystemLoader(Path(__file__).parent / "templates")
    options: Arguments = {"keep_trailing_newline": True, "undefined": jinja2.StrictUndefined}
    environment = jinja2.Environment(loader=loader, autoescape=False, **options)  # noqa: S701 - see above
    environment.filters.update(quoted=_quoted, wrapped=_wrapped)
    return environment


def _render(template: str, **values: Any) -> str:
    return _templates().get_template(template).render(**values)


def _quoted(text: str) -> str:
    """A text as a value of YAML below a short key, on lines no longer than the screen."""
    short = json.dumps(text, ensure_ascii=False)
    if len(short) < WIDTH - len("title: "):
        return short
    lines = textwrap.wrap(text, WIDTH - 2, break_long_words=False)
    return ">-\n" + "\n".join(f"  {line}" for line in lines)


def _wrapped(text: str, first: int) -> str:
    """A text as the first lines of a docstring."""
    ending = "" if text[-1] in ".!?" else "."
    return "\n".join(textwrap.wrap(text + ending, first, break_long_words=False))


def roots(texts: Mapping[str, str]) -> list[str]:
    """The files and folders of a room that hold nothing else."""
    return list(dict.fromkeys(re.sub(r"((?:recipe|papers)/[^/]+)/.*", r"\1", name) for name in texts))


def write(texts: Mapping[str, str], folder: Path) -> None:
    """Write files into a folder that nobody reads yet."""
    for name, text in texts.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def place(texts: Mapping[str, str], root: Path, replaced: Mapping[str, str] | None = None) -> None:
    """Write all files or none: into a folder beside them first, each part of which is then moved to its place.

    Args:
        texts: of new files.
        root: the folder that holds conf/.
        replaced: new texts of files that are there.
    Raises:
        InputError: a part cannot be moved; those that were are taken away again.
    """
    with tempfile.TemporaryDirectory(dir=root, prefix=".new-") as folder:
        write(texts, Path(folder))
        moved: list[Path] = []
        try:
            for name in roots(texts):
                target = root / name
                target.parent.mkdir(parents=True, exist_ok=True)
                os.rename(Path(folder, name), target)
                moved.append(target)
            for name, text in (replaced or {}).items():
                files.write_text(root / name, text)
        except OSError as error:
            _remove(moved)
            where = error.filename2 or error.filename
            raise InputError(f"{where}: {error.strerror}; nothing was written") from error


def _remove(paths: Sequence[Path]) -> None:
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
