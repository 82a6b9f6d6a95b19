"""In-memory images trained on with timm's augmentation of photos."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.common.arrays import ArrayData
from datamodules.common.base import Spec, seed_torch, stream
from datamodules.common.folders import Generated
from datamodules.common.loader import WorkerLoader
from datamodules.common.timm_photos import Augmentation, Normalisation, RepeatedAugmentation
from datamodules.common.views import View


class ArrayPhotos(Dataset):
    """Images in memory, (N, 3, H, W) uint8, as photos: an (epoch, index) pair fixes the randomness; see Photos."""

    def __init__(self, images: Tensor, labels: Tensor, transform: Any, seed: int) -> None:
        self.images = images
        self.labels = labels
        self.transform = transform
        self.seed = seed

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, int]:
        from torchvision.transforms.functional import to_pil_image

        epoch, index = key
        own = index % len(self.images)  # a copy of repeated augmentation lies a multiple of N behind
        with torch.random.fork_rng(devices=[]):
            seed_torch(stream("augmentation of a photo", self.seed, epoch, index))
            return self.transform(to_pil_image(self.images[own])), int(self.labels[own])


class AugmentedArrays(View):
    """Small colour images of another dataset, enlarged and augmented as photos are.

    Args:
        source: the dataset; its splits and seed are used, its batch size and augmentation are not.
        batch_size: the global batch, over all devices.
        image_size: side of the enlarged crop.
        augmentation: timm's pipelines; its normalisation is the source's unless it says another.
        num_workers: processes that transform; does not change what is served.
        generated: see DataModule.
    """

    def __init__(
        self,
        source: ArrayData,
        batch_size: int,
        image_size: int = 224,
        augmentation: Augmentation | None = None,
        num_workers: int = 4,
        generated: bool = False,
    ) -> None:
        super().__init__(source, batch_size, generated=generated)
        self.image_size = image_size
        self.num_workers = num_workers
        self.augmentation = augmentation or Augmentation()
        own = Normalisation(source.spec.mean, source.spec.std)
        self.normalisation = self.augmentation.normalisation or own

    @property
    def spec(self) -> Spec:
        small = self.source.spec
        side = self.image_size
        source = "generated" if self.generated else small.source
        shape = (small.shape[0], side, side)
        mean = tuple(self.normalisation.mean)
        std = tuple(self.normalisation.std)
        return replace(small, shape=shape, mean=mean, std=std, source=source, split=f"{small.split}; side {side}")

    def setup(self, stage: str | None = None) -> None:
        if not self.generated:
            self.source.setup(stage)

    def _loader(self, split: str) -> WorkerLoader:
        spec = self.spec
        train = split == "train"
        if self.generated:
            length = min(spec.sizes[split], 2 * self.batch_size)
            stand_ins = Generated(spec.shape, len(spec.classes), length)
            return WorkerLoader(stand_ins, self.batches(length, shuffle=train))

        images, labels = self.source.splits[split]
        batches = self.batches(len(images), shuffle=train)
        if train:
            rank, world = self.rank_and_world
            order: dict[str, int] = {"seed": self.seed, "rank": rank, "world": world}
            batches = RepeatedAugmentation(len(images), self.augmentation.repeats, self.batch_size, **order)
        transform = self.augmentation.transform(self.image_size, self.normalisation, train=train)
        photos = ArrayPhotos(images, labels, transform, self.seed)
        return WorkerLoader(photos, batches, num_workers=self.num_workers)

    def train_dataloader(self) -> WorkerLoader:
        return self._loader("train")

    def val_dataloader(self) -> WorkerLoader | list[Any]:
        return self._loader("val") if self.spec.sizes["val"] else []

    def test_dataloader(self) -> WorkerLoader:
        return self._loader("test")
