"""What a frozen concept model made of all images, as data: feature maps with labels and boxes, and concept vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.common.base import DataError, Fed, Spec, generator, hashed
from datamodules.common.loader import Columns, Loader
from datamodules.common.views import View
from datamodules.csr.findings import IN_TEST, NO_BOX

COLUMNS = ("y", "concepts", "boxes", "shows")


def arrays_of(export: Fed) -> Any:
    """What a stage made; in a dry run the module alone has it."""
    return export.arrays or export.module.artifacts()  # type: ignore[operator]


def scattered(boxes: Tensor, side: tuple[int, int], source: torch.Generator) -> Tensor:
    """Boxes of the same size at random places in the image.

    Args:
        boxes: (N, R, 4), x1, y1, x2, y2 in pixels.
        side: height and width of the image.
    """
    size = boxes[..., 2:] - boxes[..., :2]  # (N, R, 2) of x, y
    room = torch.tensor([side[1], side[0]]) - size
    corner = (torch.rand(size.shape, generator=source) * (room + 1)).floor().clamp(min=0)
    return torch.cat([corner, corner + size], -1)


def dealt(concepts: Tensor, source: torch.Generator) -> Tensor:
    """Each row's values in a random order: (N, K)."""
    order = torch.rand(concepts.shape, generator=source).argsort(1)
    return concepts.gather(1, order)


class Encoded(View):
    """Feature maps of `source`'s images, made by a stage that a frozen network encoded them in; all of its splits.

    Batches are x (B, c, H, W), y, concepts, boxes, shows as of findings.py, and row (B,), the image's number in its
    split. Those of tests have two more columns, what a doctor who knows nothing would do: elsewhere (B, R, 4), boxes of
    the same size at random places, and dealt (B, K), as many concepts at random.

    Args:
        source: the images; read for pictures alone.
        encoded: the stage, see modules.csr.module.Encode.
        batch_size: the global batch, over all devices.
        generated: see DataModule.
    Raises:
        DataError: maps of other images.
    """

    def __init__(self, source: Any, encoded: Fed, batch_size: int, generated: bool = False) -> None:
        super().__init__(source, batch_size, generated=generated)
        self.encoded = encoded
        self.identity = ""

    @cached_property
    def arrays(self) -> Any:
        return arrays_of(self.encoded)

    @property
    def concepts(self) -> tuple[str, ...]:
        return tuple(self.source.concepts)

    @property
    def image_side(self) -> tuple[int, int]:
        """Height and width of the images, which boxes are in pixels of."""
        height, width = self.source.spec.shape[1:]
        return height, width

    @property
    def grid(self) -> tuple[int, int]:
        """Height and width of the maps."""
        height, width = self.arrays["maps"].shape[2:]
        return height, width

    def rows(self, split: str, in_test: str = "in_test") -> Tensor:
        """Numbers of a split's rows; where images are generated, all are in both splits."""
        flags = torch.tensor(self.arrays[in_test])
        everything = torch.arange(len(flags))
        return everything if self.generated else everything[flags == IN_TEST[split]]

    @property
    def spec(self) -> Spec:
        there = self.source.spec
        sizes = {name: len(self.rows(name)) for name in ("train", "val", "test")}
        if self.generated:  # a dry run has a batch of maps and is about all images
            sizes = dict(there.sizes)
        return replace(
            there,
            shape=tuple(self.arrays["maps"].shape[1:]),
            sizes=sizes,
            split=f"{there.split}; as maps of a frozen concept model",
            identity=self.identity,
        )

    def setup(self, stage: str | None = None) -> None:
        if self.identity:
            return
        expected = sum(self.source.spec.sizes.values())
        if not self.generated and self.source.spec.source == "generated" and len(self.arrays["y"]) != expected:
            raise DataError(f"maps of {len(self.arrays['y'])} images, but {self.source.spec.name} has {expected}")
        self.identity = hashed(*(torch.tensor(self.arrays[name]) for name in ("maps", *COLUMNS)))

    def column(self, name: str, rows: Tensor) -> Tensor:
        """Rows of one of the arrays, which is only mapped into memory."""
        return torch.from_numpy(np.array(self.arrays[name][rows.numpy()]))

    def _columns(self, split: str) -> dict[str, Tensor | None]:
        rows = self.rows(split)
        columns: dict[str, Tensor | None] = {"x": self.column("maps", rows)}
        columns |= {name: self.column(name, rows) for name in COLUMNS}
        return {**columns, "row": None}

    def _serve(self, columns: dict[str, Tensor | None], *, shuffle: bool) -> Loader:
        (count,) = {len(column) for column in columns.values() if column is not None}
        return Loader(self.batches(count, shuffle=shuffle), Columns(self.device, **columns))

    def train_dataloader(self) -> Loader:
        return self._serve(self._columns("train"), shuffle=True)

    def val_dataloader(self) -> list[Loader]:
        return [self._serve(self._columns("val"), shuffle=False)] if self.spec.sizes["val"] else []

    def test_dataloader(self) -> Loader:
        columns = self._columns("test")
        boxes, concepts = columns["boxes"], columns["concepts"]
        assert boxes is not None
        assert concepts is not None
        controls = {
            "elsewhere": scattered(boxes, self.image_side, generator("boxes elsewhere", self.seed)),
            "dealt": dealt(concepts, generator("concepts at random", self.seed)),
        }
        return self._serve({**columns, **controls}, shuffle=False)

    def training_maps(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Maps (n, c, H, W), boxes (n, R, 4) and what they show (n, R) of some training images, by `row`."""
        chosen = self.rows("train")[rows.cpu()]
        return self.column("maps", chosen), self.column("boxes", chosen), self.column("shows", chosen)

    def training_images(self, rows: Sequence[int]) -> Tensor:
        """These images in [0, 1]: (n, 3, S, S)."""
        return self.source.shown(self.source.training_images(rows))


class ConceptVectors(Encoded):
    """Local concept vectors, one for every concept that is present in an image: x (V, c), y (V,) the concept, row (V,).

    `row` is the number of the vector's image in its split.
    """

    @property
    def spec(self) -> Spec:
        sizes = {"train": len(self._vectors("train")), "val": 0, "test": len(self._vectors("test"))}
        return replace(
            super().spec,
            shape=tuple(self.arrays["vectors"].shape[1:]),
            classes=self.concepts,
            sizes=sizes,
        )

    def _vectors(self, split: str) -> Tensor:
        return self.rows(split, "vector_in_test")

    def _columns(self, split: str) -> dict[str, Tensor | None]:
        chosen = self._vectors(split)
        place = torch.full((len(self.arrays["y"]),), NO_BOX)  # an image's number in its split, by its number in all
        rows = self.rows(split)
        place[rows] = torch.arange(len(rows))
        return {
            "x": self.column("vectors", chosen),
            "y": self.column("vector_concept", chosen),
            "row": place[self.column("vector_image", chosen)],
        }

    def val_dataloader(self) -> list[Loader]:
        return []

    def test_dataloader(self) -> Loader:
        return self._serve(self._columns("test"), shuffle=False)

    def some_vectors(self, count: int) -> Tensor:
        """Training vectors of each concept at random, `count` of each (some again if there are fewer): (K, count, c).

        Raises:
            DataError: a concept that no training image shows.
        """
        chosen = self._vectors("train")
        concept = self.column("vector_concept", chosen)
        source = generator("vectors to begin with", self.seed)
        rows = []
        for k, name in enumerate(self.concepts):
            own = chosen[concept == k]
            if not len(own):
                raise DataError(f"{self.source.spec.name}: no training image shows {name!r}")
            order = torch.randperm(len(own), generator=source)
            rows.append(own[order.repeat(-(-count // len(own)))[:count]])
        return torch.stack([self.column("vectors", r) for r in rows])
