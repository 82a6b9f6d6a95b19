"""ImageNet as SimCLR v2 trains on it: two views without labels, the published 1% and 10% of labels, plain crops."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import Tensor

from datamodules.common.base import DataError, Draws
from datamodules.common.folders import ImageNet
from datamodules.common.loader import WorkerLoader
from datamodules.common.photo_pairs import load_pairs
from datamodules.common.simclr_augment import SimCLRAugmentation

LISTS = {"1percent": 12_811, "10percent": 128_116}  # photos in each
LISTS_FROM = "https://github.com/google-research/simclr, folder imagenet_subsets"
UNLABELLED = -1


class TwoViews:
    """A transform, colours and blur, twice and independently: PIL image -> (2, 3, S, S) float32 in [0, 1].

    Draws from torch's random state, which holds the photo's seed (see Photos).
    """

    def __init__(self, crop: Any, strength: float) -> None:
        self.crop = crop
        self.distort = SimCLRAugmentation(crop_scale=None, flip=0, strength=strength)

    def __call__(self, picture: Any) -> Tensor:
        draws = Draws(torch.default_generator, 1, 0, 1)
        return torch.cat([self.distort(self.crop(picture)[None], draws) for _ in range(2)])


@dataclass(frozen=True)
class Labels:
    """Which training photos have a label.

    Attributes:
        part: "1percent" or "10percent", the published lists of photos with a label; None keeps all labels.
        others: what happens to photos outside that list: "drop", or "unlabelled", which gives them label -1.
        lists: folder that holds the lists as <part>.txt, one file name a line.
    Raises:
        DataError: no such list, or nothing that could happen to the others.
    """

    part: str | None = None
    others: str = "drop"
    lists: str = "imagenet_subsets"

    def __post_init__(self) -> None:
        if self.part is not None and self.part not in LISTS:
            raise DataError(f"part={self.part!r}: expected one of {', '.join(LISTS)}, or null")
        if self.others not in ("drop", "unlabelled"):
            raise DataError(f"others={self.others!r}: expected 'drop' or 'unlabelled'")

    @property
    def file(self) -> Path | None:
        """The list of photos with a label, if there is one."""
        return None if self.part is None else Path(self.lists) / f"{self.part}.txt"


@dataclass(frozen=True)
class Views:
    """How often a training photo is shown, and how changed.

    Attributes:
        count: 2 for pretraining, which adds colour jitter, grey and blur; 1 for crop and mirror alone.
        strength: of the colour jitter.
    Raises:
        DataError: another count.
    """

    count: int = 1
    strength: float = 1.0

    def __post_init__(self) -> None:
        if self.count not in (1, 2):
            raise DataError(f"count={self.count}: expected 1 or 2 views")


class SimCLRImageNet(ImageNet):
    """ImageNet-1k in [0, 1], not normalised, with bicubic crops.

    Args:
        root, batch_size, image_size, num_workers, seed, generated: see ImageFolder.
        views: of a training photo.
        labels: which photos have one.
    Raises:
        DataError: a list that is missing or names photos that are not there.
    """

    def __init__(
        self,
        root: str,
        batch_size: int,
        image_size: int = 224,
        views: Views | None = None,
        labels: Labels | None = None,
        num_workers: int = 8,
        seed: int = 0,
        generated: bool = False,
    ) -> None:
        plain: dict[str, Any] = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
        super().__init__(root, batch_size, image_size, num_workers=num_workers, seed=seed, generated=generated, **plain)
        self.views = views or Views()
        self.labels = labels or Labels()
        if self.labels.part is not None:
            self.title = f"{type(self).title}, labels of {self.labels.part}.txt"

    def expected_sizes(self) -> dict[str, int]:
        whole = super().expected_sizes()
        if self.labels.part is None or self.labels.others == "unlabelled":
            return whole
        return {**whole, "train": LISTS[self.labels.part]}

    def available(self) -> str:
        problem = super().available()
        listed = self.labels.file
        if not problem and listed is not None and not listed.is_file():
            return f"{listed} does not exist; it comes from {LISTS_FROM}"
        return problem

    def _list(self) -> None:
        super()._list()
        listed = self.labels.file
        if listed is None:
            return
        if not listed.is_file():
            raise DataError(f"{listed} does not exist; it comes from {LISTS_FROM}")
        named = set(listed.read_text(encoding="utf-8").split())
        inside = [PurePosixPath(name).name in named for name, _ in self.items["train"]]
        if not any(inside):
            raise DataError(f"{self.root}/train holds none of the photos that {listed} names")
        items = zip(self.items["train"], inside, strict=True)
        if self.labels.others == "drop":
            self.items["train"] = [item for item, is_labelled in items if is_labelled]
        else:
            self.items["train"] = [(name, y if is_labelled else UNLABELLED) for (name, y), is_labelled in items]

    def transform(self, *, train: bool) -> Any:
        from torchvision.transforms import v2

        bicubic = v2.InterpolationMode.BICUBIC
        to_unit_range = [v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)]
        if not train:
            return v2.Compose([v2.Resize(self.resize, bicubic), v2.CenterCrop(self.image_size), *to_unit_range])
        crop = v2.RandomResizedCrop(self.image_size, self.crop_scale, interpolation=bicubic)
        single = v2.Compose([crop, v2.RandomHorizontalFlip(), *to_unit_range])
        return TwoViews(single, self.views.strength) if self.views.count == 2 else single

    def train_dataloader(self) -> WorkerLoader:
        return load_pairs(self) if self.views.count == 2 else super().train_dataloader()
