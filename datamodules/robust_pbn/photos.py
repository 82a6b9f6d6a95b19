"""Birds, cars and pets of many kinds, with PIP-Net's augmentation: two views that differ in colour and place.

A photo is resized to a square, changed in shape by TrivialAugment (Müller & Hutter 2021), mirrored and cropped once;
each view then changes the colours of the result by TrivialAugment and is cropped for itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchvision import transforms
from torchvision.transforms import v2

from datamodules.common.base import DataError
from datamodules.common.folders import ImageFolder
from datamodules.common.loader import WorkerLoader
from datamodules.common.photo_pairs import load_pairs


@dataclass(frozen=True)
class Collection:
    """One of the data sets: classes, photos for training and test, where to get it."""

    title: str
    classes: int
    train: int
    test: int
    where: str


CROPPED = "each photo cut to its bounding box"
COLLECTIONS = {
    "cub200": Collection(
        "CUB-200-2011, cut to boxes",
        200,
        5994,
        5794,
        f"https://www.vision.caltech.edu/datasets/cub_200_2011, by the official split, {CROPPED}",
    ),
    "cub200_whole": Collection(
        "CUB-200-2011, trained on whole photos",
        200,
        5994,
        5794,
        f"as cub200, but only the test photos cut: train/ whole, test/ {CROPPED}",
    ),
    "cars": Collection("Stanford Cars", 196, 8144, 8041, "a copy of Krause et al. 2013, whose own page is gone"),
    "pets": Collection("Oxford-IIIT Pet", 37, 3680, 3669, "https://www.robots.ox.ac.uk/~vgg/data/pets"),
}

SHAPE = {"ShearX": 0.5, "ShearY": 0.5, "TranslateX": 16.0, "TranslateY": 16.0, "Rotate": 60.0}
COLOUR = {"Brightness": 0.5, "Color": 0.02, "Contrast": 0.5, "Sharpness": 0.5}


class Operations(transforms.TrivialAugmentWide):
    """One operation of a list, at a random strength, for each photo.

    Args:
        signed: operation -> largest strength; its sign is drawn.
        posterize: with 8 to 2 bits.
        solarize: from a threshold of 255 to 0.
        histogram: with automatic contrast and equalised histograms.
    """

    def __init__(
        self, signed: dict[str, float], posterize: bool = False, solarize: bool = False, histogram: bool = False
    ) -> None:
        super().__init__()
        self.signed, self.posterize, self.solarize, self.histogram = signed, posterize, solarize, histogram

    def _augmentation_space(self, num_bins: int) -> dict[str, tuple[Tensor, bool]]:
        space = {"Identity": (torch.tensor(0.0), False)}
        space |= {name: (torch.linspace(0.0, top, num_bins), True) for name, top in self.signed.items()}
        if self.posterize:
            space["Posterize"] = ((8 - (torch.arange(num_bins) / ((num_bins - 1) / 6)).round()).int(), False)
        if self.solarize:
            space["Solarize"] = (torch.linspace(255.0, 0.0, num_bins), False)
        if self.histogram:
            space |= {"AutoContrast": (torch.tensor(0.0), False), "Equalize": (torch.tensor(0.0), False)}
        return space


class TwoViews:
    """A PIL photo -> (2, 3, S, S): changed in shape once, in colour and place for each view."""

    def __init__(self, shape: Any, view: Any) -> None:
        self.shape, self.view = shape, view

    def __call__(self, photo: Any) -> Tensor:
        shaped = self.shape(photo)
        return torch.stack([self.view(shaped), self.view(shaped)])


@dataclass(frozen=True)
class Views:
    """How the two views of a training photo come about.

    Attributes:
        margin: by how much larger a photo is before its shape is changed: 8 for birds, 32 for cars and for pretraining
            on birds, 48 for pets.
        first_crop: by how much larger the first crop is: 4, 8 for pets.
        strong_colours: solarise too, and change saturation as much as brightness (cars).
    """

    margin: int = 8
    first_crop: int = 4
    strong_colours: bool = False


class FineGrained(ImageFolder):
    """One of COLLECTIONS from root/{train,test}/<class>/; training batches have two views, x and x2.

    Args:
        root, batch_size, num_workers, seed, generated: see ImageFolder.
        collection: which data set.
        image_size: side of what the network sees, pixels; normalised as ImageNet is.
        views: how far the two views differ.
    Raises:
        DataError: no such collection, or see ImageFolder.
    """

    test_split = "test"

    def __init__(
        self,
        root: str,
        batch_size: int,
        collection: str = "cub200",
        image_size: int = 224,
        views: Views | None = None,
        num_workers: int = 8,
        seed: int = 0,
        generated: bool = False,
    ) -> None:
        super().__init__(root, batch_size, image_size, num_workers=num_workers, seed=seed, generated=generated)
        if collection not in COLLECTIONS:
            raise DataError(f"collection={collection!r}: expected one of {', '.join(COLLECTIONS)}")
        self.collection = COLLECTIONS[collection]
        self.title, self.where = self.collection.title, self.collection.where
        self.views = views or Views()

    def classes(self) -> tuple[str, ...]:
        if self.generated:
            return tuple(str(number) for number in range(self.collection.classes))
        names = super().classes()
        if len(names) != self.collection.classes:
            expected = f"expected {self.collection.classes} for {self.title}"
            raise DataError(f"{self.root}/train has {len(names)} class folders, {expected}")
        return names

    def expected_sizes(self) -> dict[str, int]:
        return {"train": self.collection.train, "test": self.collection.test}

    def transform(self, *, train: bool) -> Any:
        side = self.image_size
        to_tensor = [
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(list(self.mean), list(self.std)),
        ]
        if not train:
            return v2.Compose([v2.Resize((side, side)), *to_tensor])

        larger = side + self.views.margin
        first = side + self.views.first_crop
        shape = v2.Compose(
            [
                v2.Resize((larger, larger)),
                Operations(SHAPE),
                v2.RandomHorizontalFlip(),
                v2.RandomResizedCrop(first, scale=(0.95, 1.0)),
            ]
        )
        strong = self.views.strong_colours
        colours = {**COLOUR, "Color": 0.5} if strong else COLOUR
        colour = Operations(colours, posterize=True, solarize=strong, histogram=True)
        return TwoViews(shape, v2.Compose([colour, v2.RandomCrop(side), *to_tensor]))

    def train_dataloader(self) -> WorkerLoader:
        return load_pairs(self)


COUNTS = {"FineGrained": lambda data: {"train": data.collection.train, "test": data.collection.test}}
