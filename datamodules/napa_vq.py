"""Classes that arrive in tasks: train on those of one task, test on all that have arrived until then.

Labels are positions in the order of arrival. The order is numpy's permutation of a seed, as the literature draws it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from datamodules.common.arrays import ArrayData, Split
from datamodules.common.base import DataError, DataModule, Draws, Spec
from datamodules.common.digits import Digits
from datamodules.common.folders import DeclaredFolder, Generated, ImageFolder, Normalise, Photos
from datamodules.common.loader import Loader, WorkerLoader
from datamodules.common.subsets import Subset
from datamodules.common.torchvision_sets import FashionMNIST
from datamodules.common.views import View

DIGITS_TO_TRAIN = 1300  # the first of scikit-learn's 1,797, in the order of their writers


class GarmentsAndDigits(ArrayData):
    """Twenty classes, 28x28 pixels: the embedded Fashion-MNIST, and scikit-learn's digits enlarged (bilinear).

    Digits of the last writers are tested on, about 50 of each beside 200 of each garment.
    """

    def declared(self) -> Spec:
        garments = FashionMNIST(self.batch_size).declared()
        return Spec(
            name="garments and digits",
            shape=(1, 28, 28),
            classes=(*garments.classes, *Digits(self.batch_size).declared().classes),
            sizes={"train": 12_000 + DIGITS_TO_TRAIN, "test": 2000 + 1797 - DIGITS_TO_TRAIN},
            mean=(0.2884,),
            std=(0.3511,),
            split="the embedded Fashion-MNIST's own test part; digits of the last writers",
            where="comes with the install, and with scikit-learn",
        )

    def read(self) -> tuple[Split, Split]:
        garments = FashionMNIST(self.batch_size)
        digits = Digits(self.batch_size)
        (images, labels), _ = digits.read()
        large = F.interpolate(images * (255 / digits.peak), (28, 28), mode="bilinear", antialias=True)
        enlarged = (large.round().to(torch.uint8), labels + len(garments.declared().classes))
        parts = (slice(None, DIGITS_TO_TRAIN), slice(DIGITS_TO_TRAIN, None))

        def joined(some: Split, part: slice) -> Split:
            return torch.cat([some[0], enlarged[0][part]]), torch.cat([some[1], enlarged[1][part]])

        train, test = garments.read()
        return joined(train, parts[0]), joined(test, parts[1])


def class_order(classes: int, seed: int | None) -> list[int]:
    """np.random.seed(seed); np.random.permutation(classes), without numpy's global state. None: as they are."""
    if seed is None:
        return list(range(classes))
    return np.random.RandomState(seed).permutation(classes).tolist()


def classes_at(task: int, tasks: Sequence[int], classes: int, seed: int | None) -> tuple[list[int], list[int]]:
    """(classes of the task, all classes seen with it), original labels in order of arrival.

    Raises DataError for a task that does not exist or more classes than there are.
    """
    if not 0 <= task < len(tasks):
        raise DataError(f"task={task}: tasks={list(tasks)} has tasks 0 to {len(tasks) - 1}")
    if min(tasks) < 1 or sum(tasks) > classes:
        raise DataError(f"tasks={list(tasks)}: expected numbers from 1 that add up to at most {classes} classes")
    seen = class_order(classes, seed)[: sum(tasks[: task + 1])]
    return seen[len(seen) - tasks[task] :], seen


def describe(task: int, tasks: Sequence[int], seed: int | None) -> str:
    """How the classes arrive and what this task trains and tests on, for the report."""
    order = "as they are numbered" if seed is None else f"as np.random.seed({seed}) permutes them"
    return (
        f"classes arrive in tasks of {'+'.join(map(str, tasks))}, {order}; "
        f"trained on the {tasks[task]} of task {task}, tested on all {sum(tasks[: task + 1])} seen"
    )


def class_incremental(
    source: DataModule,
    batch_size: int,
    tasks: Sequence[int],
    task: int,
    order_seed: int | None = 1993,
    per_class: int | None = None,
    generated: bool = False,
) -> DataModule:
    """The view of one task on a dataset, in memory or in folders.

    Args:
        source: the whole dataset; its splits, seed and augmentation are used, its batch size is not.
        batch_size: the global batch, over all devices.
        tasks: number of classes that arrive with each task.
        task: which one to train on, from 0.
        order_seed: fixes the order of arrival; None keeps the dataset's own.
        per_class: training images of each class; None takes all.
        generated: see DataModule.
    Raises:
        DataError: no such task, more classes or images asked for than there are.
    """
    if isinstance(source, ArrayData):
        return Incremental(source, batch_size, tasks, task, order_seed, per_class, generated)
    if not isinstance(source, ImageFolder):
        raise DataError(f"source: {type(source).__name__} is neither an in-memory dataset nor a folder of images")
    if per_class is not None:
        raise DataError(f"per_class={per_class}: a folder of images is taken whole; expected null")
    return IncrementalFolder(source, batch_size, tasks, task, order_seed, generated)


class Incremental(Subset):
    """One task of an in-memory dataset. Arguments: see class_incremental."""

    def __init__(
        self,
        source: ArrayData,
        batch_size: int,
        tasks: Sequence[int],
        task: int,
        order_seed: int | None = 1993,
        per_class: int | None = None,
        generated: bool = False,
    ) -> None:
        new, seen = classes_at(task, tasks, len(source.declared().classes), order_seed)
        super().__init__(source, batch_size, new, per_class, seen, generated=generated)
        self.tasks = list(tasks)
        self.task = task
        self.order_seed = order_seed

    @property
    def labels(self) -> list[int]:
        return self.tested  # in order of arrival; a Subset would put the classes it trains on first

    def _words(self, there: Spec) -> str:
        limit = "" if self.per_class is None else f"; {self.per_class[0]} training images per class"
        return f"{there.split}; {describe(self.task, self.tasks, self.order_seed)}{limit}"

    def setup(self, stage: str | None = None) -> None:
        if self.splits:
            return
        super().setup(stage)
        images, labels = self.splits["train"]
        first = len(self.tested) - len(self.kept)
        if self.generated:
            self.splits["train"] = (images, first + torch.arange(len(labels)) % len(self.kept))
            self.clean_labels = self.splits["train"][1].clone()
        elif missing := set(range(first, len(self.tested))) - set(labels.tolist()):
            raise DataError(f"{self.spec.name} has no training image of class {self.spec.classes[min(missing)]!r}")

    def ordered_train_dataloader(self) -> Loader:
        """The task's training images, each exactly once over all processes, not augmented."""
        batches = self.batches(len(self.splits["train"][0]), shuffle=False)
        return Loader(batches, self.fetch("train", augment=False))


class IncrementalFolder(View):
    """One task of a folder of images. Arguments: see class_incremental."""

    def __init__(
        self,
        source: ImageFolder,
        batch_size: int,
        tasks: Sequence[int],
        task: int,
        order_seed: int | None = 1993,
        generated: bool = False,
    ) -> None:
        super().__init__(source, batch_size, generated=generated)
        self.tasks = list(tasks)
        self.task = task
        self.order_seed = order_seed
        self.items: dict[str, list[tuple[str, int]]] = {}
        self._spec: Spec | None = None

    def _classes_at(self, classes: int) -> tuple[list[int], list[int]]:
        return classes_at(self.task, self.tasks, classes, self.order_seed)

    @property
    def spec(self) -> Spec:
        return self._spec or self._declared()

    def _declared(self) -> Spec:
        whole = self.source.spec
        new, seen = self._classes_at(len(whole.classes))
        share = {"train": len(new), "test": len(seen)}
        return replace(
            whole,
            classes=tuple(whole.classes[c] for c in seen),
            sizes={name: whole.sizes[name] * n // len(whole.classes) for name, n in share.items()},
            split=f"{whole.split}; {describe(self.task, self.tasks, self.order_seed)}",
        )

    def setup(self, stage: str | None = None) -> None:
        if self._spec is not None:
            return
        spec = self._declared()
        self.source.setup(stage)
        if self.generated:
            self._spec = replace(spec, source="generated")
            return

        new, seen = self._classes_at(len(self.source.spec.classes))
        ours = {original: position for position, original in enumerate(seen)}
        for name, kept in (("train", set(new)), ("test", set(seen))):
            self.items[name] = [(file, ours[label]) for file, label in self.source.items[name] if label in kept]
        if missing := {ours[c] for c in new} - {label for _, label in self.items["train"]}:
            raise DataError(f"{self.root}/train has no image of class {spec.classes[min(missing)]!r}")

        listing = "\n".join(f"{label} {file}" for items in self.items.values() for file, label in items)
        sizes = {name: len(items) for name, items in self.items.items()}
        self._spec = replace(spec, sizes=sizes, identity=hashlib.sha256(listing.encode()).hexdigest()[:12])

    def _loader(self, name: str, *, augment: bool) -> WorkerLoader:
        spec = self.spec
        if self.generated:
            length = min(spec.sizes[name], 2 * self.batch_size)
            first = len(spec.classes) - self.tasks[self.task] if name == "train" else 0
            dataset: Dataset = Shifted(Generated(spec.shape, len(spec.classes) - first, length), first)
        else:
            assert self.source.source is not None
            transform = self.source.transform(train=augment)
            length = len(self.items[name])
            dataset = Photos(self.source.source, self.items[name], transform, self.seed, self.source.decode)
        workers = 0 if self.generated else self.source.num_workers
        batches = self.batches(length, shuffle=augment)
        return WorkerLoader(dataset, batches, num_workers=workers, finish=Normalise(spec, self.device))

    def train_dataloader(self) -> WorkerLoader:
        return self._loader("train", augment=True)

    def val_dataloader(self) -> list[WorkerLoader]:
        return []

    def test_dataloader(self) -> WorkerLoader:
        return self._loader("test", augment=False)

    def ordered_train_dataloader(self) -> WorkerLoader:
        """The task's training images, each exactly once over all processes, as in a test."""
        return self._loader("train", augment=False)


class Shifted(Dataset):
    """A dataset whose labels begin at `first`."""

    def __init__(self, dataset: Generated, first: int) -> None:
        self.dataset = dataset
        self.first = first

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, int]:
        image, label = self.dataset[key]
        return image, self.first + label


class PlainFolder(DeclaredFolder):
    """Images that are tested on their centre without being resized first, as NAPA-VQ and PASS test.

    Training: random resized crop, or the whole image with `crop_scale: null`, and mirror.

    Args:
        crop_scale: area range of the random crop, as fractions; None trains on whole images, which then have one size.
        others: see DeclaredFolder; `resize` is not used.
    """

    def __init__(
        self,
        root: str,
        batch_size: int,
        declared: Mapping[str, int],
        where: str = "",
        crop_scale: Sequence[float] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(root, batch_size, declared, where, crop_scale=crop_scale or (1.0, 1.0), **options)
        self.whole = crop_scale is None

    def transform(self, *, train: bool) -> Any:
        from torchvision.transforms import v2

        crop = [v2.RandomResizedCrop(self.image_size, self.crop_scale)] if not self.whole else []
        head = [*crop, v2.RandomHorizontalFlip()] if train else [v2.CenterCrop(self.image_size)]
        return v2.Compose([*head, v2.PILToTensor()])


class Brightness:
    """Multiplies each image by a factor in [1 - amount, 1 + amount), clipped to [0, 1] (torchvision's ColorJitter)."""

    def __init__(self, amount: float) -> None:
        self.amount = amount

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        factor = draws.uniform(1, 1, 1, low=1 - self.amount, high=1 + self.amount).to(images.device)
        return (images * factor).clamp_(0, 1)
