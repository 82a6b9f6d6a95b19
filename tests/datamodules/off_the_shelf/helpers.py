"""Photos and tables of small folders, in the layouts that benchmarks come in."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from datamodules.off_the_shelf.photos import PhotoCollection


def photo(path: Path, colour: tuple[int, int, int] = (9, 9, 9), size: tuple[int, int] = (40, 30)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def write(path: Path, *rows: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")


def ready(data: PhotoCollection) -> PhotoCollection:
    data.setup()
    return data
