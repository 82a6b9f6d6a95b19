"""Photos as CLIP sees them: a downstream set in class folders, and photos that stand for the pre-training data."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from datamodules.common.base import DataError, DataModule, Spec
from datamodules.common.folders import Generated, Normalise, Photos, Source
from datamodules.common.loader import WorkerLoader
from datamodules.zpe.prompts import Listed, Prompts, Released

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
INCEPTION_AREA = (0.05, 1.0)  # of the crops of pre-training photos


def plain(name: str) -> str:
    """A class name as it is compared with a folder's: lower case, letters and digits alone."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def label_folders(folders: Sequence[str], classes: Sequence[str]) -> dict[str, int]:
    """The label of each class folder.

    Folders that are numbers, or WordNet ids, come in the order of the classes; others are called as the classes are,
    whatever the case, blanks and signs.

    Raises:
        DataError: another number of folders than classes, or a name that is no class.
    """
    if len(folders) != len(classes):
        raise DataError(f"{len(folders)} class folders for {len(classes)} class names")
    if all(name.isdigit() for name in folders):
        return {name: label for label, name in enumerate(sorted(folders, key=int))}
    if all(re.fullmatch(r"n\d{8}", name) for name in folders):
        return {name: label for label, name in enumerate(sorted(folders))}
    known = {plain(name): label for label, name in enumerate(classes)}
    if wrong := next((name for name in sorted(folders) if plain(name) not in known), None):
        raise DataError(f"class folder {wrong!r} is none of the class names")
    return {name: known[plain(name)] for name in folders}


@dataclass(frozen=True)
class Collection:
    """What the photos of a folder are.

    Attributes:
        size: how many photos the folder has; of pre-training data, how many are used.
        title: what the set is called; None takes the folder's name.
        where: the photos come from.
        split: which of the dataset's photos they are.
    """

    size: int
    title: str | None = None
    where: str = "your own photos"
    split: str = "all photos of the folder"


class ClipPhotos(DataModule):
    """Photos of one folder (or zip), tested on once. Testing: shorter side to S, bicubic, centre crop.

    Args:
        root: the folder.
        batch_size: the global batch, over all devices.
        collection: what the photos are, and how many.
        image_size: S, pixels; each channel is normalised as CLIP's training had it.
        num_workers: decoding processes; does not change what is served.
        seed, generated: see DataModule.
    Raises:
        DataError: the folder is missing, holds no photo, or holds another number of them.
    """

    def __init__(
        self,
        root: str,
        batch_size: int,
        collection: Collection,
        image_size: int = 224,
        num_workers: int = 8,
        seed: int = 0,
        generated: bool = False,
    ) -> None:
        super().__init__(batch_size, seed, generated)
        self.root = Path(root)
        self.collection = collection
        self.title = collection.title or self.root.name
        self.image_size = image_size
        self.num_workers = num_workers
        self.items: list[tuple[str, int]] = []  # file, label
        self.source: Source | None = None
        self._identity = ""

    def list_items(self, source: Source) -> list[tuple[str, int]]:
        """Each photo's file and label."""
        raise NotImplementedError(f"{type(self).__name__} does not list its photos")

    def classes(self) -> tuple[str, ...]:
        return ()

    def prompts(self) -> Prompts | None:
        """What the set is classified by; None for photos that are not to be classified."""
        return None

    def transform(self) -> Any:
        """PIL image -> (3, S, S) uint8."""
        from torchvision.transforms import v2

        bicubic = v2.InterpolationMode.BICUBIC
        head = [v2.Resize(self.image_size, interpolation=bicubic), v2.CenterCrop(self.image_size)]
        return v2.Compose([*head, v2.PILToTensor()])

    @property
    def spec(self) -> Spec:
        return Spec(
            name=self.title,
            shape=(3, self.image_size, self.image_size),
            classes=self.classes(),
            sizes={"train": 0, "val": 0, "test": len(self.items) or self.collection.size},
            mean=CLIP_MEAN,
            std=CLIP_STD,
            split=self.collection.split,
            source="generated" if self.generated else "real",
            where=self.collection.where,
            identity=self._identity,
        )

    def available(self) -> str:
        try:
            source = Source(self.root)
        except DataError as error:
            return f"{error}. {self.title}: {self.collection.where}"
        return "" if source.files else f"{self.root} holds no photo. {self.title}: {self.collection.where}"

    def setup(self, stage: str | None = None) -> None:
        if self.generated or self.items:
            return
        if problem := self.available():
            raise DataError(problem)
        self.source = Source(self.root)
        items = self.list_items(self.source)
        expected = self.collection
        if len(items) != expected.size:
            asked = f"expected {expected.size}, {expected.split}. {self.title}: {expected.where}"
            raise DataError(f"{self.root} holds {len(items)} photos; {asked}")
        self.items = items
        listing = "\n".join(f"{label} {name}" for name, label in self.items)
        self._identity = hashlib.sha256(listing.encode()).hexdigest()[:12]

    def train_dataloader(self) -> list[WorkerLoader]:
        return []

    def val_dataloader(self) -> list[WorkerLoader]:
        return []

    def test_dataloader(self) -> WorkerLoader:
        if self.generated:
            length = 2 * self.batch_size
            dataset: Dataset = Generated(self.spec.shape, max(1, len(self.classes())), length)
        else:
            assert self.source is not None
            length = len(self.items)
            dataset = Photos(self.source, self.items, self.transform(), self.seed)
        workers = 0 if self.generated else self.num_workers
        batches = self.batches(length, shuffle=False)
        return WorkerLoader(dataset, batches, num_workers=workers, finish=Normalise(self.spec, self.device))


class ZeroShotPhotos(ClipPhotos):
    """A downstream set under root/<class folder>/, with the prompts it is classified by.

    Args:
        prompts: class names and templates.
        others: see ClipPhotos.
    """

    def __init__(
        self, root: str, batch_size: int, collection: Collection, prompts: Listed | Released, **others: Any
    ) -> None:
        super().__init__(root, batch_size, collection, **others)
        self.given = prompts

    def prompts(self) -> Prompts:
        return self.given.read()

    def classes(self) -> tuple[str, ...]:
        return () if self.given.available() else self.given.read().classes

    def available(self) -> str:
        return "; ".join(problem for problem in (super().available(), self.given.available()) if problem)

    def list_items(self, source: Source) -> list[tuple[str, int]]:
        folders: dict[str, list[str]] = {}
        for labels in source.files.values():
            for folder, names in labels.items():
                folders.setdefault(folder, []).extend(names)
        try:
            labelled = label_folders(list(folders), self.prompts().classes)
        except DataError as error:
            raise DataError(f"{self.root}: {error}") from error
        return [(name, labelled[folder]) for folder in sorted(folders) for name in folders[folder]]


class PretrainingPhotos(ClipPhotos):
    """The first photos of a folder of pre-training data, each a random crop, as in pre-training.

    Args:
        others: see ClipPhotos.
    """

    def list_items(self, source: Source) -> list[tuple[str, int]]:
        names = sorted(name for labels in source.files.values() for names in labels.values() for name in names)
        return [(name, 0) for name in names[: self.collection.size]]

    def transform(self) -> Any:
        from torchvision.transforms import v2

        return v2.Compose([v2.RandomResizedCrop(self.image_size, INCEPTION_AREA), v2.PILToTensor()])


COUNTS = {"ZeroShotPhotos": lambda data: {"*": data.collection.size}}
