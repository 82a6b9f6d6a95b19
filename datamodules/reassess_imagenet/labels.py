"""The published files of all valid labels: ReaL for ImageNet's validation images, the refined ones of ImageNetV2."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor

from datamodules.common.base import DataError, DataModule, Spec, generator, hashed
from datamodules.common.imagenet_classes import imagenet_classes
from datamodules.common.label_files import padded, read_json
from datamodules.common.loader import Loader

WHERE = (
    "real.json: https://github.com/google-research/reassessed-imagenet; imagenetv2_refined.json: "
    "assets/ImageNetV2_refined_labels/imagenetv2_refined_labels.json of https://github.com/esla/Multilabelfy"
)


class LabelFile:
    """Class numbers of each image, in one of the two published forms.

    A list of lists is about ImageNet's 50,000 validation images in their order: the first one is for
    ILSVRC2012_val_00000001. A mapping has a list for each file name, with class numbers that may be written as texts.

    Args:
        root: folder of the file.
        file: its name.
    """

    stored = ("real.json", "imagenetv2_refined.json")

    def __init__(self, root: str, file: str) -> None:
        self.path = Path(root) / file

    def available(self) -> str:
        return "" if self.path.is_file() else f"{self.path} is missing. {WHERE}"

    def read(self) -> dict[str, list[int]]:
        """File name without its suffix -> classes, in the order of the file.

        Raises:
            DataError: the file is missing, damaged, in another form, or has a class that ImageNet does not.
        """
        content = read_json(self.path, WHERE)
        try:
            if isinstance(content, list):
                named = {f"ILSVRC2012_val_{place:08}": labels for place, labels in enumerate(content, 1)}
            else:
                named = {PurePosixPath(name).stem: labels for name, labels in content.items()}
            numbers = {name: [int(label) for label in labels] for name, labels in named.items()}
        except (TypeError, ValueError, AttributeError) as error:
            raise DataError(f"{self.path}: expected lists of class numbers, got {error}") from error
        for name, labels in numbers.items():
            if not all(0 <= label < 1000 for label in labels) or len(set(labels)) < len(labels):
                raise DataError(f"{self.path}, {name}: {labels} is no list of different classes from 0 to 999")
        return numbers


class LabelSets(DataModule):
    """The valid labels alone, without images: a test loader of (B, L) tables, padded with -1, for each set.

    Args:
        sets: name -> LabelFile.
        batch_size, seed, generated: see DataModule; nothing here is random.
    """

    def __init__(
        self, sets: Mapping[str, LabelFile], batch_size: int = 1000, seed: int = 0, generated: bool = False
    ) -> None:
        super().__init__(batch_size, seed, generated)
        self.files = dict(sets)
        self.tables: dict[str, Tensor] = {}
        self._identity = ""

    @property
    def spec(self) -> Spec:
        return Spec(
            name="valid labels of ImageNet's and ImageNetV2's images",
            shape=(12,),
            classes=imagenet_classes()[1],
            sizes={"train": 0, "val": 0, "test": sum(map(len, self.tables.values())) or 60_000},
            mean=(),
            std=(),
            split="every entry of the label files",
            source="generated" if self.generated else "real",
            where=WHERE,
            identity=self._identity,
        )

    def available(self) -> str:
        return " ".join(problem for file in self.files.values() if (problem := file.available()))

    def setup(self, stage: str | None = None) -> None:
        if self.tables:
            return
        if self.generated:
            draw = generator("stand-in", self.seed)
            self.tables = {name: torch.randint(-1, 1000, (8, 12), generator=draw) for name in self.files}
            return
        self.tables = {name: padded(list(file.read().values())) for name, file in self.files.items()}
        self._identity = hashed(*self.tables.values())

    def test_dataloader(self) -> list[Loader]:
        return [self._rows(table) for table in self.tables.values()]

    def _rows(self, table: Tensor) -> Loader:
        return Loader(self.batches(len(table), shuffle=False), lambda share: table[share.indices])
