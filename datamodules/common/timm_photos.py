"""Photos as timm's training script serves them (DeiT, ConvNeXt and most networks since): ImageNet, or arrays enlarged.

Training: random resized crop, mirror, RandAugment, random erasing after normalisation and, if wanted, repeated
augmentation: an epoch has as many images as the set, but shows a part of them several times, each time augmented anew,
next to each other in a batch. Testing: shorter side to image_size / crop_pct (bicubic), centre crop.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from datamodules.common.base import Batches, DataError, Share, generator, stream
from datamodules.common.folders import ImageNet, Photos
from datamodules.common.loader import WorkerLoader

RAND_AUGMENT = "rand-m9-mstd0.5-inc1"
ERASING_MODES = ("const", "rand", "pixel")
INTERPOLATIONS = ("bilinear", "bicubic", "random")


class Seeded:
    """A transform that draws from Python's and numpy's random states, made a function of torch's; theirs are put back.

    The photo's seed is in torch's state (see Photos).
    """

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


@dataclass(frozen=True)
class Normalisation:
    """What is subtracted from each channel, and what it is divided by, in units of [0, 1]: ImageNet's."""

    mean: Sequence[float] = (0.485, 0.456, 0.406)
    std: Sequence[float] = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Augmentation:
    """What timm's pipelines are made of, for training and for the test.

    Attributes:
        crop_pct: of the test: image_size over the shorter side that photos are resized to.
        crop_scale: area range of the random crop, as fractions.
        interpolation: of training crops: "bilinear", "bicubic" or "random" (one of the two).
        auto_augment: timm's name of a policy; None is off.
        color_jitter: strength of brightness, contrast and saturation; timm leaves it out beside a policy.
        erasing: probability of covering a rectangle.
        erasing_mode: with one colour ("const"), a random colour ("rand") or noise ("pixel").
        repeats: copies in repeated augmentation; 1 switches it off.
        normalisation: of each channel; None takes the images' own, which of photos are ImageNet's.
    Raises:
        DataError: a value is out of its range.
    """

    crop_pct: float = 0.875
    crop_scale: Sequence[float] = (0.08, 1.0)
    interpolation: str = "random"
    auto_augment: str | None = RAND_AUGMENT
    color_jitter: float = 0.4
    erasing: float = 0.25
    erasing_mode: str = "pixel"
    repeats: int = 1
    normalisation: Normalisation | None = None

    def __post_init__(self) -> None:
        for name, value, valid in (
            ("interpolation", self.interpolation, INTERPOLATIONS),
            ("erasing_mode", self.erasing_mode, ERASING_MODES),
        ):
            if value not in valid:
                raise DataError(f"{name}={value!r}: expected one of {', '.join(valid)}")
        if not 0 <= self.erasing <= 1 or not 0 < self.crop_pct <= 1:
            values = f"erasing={self.erasing}, crop_pct={self.crop_pct}"
            raise DataError(f"{values}: expected fractions, crop_pct above 0")
        if self.repeats < 1:
            raise DataError(f"repeats={self.repeats}: expected at least 1")

    def transform(self, image_size: int, normalisation: Normalisation, *, train: bool) -> Seeded:
        """The pipeline of a split: PIL image -> (3, S, S) float32.

        Args:
            image_size: S, pixels.
            normalisation: of the images, for an augmentation that has none of its own.
            train: the pipeline of training, or that of the test.
        """
        from timm.data import create_transform

        chosen = self.normalisation or normalisation
        common: dict[str, Any] = {"mean": tuple(chosen.mean), "std": tuple(chosen.std)}
        if not train:
            options: dict[str, Any] = {"interpolation": "bicubic", "crop_pct": self.crop_pct}
            return Seeded(create_transform(image_size, **options, **common))

        training: dict[str, Any] = {
            "scale": tuple(self.crop_scale),
            "interpolation": self.interpolation,
            "auto_augment": self.auto_augment,
            "color_jitter": self.color_jitter,
            "re_prob": self.erasing,
            "re_mode": self.erasing_mode,
            "re_count": 1,
        }
        made = create_transform(image_size, is_training=True, **training, **common)
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
        order = torch.randperm(self.size, generator=generator("order", self.seed, self.epoch))
        skip, self._skip = self._skip, 0
        for number in range(skip, len(self)):
            drawn = torch.arange(number * self.batch_size, min((number + 1) * self.batch_size, self.size))
            copies = order[drawn // self.repeats] + drawn % self.repeats * self.size
            start, end = (len(drawn) * r // self.world for r in (self.rank, self.rank + 1))
            self.position = number + 1
            yield Share(copies[start:end], len(drawn), start, stream("augmentation", self.seed, self.epoch, number))


class AugmentedImageNet(ImageNet):
    """ImageNet-1k, or a random fraction of each class of it, as timm trains on it; tested on all of val.

    Args:
        root, batch_size, image_size, num_workers, seed, generated: see ImageFolder.
        augmentation: timm's pipelines; its normalisation is ImageNet's unless it says another.
        fraction: of the training photos of each class, at least one photo, drawn by the seed.
    Raises:
        DataError: a fraction outside (0, 1], or see ImageFolder.
    """

    def __init__(
        self,
        root: str,
        batch_size: int,
        image_size: int = 224,
        augmentation: Augmentation | None = None,
        fraction: float = 1.0,
        num_workers: int = 8,
        seed: int = 0,
        generated: bool = False,
    ) -> None:
        self.augmentation = augmentation or Augmentation()
        self.normalisation = self.augmentation.normalisation or Normalisation()
        options: dict[str, Any] = {"num_workers": num_workers, "seed": seed, "generated": generated}
        options |= {"mean": self.normalisation.mean, "std": self.normalisation.std}
        super().__init__(root, batch_size, image_size, crop_scale=self.augmentation.crop_scale, **options)
        if not 0 < fraction <= 1:
            raise DataError(f"fraction={fraction}: expected a number in (0, 1]")
        self.fraction = fraction
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
        source = generator("part of a class", self.seed, items[0][1])
        count = max(1, round(self.fraction * len(items)))
        return [items[i] for i in torch.randperm(len(items), generator=source)[:count].sort().values.tolist()]

    def transform(self, *, train: bool) -> Seeded:
        return self.augmentation.transform(self.image_size, self.normalisation, train=train)

    def train_dataloader(self) -> WorkerLoader:
        if self.generated:
            return super().train_dataloader()
        assert self.source is not None
        items, (rank, world) = self.items["train"], self.rank_and_world
        repeats = self.augmentation.repeats
        photos = Photos(self.source, items * repeats, self.transform(train=True), self.seed)
        order: dict[str, int] = {"seed": self.seed, "rank": rank, "world": world}
        batches = RepeatedAugmentation(len(items), repeats, self.batch_size, **order)
        return WorkerLoader(photos, batches, num_workers=self.num_workers)


def input_of(name: str) -> dict[str, Any]:
    """How timm tests a model: input_size, interpolation, mean, std, crop_pct, crop_mode.

    Raises:
        DataError: a name without a tag (timm's defaults move from one set of weights to another) or unknown to timm.
    """
    import timm
    from timm.data import resolve_data_config

    config = timm.get_pretrained_cfg(name) if "." in name else None
    if config is None:
        raise DataError(f"models: {name!r} is no timm model with a tag, such as resnet50.tv2_in1k")
    return resolve_data_config(pretrained_cfg=config.to_dict(), use_test_size=True)
