"""G-SimCLR's data: images in [0, 1], batches guided by pseudo-labels, a small folder of photos held in memory."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from datamodules.common.arrays import ArrayData, Split
from datamodules.common.augment import Augmentation
from datamodules.common.base import DataError, Fed, Spec, generator
from datamodules.common.folders import UNREADABLE, Source
from datamodules.common.loader import Loader
from datamodules.common.views import View
from datamodules.g_simclr.orders import Ordered, pair_rate, random_order, rank_order, strict_order

SAMPLERS = ("random", "strict", "rank_order", "reweighted")


class UnitImages(View, ArrayData):
    """Another in-memory dataset with pixels in [0, 1], neither mean nor deviation taken, as the released code's.

    Args:
        source: the dataset; its splits and seed are used, its batch size and augmentation are not.
        batch_size: the global batch, over all devices.
        augment, views, rows: see ArrayData.
        also_tested: share of the source's validation images, the last of them, that are tested besides its test images
            and not validated on; in [0, 1).
        generated: see DataModule.
    Raises:
        DataError: a share that is out of range.
    """

    def __init__(
        self,
        source: ArrayData,
        batch_size: int,
        augment: Sequence[Augmentation] = (),
        views: int = 1,
        rows: bool = False,
        also_tested: float = 0.0,
        generated: bool = False,
    ) -> None:
        super().__init__(source, batch_size, generated=generated, augment=augment, views=views, rows=rows)
        self.peak = source.peak
        self.also_tested = also_tested
        if not 0 <= also_tested < 1:
            raise DataError(f"also_tested={also_tested}: expected a share from 0 to below 1")

    def _unit(self, spec: Spec) -> Spec:
        channels = spec.shape[0]
        return replace(spec, mean=(0.0,) * channels, std=(1.0,) * channels)

    def declared(self) -> Spec:
        return self._unit(self.source.declared())

    @property
    def spec(self) -> Spec:
        return self._spec or self._unit(self.source.spec)

    def setup(self, stage: str | None = None) -> None:
        if self.splits:
            return
        if self.generated:
            self._stand_in(self.spec)
        else:
            self.source.setup(stage)
            self.splits = dict(self.source.splits)
            self.clean_labels = self.splits["train"][1].clone()
            self._spec = self._unit(self.source.spec)
            if self.also_tested:
                self._test_more()

    def _test_more(self) -> None:
        """Moves images from the end of the validation split to that of the test split."""
        images, labels = self.splits["val"]
        moved = round(self.also_tested * len(labels))
        kept = len(labels) - moved
        test_images, test_labels = self.splits["test"]
        self.splits["val"] = (images[:kept], labels[:kept])
        self.splits["test"] = (torch.cat([test_images, images[kept:]]), torch.cat([test_labels, labels[kept:]]))
        words = f"{self.spec.split}; {moved} images held out of training are tested besides"
        self._settle(replace(self.spec, sizes=self._sizes(), split=words))


@dataclass(frozen=True)
class Sampling:
    """How training batches are composed.

    Samplers: `random`; `strict`, one image of each cluster; `rank_order`, the released code's; `reweighted`, the images
    of `strict` in random batches, which tells what seeing small clusters more often does from what batches do.

    Attributes:
        sampler: one of these.
        reshuffle: draw the batches anew in every epoch (rank order: shuffle them); false serves those of the first
            epoch, in the same order, in each.
    Raises:
        DataError: no such sampler.
    """

    sampler: str = "random"
    reshuffle: bool = True

    def __post_init__(self) -> None:
        if self.sampler not in SAMPLERS:
            raise DataError(f"sampler={self.sampler!r}: expected one of {', '.join(SAMPLERS)}")


class GuidedBatches(UnitImages):
    """Training batches whose composition a sampler decides, from the cluster of each image.

    Only whole batches are served, equally many by each sampler.

    Args:
        source, batch_size, augment, views, rows, generated: see UnitImages.
        clusters: the stage whose artifact `clusters` (N,) says in which cluster each training image is; not needed for
            random batches.
        sampling: the sampler, and whether each epoch has batches of its own.
    Raises:
        DataError: no clusters, clusters of other images, or fewer images than a batch.
    """

    def __init__(
        self,
        source: ArrayData,
        batch_size: int,
        clusters: Fed | None = None,
        sampling: Sampling | None = None,
        augment: Sequence[Augmentation] = (),
        views: int = 2,
        rows: bool = False,
        generated: bool = False,
    ) -> None:
        super().__init__(source, batch_size, augment, views, rows, generated=generated)
        chosen = sampling or Sampling()
        if chosen.sampler != "random" and clusters is None:
            raise DataError(f"sampler={chosen.sampler}: batches are guided by clusters: feeds: {{clusters: <stage>}}")
        self.fed, self.sampling = clusters, chosen
        self.clusters: Tensor | None = None  # (N,)
        self._orders: dict[int, Tensor] = {}

    def setup(self, stage: str | None = None) -> None:
        if self.splits:
            return
        super().setup(stage)
        images = len(self.splits["train"][1])
        if images < self.batch_size:
            raise DataError(f"batch_size={self.batch_size}: {self.spec.name} has {images} training images")
        if self.fed is None:
            return
        if self.generated:
            self.clusters = torch.arange(images) % self.batch_size
            return
        self.clusters = torch.tensor(self.fed.arrays["clusters"])
        if len(self.clusters) != images:
            raise DataError(
                f"clusters of {len(self.clusters)} images, but {self.spec.name} has {images} for training: the stage "
                "that made them needs the same data"
            )

    def order(self, epoch: int) -> Tensor:
        """Rows of an epoch's batches, (steps, B)."""
        if epoch not in self._orders:
            self._orders = {epoch: self._draw(epoch)}  # asked for by the loader and by what measures it
        return self._orders[epoch]

    def _draw(self, epoch: int) -> Tensor:
        labels, batch = self.splits["train"][1], self.batch_size
        sampler, reshuffle = self.sampling.sampler, self.sampling.reshuffle
        drawn = epoch if reshuffle else 0
        source = generator("guided order", self.seed, drawn)
        if self.clusters is None or sampler == "random":
            return random_order(len(labels), batch, source)
        if sampler == "rank_order":
            order = rank_order(self.clusters, batch)
            return order[torch.randperm(len(order), generator=source)] if reshuffle else order
        order = strict_order(self.clusters, batch, source)
        if sampler == "reweighted":
            return order.flatten()[torch.randperm(order.numel(), generator=source)].view_as(order)
        return order

    def composition(self, epoch: int) -> dict[str, float]:
        """What an epoch's batches hold, in percent: pairs of one true class and of one cluster (where there are any),
        and how many of the training images there are at all."""
        order, labels = self.order(epoch), self.splits["train"][1]
        shares = {"same_class": pair_rate(order, labels), "distinct": 100 * len(order.unique()) / len(labels)}
        if self.clusters is not None:
            shares["same_cluster"] = pair_rate(order, self.clusters)
        return shares

    def train_dataloader(self) -> Loader:
        rank, world = self.rank_and_world
        steps = len(self.splits["train"][1]) // self.batch_size
        batches = Ordered(self.order, steps, self.batch_size, self.seed, rank, world)
        return Loader(batches, self.fetch("train", augment=True))


class FolderInMemory(ArrayData):
    """Photos under `root/{train,test}/<class>/`, few enough to be held in memory at one size.

    Args:
        root: folder, or zip with the same layout.
        batch_size: the global batch, over all devices.
        image_size: side in pixels; photos of another size are resized on their shorter side and cut in the middle.
        declared: `classes`, `train` and `test` images in all: what is asked of the folder, and what a dry run goes by.
        test_split: name of the folder that is tested on.
        title, where: the dataset's name, and where to get it.
        options: see ArrayData.
    Raises:
        DataError: folder or split missing, or a photo that cannot be decoded.
    """

    def __init__(
        self,
        root: str,
        batch_size: int,
        declared: dict[str, int],
        image_size: int = 224,
        test_split: str = "test",
        title: str = "folder of photos",
        where: str = "your own photos",
        **options: Any,
    ) -> None:
        super().__init__(batch_size, **options)
        self.root, self.image_size, self.test_split = Path(root), image_size, test_split
        self.expected, self.title, self.where = dict(declared), title, where

    def declared(self) -> Spec:
        return Spec(
            name=self.title,
            shape=(3, self.image_size, self.image_size),
            classes=tuple(f"class {number}" for number in range(self.expected["classes"])),
            sizes={name: self.expected[name] for name in ("train", "test")},
            mean=(0.0,) * 3,
            std=(1.0,) * 3,
            split="the dataset's own test folder; val drawn from its training folder by the seed",
            where=self.where,
        )

    def available(self) -> str:
        try:
            there = Source(self.root).files
        except DataError as error:
            return f"{error}. {self.title}: {self.where}"
        missing = [name for name in ("train", self.test_split) if name not in there]
        return f"{self.root} has no {' and no '.join(missing)} folder. {self.title}: {self.where}" if missing else ""

    def read(self) -> tuple[Split, Split]:
        if problem := self.available():
            raise DataError(problem)
        source = Source(self.root)
        labels = {name: label for label, name in enumerate(sorted(source.files["train"]))}
        if len(labels) != self.expected["classes"]:
            raise DataError(f"{self.root}/train has {len(labels)} class folders; expected {self.expected['classes']}")
        train, test = (self._split(source, name, labels) for name in ("train", self.test_split))
        for name, (images, _) in (("train", train), ("test", test)):
            if len(images) < self.expected[name]:
                raise DataError(f"{self.root}: {len(images)} {name} photos; expected {self.expected[name]}")
        return train, test

    def _split(self, source: Source, name: str, labels: dict[str, int]) -> Split:
        if unknown := set(source.files[name]) - set(labels):
            raise DataError(f"{self.root}/{name} has a class folder {min(unknown)!r} that train does not have")
        transform = v2.Compose([v2.Resize(self.image_size), v2.CenterCrop(self.image_size), v2.PILToTensor()])
        images: list[Tensor] = []
        targets: list[int] = []
        for label in sorted(source.files[name]):
            for file in source.files[name][label]:
                try:
                    with Image.open(io.BytesIO(source.read(file))) as picture:
                        images.append(transform(picture.convert("RGB")))
                except UNREADABLE as error:
                    raise DataError(f"{self.root / file} cannot be decoded ({error}); replace or remove it") from error
                targets.append(labels[label])
        return torch.stack(images), torch.tensor(targets)


COUNTS = {"FolderInMemory": lambda data: {"train": data.expected["train"], data.test_split: data.expected["test"]}}
