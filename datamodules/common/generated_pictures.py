"""Data of detectors of generated pictures: what generators learn from, and real and generated pictures side by side.

A source's three splits have one part each: a generator is trained on `train`, a detector on `val`, and tested on
`test`. No generator has seen a picture that a detector sees.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from datamodules.common.arrays import ArrayData
from datamodules.common.augment import Augmentation
from datamodules.common.base import DataError, Fed, Share, Spec, generator, hashed
from datamodules.common.loader import Columns, Images, Loader
from datamodules.common.views import View

REAL = 0  # label; a generated picture is 1
EVERY = -1  # subset of real pictures that all generators' pictures are compared with
PICTURES = "pictures"  # artifact of a generator: (val + test, C, H, W) uint8, in the source's order


def to_bytes(images: Tensor) -> Tensor:
    """Images in [0, 1] as uint8, rounded; uint8 ones stay as they are."""
    if images.dtype == torch.uint8:
        return images
    return (images.float().clamp(0, 1) * 255).round().to(torch.uint8)


def recompress(images: Tensor, quality: int) -> Tensor:
    """What is decoded of a JPEG file of each image: (N, 3, H, W) uint8 both."""
    decoded = torch.empty_like(images)
    for row, image in enumerate(images):
        file = io.BytesIO()
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, "JPEG", quality=quality)
        with Image.open(file) as picture:
            decoded[row] = torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)
    return decoded


def finish(images: Tensor, jpeg: int | None) -> Tensor:
    """The last steps in the history of every picture, real or generated: bytes, and where asked for a JPEG file.

    Args:
        images: (N, 3, H, W), uint8 or in [0, 1].
        jpeg: quality; None leaves it out.
    Returns:
        (N, 3, H, W) uint8.
    """
    pictures = to_bytes(images)
    return pictures if jpeg is None else recompress(pictures, jpeg)


class GeneratorSets(View):
    """What a generator is trained on, and as its test set the pictures of the detectors: val, then test. In [-1, 1].

    Args:
        source: pictures in memory with three splits.
        batch_size: the global batch, over all devices.
        augment: operations on training batches, in order.
        generated: see DataModule.
    """

    def __init__(
        self, source: ArrayData, batch_size: int, augment: Sequence[Augmentation] = (), generated: bool = False
    ) -> None:
        super().__init__(source, batch_size, generated=generated)
        self.augment = augment

    @property
    def spec(self) -> Spec:
        there = self.source.spec
        half = (0.5,) * there.shape[0]
        sizes = {"train": there.sizes["train"], "val": 0, "test": there.sizes["val"] + there.sizes["test"]}
        return replace(there, sizes=sizes, mean=half, std=half, split=f"{there.split}; tested on what detectors see")

    def setup(self, stage: str | None = None) -> None:
        self.source.setup(stage)

    def _loader(self, names: Sequence[str]) -> Loader:
        train = names == ["train"]
        images, labels = (torch.cat(parts) for parts in zip(*(self.source.splits[n] for n in names), strict=True))
        columns = Columns(self.device, x=images, y=labels)
        batches = self.batches(len(labels), shuffle=train)
        return Loader(batches, Images(columns, self.spec, augment=self.augment if train else ()))

    def train_dataloader(self) -> Loader:
        return self._loader(["train"])

    def val_dataloader(self) -> list[Loader]:
        return []

    def test_dataloader(self) -> Loader:
        return self._loader(["val", "test"])


class RealOrGenerated(View):
    """Real pictures (label 0) and as many generated ones (label 1) to train on; all generators' pictures to test on.

    Batches are x (in [-1, 1]), y, subset (the generator's number, -1 for real pictures, which belong to all) and
    category (the source's label; of the picture at the same place in the source where a picture was drawn anew).

    Args:
        source: pictures in memory with three splits; see the top of this file.
        batch_size: the global batch, over all devices.
        names: of the generators.
        train_on: those whose pictures are trained on; several share the rows, so that the number stays.
        generators: the stages that made the pictures, in the order of `names`.
        jpeg: quality of the JPEG file that every picture was last; None for none.
        only_real: only real pictures were JPEG files: a leak on purpose.
        categories: of the source, that are trained on; None takes all.
        augment: operations on training batches, in order.
        generated: see DataModule.
    Raises:
        DataError: an unknown generator or category, another number of stages than names, or of pictures than the source
            has.
    """

    def __init__(
        self,
        source: ArrayData,
        batch_size: int,
        names: Sequence[str],
        train_on: Sequence[str],
        generators: Sequence[Fed] = (),
        jpeg: int | None = None,
        only_real: bool = False,
        categories: Sequence[int] | None = None,
        augment: Sequence[Augmentation] = (),
        generated: bool = False,
    ) -> None:
        super().__init__(source, batch_size, generated=generated)
        if len(generators) != len(names):
            raise DataError(f"names={list(names)}: expected one for each of {len(generators)} stages that feed it")
        if unknown := [name for name in train_on if name not in names] or ([] if train_on else ["nothing"]):
            raise DataError(f"train_on: {unknown[0]!r}: expected some of {', '.join(names)}")
        self.names = tuple(names)
        self.train_on = tuple(train_on)
        self.generators = generators
        self.jpeg = jpeg
        self.only_real = only_real
        self.categories = None if categories is None else tuple(categories)
        self.augment = augment
        self.columns: dict[str, dict[str, Tensor]] = {}
        self.identity = ""

    @property
    def spec(self) -> Spec:
        there = self.source.spec
        half = (0.5,) * there.shape[0]
        made = len(self.train_on)
        return replace(
            there,
            name=f"{there.name}, real or generated",
            classes=("real", "generated"),
            sizes={"train": 2 * there.sizes["val"], "val": 0, "test": (1 + len(self.names)) * there.sizes["test"]},
            mean=half,
            std=half,
            split=f"{there.split}; generated by {made} of {len(self.names)} generators in training, by all in the test",
            identity=self.identity,
        )

    def setup(self, stage: str | None = None) -> None:
        if self.columns:
            return
        self.source.setup(stage)
        (seen, _), (tested, _) = self.source.splits["val"], self.source.splits["test"]
        made = [self._pictures(number, len(seen) + len(tested)) for number in range(len(self.names))]
        self.columns = {
            "train": self._train([pictures[: len(seen)] for pictures in made]),
            "test": self._test([pictures[len(seen) :] for pictures in made]),
        }
        self.identity = hashed(*(column for split in self.columns.values() for column in split.values()))

    def _pictures(self, number: int, expected: int) -> Tensor:
        if self.generated:
            random = generator("stand-in of a generator", self.seed, number)
            return torch.randint(256, (expected, *self.source.spec.shape), generator=random, dtype=torch.uint8)
        pictures = torch.from_numpy(np.array(self.generators[number].arrays[PICTURES]))
        if pictures.shape != (expected, *self.source.spec.shape):
            raise DataError(
                f"generator {self.names[number]!r} made pictures {tuple(pictures.shape)}; "
                f"{self.source.spec.name} has {(expected, *self.source.spec.shape)}"
            )
        return pictures

    def history(self, pictures: Tensor, *, real: bool) -> Tensor:
        """Pictures as a detector gets them."""
        return finish(pictures, self.jpeg if real or not self.only_real else None)

    def _train(self, made: list[Tensor]) -> dict[str, Tensor]:
        images, categories = self.source.splits["val"]
        kept = torch.arange(len(images))
        if self.categories is not None:
            kept = torch.isin(categories, torch.tensor(self.categories)).nonzero().flatten()
            if not len(kept):
                raise DataError(f"categories={list(self.categories)}: {self.source.spec.name} has no such picture")
        chosen = [self.names.index(name) for name in self.train_on]
        owner = torch.tensor(chosen)[torch.arange(len(kept)) % len(chosen)]  # whose picture stands in each row
        fakes = torch.stack([made[g][row] for g, row in zip(owner.tolist(), kept.tolist(), strict=True)])
        return self._joined([(images[kept], REAL, EVERY), (fakes, 1, owner)], categories[kept])

    def _test(self, made: list[Tensor]) -> dict[str, Tensor]:
        images, categories = self.source.splits["test"]
        parts: list[Any] = [(images, REAL, EVERY)]
        parts += [(pictures, 1, number) for number, pictures in enumerate(made)]
        return self._joined(parts, categories)

    def _joined(self, parts: list[Any], categories: Tensor) -> dict[str, Tensor]:
        counts = [len(images) for images, _, _ in parts]
        pictures = [self.history(images, real=label == REAL) for images, label, _ in parts]
        subsets = [torch.as_tensor(subset).expand(count) for (_, _, subset), count in zip(parts, counts, strict=True)]
        return {
            "x": torch.cat(pictures),
            "y": torch.cat([torch.full((count,), label) for (_, label, _), count in zip(parts, counts, strict=True)]),
            "subset": torch.cat(subsets),
            "category": categories.repeat(len(parts)),
        }

    def fetch(self, name: str) -> Callable[[Share], Any]:
        """Makes a split's batches."""
        columns = Columns(self.device, **self.columns[name])
        return Images(columns, self.spec, augment=self.augment if name == "train" else ())

    def _loader(self, name: str) -> Loader:
        batches = self.batches(len(self.columns[name]["y"]), shuffle=name == "train")
        return Loader(batches, self.fetch(name))

    def train_dataloader(self) -> Loader:
        return self._loader("train")

    def val_dataloader(self) -> list[Loader]:
        return []

    def test_dataloader(self) -> Loader:
        return self._loader("test")
