"""Photos and drawings of ImageNet's classes that networks are only tested on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from datamodules.common.base import DataError, Spec
from datamodules.common.folders import ImageNet, Source


class TestedImageNet(ImageNet):
    """ImageNet's classes without anything to train on."""

    __test__ = False  # pytest would take it for a test

    def available(self) -> str:
        try:
            source = Source(self.root)
        except DataError as error:
            return f"{error}. {self.title}: {self.where}"
        return "" if self.stored(source) else f"{self.root} has no photos to test on. {self.title}: {self.where}"

    def stored(self, source: Source) -> list[str]:
        """Folders that hold the test photos."""
        return [self.test_split] if self.test_split in source.files else []

    def train_dataloader(self) -> Any:
        return []

    def val_dataloader(self) -> Any:
        return []


class ShiftedImageNet(TestedImageNet):
    """ImageNet-R, ImageNet-Sketch, Stylized ImageNet, ImageNet-C: all files in folders named by WordNet ids.

    These may lie in any folders, as those of ImageNet-C in <corruption>/<severity>/; what lies in one called `train` is
    left out.

    Args:
        name: of the set.
        count: photos that it has.
        where: where to get it.
        root, batch_size, options: see ImageFolder.
    """

    def __init__(self, root: str, batch_size: int, name: str, count: int, where: str = "", **options: Any) -> None:
        super().__init__(root, batch_size, **options)
        self.title = name
        self.where = where
        self.count = count

    def stored(self, source: Source) -> list[str]:
        return [folder for folder in sorted(source.files) if folder != "train"]

    def expected_sizes(self) -> dict[str, int]:
        return {"train": 0, "test": self.count}

    @property
    def spec(self) -> Spec:
        return replace(super().spec, split="all photos are tested on")

    def _list(self) -> None:
        numbers = {name: label for label, name in enumerate(self.classes())}
        assert self.source is not None
        files = [self.source.files[folder] for folder in self.stored(self.source)]
        if unknown := {name for by_class in files for name in by_class if name not in numbers}:
            raise DataError(f"{self.root} has a class folder {min(unknown)!r} that {self.title} does not know")
        self.items = {
            "train": [],
            "test": [(name, numbers[w]) for by_class in files for w in sorted(by_class) for name in by_class[w]],
        }


COUNTS = {
    "TestedImageNet": lambda data: {"val": 50_000},
    "ShiftedImageNet": lambda data: {"*": data.count},
}
