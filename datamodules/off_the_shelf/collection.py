"""Images by row number, for stages that export features; and these features, for stages that learn from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from datamodules.common.arrays import ArrayData, Split
from datamodules.common.base import DataError, DataModule, Fed, Share, Spec, generator, hashed
from datamodules.common.loader import Columns, Loader, batch_type
from datamodules.common.photo_patches import PhotoPatches
from datamodules.common.views import View

_READ: dict[tuple[Any, ...], dict[str, Split]] = {}


def read_once(source: ArrayData | PhotoPatches) -> dict[str, Split]:
    """The splits of a source, kept for the stages that follow in this process: a paper has many on the same images."""
    options = {
        k: repr(v) for k, v in vars(source).items() if v is None or isinstance(v, bool | int | float | str | Path)
    }
    key = (type(source), *sorted(options.items()))
    if key not in _READ:
        source.setup()
        while len(_READ) >= 3:
            _READ.pop(next(iter(_READ)))
        _READ[key] = source.splits
    return _READ[key]


def shape_of(export: Fed) -> tuple[int, ...]:
    """(V, D), views and length of the features. In a dry run the module alone has what it made."""
    arrays = export.arrays or export.module.artifacts()  # type: ignore[operator]
    return arrays["features"].shape[1:]


class Collection(DataModule):
    """Every image has a row number; `rows` says which are for training (or the references of a retrieval task), which
    for testing (or queries), and in some sets which for validation.

    A stage that exports gets batches (x (B, C, H, W) in [0, 1], row (B,)), without any target: all rows in training,
    the test rows in a test. A stage that is fed with `features` gets batches (x (B, V, D), y (B, ...)) of the rows of a
    split; in training they come in the order of `rows`, so that what is solved does not depend on a shuffle.

    Args:
        batch_size: the global batch, over all devices.
        features: stages whose artifact `features` (rows, V, D) holds the features of these images; those of the second
            are the column x2, and so on.
        first: training rows that are served with targets; None serves all.
        seed, generated: see DataModule.
    Raises:
        DataError: data that is missing, fewer training rows than `first`, or features of other images.
    """

    tested: ClassVar[tuple[str, ...]] = ("test",)  # splits of a test on features, each with a loader of its own

    def __init__(
        self,
        batch_size: int,
        features: Fed | Sequence[Fed] = (),
        first: int | None = None,
        seed: int = 0,
        generated: bool = False,
    ) -> None:
        super().__init__(batch_size, seed, generated)
        self.exports = [features] if isinstance(features, Fed) else list(features)
        self.first = first
        self.rows: dict[str, Tensor] = {}
        self.targets: dict[str, Tensor] = {}
        self._spec: Spec | None = None

    def declared(self) -> Spec:
        """The spec before anything is read."""
        raise NotImplementedError

    def read(self) -> str:
        """Set `rows` and `targets`; returns the identity of the data."""
        raise NotImplementedError

    def images(self, rows: Tensor) -> Tensor:
        """(b,) -> (b, C, H, W) float32 in [0, 1]."""
        raise NotImplementedError

    @property
    def spec(self) -> Spec:
        """Its shape is (V, D) of the features where there are any."""
        declared = self._spec or self.declared()
        served = min(declared.sizes["train"], self.first or declared.sizes["train"])
        shape = shape_of(self.exports[0]) if self.exports else declared.shape
        return replace(declared, shape=shape, sizes={**declared.sizes, "train": served})

    @property
    def every_row(self) -> Tensor:
        """Row numbers of all images; a query may be a reference too."""
        return torch.cat(list(self.rows.values())).unique()

    def setup(self, stage: str | None = None) -> None:
        if self.rows:
            return
        if self.generated:
            self._stand_in()
            return
        if problem := self.available():
            raise DataError(problem)

        identity = self.read()
        count = len(self.rows["train"])
        if self.first is not None and not 1 <= self.first <= count:
            raise DataError(f"first={self.first}: {self.declared().name} has {count} training rows")
        for export in self.exports:
            if len(export.arrays["features"]) != len(self.every_row):
                raise DataError(
                    f"features of {len(export.arrays['features'])} images, but {self.declared().name} has "
                    f"{len(self.every_row)}: the stage that made them needs the same data"
                )
        sizes = {"train": count, "val": len(self.rows.get("val", ())), "test": len(self.rows["test"])}
        self._spec = replace(self.declared(), sizes=sizes, identity=identity)

    def _stand_in(self) -> None:
        """A batch of random training images and one of test images, with targets of the declared kind."""
        n = self.batch_size
        self.rows = {"train": torch.arange(n), "test": torch.arange(n, 2 * n)}
        if self.declared().sizes.get("val"):
            self.rows["val"] = self.rows["test"]
        self.targets = {name: self.random_targets(n) for name in self.rows}
        self._spec = replace(self.declared(), source="generated")

    def random_targets(self, count: int) -> Tensor:
        return torch.arange(count) % len(self.declared().classes)

    def random_images(self, rows: Tensor) -> Tensor:
        shape = self.declared().shape
        return torch.stack([torch.rand(shape, generator=generator("stand-in row", row)) for row in rows.tolist()])

    def random_features(self, rows: Tensor, number: int) -> Tensor:
        source = generator("stand-in features", number)
        every = torch.randn(2 * self.batch_size, *shape_of(self.exports[number]), generator=source)
        return F.normalize(every, dim=-1)[rows]

    def features_of(self, rows: Tensor, number: int) -> Tensor:
        """(b,) -> (b, V, D) of one of the exports."""
        if self.generated:
            return self.random_features(rows, number)
        return torch.from_numpy(self.exports[number].arrays["features"][rows.numpy()])

    def train_dataloader(self) -> Loader:
        return self._features("train") if self.exports else self._images(self.every_row, shuffle=True)

    def val_dataloader(self) -> list[Loader]:
        return [self._features("val", test=True)] if self.exports and "val" in self.rows else []

    def test_dataloader(self) -> Loader | list[Loader]:
        if not self.exports:
            return self._images(self.rows["test"], shuffle=False)
        loaders = [self._features(name, test=True) for name in self.tested]
        return loaders if len(loaders) > 1 else loaders[0]

    def _images(self, rows: Tensor, *, shuffle: bool) -> Loader:
        images = self.random_images if self.generated else self.images

        def export(share: Share) -> Any:
            shown = rows[share.indices]
            return batch_type(("x", "row"))(images(shown).to(self.device), shown.to(self.device))

        return Loader(self.batches(len(rows), shuffle=shuffle), export)

    def _features(self, name: str, *, test: bool = False) -> Loader:
        served = slice(self.first if name == "train" else None)
        rows = self.rows[name][served]
        names = ["x", *(f"x{number}" for number in range(2, len(self.exports) + 1))]
        columns = {column: self.features_of(rows, number) for number, column in enumerate(names)}
        batches = self.batches(len(rows), shuffle=False) if test else self.training_in_order(len(rows))
        return Loader(batches, Columns(self.device, **columns, y=self.targets[name][served]))


class ArrayCollection(View, Collection):
    """The images of an in-memory dataset; the target is the label.

    Args:
        source: the images; its sizes, seed and splits are used.
        attributes: 0 or 1 for each class and attribute, (classes, K): the target becomes the class's row.
        names: of the attributes.
        others: see Collection.
    """

    def __init__(
        self,
        source: ArrayData,
        batch_size: int,
        features: Fed | Sequence[Fed] = (),
        first: int | None = None,
        attributes: Sequence[Sequence[int]] | None = None,
        names: Sequence[str] = (),
        generated: bool = False,
    ) -> None:
        super().__init__(source, batch_size, generated=generated, features=features, first=first)
        self.names = tuple(names)
        self.attributes = torch.tensor(attributes) if attributes is not None else None
        classes = len(source.declared().classes)
        if self.attributes is not None and self.attributes.shape != (classes, len(self.names)):
            raise DataError(f"attributes: expected {classes} rows (one a class) of {len(self.names)} numbers")

    def declared(self) -> Spec:
        there = self.source.spec
        unscaled = replace(there, mean=(0.0,) * there.shape[0], std=(1.0,) * there.shape[0])
        return replace(unscaled, classes=self.names) if self.attributes is not None else unscaled

    def random_targets(self, count: int) -> Tensor:
        if self.attributes is None:
            return super().random_targets(count)
        return self.attributes[torch.arange(count) % len(self.attributes)]

    def read(self) -> str:
        splits = read_once(self.source)
        start = 0
        names = [name for name in ("train", "test", "val") if name in splits and len(splits[name][1])]
        for name in names:
            images, labels = splits[name]
            self.rows[name] = torch.arange(start, start + len(images))
            self.targets[name] = labels if self.attributes is None else self.attributes[labels]
            start += len(images)
        self.array = torch.cat([splits[name][0] for name in names])
        return hashed(self.array, *self.targets.values())

    def images(self, rows: Tensor) -> Tensor:
        return self.array[rows].float() / self.source.peak
