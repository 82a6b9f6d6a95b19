"""Templates and class names: listed, read from a released file, and those of the generated captions."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from datamodules.common.base import DataError
from datamodules.zpe.captions import (
    ADVERTS,
    BOILERPLATE,
    COLOURS,
    FILLED,
    PLANTED,
    POOL,
    SHARES,
    STYLES,
    captions_for,
    prompts_for,
)
from datamodules.zpe.prompts import Listed, Prompts, Released

FILE = """
import jax
_IMAGENET_A_LABELSET = [0, 2]
_ZEROSHOT_CLASS_NAMES = {"imagenet": ["tench", "hen", "kite (bird of prey)"], "pets": ["pug", "boxer"]}
_ZEROSHOT_CLASS_NAMES["imagenet_a"] = [x for x in range(2)]
_ZEROSHOT_TEMPLATES = {"none": ["{}"], "imagenet": ["a {}.", "the {}."], "pets": ["a {}.", "a {}, a pet."]}
raise SystemExit("it is parsed, not run")
"""
RELEASED = Path(os.environ.get("REPRISE_DATA", "data")) / "zpe" / "multimodal_utils.py"


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "multimodal_utils.py"
    path.write_text(FILE)
    return str(path)


def test_a_released_file(file: str) -> None:
    prompts = Released(file, "pets").read()
    assert prompts.classes == ("pug", "boxer")
    assert prompts.pool == ("{}", "a {}.", "the {}.", "a {}, a pet.")  # each once, in the file's order
    assert prompts.own == ("a {}.", "a {}, a pet.")
    assert Released(file, "imagenet_a", "imagenet").read().classes == ("tench", "kite (bird of prey)")
    assert not Released(file, "pets").available()


def test_what_a_released_file_computes_is_passed_over(file: str) -> None:
    Path(file).write_text(f"import os\nCWD = os.getcwd()\nA = B = 3\nlong[0] = 4\n{FILE}")
    assert Released(file, "pets").read().classes == ("pug", "boxer")
    assert Released(file, "pets").literals()["A"] == 3


def test_what_a_released_file_lacks(file: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no class names for 'cars'; it has imagenet, pets"):
        Released(file, "cars", "pets").read()
    with pytest.raises(DataError, match="no templates for 'cars'"):
        Released(file, "pets", "cars").read()
    missing = Released(str(tmp_path / "no.py"), "pets")
    assert "copy it from experimental/multimodal of github.com/google/uncertainty-baselines" in missing.available()
    with pytest.raises(DataError, match="is missing"):
        missing.read()
    Path(file).write_text("_ZEROSHOT_TEMPLATES = {")
    with pytest.raises(DataError, match="cannot be parsed"):
        Released(file, "pets").read()


@pytest.mark.skipif(not RELEASED.is_file(), reason=f"{RELEASED} is not there")
def test_the_papers_pool() -> None:
    released = Released(str(RELEASED), "imagenet")
    prompts = released.read()
    assert (len(prompts.pool), len(prompts.own), len(prompts.classes)) == (247, 80, 1000)
    names = released.literals()["_ZEROSHOT_CLASS_NAMES"]
    assert len({name for listed in names.values() for name in listed}) == 2167
    assert all(len(Released(str(RELEASED), f"imagenet_{x}", "imagenet").read().classes) == 200 for x in "ar")


def test_prompts_are_checked() -> None:
    assert Listed(["cat"], ["a {}"], ["a {}"]).read().own == ("a {}",)
    with pytest.raises(DataError, match="for the class name"):
        Listed(["cat"], ["a cat"])
    with pytest.raises(DataError, match="twice"):
        Listed(["cat"], ["a {}", "a {}"])
    with pytest.raises(DataError, match=r"'the \{\}' is not in the pool"):
        Prompts(("cat",), ("a {}",), ("the {}",))


def test_captions_and_pool() -> None:
    captions = captions_for(("bag", "coat"), coloured=True)
    templates = sum(len(listed) for listed in STYLES.values())
    assert len(captions) == len(set(captions)) == len(BOILERPLATE) + templates * 2 * 6 + len(ADVERTS) * 2
    assert captions[: len(BOILERPLATE)] == list(BOILERPLATE)
    assert captions[len(BOILERPLATE)] == "a photo of a bag"
    assert len(captions_for(("bag", "coat"), coloured=False)) == len(BOILERPLATE) + templates * 2 + len(ADVERTS) * 2
    assert captions[-2:] == ["our bag catalogue", "our coat catalogue"]
    assert len(COLOURS) == 5
    assert sum(SHARES.values()) == pytest.approx(1)
    assert sum(BOILERPLATE.values()) == pytest.approx(1)
    assert list(SHARES) == list(STYLES)

    prompts = prompts_for("night", ("bag",))
    assert prompts.pool == POOL
    assert set(prompts.own) == set(STYLES["night"])
    assert (len(FILLED), len(PLANTED), len(POOL)) == (8, 16, 48)
    named = {t.replace("{}", "bag") for t in FILLED}
    assert not named & set(captions)  # boilerplate never names a class: these are no captions
    assert {t.replace("{}", "bag") for t in PLANTED} & set(captions) == {t.replace("{}", "bag") for t in ADVERTS}
