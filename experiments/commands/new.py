"""`make new`: a paper's room, with a working example in it and what is left to say marked. Imports no torch."""

from __future__ import annotations

import keyword
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from experiments.commands import cli, writing
from experiments.common.errors import InputError, unknown
from experiments.common.paths import ROOT
from experiments.common.text import ACTING
from experiments.config import compose, overlay, unfilled, written

HELP = """\
Write a paper's room: a module with an example step that works, the paper's file with claims to fill in, three recipes,
and tests. It runs as it is written. What is left to say begins with FILL IN:, and make register refuses what is not
filled in.

  python -m experiments.commands.new paper=mixup arxiv=1710.09412 extra=../mine
  python -m experiments.commands.new paper=mixup arxiv=1710.09412 title='mixup: Beyond Empirical Risk Minimization'

  extra=FOLDER       into an overlay, a folder of your own; one that is not there, or is empty, becomes a git repository
                     with a first commit. Without it, into this project. Without paper=, the folder alone is made
  name=mine          what the new overlay's code is imported as; by itself, the folder's name

"""

WORDS = ("paper", "arxiv", "title", "extra", "name")
RESERVED = ("all", "common")  # what commands and folders mean by these
LONGEST = 300  # letters of a title


def main(argv: list[str]) -> int:
    words = _read(argv)
    if "extra" not in words:
        return _into_the_suite(words)
    folder = Path(words["extra"]).resolve()
    if _is_taken(folder):
        return _into_an_overlay(words, folder)
    return _as_a_new_overlay(words, folder)


def _read(argv: list[str]) -> dict[str, str]:
    """What the command line says, checked. Raises InputError."""
    words, others = cli.take(argv, WORDS)
    for word in others:
        raise unknown("argument", word.partition("=")[0], WORDS)
    words = {name: value for name, value in words.items() if value}
    if "paper" not in words and "extra" in words:
        return words
    for name, example in (("paper", "mixup"), ("arxiv", "1710.09412")):
        if name not in words:
            raise InputError(f"{name} is missing; expected it, as in {name}={example}")
    written.read(written.Key, words["paper"], "paper")
    written.read(written.Arxiv, words["arxiv"], "arxiv")
    if words["paper"] in RESERVED or keyword.iskeyword(words["paper"]):
        raise InputError(f"paper={words['paper']}: this word means something else; expected another key")
    title = words.setdefault("title", f"{unfilled.MARK} the paper's title")
    if not title.strip() or len(title) > LONGEST or ACTING.search(title) or set(title) & set('\n\t\\"'):
        raise InputError(f'title={title!r:.100}: expected one line of at most {LONGEST} letters, without \\ and "')
    return words


def _into_the_suite(words: Mapping[str, str]) -> int:
    if "name" in words:
        raise InputError(f"name={words['name']}: is of a new overlay; expected extra=FOLDER as well")
    if _git(ROOT, "rev-parse", "HEAD") is None:
        raise InputError("not a git checkout with a commit: a registration is a commit; git clone the project first")
    _check_is_free(words["paper"], [ROOT])
    texts = writing.paper(words["paper"], words["arxiv"], words["title"], ROOT)
    writing.place(texts, ROOT)
    _tell(texts, ROOT, words)
    return 0


def _into_an_overlay(words: Mapping[str, str], folder: Path) -> int:
    """One more paper in an overlay that is there."""
    if "paper" not in words or "name" in words:
        raise InputError(f"extra={words['extra']}: is there already; expected paper=K and arxiv=..., and no name=")
    with overlay.opened(words["extra"]) as extra:
        assert extra is not None
        _check_is_free(words["paper"], [ROOT, folder])
        texts = _in_overlay(words, extra.name, folder)
        said = (folder / overlay.FILE).read_text(encoding="utf-8")
        writing.place(texts, folder, {overlay.FILE: writing.allow(said, _target(words["paper"], extra.name))})
    _tell(texts, folder, words)
    return 0


def _as_a_new_overlay(words: Mapping[str, str], folder: Path) -> int:
    """An overlay with or without a paper in it, as a repository: put together beside its place, then moved there."""
    if folder.is_relative_to(ROOT) or not folder.parent.is_dir():
        raise InputError(f"extra={words['extra']}: expected a folder beside {ROOT}, in one that is there")
    if re.fullmatch(r"[\w./+-]+", str(folder)) is None:
        raise InputError(f"extra={folder}: expected a path of letters, digits and . _ + - alone")
    if _git(folder.parent, "var", "GIT_AUTHOR_IDENT") is None:
        raise InputError(
            "git is not installed or knows no author: git config --global user.name '...' and git config --global "
            "user.email '...'"
        )
    name = words.get("name", folder.name)
    texts = writing.overlay(name)
    if "paper" in words:
        _check_is_free(words["paper"], [ROOT])
        texts[overlay.FILE] = writing.allow(texts[overlay.FILE], _target(words["paper"], name))
        texts |= _in_overlay(words, name, folder)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".new-") as temporary:
        inside = Path(temporary, "overlay")
        writing.write(texts, inside)
        overlay.load(inside)
        told = f"Overlay {name}" + (f", with what make new writes of {words['paper']}" if "paper" in words else "")
        for command in (["init", "-q", "-b", "main"], ["add", "-A"], ["commit", "-qm", told]):
            if _git(inside, *command) is None:
                raise InputError(f"git {command[0]} failed in a folder beside {folder}; nothing was written")
        os.rename(inside, folder)
    _tell(texts, folder, words, fresh=True)
    return 0


def _in_overlay(words: Mapping[str, str], name: str, folder: Path) -> dict[str, str]:
    return writing.paper(words["paper"], words["arxiv"], words["title"], folder, f"{name}.modules")


def _target(key: str, name: str) -> str:
    """What an overlay's configuration builds of a paper's module."""
    return f"{name}.modules.{key}.{writing.class_name(key)}"


def _is_taken(folder: Path) -> bool:
    """Whether something is at this place, besides an empty folder."""
    return folder.is_file() or (folder.is_dir() and any(folder.iterdir()))


def _check_is_free(key: str, folders: Sequence[Path]) -> None:
    """Raises InputError where a paper or anything of this name is there."""
    if key in compose.papers():
        raise InputError(f"paper={key}: there is such a paper (conf/paper/{key}.yaml); expected a new key")
    for root in folders:
        for place in ("conf/recipe", "conf/data", "modules", "datamodules", "tests/papers"):
            for path in (root / place / key, root / place / f"{key}.py"):
                if path.exists():
                    raise InputError(f"{path.relative_to(root)}: exists; expected a key of which nothing is there")


def _tell(texts: Mapping[str, str], root: Path, words: Mapping[str, str], fresh: bool = False) -> None:
    """What was written, and what comes next; all of a fresh overlay is committed."""
    for name in texts:
        print(f"written: {os.path.relpath(root / name)}")
    if "paper" not in words:
        return
    left = len(unfilled.find(root, [root / name for name in texts if name.endswith((".py", ".yaml"))]))
    where, git, added = "", "git", " ".join(writing.roots(texts))
    if extra := words.get("extra"):
        where, git, added = f" EXTRA={extra}", f"git -C {extra}", "."
    print(f"\nit runs as it is: make reproduce PAPER={words['paper']} SCALE=smoke{where}")
    print(f"{left} places are left to fill in: {git} grep --untracked -n '{unfilled.MARK}' {added}")
    if not fresh:
        print(f"git should know of it: {git} add {added}")


def _git(root: Path, *words: str) -> str | None:
    """What git prints; None where it fails or is not installed."""
    try:
        done = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


if __name__ == "__main__":
    sys.exit(cli.main(main, HELP, makes_overlays=True, exits="0 written, 2 it cannot be"))
