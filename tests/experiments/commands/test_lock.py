"""The lock file: what its audit finds, and that today's lock passes."""

from __future__ import annotations

import re

import pytest

from experiments.commands import lock
from experiments.common.errors import missing_package
from experiments.common.paths import ROOT

DIGEST = "a" * 64
PROJECT = {"dependencies": ["numpy>=2,<3", "torch>=2"], "optional-dependencies": {name: [] for name in lock.INSTALLED}}
HEAD = f"{lock.HEAD}{lock.ranges_hash(PROJECT)}\n"
GOOD = f"{HEAD}numpy==2.1 ; python_version >= '3.11' \\\n    --hash=sha256:{DIGEST} \\\n    --hash=sha256:{'b' * 64}\n"


def pins(text: str) -> set[tuple[str, str]]:
    """(name, version) of what a lock holds."""
    return {(name, lines[0].split("==")[1].split()[0]) for name, lines in lock.entries(text)}


def test_todays_locks_are_sound_and_leave_torch_to_the_machine() -> None:
    project = lock.read_project()
    base = lock.LOCK.read_text(encoding="utf-8")
    assert lock.extras(project) == ["ray", "trackio", "mlflow", "attacks", "clip", "diffusion", "docs"]
    assert list(lock.loose(project)) == []
    for extra in (None, *lock.extras(project)):
        text = lock.lock_of(extra).read_text(encoding="utf-8")
        assert list(lock.audit(text, project, extra)) == []
        names = [name for name, _ in lock.entries(text)]
        assert not [name for name in names if lock.MACHINE.match(name)]
        # What an extra adds leaves every locked package as it is; one that the base needs on other systems may return.
        known = {name for name, _ in pins(base)}
        assert extra is None or {pin for pin in pins(text) if pin[0] in known} <= pins(base)
    assert "pytorch-lightning" in {name for name, _ in lock.entries(base)}


def test_torch_is_pinned_where_no_lock_holds_it() -> None:
    assert list(lock.loose(PROJECT)) == [
        "torch>=2: expected == and one version in pyproject.toml, since no lock holds it"
    ]
    assert list(lock.loose(PROJECT | {"dependencies": ["torch==2.*"]}))
    assert list(lock.loose(PROJECT | {"dependencies": ["torch==2.13.0", "numpy>=2"]})) == []


def test_make_installs_nothing_that_is_not_locked() -> None:
    """Each line that installs is held to hashes, but for torch, from one index, and for this project itself."""
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    installs = [line.strip() for line in text.splitlines() if "$(PIP) " in line and not line.startswith("PIP")]
    free = [line for line in installs if "--require-hashes --no-deps" not in line]
    assert len(installs) == 5
    assert [re.sub(r"[@\s]*\$\(PIP\) ", "", line).split("#")[0].strip() for line in free] == [
        "$(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) $(TORCH)",
        "--no-deps --no-build-isolation --editable .",
    ]
    for name in ("Makefile", "Dockerfile", ".ci", ".github/workflows/ci.yml", ".devcontainer/devcontainer.json"):
        path = ROOT / name
        for file in path.rglob("*") if path.is_dir() else [path]:
            assert not re.search(r"extra-index|EXTRA_INDEX", file.read_text(encoding="utf-8")), file


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
    assert missing_package(missing) == "the package 'open_clip' is not installed: make extras EXTRAS=clip"
    inside = ModuleNotFoundError("No module named 'monai.data'", name="monai.data")
    assert missing_package(inside) == "the package 'monai' is not installed: make setup"
    nobody = ModuleNotFoundError("No module named 'rich'", name="rich")
    assert missing_package(nobody) == "the package 'rich' is not installed: make setup"
