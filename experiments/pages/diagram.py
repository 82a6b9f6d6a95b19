"""The diagram of a paper's stages: which of them needs which, with few crossings. Imports no torch."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from experiments.pages.drawing import LETTER, path, stroke, svg, text

TALL = 40  # px, of a box
THIN = 6  # px, of an arrow that passes between boxes
GAP = 12  # px, between what stands one above the other
BETWEEN = 60  # px, between columns


@dataclass(frozen=True)
class Box:
    """A stage in the diagram; `note` is the second line, in a word or two."""

    name: str
    needs: Sequence[str]
    trained: bool
    note: str


def draw(boxes: Sequence[Box], styles: Mapping[str, int]) -> str:
    """The stages from left to right, with an arrow from what is needed to what needs it.

    A trained stage has a solid, filled box and a stage that is only tested a dashed, empty one; the note says it too.
    The text keeps its size: a narrow page scrolls the picture instead of shrinking it.
    """
    names = {box.name for box in boxes}
    needs = {box.name: [name for name in box.needs if name in names] for box in boxes}
    layers, routes = _layers(boxes, needs)
    wide = max([78.0, *(_width(box) for box in boxes)])
    tallest = max(_layer_height(layer, names) for layer in layers)
    place = _places(layers, names, wide, tallest)

    body = []
    for box in boxes:
        arriving = [route for route in routes if route[-1] == box.name]
        arriving.sort(key=lambda route: place[route[-2]][1])
        apart = min(9, 30 / max(1, len(arriving)))  # px, between the heads of two arrows
        for index, route in enumerate(arriving):
            port = (index - (len(arriving) - 1) / 2) * apart
            body.append(_arrow(route, place, wide, port, stroke(styles[route[0]])))
    for box in boxes:
        body += _box(box, place[box.name], wide)

    width = len(layers) * (wide + BETWEEN) - BETWEEN + 8
    told = [_told(box, needs[box.name]) for box in boxes]
    return svg(round(width), round(tallest + 8), f"Stages: {'; '.join(told)}", body, "diagram")


def _width(box: Box) -> float:
    """What the text of a box needs; its name is written larger than its note."""
    letters = max(len(box.name) * 1.17, len(box.note))
    return letters * LETTER + 18


def _told(box: Box, needs: Sequence[str]) -> str:
    return f"{box.name} ({box.note})" + (f" needs {', '.join(needs)}" if needs else "")


def _box(box: Box, place: tuple[float, float], wide: float) -> list[str]:
    """A stage's box with its two lines of text."""
    left, middle = place
    look = 'fill-opacity="0.07"' if box.trained else 'fill="none" stroke-dasharray="4 3"'
    size = f'x="{left:g}" y="{middle - TALL / 2:g}" width="{wide:g}" height="{TALL}" rx="5"'
    return [
        f'<rect {size} {look} stroke="currentColor" stroke-opacity="0.7"/>',
        text(left + 9, middle - 3, box.name, 'font-size="12" font-weight="600"'),
        text(left + 9, middle + 12, box.note, 'opacity="0.8"'),
    ]


def _key_height(key: str, names: Collection[str]) -> int:
    return TALL if key in names else THIN


def _layer_height(layer: Sequence[str], names: Collection[str]) -> int:
    return sum(_key_height(key, names) for key in layer) + GAP * (len(layer) - 1)


def _places(
    layers: Sequence[Sequence[str]], names: Collection[str], wide: float, tallest: float
) -> dict[str, tuple[float, float]]:
    """Left edge and middle of each key, columns centred beside the tallest."""
    places = {}
    for column, layer in enumerate(layers):
        left = 4 + column * (wide + BETWEEN)
        top = 4 + (tallest - _layer_height(layer, names)) / 2
        for key in layer:
            height = _key_height(key, names)
            places[key] = (left, top + height / 2)
            top += height + GAP
    return places


def _depths(boxes: Sequence[Box], needs: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """How many stages, at most, come before each."""
    depth = dict.fromkeys(needs, 0)
    for _ in boxes:
        for box in boxes:
            depth[box.name] = max([0, *(depth[name] + 1 for name in needs[box.name])])
    return depth


def _layers(boxes: Sequence[Box], needs: Mapping[str, Sequence[str]]) -> tuple[list[list[str]], list[list[str]]]:
    """Columns of keys in an order with few crossings, and each arrow as the keys it passes.

    An arrow over several columns gets a key of its own in those between, so that it passes between boxes, not behind.
    """
    depth = _depths(boxes, needs)
    layers: list[list[str]] = [[] for _ in range(max(depth.values(), default=0) + 1)]
    for box in boxes:
        layers[depth[box.name]].append(box.name)
    routes = []
    for box in boxes:
        for source in needs[box.name]:
            between = range(depth[source] + 1, depth[box.name])
            passed = [f"{source}\n{box.name}\n{column}" for column in between]
            for column, key in zip(between, passed, strict=True):
                layers[column].append(key)
            routes.append([source, *passed, box.name])
    _untangle(layers, routes)
    return layers, routes


def _untangle(layers: list[list[str]], routes: Sequence[Sequence[str]]) -> None:
    """Sort each column by the middle of what it is joined to: to the right, back, and to the right again."""
    joined: dict[str, set[str]] = {}
    for route in routes:
        for a, b in pairwise(route):
            joined.setdefault(a, set()).add(b)
            joined.setdefault(b, set()).add(a)
    for near in (-1, 1, -1):
        columns = range(len(layers))
        for column in columns if near < 0 else reversed(columns):
            if 0 <= column + near < len(layers):
                rank = _rank(layers[column + near])
                middles = _middles(layers[column], rank, joined)
                layers[column].sort(key=middles.__getitem__)


def _middles(layer: Sequence[str], rank: Mapping[str, float], joined: Mapping[str, set[str]]) -> dict[str, float]:
    """The mean rank of what each key is joined to in the next column; its own where there is nothing."""
    middles = {}
    for key, own in _rank(layer).items():
        linked = [rank[other] for other in sorted(joined.get(key, ())) if other in rank]
        middles[key] = sum(linked) / len(linked) if linked else own
    return middles


def _rank(layer: Sequence[str]) -> dict[str, float]:
    """Where each key of a column lies, from 0 at the top to 1."""
    return {key: index / max(1, len(layer) - 1) for index, key in enumerate(layer)}


def _arrow(route: Sequence[str], place: Mapping[str, tuple[float, float]], wide: float, port: float, ink: str) -> str:
    """A smooth line from the right edge of the first to the left edge of the last, with a head."""
    left, y = place[route[0]]
    x = left + wide
    steps = [f"M{x:g} {y:g}"]
    for key in route[1:]:
        is_last = key == route[-1]
        left, middle = place[key]
        end = left - 6 if is_last else left
        level = middle + port if is_last else middle
        half = (end - x) / 2
        steps.append(f"C{x + half:g} {y:g} {end - half:g} {level:g} {end:g} {level:g}")
        x, y = end, level
        if not is_last:
            x += wide
            steps.append(f"H{x:g}")
    colour = ink.split('"')[1].replace("stroke:", "fill:")
    head = path(f"M{x + 6:g} {y:g}l-7 -3.5v7z", f'style="{colour}"')
    return path("".join(steps), f'fill="none" {ink} opacity="0.75"') + head
