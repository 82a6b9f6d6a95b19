"""Generated: pictures of 4 x 4 noisy cells; emblems tell the coarse class, and it tells which symbol counts."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from datamodules.common.arrays import ArrayData, Split
from datamodules.common.base import DataError, Spec, generator

COARSE = 20
FINE = 5  # classes of a coarse class: the symbols of its alphabet
ALPHABETS = 4  # coarse class k reads alphabet k mod 4
GRID = 4
CELL = 5
SIDE = GRID * CELL
CELLS = GRID * GRID
CLASSES = tuple(f"emblem {k}, symbol {f}" for k in range(COARSE) for f in range(FINE))
REACH = 6.0  # black and white stand for -6 and 6; patterns are -1 and 1, empty cells 0, before noise


@dataclass(frozen=True)
class Scene:
    """What stands in the 16 cells of a picture, in random places; cells that are left are empty.

    One symbol of each of the three alphabets that do not count stands there as well.

    Attributes:
        emblems: cells with the coarse class's emblem.
        symbols: cells with the symbol that counts.
        strangers: cells with the emblems of other coarse classes, each of another one.
        noise: standard deviation of white noise.
    Raises:
        DataError: more than 16 cells, none of a kind that is needed, or negative noise.
    """

    emblems: int = 5
    symbols: int = 2
    strangers: int = 6
    noise: float = 1.4

    def __post_init__(self) -> None:
        taken = self.emblems + self.symbols + self.strangers + ALPHABETS - 1
        if self.emblems < 1 or self.symbols < 1 or self.strangers < 0 or taken > CELLS or self.noise < 0:
            raise DataError(
                f"emblems={self.emblems}, symbols={self.symbols}, strangers={self.strangers}, noise={self.noise}: "
                f"expected 1 or more emblems and symbols, {CELLS - ALPHABETS + 1} cells in all at most, and no "
                "negative noise"
            )


def patterns() -> tuple[Tensor, Tensor]:
    """The emblems (20, 5, 5) and the symbols (4, 5, 5, 5) of all pictures: random signs, the same for every seed."""
    source = generator("emblems and symbols", 0)
    emblems = torch.randint(2, (COARSE, CELL, CELL), generator=source)
    symbols = torch.randint(2, (ALPHABETS, FINE, CELL, CELL), generator=source)
    return 2.0 * emblems - 1, 2.0 * symbols - 1


def draw(labels: Tensor, scene: Scene, source: torch.Generator) -> Tensor:
    """One picture for each label (N,) of CLASSES: uint8 (N, 1, 20, 20)."""
    emblems, symbols = patterns()
    n = len(labels)
    coarse = labels // FINE  # (N,)
    alphabet = coarse % ALPHABETS

    others = (alphabet[:, None] + torch.arange(1, ALPHABETS)) % ALPHABETS  # (N, 3)
    unread = torch.randint(FINE, (n, ALPHABETS - 1), generator=source)
    away = torch.rand(n, COARSE - 1, generator=source).argsort(1)[:, : scene.strangers] + 1
    strangers = (coarse[:, None] + away) % COARSE  # (N, strangers)

    cells = torch.zeros(n, CELLS, CELL, CELL)
    shown = [
        emblems[coarse][:, None].expand(-1, scene.emblems, -1, -1),
        symbols[alphabet, labels % FINE][:, None].expand(-1, scene.symbols, -1, -1),
        symbols[others, unread],
        emblems[strangers],
    ]
    content = torch.cat(shown, 1)  # (N, taken, 5, 5)
    cells[:, : content.shape[1]] = content
    order = torch.rand(n, CELLS, generator=source).argsort(1)
    cells = cells[torch.arange(n)[:, None], order]  # (N, 16, 5, 5)

    picture = cells.view(n, GRID, GRID, CELL, CELL).transpose(2, 3).reshape(n, 1, SIDE, SIDE)
    noisy = picture + scene.noise * torch.randn(picture.shape, generator=source)
    grey = (noisy + REACH) / (2 * REACH)
    return (255 * grey).round().clamp(0, 255).to(torch.uint8)


class Emblems(ArrayData):
    """Pictures of 20 coarse classes of 5 fine ones each, all 100 equally often, made anew for each seed.

    Args:
        train_size, val_size, test_size: images; train and val are cut from one set, test is another.
        scene: what they show.
        batch_size, seed, generated: see ArrayData.
    """

    def __init__(
        self,
        batch_size: int,
        scene: Scene | None = None,
        train_size: int = 6000,
        val_size: int = 0,
        test_size: int = 5000,
        seed: int = 0,
        generated: bool = False,
    ) -> None:
        super().__init__(batch_size, train_size, val_size, test_size, seed=seed, generated=generated)
        if train_size < 1 or val_size < 0 or test_size < 1:
            sizes = {"train": train_size, "val": val_size, "test": test_size}
            raise DataError(f"{sizes}: expected numbers of images and no negative one")
        self.counts = {"train": train_size + val_size, "test": test_size}
        self.scene = scene or Scene()

    def declared(self) -> Spec:
        filled = (self.scene.emblems + self.scene.symbols + self.scene.strangers + ALPHABETS - 1) / CELLS
        deviation = (filled + self.scene.noise**2) ** 0.5 / (2 * REACH)
        return Spec(
            name="emblems with symbols",
            shape=(1, SIDE, SIDE),
            classes=CLASSES,
            sizes=self.counts,
            mean=(0.5,),
            std=(deviation,),
            split=f"procedurally generated {SIDE}x{SIDE} pictures, {self._words()}; train and test from different "
            "streams",
            source="generated",
            where="made by the suite",
        )

    def _words(self) -> str:
        scene = self.scene
        return (
            f"{scene.emblems} of {CELLS} cells with the emblem, {scene.symbols} with the symbol, {scene.strangers} with"
            f" other emblems, noise {scene.noise:g}"
        )

    def read(self) -> tuple[Split, Split]:
        splits = []
        for number, count in enumerate(self.counts.values()):
            source = generator("emblems", self.seed, number)
            labels = (torch.arange(count) % len(CLASSES))[torch.randperm(count, generator=source)]
            splits.append((draw(labels, self.scene, source), labels))
        return splits[0], splits[1]
