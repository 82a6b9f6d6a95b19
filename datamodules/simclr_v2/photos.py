"""ImageNet as SimCLR v2 trains on it: two views without labels, the published 1% and 10% of labels, plain crops."""

from __future__ import annotations

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


class SimCLRImageNet(ImageNet):
    """ImageNet-1k in [0, 1], not normalised, with bicubic crops.

    Args:
        root, batch_size, image_size, num_workers, seed, generated: see ImageFolder.
        views: 2 for pretraining, which adds colour jitter, grey and blur; 1 for crop and mirror alone.
        strength: of the colour jitter.
        labelled: "1percent" or "10percent", the published lists of photos with a label; None keeps all labels.
        others: what happens to photos outside that list: "drop", or "unlabelled", which gives them label -1.
        lists: folder that holds the lists as <labelled>.txt, one file name a line.
    Raises:
        DataError: a value out of its range, or a list that is missing or names photos that are not there.
    """

    def __init__(
        self,
        root: str,
        batch_size: int,
        image_size: int = 224,
        views: int = 1,
        strength: float = 1.0,
        labelled: str | None = None,
        others: str = "drop",
        lists: str = "imagenet_subsets",
        num_workers: int = 8,
        seed: int = 0,
        generated: bool = False,
    ) -> None:
        plain: dict[str, Any] = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
        super().__init__(root, batch_size, image_size, num_workers=num_workers, seed=seed, generated=generated, **plain)
        if views not in (1, 2):
            raise DataError(f"views={views}: expected 1 or 2")
        if labelled is not None and labelled not in LISTS:
            raise DataError(f"labelled={labelled!r}: expected one of {', '.join(LISTS)}, or null")
        if others not in ("drop", "unlabelled"):
            raise DataError(f"others={others!r}: expected 'drop' or 'unlabelled'")
        self.views, self.strength, self.labelled, self.others = views, strength, labelled, others
        self.lists = Path(lists)
        if labelled is not None:
            self.title = f"{type(self).title}, labels of {labelled}.txt"

    def expected_sizes(self) -> dict[str, int]:
        whole = super().expected_sizes()
        if self.labelled is None or self.others == "unlabelled":
            return whole
        return {**whole, "train": LISTS[self.labelled]}

    @property
    def list_file(self) -> Path | None:
        """The list of photos with a label, if there is one."""
        return None if self.labelled is None else self.lists / f"{self.labelled}.txt"

    def available(self) -> str:
        problem = super().available()
        if not problem and self.list_file is not None and not self.list_file.is_file():
            return f"{self.list_file} does not exist; it comes from {LISTS_FROM}"
        return problem

    def _list(self) -> None:
        super()._list()
        if self.list_file is None:
            return
        if not self.list_file.is_file():
            raise DataError(f"{self.list_file} does not exist; it comes from {LISTS_FROM}")
        named = set(self.list_file.read_text(encoding="utf-8").split())
        inside = [PurePosixPath(name).name in named for name, _ in self.items["train"]]
        if not any(inside):
            raise DataError(f"{self.root}/train holds none of the photos that {self.list_file} names")
        items = zip(self.items["train"], inside, strict=True)
        if self.others == "drop":
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
        return TwoViews(single, self.strength) if self.views == 2 else single

    def train_dataloader(self) -> WorkerLoader:
        return load_pairs(self) if self.views == 2 else super().train_dataloader()
