"""CelebA-HQ and FFHQ, sorted into folders as VQGAN's authors split them."""

from __future__ import annotations

from typing import ClassVar

from datamodules.common.folders import ImageFolder


class Faces(ImageFolder):
    """Photos of faces in one folder per split, `<root>/{train,val}/<any name>/`; a dry run needs none of them.

    Arguments and errors are ImageFolder's.
    """

    images: ClassVar[dict[str, int]]

    def classes(self) -> tuple[str, ...]:
        return ("face",) if self.generated else super().classes()

    def expected_sizes(self) -> dict[str, int]:
        return dict(self.images) if self.generated else super().expected_sizes()


class CelebAHQ(Faces):
    """Karras et al. 2018: 30,000 photos."""

    title = "CelebA-HQ"
    where = "https://github.com/tkarras/progressive_growing_of_gans; lists of files in CompVis/taming-transformers"
    images: ClassVar[dict[str, int]] = {"train": 25_000, "test": 5_000}


class FFHQ(Faces):
    """Karras et al. 2019: 70,000 photos."""

    title = "FFHQ"
    where = "https://github.com/NVlabs/ffhq-dataset; lists of files in CompVis/taming-transformers"
    images: ClassVar[dict[str, int]] = {"train": 60_000, "test": 10_000}


COUNTS = {"Faces": lambda data: {"train": data.images["train"], "val": data.images["test"]}}
