"""Images by row number: one stage keeps features of the images by row, later ones learn from rows and targets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from datamodules.common.arrays import ArrayData, Split
from datamodules.common.base import DataError, DataModule, Share, Spec, generator, hashed
from datamodules.common.loader import Columns, Loader, batch_type
from datamodules.common.photo_patches import CELLS, PhotoPatches, assemble

_READ: dict[tuple[Any, ...], dict[str, Split]] = {}


def read_once(source: ArrayData | PhotoPatches) -> dict[str, Split]:
    """The splits of a source, kept for the stages that follow in this process: a paper has many on the same images."""
    plain = {k: repr(v) for k, v in vars(source).items() if v is None or isinstance(v, bool | int | float | str | Path)}
    key = (type(source), *sorted(plain.items()))
    if key not in _READ:
        source.setup()
        while len(_READ) >= 3:
            _READ.pop(next(iter(_READ)))
        _READ[key] = source.splits
    return _READ[key]


class Collection(DataModule):
    """Every image has a row number; `rows` says which are for training (or the references of a retrieval task) and
    which for testing (or queries).

    With `exports` the training batches are (images (B, C, H, W) in [0, 1], row (B,)) of ALL rows, without any target,
    and so are the test batches, of the test rows. Without it batches are (row (B,), target (B, ...)) of their split.

    Args:
        batch_size: the global batch, over all devices.
        exports: see above.
        first: training rows that are served with targets; None serves all.
        seed, generated: see DataModule.
    """

    def __init__(
        self,
        batch_size: int,
        exports: bool = False,
        first: int | None = None,
        seed: int = 0,
        generated: bool = False,
    ) -> None:
        super().__init__(batch_size, seed, generated)
        self.exports, self.first = exports, first
        self.rows: dict[str, Tensor] = {}
        self.targets: dict[str, Tensor] = {}
        self._spec: Spec | None = None

    def declared(self) -> Spec:
        """The spec before anything is read."""
        raise NotImplementedError

    def read(self) -> str:
        """Set `rows` and `targets`; returns the identity of the data."""
        raise NotImplementedError

    def images(self, rows: Tensor) -> Tensor:
        """(b,) -> (b, C, H, W) float32 in [0, 1]."""
        raise NotImplementedError

    @property
    def spec(self) -> Spec:
        declared = self._spec or self.declared()
        served = min(declared.sizes["train"], self.first or declared.sizes["train"])
        return replace(declared, sizes={**declared.sizes, "train": served})

    def setup(self, stage: str | None = None) -> None:
        if self.rows:
            return
        if self.generated:
            self._stand_in()
            return
        if problem := self.available():
            raise DataError(problem)
        identity = self.read()
        there = len(self.rows["train"])
        if self.first is not None and not 1 <= self.first <= there:
            raise DataError(f"first={self.first}: {self.declared().name} has {there} training rows")
        sizes = {"train": there, "val": 0, "test": len(self.rows["test"])}
        self._spec = replace(self.declared(), sizes=sizes, identity=identity)

    def _stand_in(self) -> None:
        """A batch of random training images and one of test images, with targets of the declared kind."""
        n = self.batch_size
        self.rows = {"train": torch.arange(n), "test": torch.arange(n, 2 * n)}
        self.targets = {name: self.random_targets(n) for name in self.rows}
        self._spec = replace(self.declared(), source="generated")

    def random_targets(self, count: int) -> Tensor:
        return torch.arange(count) % len(self.declared().classes)

    def random_images(self, rows: Tensor) -> Tensor:
        shape = self.declared().shape
        drawn = [torch.rand(shape, generator=generator("stand-in row", row)) for row in rows.tolist()]
        return torch.stack(drawn)

    def served(self, name: str) -> tuple[Tensor, Tensor | None]:
        if self.exports:
            every = torch.cat(list(self.rows.values())).unique()
            return (every if name == "train" else self.rows[name]), None
        keep = slice(self.first if name == "train" else None)
        return self.rows[name][keep], self.targets[name][keep]

    def _loader(self, name: str) -> Loader:
        """Batches (x, row) where images are exported, (row, y) where their features are looked up."""
        rows, targets = self.served(name)
        batches = self.batches(len(rows), shuffle=name == "train")
        if targets is not None:
            return Loader(batches, Columns(self.device, row=rows, y=targets))
        images = self.random_images if self.generated else self.images

        def exported(share: Share) -> Any:
            shown = rows[share.indices]
            return batch_type(("x", "row"))(images(shown).to(self.device), shown.to(self.device))

        return Loader(batches, exported)

    def train_dataloader(self) -> Loader:
        return self._loader("train")

    def val_dataloader(self) -> list[Loader]:
        return []

    def test_dataloader(self) -> Loader:
        return self._loader("test")


class ArrayCollection(Collection):
    """The training and test images of an in-memory dataset; the target is the label.

    Args:
        source: the images; its sizes, seed and splits are used.
        attributes: 0 or 1 for each class and attribute, (classes, K): the target becomes the class's row.
        names: of the attributes.
        others: see Collection.
    """

    def __init__(
        self,
        source: ArrayData,
        batch_size: int,
        exports: bool = False,
        first: int | None = None,
        attributes: Sequence[Sequence[int]] | None = None,
        names: Sequence[str] = (),
        generated: bool = False,
    ) -> None:
        super().__init__(batch_size, exports, first, source.seed, generated)
        self.source, self.names = source, tuple(names)
        self.attributes = torch.tensor(attributes) if attributes is not None else None
        classes = len(source.declared().classes)
        if self.attributes is not None and self.attributes.shape != (classes, len(self.names)):
            raise DataError(f"attributes: expected {classes} rows (one a class) of {len(self.names)} numbers")

    @property
    def root(self) -> Path | None:
        return getattr(self.source, "root", None)

    def available(self) -> str:
        return self.source.available()

    def prepare_data(self) -> None:
        if not self.generated:
            self.source.prepare_data()

    def declared(self) -> Spec:
        there = self.source.spec
        unscaled = replace(there, mean=(0.0,) * there.shape[0], std=(1.0,) * there.shape[0])
        return replace(unscaled, classes=self.names) if self.attributes is not None else unscaled

    def random_targets(self, count: int) -> Tensor:
        if self.attributes is None:
            return super().random_targets(count)
        return self.attributes[torch.arange(count) % len(self.attributes)]

    def read(self) -> str:
        found = read_once(self.source)
        start, splits = 0, {name: found[name] for name in ("train", "test")}
        for name, (images, labels) in splits.items():
            self.rows[name] = torch.arange(start, start + len(images))
            self.targets[name] = labels if self.attributes is None else self.attributes[labels]
            start += len(images)
        self.array = torch.cat([images for images, _ in splits.values()])
        return hashed(self.array, *self.targets.values())

    def images(self, rows: Tensor) -> Tensor:
        return self.array[rows].float() / self.source.peak


class Crops(Collection):
    """Instance retrieval made from any images: references are whole images, each query is a square cut at random out of
    one of them, turned, perhaps mirrored and made grey, and enlarged to the size of a reference.

    The target of a query marks the image it was cut from, (references,) of 0 and 1.

    Args:
        source: the images, or photos; those of its training split are used, or of its test split without one.
        references, queries: how many; no two queries are from the same reference while there are enough.
        grid: side of a reference in images of the source, 1 or 2: whole images or canvases of four. No image is on two
            canvases.
        side: of the cut square, as a share of the reference's.
        rotation: largest angle in degrees, both ways.
        mirror: mirror each query with probability 1/2.
        grey: queries lose their colour.
        seed: draws references and queries.
        others: see Collection.
    """

    def __init__(
        self,
        source: ArrayData | PhotoPatches,
        batch_size: int,
        references: int,
        queries: int,
        grid: int = 1,
        side: float = 0.5,
        rotation: float = 15.0,
        mirror: bool = True,
        grey: bool = False,
        exports: bool = False,
        seed: int = 0,
        generated: bool = False,
    ) -> None:
        super().__init__(batch_size, exports, None, seed, generated)
        if grid not in (1, 2):
            raise DataError(f"grid={grid}: expected 1 or 2")
        if not 0 < side <= 1 or queries > references:
            raise DataError(f"side={side}, queries={queries}: expected a side up to 1 and at most {references} queries")
        self.source, self.references, self.queries, self.grid = source, references, queries, grid
        self.side, self.rotation, self.mirror, self.grey = side, rotation, mirror, grey

    @property
    def root(self) -> Path | None:
        return getattr(self.source, "root", None)

    def available(self) -> str:
        return self.source.available()

    def prepare_data(self) -> None:
        if not self.generated:
            self.source.prepare_data()

    def declared(self) -> Spec:
        there = self.source.spec
        channels, height, width = there.shape
        shown = "canvases of 2x2 images" if self.grid == 2 else "whole images"
        return replace(
            there,
            name=f"squares cut from {there.name}",
            shape=(channels, self.grid * height, self.grid * width),
            sizes={"train": self.references, "val": 0, "test": self.queries},
            mean=(0.0,) * channels,
            std=(1.0,) * channels,
            split=f"references are {shown}; a query is a square of {self.side:.0%} of the side cut from one of them, "
            f"turned by up to {self.rotation:g} degrees{', mirrored at random' * self.mirror}{', grey' * self.grey}; "
            "drawn by the seed",
        )

    def random_targets(self, count: int) -> Tensor:
        return torch.eye(count, dtype=torch.long)

    def read(self) -> str:
        splits = read_once(self.source)
        images = splits["train" if "train" in splits else "test"][0]
        each = CELLS if self.grid == 2 else 1
        if len(images) < self.references * each:
            raise DataError(f"{self.source.spec.name} has {len(images)} images; {self.references * each} are needed")
        source = generator("squares", self.seed)
        chosen = torch.randperm(len(images), generator=source)[: self.references * each].view(-1, each)
        whole = images[chosen[:, 0]]
        if self.grid == 2:
            whole = assemble(images, chosen, torch.arange(CELLS).expand_as(chosen), 0)
        of = torch.randperm(self.references, generator=source)[: self.queries]
        cut = self.cut(whole[of].float(), source).round().clamp(0, 255).to(whole.dtype)
        self.array = torch.cat([whole, cut])
        self.rows = {"train": torch.arange(self.references), "test": self.references + torch.arange(self.queries)}
        marked = F.one_hot(of, self.references)
        self.targets = {"train": torch.zeros(self.references, dtype=torch.long), "test": marked}
        return hashed(self.array, marked)

    def cut(self, images: Tensor, source: torch.Generator) -> Tensor:
        """One random square of each image (B, C, H, W), at the image's own size."""
        b = len(images)
        angle = (torch.rand(b, generator=source) * 2 - 1) * math.radians(self.rotation)
        centre = (torch.rand(b, 2, generator=source) * 2 - 1) * (1 - self.side)
        flip = 1 - 2 * (torch.rand(b, generator=source) < 0.5).float() * self.mirror
        cos, sin = angle.cos() * self.side, angle.sin() * self.side
        theta = torch.stack([cos * flip, -sin, centre[:, 0], sin * flip, cos, centre[:, 1]], 1).view(-1, 2, 3)
        grid = F.affine_grid(theta, list(images.shape), align_corners=False)
        cut = F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
        return cut.mean(1, keepdim=True).expand_as(cut) if self.grey else cut

    def images(self, rows: Tensor) -> Tensor:
        peak = self.source.peak if isinstance(self.source, ArrayData) else 255
        return self.array[rows].float() / peak
