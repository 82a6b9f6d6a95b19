"""The lock file: what its audit finds, and that today's lock passes."""

from __future__ import annotations

import re
import tomllib

import pytest

from experiments.commands import lock
from experiments.common.errors import missing_package
from experiments.common.paths import ROOT

DIGEST = "a" * 64
PROJECT = {"dependencies": ["numpy>=2,<3", "torch>=2"], "optional-dependencies": {name: [] for name in lock.INSTALLED}}
HEAD = f"{lock.HEAD}{lock.ranges_hash(PROJECT)}\n"
GOOD = f"{HEAD}numpy==2.1 ; python_version >= '3.11' \\\n    --hash=sha256:{DIGEST} \\\n    --hash=sha256:{'b' * 64}\n"


def test_todays_lock_is_sound_and_leaves_torch_to_the_machine() -> None:
    text = lock.LOCK.read_text(encoding="utf-8")
    project = tomllib.loads(lock.PROJECT.read_text(encoding="utf-8"))["project"]

    assert list(lock.audit(text, project)) == []
    names = [name for name, _ in lock.entries(text)]
    assert "pytorch-lightning" in names
    assert not [name for name in names if lock.MACHINE.match(name)]


def test_make_installs_the_extras_that_are_locked() -> None:
    listed = re.search(r"--editable '\.\[([\w,]+)\]'", (ROOT / "Makefile").read_text(encoding="utf-8"))
    assert listed is not None
    assert tuple(listed[1].split(",")) == lock.INSTALLED


@pytest.mark.parametrize(
    ("text", "finding"),
    [
        (GOOD, None),
        (GOOD.replace("numpy==2.1", "numpy==3.1"), "numpy==3.1 is outside pyproject.toml's numpy<3,>=2: make lock"),
        (GOOD.replace("numpy==2.1", "numpy>=2.1"), "numpy>=2.1: expected ==, one version"),
        (GOOD.replace("numpy==2.1", "numpy==2.*"), "numpy==2.*: expected ==, one version"),
        (GOOD.replace(DIGEST, DIGEST[:40]), "numpy: expected at least one sha256 and nothing else"),
        (HEAD + "numpy==2.1\n", "numpy: expected at least one sha256 and nothing else"),
        (GOOD.replace("numpy", "nunpy"), "numpy<3,>=2 is not in requirements.lock (nunpy is): make lock"),
        (
            GOOD + "x @ https://example.org/x.whl\n",
            "x @ https://example.org/x.whl: expected name==version, nothing else",
        ),
        (GOOD + "--index-url https://example.org\n", "--index-url https://example.org: expected name==version"),
        (f"{GOOD}lightning==2.6.2 --hash=sha256:{DIGEST}\n", "lightning: releases of it stole credentials"),
        (GOOD.replace(HEAD, f"{lock.HEAD}0123456789abcdef\n"), "requirements.lock is not made from today's"),
    ],
)
def test_audit_names_what_is_wrong(text: str, finding: str | None) -> None:
    actual = list(lock.audit(text, PROJECT))
    assert [line[: len(finding or "")] for line in actual] == ([finding] if finding else [])


def test_what_is_installed_is_compared() -> None:
    assert list(lock.compare(GOOD, {"NumPy": "2.1"})) == []
    assert list(lock.compare(GOOD, {"numpy": "2.2"})) == ["numpy: ==2.1 is locked, 2.2 is installed: make setup"]
    assert list(lock.compare(GOOD, {})) == ["numpy: ==2.1 is locked, nothing is installed: make setup"]
    assert list(lock.compare(GOOD.replace(">= '3.11'", "< '3.11'"), {})) == []
    assert "stole credentials" in "".join(lock.compare(GOOD, {"numpy": "2.1", "lightning": "2.6.3"}))


def test_a_package_that_an_extra_brings_is_told_with_it() -> None:
    missing = ModuleNotFoundError("No module named 'open_clip'", name="open_clip")
    assert missing_package(missing) == "the package 'open_clip' is not installed: pip install -e '.[clip]'"
    inside = ModuleNotFoundError("No module named 'monai.data'", name="monai.data")
    assert missing_package(inside) == "the package 'monai' is not installed: pip install -e '.[nnunet]'"
    nobody = ModuleNotFoundError("No module named 'rich'", name="rich")
    assert missing_package(nobody) == "the package 'rich' is not installed: make setup"
