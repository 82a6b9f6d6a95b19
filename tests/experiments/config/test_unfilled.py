"""What files leave to say is found by file, line and key, and a registration names each place."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.common.errors import InputError
from experiments.config import unfilled
from experiments.config.unfilled import MARK, Place

PAPER = f"""\
# {MARK} what it reports
key: k
about: >-
  {MARK} what it does,
  in two sentences
claims:
  - name: it is better
    worth_reason: "{MARK} why"
  - {{name: "{MARK} a", better: "{MARK} b"}} # done
venue: somewhere
"""
MODULE = f'''\
"""{MARK} the method."""

LIMIT = 3  # {MARK} why three


class Method:
    def loss(self):
        """Said."""
        return "{MARK} it"
'''


@pytest.fixture
def root(tmp_path: Path) -> Path:
    files = {
        "conf/paper/k.yaml": PAPER,
        "conf/recipe/k/mini.yaml": f"tune: {{none: '{MARK} why'}}\n",
        "conf/recipe/k/full.yaml": f"tune: {{none: '{MARK} why'}}\n",
        "modules/k.py": MODULE,
        "tests/papers/k/test_module.py": "def test_said(): ...\n",
        "conf/paper/other.yaml": f"key: '{MARK} other'\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_each_place_has_its_line_and_its_key(root: Path) -> None:
    paper = "conf/paper/k.yaml"
    assert unfilled.find(root, [root / paper]) == [
        Place(paper, 1, "a comment"),
        Place(paper, 3, "about"),
        Place(paper, 8, "claims.0.worth_reason"),
        Place(paper, 9, "claims.1.better"),
        Place(paper, 9, "claims.1.name"),
    ]
    module = "modules/k.py"
    assert unfilled.find(root, [root / module]) == [
        Place(module, 1, ""),
        Place(module, 3, ""),
        Place(module, 9, "loss"),
    ]


def test_a_setting_is_asked_for_its_own_recipe_and_no_other_paper_s_files(root: Path) -> None:
    names = [path.relative_to(root).as_posix() for path in unfilled.own_files(root, "k", "mini")]
    assert names == [
        "conf/paper/k.yaml",
        "conf/recipe/k/mini.yaml",
        "modules/k.py",
        "tests/papers/k/test_module.py",
    ]


def test_all_places_are_told_in_one_line(root: Path) -> None:
    with pytest.raises(InputError) as error:
        unfilled.check(root, "k", "full")
    told = str(error.value)
    assert "\n" not in told
    assert told.startswith("9 places are left to fill in")
    assert "conf/paper/k.yaml: line 1 (a comment), line 3 (about), line 8 (claims.0.worth_reason), " in told
    assert "conf/recipe/k/full.yaml: line 1 (tune.none); modules/k.py: line 1, line 3, line 9 (loss)" in told


def test_nothing_is_said_where_nothing_is_left(root: Path) -> None:
    for path in root.rglob("*.*"):
        if path.is_file():
            path.write_text(path.read_text().replace(MARK, "Said:"))
    unfilled.check(root, "k", "mini")


def test_a_file_that_cannot_be_read_is_named(root: Path) -> None:
    (root / "conf/paper/k.yaml").write_text("a: [1\n")
    with pytest.raises(InputError, match=r"conf/paper/k.yaml: cannot be read"):
        unfilled.check(root, "k", "mini")
