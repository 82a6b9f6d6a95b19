"""Photos that a generator learns from, and is measured against: its training images are its test images too."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from datamodules.common.arrays import ArrayData, Split
from datamodules.common.base import DataError, Spec, generator
from datamodules.common.folders import ImageFolder
from datamodules.common.views import View

HALVES = (0.5, 0.5, 0.5)


class Reference(View, ArrayData):
    """In-memory images in [-1, 1] whose training part, without augmentation, is the test part too.

    A Frechet distance is then between as many generated images and the images that were learned from.

    Args:
        source: the dataset; its training part and seed are used.
        batch_size: the global batch, over all devices.
        augment: see ArrayData.
        generated: see DataModule.
    """

    def __init__(self, source: ArrayData, batch_size: int, generated: bool = False, **options: Any) -> None:
        super().__init__(source, batch_size, generated=generated, **options)
        self.peak = source.peak

    def declared(self) -> Spec:
        there = self.source.spec
        half = (0.5,) * there.shape[0]
        sizes = {"train": there.sizes["train"], "test": there.sizes["train"]}
        split = "the official training set, which is measured against too"
        return replace(there, sizes=sizes, mean=half, std=half, split=split)

    def read(self) -> tuple[Split, Split]:
        self.source.setup()
        return self.source.splits["train"], self.source.splits["train"]


@dataclass(frozen=True)
class Collection:
    """A set of portraits.

    Attributes:
        title: the dataset.
        train: how many photos it has; a dry run goes by it.
        test: how many of them are measured against, and as many are generated.
        where: where to get it.
    """

    title: str
    train: int
    test: int = 50_000
    where: str = ""


class Portraits(ImageFolder):
    """Photos under `root/train/<any>/`, squeezed to a square; some of them, drawn by the seed, are measured against.

    Args:
        root, batch_size, num_workers, seed, generated: see ImageFolder.
        collection: the dataset, and how many of its photos are measured against.
        image_size: side of the square, pixels; they are served in [-1, 1], as generators make them.
        mirror: half of the training images, at random.
    Raises:
        DataError: fewer photos than are to be measured against.
    """

    test_split = "train"

    def __init__(
        self,
        root: str,
        batch_size: int,
        collection: Collection,
        image_size: int = 256,
        mirror: bool = False,
        num_workers: int = 8,
        seed: int = 0,
        generated: bool = False,
    ) -> None:
        options: dict[str, Any] = {"num_workers": num_workers, "seed": seed, "generated": generated}
        super().__init__(root, batch_size, image_size, image_size, mean=HALVES, std=HALVES, **options)
        self.collection = collection
        self.title = collection.title
        self.where = collection.where
        self.mirror = mirror

    def classes(self) -> tuple[str, ...]:
        return ("photo",) if self.generated else super().classes()

    def expected_sizes(self) -> dict[str, int]:
        if not self.generated:
            return super().expected_sizes()
        return {"train": self.collection.train, "test": self.collection.test}

    def _list(self) -> None:
        super()._list()
        photos = self.items["train"]
        measured = self.collection.test
        if len(photos) < measured:
            raise DataError(f"{self.root}/train holds {len(photos)} photos; collection.test={measured} asks for more")
        chosen = torch.randperm(len(photos), generator=generator("photos measured against", self.seed))
        self.items["test"] = [photos[row] for row in chosen[:measured].tolist()]

    def val_dataloader(self) -> list[Any]:  # type: ignore[override]
        """Nothing: the paper sets no photos aside, and those of the test choose nothing."""
        return []

    def transform(self, *, train: bool) -> Any:
        """The torchvision pipeline of a split: PIL image -> (3, S, S) uint8."""
        from torchvision.transforms import v2

        mirror = [v2.RandomHorizontalFlip()] if train and self.mirror else []
        square = v2.Resize((self.image_size, self.image_size), antialias=True)
        return v2.Compose([square, *mirror, v2.PILToTensor()])


COUNTS = {"Portraits": lambda data: {"train": data.collection.train}}
