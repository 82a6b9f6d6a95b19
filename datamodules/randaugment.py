"""ImageNet as DeiT-style recipes serve it: RandAugment, random erasing, repeated augmentation, bicubic evaluation."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.base import Batches, DataError, Share, mix
from datamodules.folders import ImageNet, PhotoLoader, Photos


class RepeatedAugmentation(Batches):
    """Training batches with every image `repeats` times in a row (Hoffer et al. 2020), each copy augmented on its own.

    An epoch stays as long as without: it sees one in `repeats` of the images. An index is image + size * copy.
    """

    repeats = 1

    def __iter__(self) -> Iterator[Share]:
        source = torch.Generator().manual_seed(mix(self.seed, self.epoch, 1))
        images = torch.randperm(self.size, generator=source)
        for share in super().__iter__():
            first = (self.position - 1) * self.batch_size + share.start
            place = torch.arange(first, first + len(share.indices))
            copies = images[place // self.repeats] + self.size * (place % self.repeats)
            yield replace(share, indices=copies)


class SeededPhotos(Photos):
    """Photos whose transform draws from Python's and numpy's random states too, as timm's do."""

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, int]:
        epoch, copy = key
        before = random.getstate(), np.random.get_state()
        value = mix(self.seed, epoch, copy)
        random.seed(value)
        np.random.seed(value % 2**32)
        try:
            return super().__getitem__((mix(epoch, copy // len(self.items)), copy % len(self.items)))
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])


class AugmentedImageNet(ImageNet):
    """ImageNet-1k with timm's training and evaluation transforms.

    Training: random resized crop, mirror, RandAugment, random erasing of normalised pixels. Testing: shorter side to
    image_size / crop_pct, centre crop.

    Args:
        root, batch_size, image_size, crop_scale, mean, std, num_workers, seed, generated: see ImageFolder.
        auto_augment: timm's description of the policy; None for none.
        interpolation: of training crops, "random" (bilinear or bicubic), "bilinear" or "bicubic".
        erasing: probability that a box of noise covers part of an image.
        crop_pct: image_size over the shorter side that the test photos are resized to.
        repeats: copies of each image in a row, see RepeatedAugmentation; 1 is off.
    Raises:
        DataError: an argument is out of its range, or see ImageFolder.
    """

    def __init__(
        self,
        root: str,
        batch_size: int,
        image_size: int = 224,
        crop_scale: Sequence[float] = (0.08, 1.0),
        mean: Sequence[float] = (0.485, 0.456, 0.406),
        std: Sequence[float] = (0.229, 0.224, 0.225),
        auto_augment: str | None = "rand-m9-mstd0.5-inc1",
        interpolation: str = "random",
        erasing: float = 0.25,
        crop_pct: float = 0.875,
        repeats: int = 1,
        num_workers: int = 4,
        seed: int = 0,
        generated: bool = False,
    ) -> None:
        super().__init__(root, batch_size, image_size, None, crop_scale, mean, std, num_workers, seed, generated)
        if interpolation not in ("random", "bilinear", "bicubic"):
            raise DataError(f"interpolation={interpolation!r}: expected random, bilinear or bicubic")
        if not 0 <= erasing <= 1 or not 0 < crop_pct <= 1 or repeats < 1:
            raise DataError(
                f"erasing={erasing}, crop_pct={crop_pct}, repeats={repeats}: expected fractions, and at least 1 repeat"
            )
        self.auto_augment, self.interpolation, self.erasing = auto_augment, interpolation, erasing
        self.crop_pct, self.repeats = crop_pct, repeats

    def transform(self, *, train: bool) -> Any:
        from timm.data import create_transform

        common: dict[str, Any] = {"input_size": self.image_size, "mean": self.mean, "std": self.std}
        if not train:
            return create_transform(**common, interpolation="bicubic", crop_pct=self.crop_pct)
        training: dict[str, Any] = {
            "scale": self.crop_scale,
            "color_jitter": None,  # what recipes state for it has no effect beside RandAugment
            "auto_augment": self.auto_augment,
            "interpolation": self.interpolation,
            "re_prob": self.erasing,
            "re_mode": "pixel",
        }
        return create_transform(**common, **training, is_training=True)

    def _loader(self, split: str) -> PhotoLoader:
        if split != "train" or self.generated:
            return super()._loader(split)
        assert self.source is not None
        dataset = SeededPhotos(self.source, self.items[split], self.transform(train=True), self.seed)
        rank, world = self.rank_and_world
        batches: Batches
        batches = RepeatedAugmentation(
            len(dataset), self.batch_size, shuffle=True, seed=self.seed, rank=rank, world=world
        )
        batches.repeats = self.repeats
        return PhotoLoader(dataset, batches, self.num_workers, torch.cuda.is_available())
