"""A user's photos for tests: crops of different sizes, cut from the photos that scikit-learn and matplotlib ship."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

from matplotlib import cbook
from PIL import Image
from sklearn import datasets

CLASSES = ("flower", "person", "roof", "trees")
SHORTEST, LONGEST = 40, 96  # sides of a crop


def write_photos(folder: Path, per_class: int = 16, *, grey: bool = False) -> Path:
    """folder/<class>/<number>.png of four classes, the same each time."""
    for name, photo in _photos():
        drawn = random.Random(name)
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(per_class):
            width, height = drawn.randint(SHORTEST, LONGEST), drawn.randint(SHORTEST, LONGEST)
            left, top = drawn.randint(0, photo.width - width), drawn.randint(0, photo.height - height)
            crop = photo.crop((left, top, left + width, top + height))
            crop.convert("L" if grey else "RGB").save(folder / name / f"{number:02d}.png")
    return folder


def _photos() -> Iterator[tuple[str, Image.Image]]:
    """Each class, and the photo or the part of one that shows it."""
    shipped = Path(datasets.__file__).parent / "images"
    with Image.open(shipped / "china.jpg") as photo:
        china = photo.convert("RGB")
    with Image.open(shipped / "flower.jpg") as photo:
        yield "flower", photo.convert("RGB")
    with cbook.get_sample_data("grace_hopper.jpg") as opened, Image.open(opened) as photo:
        yield "person", photo.convert("RGB")
    yield "roof", china.crop((0, 0, china.width, china.height // 2))
    yield "trees", china.crop((0, china.height // 2, china.width, china.height))
