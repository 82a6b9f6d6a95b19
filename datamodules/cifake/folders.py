"""CIFAKE itself: CIFAR-10's 60,000 images and as many of Stable Diffusion 1.4, 32x32 JPEG files in class folders."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from datamodules.common.arrays import ArrayData, Split
from datamodules.common.base import DataError, Spec, generator
from datamodules.common.folders import UNREADABLE, Source
from datamodules.common.generated_pictures import finish

FOLDERS = {"REAL": 0, "FAKE": 1}  # folder -> label
SIDE = 32
WHERE = "https://www.kaggle.com/datasets/birdy654/cifake-real-and-ai-generated-synthetic-images"


class CIFAKE(ArrayData):
    """<root>/{train,test}/{REAL,FAKE}/*.jpg, or a zip of it, decoded into memory; label 0 is real, 1 generated.

    Args:
        root: the folder or zip.
        batch_size: the global batch, over all devices.
        jpeg: quality of a further JPEG file that every picture is; None for none.
        shuffled: training labels in random order, from which nothing can be learnt.
        options: of ArrayData, except rows.
    Raises:
        DataError: folders or pictures that are missing, damaged or of another size.
    """

    def __init__(
        self, root: str, batch_size: int, jpeg: int | None = None, shuffled: bool = False, **options: Any
    ) -> None:
        super().__init__(batch_size, **options)
        self.root = Path(root)
        self.jpeg = jpeg
        self.shuffled = shuffled

    def declared(self) -> Spec:
        history = "" if self.jpeg is None else f"; each picture once more a JPEG file of quality {self.jpeg}"
        return Spec(
            name="CIFAKE",
            shape=(3, SIDE, SIDE),
            classes=("real", "generated"),
            sizes={"train": 100_000, "test": 20_000},
            mean=(0.0,) * 3,
            std=(1.0,) * 3,
            split="its own; val from the training pictures" + history,
            where=WHERE,
        )

    def available(self) -> str:
        try:
            there = Source(self.root).files
        except DataError as error:
            return f"{error}. CIFAKE: {WHERE}"
        wanted = [(split, folder) for split in ("train", "test") for folder in FOLDERS]
        missing = [f"{split}/{folder}" for split, folder in wanted if not there.get(split, {}).get(folder)]
        return f"{self.root} has no pictures in {', '.join(missing)}. CIFAKE: {WHERE}" if missing else ""

    def read(self) -> tuple[Split, Split]:
        if problem := self.available():
            raise DataError(problem)
        source = Source(self.root)
        train, test = (self._decode(source, split) for split in ("train", "test"))
        return train, test

    def _decode(self, source: Source, split: str) -> Split:
        files = [(name, label) for folder, label in FOLDERS.items() for name in source.files[split][folder]]
        images = torch.empty(len(files), 3, SIDE, SIDE, dtype=torch.uint8)
        for row, (name, _) in enumerate(files):
            try:
                with Image.open(io.BytesIO(source.read(name))) as picture:
                    pixels = np.array(picture.convert("RGB"))
            except UNREADABLE as error:
                raise DataError(f"{self.root}/{name} cannot be decoded ({error}); replace or remove it") from error
            if pixels.shape != (SIDE, SIDE, 3):
                height, width = pixels.shape[:2]
                raise DataError(f"{self.root}/{name} has {width}x{height} pixels: expected {SIDE}x{SIDE}")
            images[row] = torch.from_numpy(pixels).permute(2, 0, 1)
        return finish(images, self.jpeg), torch.tensor([label for _, label in files])

    def _sized(self, declared: Spec) -> Spec:
        """A sample has its own sizes; commands refuse it, see COUNTS."""
        if not self.generated and not self.available():
            files = Source(self.root).files
            sizes = {split: sum(len(files[split][folder]) for folder in FOLDERS) for split in ("train", "test")}
            declared = replace(declared, sizes=sizes)
        return super()._sized(declared)

    def setup(self, stage: str | None = None) -> None:
        if self.splits:
            return
        super().setup(stage)
        if self.shuffled:
            images, labels = self.splits["train"]
            order = torch.randperm(len(labels), generator=generator("shuffled labels", self.seed))
            self.splits["train"] = (images, labels[order])
            self._spec = replace(self.spec, split=f"{self.spec.split}; training labels shuffled")


COUNTS = {"CIFAKE": lambda data: {"train": 100_000, "test": 20_000}}
