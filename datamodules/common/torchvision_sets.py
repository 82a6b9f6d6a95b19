"""Datasets that torchvision knows how to find and fetch, read whole into memory."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.common.arrays import ArrayData, Split
from datamodules.common.augment import Augmentation
from datamodules.common.base import DataError, Spec

ASSETS = Path(__file__).parent / "assets"


class TorchvisionSet(ArrayData):
    """An ArrayData whose images torchvision reads from `root`, fetching them there if it can.

    Args:
        root: folder that holds (or gets) the dataset in torchvision's layout.
        others: see ArrayData.
    Raises:
        DataError: the folder does not exist, or the data is not in it and cannot be fetched.
    """

    kind: str  # the class in torchvision.datasets
    described: Spec

    def __init__(
        self,
        batch_size: int,
        root: str = "data",
        train_size: int | None = None,
        val_size: int = 0,
        test_size: int | None = None,
        label_noise: float = 0.0,
        augment: Sequence[Augmentation] = (),
        seed: int = 0,
        generated: bool = False,
        views: int = 1,
        rows: bool = False,
    ) -> None:
        sizes = (train_size, val_size, test_size)
        super().__init__(batch_size, *sizes, label_noise, augment, seed, generated, views, rows)
        self.root = Path(root)

    def declared(self) -> Spec:
        return self.described

    def available(self) -> str:
        if not self.root.is_dir():
            return f"data_dir {self.root} does not exist: make it, or name another with data_dir=... or REPRISE_DATA"
        try:
            self._open(train=True, download=False)
        except (RuntimeError, OSError) as error:
            return f"{self.described.name} is not in {self.root}: {str(error).splitlines()[0]} ({self.described.where})"
        return ""

    def _open(self, *, train: bool, download: bool) -> Any:
        from torchvision import datasets

        return getattr(datasets, self.kind)(str(self.root), train=train, download=download)

    def prepare_data(self) -> None:
        if self.generated or not self.available():
            return
        if not self.root.is_dir():
            raise DataError(self.available())
        try:
            for train in (True, False):
                self._open(train=train, download=True)
        except (RuntimeError, OSError) as error:  # no network, or a file that fails its checksum
            raise DataError(self.available() or f"{self.described.name}: {error}") from error

    def read(self) -> tuple[Split, Split]:
        if problem := self.available():
            raise DataError(problem)
        train, test = (self._tensors(self._open(train=t, download=False)) for t in (True, False))
        return train, test

    @staticmethod
    def _tensors(dataset: Any) -> Split:
        images = torch.as_tensor(np.asarray(dataset.data))
        images = images.unsqueeze(1) if images.ndim == 3 else images.permute(0, 3, 1, 2)
        return images.contiguous(), torch.as_tensor(np.asarray(dataset.targets), dtype=torch.long)


class MNIST(TorchvisionSet):
    """Handwritten digits (LeCun et al. 1998), 60,000 + 10,000, 28x28."""

    kind = "MNIST"
    stored = "MNIST/raw/*"
    described = Spec(
        name="MNIST",
        shape=(1, 28, 28),
        classes=tuple("0123456789"),
        sizes={"train": 60000, "test": 10000},
        mean=(0.1307,),
        std=(0.3081,),
        split="the official test set; val drawn from the official training set by the seed",
        where="torchvision fetches it (11 MB)",
    )


class FashionMNIST(TorchvisionSet):
    """Zalando's articles (Xiao et al. 2017, MIT licence), 28x28; `subset` is "embedded" or "full".

    The embedded subset, shipped with the suite, is the first 1,200 training and 200 test images of each class.
    """

    kind = "FashionMNIST"
    stored = "FashionMNIST/raw/*"
    stored_when = {"subset": "full"}  # noqa: RUF012
    shipped = "datamodules/common/assets/fashion_mnist.npz"
    described = Spec(
        name="Fashion-MNIST",
        shape=(1, 28, 28),
        classes=("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"),
        sizes={"train": 60000, "test": 10000},
        mean=(0.2860,),
        std=(0.3530,),
        split="the official test set; val drawn from the official training set by the seed",
        where="torchvision fetches it (31 MB)",
    )

    def __init__(self, batch_size: int, subset: str = "embedded", **options: Any) -> None:
        super().__init__(batch_size, **options)
        if subset not in ("embedded", "full"):
            raise DataError(f"subset={subset!r}: expected 'embedded' or 'full'")
        self.subset = subset

    def declared(self) -> Spec:
        if self.subset == "full":
            return self.described
        return replace(
            self.described,
            name="Fashion-MNIST (12,000 + 2,000)",
            sizes={"train": 12000, "test": 2000},
            split="subset of the official test set; val drawn from the training part by the seed",
            where="comes with the install",
        )

    def available(self) -> str:
        return "" if self.subset == "embedded" else super().available()

    def read(self) -> tuple[Split, Split]:
        if self.subset == "full":
            return super().read()
        with np.load(ASSETS / "fashion_mnist.npz") as stored:
            arrays = {name: torch.as_tensor(stored[name]) for name in stored.files}
        train, test = (
            (arrays[f"{part}_images"].unsqueeze(1), arrays[f"{part}_labels"].long()) for part in ("train", "test")
        )
        return train, test


class CIFAR10(TorchvisionSet):
    """Tiny colour photos (Krizhevsky 2009), 50,000 + 10,000, 32x32, 10 classes.

    Where root/cifar10.zip exists (cifar10/{train,test}/<class>/*.jpg|png) it is read instead of torchvision's files.
    """

    kind = "CIFAR10"
    stored = ("cifar10.zip", "cifar-10-batches-py/*")
    described = Spec(
        name="CIFAR-10",
        shape=(3, 32, 32),
        classes=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
        sizes={"train": 50000, "test": 10000},
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
        split="the official test set; val drawn from the official training set by the seed",
        where="torchvision fetches it (170 MB)",
    )

    @property
    def _zip(self) -> Path:
        return self.root / "cifar10.zip"

    def available(self) -> str:
        return "" if self._zip.is_file() else super().available()

    def read(self) -> tuple[Split, Split]:
        if not self._zip.is_file():
            return super().read()
        train, test = (self._unzip(part) for part in ("train", "test"))
        return train, test

    def _unzip(self, part: str) -> Split:
        from PIL import Image

        images: list[Tensor] = []
        labels: list[int] = []
        with zipfile.ZipFile(self._zip) as archive:
            names = sorted(name for name in archive.namelist() if f"/{part}/" in name and not name.endswith("/"))
            for name in names:
                try:
                    with Image.open(io.BytesIO(archive.read(name))) as picture:
                        images.append(torch.from_numpy(np.array(picture.convert("RGB"))))
                except OSError as error:
                    raise DataError(f"{self._zip}: {name} is damaged: {error}") from error
                labels.append(self.described.classes.index(Path(name).parent.name))
        return torch.stack(images).permute(0, 3, 1, 2).contiguous(), torch.tensor(labels)


class CIFAR100(TorchvisionSet):
    """Tiny colour photos (Krizhevsky 2009), 50,000 + 10,000, 32x32, 100 classes ("fine" labels)."""

    kind = "CIFAR100"
    stored = "cifar-100-python/*"
    described = Spec(
        name="CIFAR-100",
        shape=(3, 32, 32),
        classes=tuple(str(number) for number in range(100)),
        sizes={"train": 50000, "test": 10000},
        mean=(0.5071, 0.4865, 0.4409),
        std=(0.2673, 0.2564, 0.2762),
        split="the official test set; val drawn from the official training set by the seed",
        where="torchvision fetches it (169 MB)",
    )
