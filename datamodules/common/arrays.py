"""Small data, held in memory as one tensor per split and augmented a batch at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from datamodules.common.augment import Augmentation
from datamodules.common.base import DataError, DataModule, Spec, generator, hashed
from datamodules.common.loader import Columns, Images, Loader

Split = tuple[Tensor, Tensor]  # images (N, C, H, W) uint8, labels (N,) int64


class ArrayData(DataModule):
    """In-memory images with a train, val and test split.

    Args:
        batch_size: the global batch, over all devices.
        train_size, val_size, test_size: images per split; None takes all there is. Train and val are disjoint draws
            from the training images, fixed by the seed.
        label_noise: fraction of training labels replaced by random classes (a replaced label may stay right by chance).
        augment: operations applied to training batches, in order.
        views: how often each training image is augmented anew; further views are the columns x2, x3, ...
        rows: a column `row` holds each image's number in its split.
        seed, generated: see DataModule.
    Raises:
        DataError: fewer images than asked for, or data that is missing or damaged.
    """

    peak = 255  # the value that stands for white

    def __init__(
        self,
        batch_size: int,
        train_size: int | None = None,
        val_size: int = 0,
        test_size: int | None = None,
        label_noise: float = 0.0,
        augment: Sequence[Augmentation] = (),
        seed: int = 0,
        generated: bool = False,
        views: int = 1,
        rows: bool = False,
    ) -> None:
        super().__init__(batch_size, seed, generated)
        if views < 1:
            raise DataError(f"views={views}: expected 1 or more")
        if not 0 <= label_noise <= 1:
            raise DataError(f"label_noise={label_noise}: expected a fraction between 0 and 1")
        self.train_size, self.val_size, self.test_size = train_size, val_size, test_size
        self.label_noise, self.augment, self.views, self.rows = label_noise, augment, views, rows
        self.splits: dict[str, Split] = {}
        self.clean_labels = torch.empty(0, dtype=torch.long)  # of the training split, before label noise
        self._spec: Spec | None = None

    def declared(self) -> Spec:
        """The spec of the whole dataset, before sizes are chosen: `sizes` holds what there is."""
        raise NotImplementedError

    def read(self) -> tuple[Split, Split | None]:
        """(training images, test images); None for the second when the test split is drawn from the first."""
        raise NotImplementedError

    @property
    def spec(self) -> Spec:
        return self._spec or self._sized(self.declared())

    def _sized(self, declared: Spec) -> Spec:
        there = declared.sizes
        own_test = "test" in there
        test = self.test_size if self.test_size is not None else there.get("test", 0)
        left = there["train"] - self.val_size - (0 if own_test else test)
        train = self.train_size if self.train_size is not None else left
        if train > left or train < 1 or (own_test and test > there["test"]):
            has = " + ".join(str(n) for n in there.values())
            raise DataError(
                f"{declared.name} has {has} images; cannot take train={train}, val={self.val_size}, test={test}"
            )
        split = declared.split
        if self.label_noise:
            split += f"; {self.label_noise:.0%} of the training labels replaced by random classes"
        return replace(declared, split=split, sizes={"train": train, "val": self.val_size, "test": test})

    def setup(self, stage: str | None = None) -> None:
        if self.splits:
            return
        spec = self._sized(self.declared())
        if self.generated:
            self._stand_in(spec)
            return
        (images, labels), test = self.read()
        order = torch.randperm(len(images), generator=generator("split", self.seed))
        start = 0
        for name in ("train", "val") if test is not None else ("train", "val", "test"):
            part = order[start : start + spec.sizes[name]]  # cut from one shuffled order: no image is in two parts
            self.splits[name] = (images[part], labels[part])
            start += spec.sizes[name]
        if test is not None:
            chosen = torch.arange(len(test[0]))
            if spec.sizes["test"] < len(chosen):
                chosen = torch.randperm(len(chosen), generator=generator("test subset", self.seed))
            chosen = chosen[: spec.sizes["test"]]
            self.splits["test"] = (test[0][chosen], test[1][chosen])
        self._settle(spec)
        if self.label_noise:
            source = generator("label noise", self.seed)
            noisy = torch.rand(len(self.clean_labels), generator=source) < self.label_noise
            random = torch.randint(len(spec.classes), (len(self.clean_labels),), generator=source)
            self.splits["train"] = (self.splits["train"][0], torch.where(noisy, random, self.clean_labels))

    def _settle(self, spec: Spec, *beside: Tensor) -> None:
        """The splits are complete: their content is the data's identity, with what stands `beside` them."""
        self.clean_labels = self.splits["train"][1].clone()
        self._spec = replace(spec, identity=hashed(*(t for split in self.splits.values() for t in split), *beside))

    def _stand_in(self, spec: Spec) -> None:
        """Generated images and labels in place of those of the splits."""
        self.splits = {name: self._random(spec, n) for name, n in spec.sizes.items()}
        self.clean_labels = self.splits["train"][1].clone()
        self._spec = replace(spec, source="generated")

    def _sizes(self) -> dict[str, int]:
        """Images in each split, once they are there."""
        return {name: len(labels) for name, (_, labels) in self.splits.items()}

    def _random(self, spec: Spec, count: int) -> Split:
        count = min(count, 4 * self.batch_size)
        source = generator("stand-in", self.seed)
        images = torch.randint(self.peak + 1, (count, *spec.shape), generator=source, dtype=torch.uint8)
        return images, torch.randint(len(spec.classes), (count,), generator=source)

    def relabelled(self, count: int) -> Split:
        changed = (self.splits["train"][1] != self.clean_labels).nonzero().flatten()[:count]
        images, labels = self.splits["train"]
        return images[changed], labels[changed]

    def normalised(self, images: Tensor) -> Tensor:
        """uint8 images (B, C, H, W) as the network sees them, without augmentation."""
        mean, std = (torch.tensor(value).view(1, -1, 1, 1) for value in (self.spec.mean, self.spec.std))
        return (images.float() / self.peak - mean) / std

    def _loader(self, name: str) -> Loader:
        train = name == "train"
        batches = self.batches(len(self.splits[name][0]), shuffle=train)
        return Loader(batches, self.fetch(name, augment=train))

    def fetch(self, name: str, *, augment: bool) -> Images:
        """Makes a split's batches (x, y), and where they are asked for further views and rows."""
        images, labels = self.splits[name]
        columns = Columns(self.device, x=images, y=labels, **({"row": None} if self.rows else {}))
        views = self.views if augment else 1
        return Images(columns, self.spec, self.peak, self.augment if augment else (), views)

    def train_dataloader(self) -> Loader:
        return self._loader("train")

    def val_dataloader(self) -> Loader | list[Loader]:
        return self._loader("val") if self.spec.sizes["val"] else []

    def test_dataloader(self) -> Loader:
        return self._loader("test")
