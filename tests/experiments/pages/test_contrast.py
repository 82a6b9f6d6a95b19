"""Contrast by WCAG 2.2: 4.5 to one for text, 3 to one for bars and lines, on light and dark pages."""

from __future__ import annotations

import re

import pytest

from experiments.common.paths import ROOT
from experiments.pages import drawing, forest

Colour = tuple[float, float, float]
TEXT, GRAPHIC = 4.5, 3.0
GITHUB = {"light": "#ffffff", "dark": "#0d1117"}  # where README shows the picture
INKS = ("ink", "soft", "link", "good", "bad", "open", "none", "old")


def parse(colour: str) -> Colour:
    red, green, blue = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
    return red, green, blue


def over(colour: str, page: str, opacity: float) -> Colour:
    """What a colour looks like on a page through which it lets part of it."""
    red, green, blue = (opacity * a + (1 - opacity) * b for a, b in zip(parse(colour), parse(page), strict=True))
    return red, green, blue


def luminance(colour: Colour) -> float:
    """Relative luminance of an sRGB colour."""
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in colour]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: Colour, other: Colour) -> float:
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def variables() -> dict[str, dict[str, str]]:
    """The colours of the pages' style sheet, light and dark."""
    text = (ROOT / "experiments/pages/templates/base.html.j2").read_text(encoding="utf-8")
    roots = re.findall(r":root \{(.*?)\}", text, re.DOTALL)
    assert len(roots) == 2
    return {kind: dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", root)) for kind, root in zip(GITHUB, roots, strict=True)}


def test_contrast_of_known_pairs() -> None:
    assert contrast(parse("#000000"), parse("#ffffff")) == pytest.approx(21.0)
    assert contrast(parse("#777777"), parse("#ffffff")) == pytest.approx(4.48, abs=0.005)  # just too little for text
    assert over("#000000", "#ffffff", 0.25) == (0.75, 0.75, 0.75)


@pytest.mark.parametrize("kind", GITHUB)
def test_every_ink_of_the_pages_can_be_read(kind: str) -> None:
    colours = variables()[kind]
    for ink in INKS:
        for ground in ("page", "raised"):
            assert contrast(parse(colours[ink]), parse(colours[ground])) >= TEXT, f"{ink} on {ground}"
    for line in drawing.LIGHT if kind == "light" else drawing.DARK:
        assert contrast(parse(line), parse(colours["page"])) >= GRAPHIC, line


@pytest.mark.parametrize(("kind", "index"), [("light", 0), ("dark", 1)])
def test_words_and_bars_of_the_forest_can_be_read(kind: str, index: int) -> None:
    page = GITHUB[kind]
    assert contrast(over(forest.INK[kind], page, 0.8), parse(page)) >= TEXT  # the axis' values
    for verdict, pair in forest.COLOURS.items():
        assert contrast(parse(pair[index]), parse(page)) >= TEXT, verdict
        assert contrast(over(pair[index], page, forest.PALE), parse(page)) >= GRAPHIC, verdict
    (stale,) = [line for line in forest.picture([STALE]).splitlines() if line.startswith('<g class="supported"')]
    assert f'opacity="{forest.PALE}"' in stale
    assert 'fill="currentColor"><title>' in stale  # its word has the whole colour


STALE = forest.Row("a", "supported", 2.0, (1.0, 3.0), worth=1.0, stale=True)
