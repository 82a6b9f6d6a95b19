"""Some of the classes, some of the labels: a part of another in-memory dataset."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from datamodules.common.arrays import ArrayData, Split
from datamodules.common.base import Batches, DataError, Share, Spec, generator
from datamodules.common.loader import Loader
from datamodules.common.views import View


class Subset(View, ArrayData):
    """Chosen classes of `source`, at most so many training images of each, and epochs of a length of their own.

    The first images of a class are taken, in the source's order, which its seed has shuffled: arms with the same seed
    see the same ones.

    Args:
        source: the dataset; its splits, seed and augmentation are used, its batch size is not.
        batch_size: the global batch, over all devices.
        classes: labels to keep, in this order: the first becomes label 0; None keeps all as they are.
        per_class: training images of each class, one number or one for each of `classes`; None takes all.
        test_classes: labels in val and test, numbered as in `classes`, which must begin with or contain them;
            None means `classes`.
        draws: images in a training epoch, more or fewer than there are; over the epochs all are drawn equally often
            (`Repeated`). None is one pass.
        generated: see DataModule.
    Raises:
        DataError: the source lacks the classes or the images.
    """

    def __init__(
        self,
        source: ArrayData,
        batch_size: int,
        classes: Sequence[int] | None = None,
        per_class: int | Sequence[int] | None = None,
        test_classes: Sequence[int] | None = None,
        draws: int | None = None,
        generated: bool = False,
    ) -> None:
        super().__init__(source, batch_size, generated=generated, augment=source.augment)
        self.peak = source.peak
        self.draws = draws
        self.kept = list(classes) if classes is not None else list(range(len(source.declared().classes)))
        self.tested = list(test_classes) if test_classes is not None else self.kept
        wrong = sorted({*self.kept, *self.tested} - set(range(len(source.declared().classes))))
        if wrong:
            raise DataError(f"{source.declared().name} has no class {wrong[0]}; classes are 0 to {self._highest}")
        self.per_class = [per_class] * len(self.kept) if isinstance(per_class, int) else per_class
        if self.per_class is not None and len(self.per_class) != len(self.kept):
            raise DataError(f"per_class has {len(self.per_class)} numbers for {len(self.kept)} classes")

    @property
    def _highest(self) -> int:
        return len(self.source.declared().classes) - 1

    @property
    def labels(self) -> list[int]:
        """The source's label of each of ours."""
        return self.kept + [c for c in self.tested if c not in self.kept]

    def declared(self) -> Spec:
        """As the source, with sizes that hold when its classes are equally frequent; exact once it is read."""
        there = self.source.spec
        share = {"train": len(self.kept), "val": len(self.tested), "test": len(self.tested)}
        sizes = {name: n * share[name] // len(there.classes) for name, n in there.sizes.items()}
        if self.per_class is not None:
            sizes["train"] = sum(self.per_class)
        names = tuple(there.classes[c] for c in self.labels)
        return replace(there, classes=names, sizes=sizes, split=self._words(there))

    def _words(self, there: Spec) -> str:
        words = there.split
        if len(self.labels) < len(there.classes):
            words += f"; classes {', '.join(there.classes[c] for c in self.labels)}"
        if self.per_class is not None:
            words += f"; {'/'.join(map(str, sorted(set(self.per_class))))} training images per class"
        return words

    @property
    def spec(self) -> Spec:
        return self._spec or self.declared()

    def setup(self, stage: str | None = None) -> None:
        if self.splits:
            return
        spec = self.declared()
        if self.generated:
            self._stand_in(spec)
        else:
            self.source.setup(stage)
            self.splits = {
                name: self._chosen(split, self.kept if name == "train" else self.tested, name)
                for name, split in self.source.splits.items()
            }
            self._settle(replace(spec, source=self.source.spec.source, sizes=self._sizes()))

    def _chosen(self, split: Split, classes: Sequence[int], name: str) -> Split:
        images, labels = split
        chosen_rows: list[Tensor] = []
        for number, label in enumerate(classes):
            rows = (labels == label).nonzero().flatten()
            if name == "train" and self.per_class is not None:
                if len(rows) < self.per_class[number]:
                    raise DataError(
                        f"{self.source.spec.name} has {len(rows)} training images of class {label}; "
                        f"per_class asks for {self.per_class[number]}"
                    )
                rows = rows[: self.per_class[number]]
            chosen_rows.append(rows)
        chosen = torch.cat(chosen_rows).sort().values if chosen_rows else torch.empty(0, dtype=torch.long)
        ours = torch.full((self._highest + 1,), -1, dtype=torch.long)
        ours[torch.tensor(self.labels)] = torch.arange(len(self.labels))
        return images[chosen], ours[labels[chosen]]

    def _loader(self, name: str) -> Loader:
        loader = super()._loader(name)
        if name == "train" and self.draws is not None:
            rank, world = self.rank_and_world
            images = len(self.splits["train"][1])
            batches = Repeated(
                images, self.draws, self.batch_size, shuffle=True, seed=self.seed, rank=rank, world=world
            )
            loader.batches = batches
        return loader


class Repeated(Batches):
    """Epochs of `size` draws from `images` images, fewer or more than there are.

    Epochs are cut one after another from shuffled passes over all images, so that after any number of
    epochs the images' counts differ by one at most.
    """

    def __init__(self, images: int, size: int, batch_size: int, **options: Any) -> None:
        super().__init__(size, batch_size, **options)
        self.images = images

    def __iter__(self) -> Iterator[Share]:
        first = self.epoch * self.size
        passes = range(first // self.images, (first + self.size - 1) // self.images + 1)
        sources = [generator("order of passes", self.seed, number) for number in passes]
        drawn = torch.cat([torch.randperm(self.images, generator=source) for source in sources])
        drawn = drawn[first % self.images :][: self.size]
        for share in super().__iter__():
            yield replace(share, indices=drawn[share.indices])
