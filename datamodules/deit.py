"""Photos as DeiT trains and tests on them (Touvron et al. 2021), with timm's transforms: ImageNet, or arrays enlarged.

Training: random resized crop (bicubic), mirror, RandAugment, random erasing, and repeated augmentation: an epoch has as
many images as the set, but shows a third of them three times, each time augmented anew, next to each other in a batch.
Testing: shorter side to 256/224 of the crop (bicubic), centre crop.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.arrays import ArrayData
from datamodules.base import Batches, DataError, DataModule, Share, Spec, mix
from datamodules.folders import Generated, ImageNet, PhotoLoader, Photos

RAND_AUGMENT = "rand-m9-mstd0.5-inc1"
ERASING, JITTER = 0.25, 0.3
TEST_CROP = 224 / 256


class Seeded:
    """A transform that draws from Python's and numpy's random states, tied to torch's; theirs are put back."""

    def __init__(self, transform: Any) -> None:
        self.transform = transform

    def __call__(self, image: Any) -> Tensor:
        states = random.getstate(), np.random.get_state()
        seed = int(torch.randint(2**31, ()))
        random.seed(seed)
        np.random.seed(seed)
        try:
            return self.transform(image)
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])


def transform(
    train: bool,
    image_size: int,
    mean: Sequence[float],
    std: Sequence[float],
    auto_augment: str | None = RAND_AUGMENT,
    erasing: float = ERASING,
    crop_scale: Sequence[float] = (0.08, 1.0),
) -> Seeded:
    """PIL image -> (3, S, S) float32.

    timm leaves colour jitter out beside RandAugment, so that the recipe's 0.3 only counts without it.

    Args:
        train: augment.
        auto_augment: timm's name of a policy; None for none.
        erasing: probability of erasing a rectangle with noise.
        crop_scale: area range of the random crop.
    """
    from timm.data import create_transform

    options: dict[str, Any] = {"interpolation": "bicubic", "mean": tuple(mean), "std": tuple(std)}
    if not train:
        return Seeded(create_transform(image_size, crop_pct=TEST_CROP, **options))
    options |= {"auto_augment": auto_augment, "color_jitter": JITTER, "scale": tuple(crop_scale)}
    options |= {"re_prob": erasing, "re_mode": "pixel", "re_count": 1}
    made = create_transform(image_size, is_training=True, **options)
    for step in made.transforms:
        for operation in getattr(step, "ops", ()):
            if operation.name.startswith("Posterize"):
                operation.aug_fn = posterize
    return Seeded(made)


def posterize(image: Any, bits: int, **options: Any) -> Any:
    """Keep so many bits of each channel; 0, timm's strongest, is a black image. Newer Pillows refuse to do that."""
    return ImageOps.posterize(image, bits) if bits else Image.new(image.mode, image.size)


class RepeatedAugmentation(Batches):
    """An epoch of `size` draws in which an image is followed by its copies (Hoffer et al. 2020).

    Copy c of image i has index c * images + i, and thereby random numbers of its own.
    """

    def __init__(self, images: int, repeats: int, batch_size: int, *, seed: int, rank: int, world: int) -> None:
        super().__init__(images, batch_size, shuffle=True, seed=seed, rank=rank, world=world)
        if repeats < 1:
            raise DataError(f"repeats={repeats}: expected at least 1")
        self.repeats = repeats

    def __iter__(self) -> Iterator[Share]:
        order = torch.randperm(self.size, generator=torch.Generator().manual_seed(mix(self.seed, self.epoch)))
        skip, self._skip = self._skip, 0
        for number in range(skip, len(self)):
            drawn = torch.arange(number * self.batch_size, min((number + 1) * self.batch_size, self.size))
            copies = order[drawn // self.repeats] + drawn % self.repeats * self.size
            start, end = (len(drawn) * r // self.world for r in (self.rank, self.rank + 1))
            self.position = number + 1
            yield Share(copies[start:end], len(drawn), start, mix(self.seed, self.epoch, number))


class DeitImageNet(ImageNet):
    """ImageNet-1k with DeiT's augmentation, or a random fraction of each class of it; tested on all of val.

    Args:
        fraction: of the training photos of each class, at least one photo, drawn by the seed.
        repeats: copies in repeated augmentation; 1 switches it off.
        auto_augment, erasing: see `transform`.
        others: see ImageFolder.
    """

    def __init__(
        self,
        root: str,
        batch_size: int,
        image_size: int = 224,
        crop_scale: Sequence[float] = (0.08, 1.0),
        mean: Sequence[float] = (0.485, 0.456, 0.406),
        std: Sequence[float] = (0.229, 0.224, 0.225),
        num_workers: int = 4,
        fraction: float = 1.0,
        repeats: int = 3,
        auto_augment: str | None = RAND_AUGMENT,
        erasing: float = ERASING,
        seed: int = 0,
        generated: bool = False,
    ) -> None:
        super().__init__(root, batch_size, image_size, None, crop_scale, mean, std, num_workers, seed, generated)
        if not 0 < fraction <= 1:
            raise DataError(f"fraction={fraction}: expected a number above 0, at most 1")
        self.fraction, self.repeats, self.auto_augment, self.erasing = fraction, repeats, auto_augment, erasing
        if fraction < 1:
            self.title = f"{type(self).title}, {fraction:.0%} of each training class"

    def expected_sizes(self) -> dict[str, int]:
        whole = super().expected_sizes()
        return {**whole, "train": round(self.fraction * whole["train"])}

    def _list(self) -> None:
        super()._list()
        if self.fraction < 1:
            of_class: dict[int, list[tuple[str, int]]] = {}
            for item in self.items["train"]:
                of_class.setdefault(item[1], []).append(item)
            self.items["train"] = [item for c in of_class.values() for item in self._drawn(c)]

    def _drawn(self, items: list[tuple[str, int]]) -> list[tuple[str, int]]:
        """This fraction of one class's photos."""
        source = torch.Generator().manual_seed(mix(self.seed, 9, items[0][1]))
        count = max(1, round(self.fraction * len(items)))
        return [items[i] for i in torch.randperm(len(items), generator=source)[:count].sort().values.tolist()]

    def transform(self, *, train: bool) -> Seeded:
        own = (self.auto_augment, self.erasing, self.crop_scale)
        return transform(train, self.image_size, self.mean, self.std, *own)

    def train_dataloader(self) -> PhotoLoader:
        if self.generated:
            return super().train_dataloader()
        assert self.source is not None
        items = self.items["train"]
        photos = Photos(self.source, items * self.repeats, self.transform(train=True), self.seed)
        rank, world = self.rank_and_world
        batches = RepeatedAugmentation(
            len(items), self.repeats, self.batch_size, seed=self.seed, rank=rank, world=world
        )
        return PhotoLoader(photos, batches, self.num_workers, torch.cuda.is_available())


class ArrayPhotos(Dataset):
    """Images in memory, (N, 3, H, W) uint8, as photos: an (epoch, index) pair fixes the randomness; see Photos."""

    def __init__(self, images: Tensor, labels: Tensor, transform: Any, seed: int) -> None:
        self.images, self.labels, self.transform, self.seed = images, labels, transform, seed

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, int]:
        from torchvision.transforms.functional import to_pil_image

        epoch, index = key
        own = index % len(self.images)  # a copy of repeated augmentation lies a multiple of N behind
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(mix(self.seed, epoch, index))
            return self.transform(to_pil_image(self.images[own])), int(self.labels[own])


class DeitArrays(DataModule):
    """Small colour images of another dataset, enlarged and augmented as DeiT does photos.

    Args:
        source: the dataset; its splits and seed are used, its batch size and augmentation are not.
        batch_size: the global batch, over all devices.
        image_size: side of the enlarged crop.
        repeats, auto_augment, erasing, crop_scale: as in DeitImageNet.
        num_workers: processes that transform; does not change what is served.
        generated: see DataModule.
    """

    def __init__(
        self,
        source: ArrayData,
        batch_size: int,
        image_size: int = 224,
        repeats: int = 3,
        auto_augment: str | None = RAND_AUGMENT,
        erasing: float = ERASING,
        crop_scale: Sequence[float] = (0.08, 1.0),
        num_workers: int = 4,
        generated: bool = False,
    ) -> None:
        super().__init__(batch_size, source.seed, generated)
        self.source, self.image_size, self.repeats, self.num_workers = source, image_size, repeats, num_workers
        self.augment = (auto_augment, erasing, crop_scale)

    @property
    def root(self) -> Any:
        return getattr(self.source, "root", None)

    @property
    def spec(self) -> Spec:
        there = self.source.spec
        source = "generated" if self.generated else there.source
        side = self.image_size
        return replace(there, shape=(there.shape[0], side, side), source=source, split=f"{there.split}; side {side}")

    def available(self) -> str:
        return self.source.available()

    def prepare_data(self) -> None:
        if not self.generated:
            self.source.prepare_data()

    def setup(self, stage: str | None = None) -> None:
        if not self.generated:
            self.source.setup(stage)

    def _loader(self, split: str) -> PhotoLoader:
        spec, train = self.spec, split == "train"
        if self.generated:
            length = min(spec.sizes[split], 2 * self.batch_size)
            made = Generated(spec.shape, len(spec.classes), length)
            return PhotoLoader(made, self.batches(length, shuffle=train), 0, False)
        images, labels = self.source.splits[split]
        pipeline = transform(train, self.image_size, spec.mean, spec.std, *self.augment)
        batches = self.batches(len(images), shuffle=train)
        if train:
            rank, world = self.rank_and_world
            batches = RepeatedAugmentation(
                len(images), self.repeats, self.batch_size, seed=self.seed, rank=rank, world=world
            )
        photos = ArrayPhotos(images, labels, pipeline, self.seed)
        return PhotoLoader(photos, batches, self.num_workers, torch.cuda.is_available())

    def train_dataloader(self) -> PhotoLoader:
        return self._loader("train")

    def val_dataloader(self) -> PhotoLoader | list[Any]:
        return self._loader("val") if self.spec.sizes["val"] else []

    def test_dataloader(self) -> PhotoLoader:
        return self._loader("test")
