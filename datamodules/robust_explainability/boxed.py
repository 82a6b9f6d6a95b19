"""ImageNet's validation photos with the boxes of its localisation task."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import torch
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.common.base import DataError, Spec, generator
from datamodules.common.folders import Normalise, Photos
from datamodules.common.loader import WorkerLoader
from datamodules.robust_explainability.shifted import TestedImageNet

COLUMNS = ("x", "y", "boxes", "row", "in_test")


def read_boxes(path: Path) -> tuple[tuple[int, int], Tensor]:
    """Width and height of a photo, and its boxes (R, 4): x1, y1, x2, y2 in pixels, as a PASCAL VOC file says them.

    Raises:
        DataError: no such file, or another format.
    """
    try:
        root = ET.fromstring(path.read_bytes())  # noqa: S314 - expat of Python >= 3.11 limits what entities expand to
        size = int(root.findtext("size/width", "")), int(root.findtext("size/height", ""))
        edges = [
            [float(item.findtext(f"bndbox/{edge}", "")) for edge in ("xmin", "ymin", "xmax", "ymax")]
            for item in root.iter("object")
        ]
    except (OSError, ET.ParseError, ValueError) as error:
        raise DataError(
            f"{path} cannot be read as a PASCAL VOC annotation ({error}); expected size and bndbox"
        ) from error
    return size, torch.tensor(edges).view(-1, 4)


def cropped(boxes: Tensor, size: tuple[int, int], resize: int, side: int) -> Tensor:
    """Boxes (R, 4) after the shorter side was scaled to `resize` and a square cut from the middle, as photos are.

    Args:
        boxes: x1, y1, x2, y2 in pixels of the photo.
        size: its width and height.
        resize, side: pixels.
    Returns:
        (R, 4) in pixels of the crop, cut off at its border; of no area where a box lies outside.
    """
    width, height = size
    short = min(size)
    scaled = [int(resize * width / short), int(resize * height / short)]
    offset = torch.tensor([round((length - side) / 2) for length in scaled], dtype=torch.float32).repeat(2)
    factor = torch.tensor([scaled[0] / width, scaled[1] / height]).repeat(2)
    return (boxes * factor - offset).clamp(0, side)


class BoxedPhotos(Dataset):
    """A photo with its box: (3, S, S), label, (1, 4), number among those of its kind, and 1 if it is measured on."""

    def __init__(self, photos: Photos, boxes: Tensor, rows: Tensor, in_test: Tensor) -> None:
        self.photos, self.boxes, self.rows, self.in_test = photos, boxes, rows, in_test

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Any, ...]:
        _, index = key
        x, y = self.photos[key]
        return x, y, self.boxes[index], self.rows[index], self.in_test[index]


class GeneratedBoxes(Dataset):
    """Random images with a box in the middle; every other one is to tune on."""

    def __init__(self, shape: tuple[int, ...], classes: int, length: int) -> None:
        self.shape, self.classes, self.length = shape, classes, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, key: tuple[int, int]) -> tuple[Any, ...]:
        source = generator("stand-in boxed photo", *key)
        side = float(self.shape[-1])
        box = torch.tensor([[side / 4, side / 4, 3 * side / 4, 3 * side / 4]])
        label = int(torch.randint(self.classes, (), generator=source))
        return torch.randn(self.shape, generator=source), label, box, key[1] // 2, key[1] % 2


class BoxedImageNet(TestedImageNet):
    """Photos with one box that covers less than a share of the crop: some to tune thresholds on, others to measure on.

    Which photos is drawn from the seed; the two kinds share none. A test batch is x, y, boxes (B, 1, 4), row (B,) and
    in_test (B,). There is nothing to train on.

    Args:
        root: as of ImageNet; the annotations are root/boxes/<photo's name>.xml.
        batch_size: the global batch, over all devices.
        images: photos to measure on.
        tuning_images: photos to tune on.
        largest: share of the crop that a box may cover.
        options: see ImageFolder.
    Raises:
        DataError: annotations that are missing or damaged, or too few photos that fit.
    """

    title = "ImageNet-1k, validation photos with boxes"
    where = (
        "https://image-net.org/download.php: the validation photos, sorted into <root>/val/<wnid>/, and the "
        "bounding boxes of the validation set (ILSVRC2012) in <root>/boxes/"
    )

    def __init__(
        self,
        root: str,
        batch_size: int,
        images: int = 2000,
        tuning_images: int = 1000,
        largest: float = 0.5,
        **options: Any,
    ) -> None:
        super().__init__(root, batch_size, **options)
        if images < 1 or tuning_images < 1:
            raise DataError(f"images={images}, tuning_images={tuning_images}: expected 1 or more of each")
        self.images = images
        self.tuning_images = tuning_images
        self.largest = largest
        self.boxes = torch.zeros(0, 1, 4)

    def expected_sizes(self) -> dict[str, int]:
        return {"train": 0, "test": self.images + self.tuning_images}

    def available(self) -> str:
        if missing := super().available():
            return missing
        folder = self.root / "boxes"
        return "" if folder.is_dir() else f"{folder} does not exist. {self.title}: {self.where}"

    @property
    def spec(self) -> Spec:
        words = (
            f"{self.images} + {self.tuning_images} validation photos with one box below {self.largest:.0%} of the crop"
        )
        return replace(super().spec, split=words)

    def fitting(self) -> Iterator[tuple[tuple[str, int], Tensor]]:
        """Photos in a random order, (name, label) and box (1, 4), that have one box of fitting size."""
        items = self.items["test"]
        for number in torch.randperm(len(items), generator=generator("boxed photos", self.seed)).tolist():
            name, label = items[number]
            size, boxes = read_boxes(self.root / "boxes" / f"{Path(name).stem}.xml")
            if len(boxes) != 1:
                continue
            box = cropped(boxes, size, self.resize, self.image_size)
            area = float((box[0, 2] - box[0, 0]) * (box[0, 3] - box[0, 1])) / self.image_size**2
            if 0 < area < self.largest:
                yield (name, label), box

    def setup(self, stage: str | None = None) -> None:
        if self._spec is not None:
            return
        super().setup(stage)
        if self.generated:
            return
        wanted = self.images + self.tuning_images
        chosen = [pair for pair, _ in zip(self.fitting(), range(wanted), strict=False)]
        if len(chosen) < wanted:
            raise DataError(
                f"{self.root}/val has {len(chosen)} photos with one box below {self.largest:.0%} of the crop; "
                f"cannot take images={self.images}, tuning_images={self.tuning_images}"
            )
        self.items = {"train": [], "test": [item for item, _ in chosen]}
        self.boxes = torch.stack([box for _, box in chosen])
        listing = "\n".join(f"{label} {name} {box.tolist()}" for (name, label), box in chosen)
        identity = hashlib.sha256(listing.encode()).hexdigest()[:12]
        self._spec = replace(self.spec, sizes={"train": 0, "test": wanted}, identity=identity)

    def test_dataloader(self) -> WorkerLoader:
        if self.generated:
            length = min(self.spec.sizes["test"], 2 * self.batch_size)
            dataset: Dataset = GeneratedBoxes(self.spec.shape, len(self.spec.classes), length)
            return WorkerLoader(dataset, self.batches(length, shuffle=False), columns=COLUMNS)
        assert self.source is not None
        photos = Photos(self.source, self.items["test"], self.transform(train=False), self.seed, self.decode)
        in_test = (torch.arange(len(photos)) >= self.tuning_images).long()
        rows = torch.arange(len(photos)) - self.tuning_images * in_test
        dataset = BoxedPhotos(photos, self.boxes, rows, in_test)
        batches = self.batches(len(photos), shuffle=False)
        options: dict[str, Any] = {"num_workers": self.num_workers, "finish": Normalise(self.spec, self.device)}
        return WorkerLoader(dataset, batches, columns=COLUMNS, **options)
