"""`make new`: a paper's room, with a working example in it and what is left to say marked. Imports no torch."""

from __future__ import annotations

import json
import keyword
import os
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import jinja2
import yaml

from experiments.commands import cli
from experiments.common.errors import InputError, unknown
from experiments.common.paths import CONF, ROOT
from experiments.common.text import ACTING
from experiments.config import compose, schema, unfilled, written

HELP = """\
Write a paper's room: a module with an example step that works, the paper's file with claims to fill in, three recipes,
and tests. It runs as it is written. What is left to say begins with FILL IN:, and make register refuses what is not
filled in.

  python -m experiments.commands.new paper=mixup arxiv=1710.09412
  python -m experiments.commands.new paper=mixup arxiv=1710.09412 title='mixup: Beyond Empirical Risk Minimization'

"""

WORDS = ("paper", "arxiv", "title")
RESERVED = ("all", "common")  # what commands and folders mean by these
FILES = {  # template -> where it goes
    "paper.yaml.j2": "conf/paper/{key}.yaml",
    "full.yaml.j2": "conf/recipe/{key}/full.yaml",
    "mini.yaml.j2": "conf/recipe/{key}/mini.yaml",
    "smoke.yaml.j2": "conf/recipe/{key}/smoke.yaml",
    "module.py.j2": "modules/{key}.py",
    "test_module.py.j2": "tests/papers/{key}/test_module.py",
    "test_recipe.py.j2": "tests/papers/{key}/test_recipe.py",
}
LONGEST = 300  # letters of a title
WIDTH = 120  # of a line


def main(argv: list[str]) -> int:
    words = _read(argv)
    key = words["paper"]
    _check_is_free(ROOT, key)
    _check_is_a_checkout()
    texts = render(words)
    check(texts, key)
    place(texts, ROOT)
    for name in texts:
        print(f"written: {name}")
    left = len(unfilled.find(ROOT, [ROOT / name for name in texts]))
    print(f"\n{left} places are left to fill in: grep -rn '{unfilled.MARK}' {' '.join(roots(texts))}")
    print(f"it runs as it is: git add {' '.join(roots(texts))} && make reproduce PAPER={key} SCALE=smoke")
    return 0


def _read(argv: list[str]) -> dict[str, str]:
    """What the command line says, checked. Raises InputError."""
    words, others = cli.take(argv, WORDS)
    for word in others:
        raise unknown("argument", word.partition("=")[0], WORDS)
    for name, example in (("paper", "mixup"), ("arxiv", "1710.09412")):
        if not words.get(name):
            raise InputError(f"{name} is missing; expected it, as in {name}={example}")
    written.read(written.Key, words["paper"], "paper")
    written.read(written.Arxiv, words["arxiv"], "arxiv")
    if words["paper"] in RESERVED or keyword.iskeyword(words["paper"]):
        raise InputError(f"paper={words['paper']}: this word means something else; expected another key")
    title = words.setdefault("title", f"{unfilled.MARK} the paper's title")
    if not title.strip() or len(title) > LONGEST or ACTING.search(title) or set(title) & set('\n\t\\"'):
        raise InputError(f'title={title!r:.100}: expected one line of at most {LONGEST} letters, without \\ and "')
    return words


def _check_is_free(root: Path, key: str) -> None:
    """Raises InputError where a paper or anything of this name is there."""
    if key in compose.papers():
        raise InputError(f"paper={key}: there is such a paper (conf/paper/{key}.yaml); expected a new key")
    for folder in ("conf/recipe", "conf/data", "modules", "datamodules", "tests/papers"):
        for path in (root / folder / key, root / folder / f"{key}.py"):
            if path.exists():
                raise InputError(f"{path.relative_to(root)}: exists; expected a key of which nothing is there")


def _check_is_a_checkout() -> None:
    """Raises InputError unless what is written can be committed, as a registration is."""
    if _git(ROOT, "rev-parse", "HEAD") is None:
        raise InputError("not a git checkout with a commit: a registration is a commit; git clone the project first")


def render(words: Mapping[str, str], package: str = "modules") -> dict[str, str]:
    """File, from the folder that holds conf/ -> its text.

    Args:
        words: paper (the key), arxiv and title.
        package: what the paper's module lies in.
    """
    key = words["paper"]
    values = {
        "key": key,
        "name": "".join(part.capitalize() for part in key.split("_")),
        "arxiv": words["arxiv"],
        "title": words["title"],
        "package": package,
    }
    texts = {}
    for template, place in FILES.items():
        name = place.format(key=key)
        up = os.path.relpath(CONF / "schema", (ROOT / name).parent)
        texts[name] = _templates().get_template(template).render(**values, schema=up)
    return texts


@lru_cache
def _templates() -> jinja2.Environment:
    """What makes YAML and Python; neither is HTML, whose escapes would be wrong in them."""
    loader = jinja2.FileSystemLoader(Path(__file__).parent / "templates")
    options: dict[str, Any] = {"keep_trailing_newline": True, "undefined": jinja2.StrictUndefined}
    environment = jinja2.Environment(loader=loader, autoescape=False, **options)  # noqa: S701 - see above
    environment.filters.update(quoted=_quoted, wrapped=_wrapped)
    return environment


def _quoted(text: str) -> str:
    """A text as a value of YAML, on lines no longer than the screen."""
    short = json.dumps(text, ensure_ascii=False)
    return short if len(short) < WIDTH - len("title: ") else ">-\n" + textwrap.fill(text, WIDTH - 2, **_by(2))


def _wrapped(text: str, first: int) -> str:
    """A text as the first line of a docstring, or its first lines."""
    ending = "" if text[-1] in ".!?" else "."
    return "\n".join(textwrap.wrap(text + ending, first, break_long_words=False))


def _by(indent: int) -> dict[str, Any]:
    return {"initial_indent": " " * indent, "subsequent_indent": " " * indent, "break_long_words": False}


def check(texts: Mapping[str, str], key: str) -> None:
    """Raises InputError where the schema would refuse what was written."""
    for name, kind in ((f"conf/paper/{key}.yaml", schema.PaperFile), (f"conf/recipe/{key}/mini.yaml", schema.Recipe)):
        written.read(kind, yaml.safe_load(texts[name]), name, later=True)


def roots(texts: Mapping[str, str]) -> list[str]:
    """The files and folders that hold nothing else."""
    return list(dict.fromkeys(re.sub(r"((?:recipe|papers)/[^/]+)/.*", r"\1", name) for name in texts))


def place(texts: Mapping[str, str], root: Path) -> None:
    """Write all files or none: into a folder beside them first, each part of which is then moved to its place.

    Raises InputError where a part cannot be moved; those that were are taken away again.
    """
    with tempfile.TemporaryDirectory(dir=root, prefix=".new-") as folder:
        for name, text in texts.items():
            path = Path(folder, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        moved: list[Path] = []
        try:
            for name in roots(texts):
                target = root / name
                target.parent.mkdir(parents=True, exist_ok=True)
                os.rename(Path(folder, name), target)
                moved.append(target)
        except OSError as error:
            for target in moved:
                shutil.rmtree(target) if target.is_dir() else target.unlink()
            raise InputError(f"{error.filename2 or error.filename}: {error.strerror}; nothing was written") from error


def _git(root: Path, *words: str) -> str | None:
    """What git prints; None where it fails or is not installed."""
    try:
        done = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


if __name__ == "__main__":
    sys.exit(cli.main(main, HELP, exits="0 written, 2 it cannot be"))
