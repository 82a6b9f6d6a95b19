"""Photos in class folders with all their valid labels, as a timm model wants them: ImageNet, ImageNetV2, any folder."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import Tensor

from datamodules.common.base import DataError, DataModule, Spec, generator, hashed
from datamodules.common.folders import Generated, Photos, Source
from datamodules.common.imagenet_classes import imagenet_classes
from datamodules.common.label_files import padded
from datamodules.common.loader import WorkerLoader, batch_type
from datamodules.common.timm_photos import input_of
from datamodules.reassess_imagenet.labels import LabelFile

FOLDERS = ("wnid", "number")


class PhotoSet:
    """Photos in folders of ImageNet's classes, and where their valid labels are.

    Args:
        root: folder or zip of `<split>/<class>/<file>`.
        split: the folder that is read; None where there is none, `<class>/<file>`.
        folders: classes are named by "wnid" or by "number". Numbers are read as numbers: in the order of texts "10"
            comes before "2".
        labels: the file of valid labels; None counts the folder's class alone.
        title, where, size: what it is, where to get it and how many photos there are, for people who lack it.
    Raises:
        DataError: `folders` is neither.
    """

    def __init__(
        self,
        root: str,
        split: str | None = None,
        folders: str = "wnid",
        labels: LabelFile | None = None,
        title: str = "photos",
        where: str = "your own photos in folders of ImageNet's classes",
        size: int = 0,
    ) -> None:
        if folders not in FOLDERS:
            raise DataError(f"folders={folders!r}: expected one of {', '.join(FOLDERS)}")
        self.root, self.split, self.folders, self.labels = root, split or "", folders, labels
        self.title, self.where, self.size = title, where, size

    def source(self) -> Source:
        return Source(Path(self.root))

    def available(self) -> str:
        problems = [] if self.labels is None else [self.labels.available()]
        try:
            if not self.source().files.get(self.split):
                problems.append(f"{self.root} has no {self.split or 'class'} folder with photos. {self.where}")
        except DataError as error:
            problems.append(f"{error}. {self.title}: {self.where}")
        return " ".join(filter(None, problems))

    def read(self) -> Listed:
        """Every photo with its class and its valid labels.

        Raises:
            DataError: no photo, a class folder that ImageNet does not have, or a photo that the label file leaves out.
        """
        source = self.source()
        files = [(self._class(folder), name) for folder, n in source.files.get(self.split, {}).items() for name in n]
        if not files:
            raise DataError(self.available() or f"{self.root} holds no photo")
        original = [label for label, _ in files]
        names = [name for _, name in files]
        if self.labels is None:
            return Listed(source, names, torch.tensor(original), padded([[label] for label in original]))
        known = self.labels.read()
        stems = [PurePosixPath(name).stem for name in names]
        if left_out := next((stem for stem in stems if stem not in known), None):
            raise DataError(f"{self.labels.path} has no labels for {left_out}, which {self.root} holds")
        return Listed(source, names, torch.tensor(original), padded([known[stem] for stem in stems]))

    def _class(self, folder: str) -> int:
        if self.folders == "wnid" and folder in imagenet_classes()[0]:
            return imagenet_classes()[0][folder]
        if self.folders == "number" and folder.isdecimal() and int(folder) < 1000:
            return int(folder)
        raise DataError(f"{self.root} has a class folder {folder!r}, which is no {self.folders} of an ImageNet class")


@dataclass(frozen=True)
class Listed:
    """A set of N photos: where they are, their class (N,) and their valid labels (N, L), padded with -1."""

    source: Source
    names: list[str]
    original: Tensor
    valid: Tensor


class PhotoSets(DataModule):
    """Several sets of photos, preprocessed as timm tests one of its models; a test loader for each set.

    Batches are (images (B, 3, S, S), original label (B,), valid (B, L) padded with -1). No test-time augmentation.

    Args:
        sets: name -> PhotoSet.
        model: timm name with its tag; it brings size, crop, interpolation, mean and std.
        batch_size: over all devices.
        num_workers: decoding processes.
        seed, generated: see DataModule; nothing here is random.
    Raises:
        DataError: what PhotoSet raises, and a model that timm does not know.
    """

    def __init__(
        self,
        sets: Mapping[str, PhotoSet],
        model: str,
        batch_size: int = 64,
        num_workers: int = 8,
        seed: int = 0,
        generated: bool = False,
    ) -> None:
        super().__init__(batch_size, seed, generated)
        self.sets, self.num_workers = dict(sets), num_workers
        self.input = input_of(model)
        self.listed: dict[str, Listed] = {}
        self._spec: Spec | None = None

    @property
    def spec(self) -> Spec:
        return self._spec or Spec(
            name=" and ".join(photos.title for photos in self.sets.values()),
            shape=tuple(self.input["input_size"]),
            classes=imagenet_classes()[1],
            sizes={"train": 0, "val": 0, "test": sum(photos.size for photos in self.sets.values())},
            mean=tuple(self.input["mean"]),
            std=tuple(self.input["std"]),
            split="all photos of each set",
            where="; ".join(photos.where for photos in self.sets.values()),
        )

    def available(self) -> str:
        return " ".join(filter(None, (photos.available() for photos in self.sets.values())))

    def setup(self, stage: str | None = None) -> None:
        if self._spec is not None:
            return
        if self.generated:
            self._spec = replace(self.spec, source="generated")
            return
        self.listed = {name: photos.read() for name, photos in self.sets.items()}
        content = hashed(*(t for listed in self.listed.values() for t in (listed.original, listed.valid)))
        names = hashlib.sha256("\n".join(n for listed in self.listed.values() for n in listed.names).encode())
        test = sum(len(listed.names) for listed in self.listed.values())
        sizes = {"train": 0, "val": 0, "test": test}
        self._spec = replace(self.spec, sizes=sizes, identity=names.hexdigest()[:6] + content[:6])

    def test_dataloader(self) -> list[WorkerLoader]:
        return [self._stand_in(name) if self.generated else self._photos(name) for name in self.sets]

    def _photos(self, name: str) -> WorkerLoader:
        from timm.data import create_transform

        listed = self.listed[name]
        items = list(zip(listed.names, range(len(listed.names)), strict=True))
        photos = Photos(listed.source, items, create_transform(**self.input), self.seed)
        return self._labelled(photos, listed.original, listed.valid, self.num_workers)

    def _stand_in(self, name: str) -> WorkerLoader:
        """Two batches of random images with one or two labels."""
        count, draw = 2 * self.batch_size, generator("stand-in", self.seed)
        original = torch.randint(1000, (count,), generator=draw)
        second = torch.where(torch.rand(count, generator=draw) < 0.5, (original + 1) % 1000, -1)
        return self._labelled(Numbered(self.spec.shape, count), original, torch.stack([original, second], 1), 0)

    def _labelled(self, photos: Any, original: Tensor, valid: Tensor, workers: int) -> WorkerLoader:
        def add_labels(batch: Any) -> Any:
            return batch_type(("x", "y", "valid"))(batch.x, original[batch.row], valid[batch.row])

        batches = self.batches(len(original), shuffle=False)
        return WorkerLoader(photos, batches, columns=("x", "row"), num_workers=workers, finish=add_labels)


class Numbered(Generated):
    """Random images and their own number."""

    def __init__(self, shape: tuple[int, ...], length: int) -> None:
        super().__init__(shape, 1, length)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, int]:
        return super().__getitem__(key)[0], key[1]


COUNTS = {"PhotoSet": lambda part: {part.split: part.size} if part.size else {}}
