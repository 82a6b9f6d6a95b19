"""Few labelled images a class and many without a label, served in turns; and the images of a judge, apart from both."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from datamodules.common.arrays import ArrayData, Split
from datamodules.common.augment import Augmentation
from datamodules.common.base import Batches, DataError, Share, Spec, generator, stream
from datamodules.common.loader import Columns, Images, Loader
from datamodules.common.views import View

UNLABELLED = -1


def framed(images: Tensor, shrink: int, side: int | None, channels: int | None) -> Tensor:
    """uint8 images (N, C, H, W), squares of shrink x shrink pixels averaged, in the middle of side x side black pixels;
    one grey channel repeated to `channels`."""
    if shrink > 1:
        images = F.avg_pool2d(images.float(), shrink).round().to(torch.uint8)
    if side is not None and images.shape[-1] < side:
        rest = side - images.shape[-1]
        images = F.pad(images, [rest // 2, rest - rest // 2, rest // 2, rest - rest // 2])
    if channels is not None and images.shape[1] == 1:
        images = images.expand(-1, channels, -1, -1)
    return images


class Framed(View, ArrayData):
    """Images of `source` in [0, 1], not normalised, framed and with as many channels as the networks take.

    Args:
        source: the dataset; its splits and seed are used, its batch size is not.
        batch_size: the global batch, over all devices.
        shrink: side of the squares of pixels that are averaged to one; 1 keeps the images' size.
        side: pixels; smaller images get a black frame. None keeps them.
        channels: to which a grey one is repeated; None keeps it.
        augment, generated: see ArrayData.
    Raises:
        DataError: larger images than side, or a number of channels that is not the source's.
    """

    def __init__(
        self,
        source: ArrayData,
        batch_size: int,
        shrink: int = 1,
        side: int | None = None,
        channels: int | None = None,
        augment: Sequence[Augmentation] = (),
        generated: bool = False,
    ) -> None:
        super().__init__(source, batch_size, generated=generated, augment=augment)
        self.peak, self.shrink, self.side, self.channels = source.peak, shrink, side, channels
        there = source.declared().shape
        if not 1 <= shrink <= there[1]:
            raise DataError(f"shrink={shrink}: expected 1 to {there[1]}, the side of {source.declared().name}")
        if side is not None and there[1] // shrink > side:
            raise DataError(f"side={side}: expected {there[1] // shrink} or more, the side of {source.declared().name}")
        if channels is not None and there[0] not in (1, channels):
            raise DataError(f"channels={channels}: {source.declared().name} has {there[0]}, and only grey is repeated")

    @property
    def spec(self) -> Spec:
        return self._spec or self.declared()

    def declared(self) -> Spec:
        there = self.source.spec
        channels = self.channels or there.shape[0]
        side = self.side or there.shape[1] // self.shrink
        return replace(there, shape=(channels, side, side), mean=(0.0,) * channels, std=(1.0,) * channels)

    def frame(self, split: Split) -> Split:
        return framed(split[0], self.shrink, self.side, self.channels), split[1]

    def setup(self, stage: str | None = None) -> None:
        if self.splits:
            return
        spec = self.declared()
        if self.generated:
            self._stand_in(spec)
        else:
            self.source.setup(stage)
            self.splits = self.chosen()
            self._settle(replace(spec, sizes=self._sizes()))

    def chosen(self) -> dict[str, Split]:
        """The splits, of the source's."""
        raise NotImplementedError


class JudgeImages(Framed):
    """Images of the judge, whom no other stage's training meets: the source's val part; tested on its test part.

    Args:
        options: see Framed.
    """

    def __init__(self, source: ArrayData, batch_size: int, **options: Any) -> None:
        super().__init__(source, batch_size, **options)

    def declared(self) -> Spec:
        there = super().declared()
        sizes = {"train": there.sizes["val"], "val": 0, "test": there.sizes["test"]}
        return replace(there, sizes=sizes, split=f"{there.split}; learns from val, tested on test")

    def chosen(self) -> dict[str, Split]:
        train, test = (self.frame(self.source.splits[name]) for name in ("val", "test"))
        return {"train": train, "val": (train[0][:0], train[1][:0]), "test": test}


class FewShot(Framed):
    """`per_class` labelled training images of each class, and others whose label is hidden.

    A training batch is labelled or unlabelled throughout: x, y (-1 where hidden), row and truth, the true label, which
    is there to be looked at alone. An epoch is `passes` passes of the labelled images; after the first of them and
    every `mu`-th from there on, all unlabelled images pass once. Incomplete batches are left out.

    Args:
        source: the dataset. Which images are labelled follows from its seed.
        batch_size: the global batch; labelled batches are no larger than the labelled images.
        per_class: labelled images of each class, the shots.
        unlabelled: images without a label; None takes all that are left.
        mu: passes of the labelled images for one of the unlabelled; 0 never serves those.
        passes: passes of the labelled images in an epoch; a multiple of mu.
        unlabelled_batch: None is batch_size.
        validate: serve the source's val part; false leaves it to the judge alone.
        options: see Framed.
    Raises:
        DataError: fewer images than asked for, or numbers that make no sense.
    """

    def __init__(
        self,
        source: ArrayData,
        batch_size: int,
        per_class: int,
        unlabelled: int | None = None,
        mu: int = 10,
        passes: int = 10,
        unlabelled_batch: int | None = None,
        validate: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(source, batch_size, **options)
        for name, value in {"per_class": per_class, "passes": passes}.items():
            if value < 1:
                raise DataError(f"{name}={value}: expected 1 or more")
        if mu < 0 or (mu and passes % mu):
            raise DataError(f"mu={mu}: expected 0, or a number that divides passes={passes}")
        self.per_class, self.unlabelled, self.mu, self.passes = per_class, unlabelled, mu, passes
        self.unlabelled_batch = unlabelled_batch or batch_size
        self.validate = validate
        self.labelled = per_class * len(source.declared().classes)
        available = source.spec.sizes["train"] - self.labelled
        if not 0 < (available if unlabelled is None else unlabelled) <= available:
            raise DataError(f"unlabelled={unlabelled}: expected 1 to {available}, what {source.spec.name} has left")

    def declared(self) -> Spec:
        there = super().declared()
        train = there.sizes["train"] if self.unlabelled is None else self.labelled + self.unlabelled
        sizes = {"val": 0, **there.sizes, "train": train}
        sizes["val"] *= self.validate
        words = f"{there.split}; {self.per_class} training images a class with a label, drawn by the seed"
        return replace(there, sizes=sizes, split=words)

    def chosen(self) -> dict[str, Split]:
        images, labels = self.source.splits["train"]
        order = torch.randperm(len(labels), generator=generator("few labelled images", self.seed))
        ranks = F.one_hot(labels[order]).cumsum(0).gather(1, labels[order, None]).squeeze(1)  # 1 for a class's first
        first, others = order[ranks <= self.per_class], order[ranks > self.per_class]
        if len(first) < self.labelled:
            smallest = int(labels.bincount(minlength=len(self.declared().classes)).min())
            raise DataError(f"per_class={self.per_class}: a class of {self.source.spec.name} has {smallest} images")
        rows = torch.cat([first, others[: self.unlabelled]])
        test = self.source.splits["test"]
        val = self.source.splits["val"] if self.validate else (test[0][:0], test[1][:0])
        return {
            name: self.frame(s) for name, s in {"train": (images[rows], labels[rows]), "val": val, "test": test}.items()
        }

    def fetch(self, name: str, *, augment: bool) -> Images:
        images, truth = self.splits[name]
        y = truth.clone()
        if name == "train":
            y[self.few :] = UNLABELLED
        columns = Columns(self.device, x=images, y=y, row=None, truth=truth)
        return Images(columns, self.spec, self.peak, self.augment if augment else ())

    @property
    def few(self) -> int:
        """Labelled images, which come first; of generated ones there is a single batch."""
        return min(self.labelled, self.batch_size) if self.generated else self.labelled

    def train_dataloader(self) -> Loader:
        rank, world = self.rank_and_world
        total = len(self.splits["train"][1])
        passes = Passes(self.passes, self.mu, self.batch_size, self.unlabelled_batch)
        turns = Turns(self.few, total, passes, seed=self.seed, rank=rank, world=world)
        return Loader(turns, self.fetch("train", augment=True))


@dataclass(frozen=True)
class Passes:
    """How often labelled and unlabelled rows pass, and in which batches.

    Attributes:
        labelled: passes of the labelled rows in an epoch.
        mu: of these for one of the unlabelled; 0 never serves those.
        batch_size, unlabelled_batch: global batches, cut to what there is.
    """

    labelled: int
    mu: int
    batch_size: int
    unlabelled_batch: int


class Turns(Batches):
    """Labelled and unlabelled batches in turns: the first `labelled` rows, and all the others.

    Order and augmentation of a labelled batch do not depend on mu, so that arms with and without unlabelled passes see
    the same ones.

    Args:
        labelled, total: how many rows have a label, and all rows.
        passes: of both.
        seed, rank, world: see Batches.
    """

    def __init__(
        self,
        labelled: int,
        total: int,
        passes: Passes,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        super().__init__(total, min(passes.batch_size, labelled), shuffle=True, seed=seed, rank=rank, world=world)
        self.labelled, self.mu, self.passes = labelled, passes.mu, passes.labelled
        self.unlabelled_batch = min(passes.unlabelled_batch, total - labelled)

    def __len__(self) -> int:
        unlabelled = (self.size - self.labelled) // self.unlabelled_batch if self.mu else 0
        return self.passes * (self.labelled // self.batch_size) + (self.passes // max(1, self.mu)) * unlabelled

    def __iter__(self) -> Iterator[Share]:
        skip, self._skip = self._skip, 0
        for number, (rows, seed) in enumerate(self.global_batches()):
            if number < skip:
                continue
            bounds = [len(rows) * r // self.world for r in (self.rank, self.rank + 1)]
            self.position = number + 1
            yield Share(rows[bounds[0] : bounds[1]], len(rows), bounds[0], seed)

    def global_batches(self) -> Iterator[tuple[Tensor, int]]:
        """This epoch's batches, each as its rows and the seed of its augmentation."""
        for number in range(self.epoch * self.passes, (self.epoch + 1) * self.passes):
            yield from self.one_pass(number, 0, self.labelled, self.batch_size)
            if self.mu and number % self.mu == 0:
                yield from self.one_pass(number, self.labelled, self.size, self.unlabelled_batch)

    def one_pass(self, number: int, first: int, end: int, batch: int) -> Iterator[tuple[Tensor, int]]:
        """Pass number `number` of the rows from `first` to `end`, which are labelled throughout or not at all."""
        source = generator("order of few-shot images", self.seed, number, first)
        order = first + torch.randperm(end - first, generator=source)
        for n in range((end - first) // batch):
            rows = order[n * batch : (n + 1) * batch]
            yield rows, stream("augmentation of few-shot images", self.seed, number, first, n)
