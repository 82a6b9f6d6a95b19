"""Data of CDA: which images are recovered together, and what a student is post-trained on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from datamodules.common.arrays import ArrayData, Split
from datamodules.common.augment import Augmentation
from datamodules.common.base import Batches, DataError, DataModule, Fed, Share, Spec, generator, hashed
from datamodules.common.loader import Columns, Images, Loader, batch_type
from datamodules.common.subsets import Repeated
from datamodules.common.views import View

if TYPE_CHECKING:
    from datamodules.common.folders import ImageFolder

KINDS = ("recovered", "real", "noise")


def labels_in_order(classes: int, per_class: int) -> Tensor:
    """Labels of the images to recover: every class once, then every class again. (per_class * classes,) int64.

    Consecutive images show consecutive classes, so that a batch of no more images than classes has each at most once.
    """
    return torch.arange(classes).repeat(per_class)


class Steps(Batches):
    """S batches an epoch, all of the same images: those of batch number `epoch`.

    Args:
        size: images.
        batch_size: images together.
        steps: S.
        rank, world: see Batches.
    """

    def __init__(self, size: int, batch_size: int, steps: int, rank: int = 0, world: int = 1) -> None:
        super().__init__(size, batch_size, shuffle=True, rank=rank, world=world)
        self.steps = steps

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[Share]:
        skip, self._skip = self._skip, 0
        first = self.epoch * self.batch_size
        total = min(self.batch_size, self.size - first)
        start, end = (total * r // self.world for r in (self.rank, self.rank + 1))
        for number in range(skip, self.steps):
            self.position = number + 1
            yield Share(torch.arange(first + start, first + end), total, start, 0)


class Synthesis(View):
    """Classes of the images to recover. No image of the source is read.

    A training batch is (slot, y): the place of each image in the batch that is optimised, and its class. A test batch
    is (row, y) with the number of each image.

    Args:
        source: whose classes, image size, mean and std are those of the images.
        batch_size: over all devices; the same as `together`, but for a dry run.
        together: images that are optimised in one batch.
        per_class: images of each class.
        steps: S, batches of an epoch; `trainer.max_epochs` is the number of batches of images.
        generated: see DataModule.
    Raises:
        DataError: another batch size, or another `trainer.max_epochs`, so that images would be missing.
    """

    def __init__(
        self,
        source: DataModule,
        batch_size: int,
        together: int,
        per_class: int,
        steps: int,
        generated: bool = False,
    ) -> None:
        super().__init__(source, batch_size, generated=generated)
        if batch_size != together and not generated:
            raise DataError(f"batch_size={batch_size}: expected that of the images together, {together}")
        self.together = together
        self.per_class = per_class
        self.steps = steps

    @property
    def labels(self) -> Tensor:
        return labels_in_order(len(self.source.spec.classes), self.per_class)

    @property
    def spec(self) -> Spec:
        there = self.source.spec
        count = len(there.classes) * self.per_class
        words = f"{self.per_class} images a class to recover, {self.together} together; an epoch is {self.steps} steps"
        return replace(
            there,
            split=words,
            sizes={"train": self.together * self.steps, "val": 0, "test": count},
            source="generated",
            identity=hashed(self.labels),
        )

    def prepare_data(self) -> None:
        """No image is needed."""

    def train_dataloader(self) -> Loader:
        labels = self.labels
        recoveries = -(-len(labels) // self.batch_size)
        if self.trainer is not None and not self.generated and self.trainer.max_epochs != recoveries:
            raise DataError(
                f"trainer.max_epochs={self.trainer.max_epochs}: expected {recoveries}, one epoch for each "
                f"{self.batch_size} of {len(labels)} images"
            )

        def fetch(share: Share) -> Any:
            slot = share.indices % self.batch_size
            return batch_type(("slot", "y"))(slot.to(self.device), labels[share.indices].to(self.device))

        return Loader(Steps(len(labels), self.batch_size, self.steps, *self.rank_and_world), fetch)

    def val_dataloader(self) -> list[Loader]:
        return []

    def test_dataloader(self) -> Loader:
        labels = self.labels
        return Loader(self.batches(len(labels), shuffle=False), Columns(self.device, row=None, y=labels))


class Distilled(View):
    """A few images of each class to train on, the source's images to validate and test on.

    Args:
        source: the whole dataset.
        batch_size: the global batch, over all devices.
        per_class: images of each class.
        images: "recovered" from a squeezed network; as controls, "real" ones, drawn by the seed, and "noise", what a
            recovery starts from.
        recovered: the stage whose artifact `images` they are.
        passes: over the images in an epoch.
        augment: operations on training batches, in order.
        generated: see DataModule.
    Raises:
        DataError: unknown kind, or other images than asked for.
    """

    def __init__(
        self,
        source: ArrayData | ImageFolder,
        batch_size: int,
        per_class: int,
        images: str = "recovered",
        recovered: Fed | None = None,
        passes: int = 1,
        augment: Sequence[Augmentation] = (),
        generated: bool = False,
    ) -> None:
        super().__init__(source, batch_size, generated=generated)
        if images not in KINDS:
            raise DataError(f"images={images!r}: expected one of {', '.join(KINDS)}")
        if (images == "recovered") != (recovered is not None):
            raise DataError(f"images={images!r} and feeds: recovered go together, or neither is there")
        self.per_class = per_class
        self.kind = images
        self.recovered = recovered
        self.passes = passes
        self.peak = getattr(source, "peak", 255) if images == "real" else 255
        self.augment = augment
        self.training: Split | None = None

    @property
    def labels(self) -> Tensor:
        return labels_in_order(len(self.source.spec.classes), self.per_class)

    @property
    def spec(self) -> Spec:
        there = self.source.spec
        train = len(there.classes) * self.per_class * self.passes
        sizes = {"train": train, "val": there.sizes.get("val", 0), "test": there.sizes["test"]}
        words = f"{self.per_class} {self.kind} images a class, {self.passes} times an epoch; tested on {there.split}"
        own = hashed(*self.training) if self.training is not None else ""
        return replace(there, sizes=sizes, split=words, identity=f"{own}{there.identity}"[:24])

    def setup(self, stage: str | None = None) -> None:
        if self.training is not None:
            return
        self.source.setup(stage)
        shape = self.source.spec.shape
        if self.generated:
            count = min(len(self.labels), 4 * self.batch_size)
            random = torch.randint(256, (count, *shape), generator=generator("stand-in", self.seed))
            self.training = (random.to(torch.uint8), self.labels[:count])
            return

        images = {"recovered": self._recovered, "real": self._real, "noise": self._noise}[self.kind]()
        if images.shape != (len(self.labels), *shape):
            raise DataError(f"{tuple(images.shape)} images; expected {(len(self.labels), *shape)}")
        self.training = (images, self.labels)

    def _recovered(self) -> Tensor:
        assert self.recovered is not None
        return torch.from_numpy(np.array(self.recovered.arrays["images"]))

    def _noise(self) -> Tensor:
        spec = self.source.spec
        mean, std = (torch.tensor(value).view(-1, 1, 1) for value in (spec.mean, spec.std))
        normal = torch.randn(len(self.labels), *spec.shape, generator=generator("noise", self.seed))
        return ((normal * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)

    def _real(self) -> Tensor:
        """Different training images of each class, drawn by the seed, in the order of `labels`."""
        source = self.source
        in_memory = isinstance(source, ArrayData)
        every = source.splits["train"][1] if in_memory else torch.tensor([label for _, label in source.items["train"]])
        order = torch.randperm(len(every), generator=generator("real images", self.seed))
        rows = []
        for label, name in enumerate(source.spec.classes):
            own = order[every[order] == label][: self.per_class]
            if len(own) < self.per_class:
                raise DataError(
                    f"{source.spec.name} has {len(own)} training images of {name!r}, {self.per_class} asked"
                )
            rows.append(own)
        chosen = torch.stack(rows, 1).flatten()  # (per_class, classes) -> all classes, then all again
        return source.splits["train"][0][chosen] if in_memory else source.fixed("train", chosen.tolist())

    def train_dataloader(self) -> Loader:
        assert self.training is not None
        images, labels = self.training
        rank, world = self.rank_and_world
        size = len(labels) * self.passes
        batches = Repeated(len(labels), size, self.batch_size, shuffle=True, seed=self.seed, rank=rank, world=world)
        return Loader(
            batches, Images(Columns(self.device, x=images, y=labels), self.source.spec, self.peak, self.augment)
        )

    def val_dataloader(self) -> Loader | list[Loader]:
        return self._served_source().val_dataloader() if self.spec.sizes["val"] else []

    def test_dataloader(self) -> Loader:
        return self._served_source().test_dataloader()

    def _served_source(self) -> Any:
        """The source, which serves its images in this one's batches and to this one's processes."""
        self.source.batch_size = self.batch_size
        self.source.trainer = self.trainer
        return self.source
