"""MedMNIST v2 (Yang et al. 2023, CC BY 4.0): eleven sets of medical images, read from the npz files that users have."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import functional as V

from datamodules.common.arrays import ArrayData, Split
from datamodules.common.base import DataError, Spec

PARTS = ("train", "val", "test")
STORED_SIDES = (28, 64, 128, 224)  # that the publishers offer; files of the first have no number in their name
ORGANS = (
    "bladder", "left femur", "right femur", "heart", "left kidney", "right kidney", "liver", "left lung", "right lung",
    "pancreas", "spleen",
)  # fmt: skip


@dataclass(frozen=True)
class Described:
    """A set as its publishers describe it: classes, channels, and images of train, val and test."""

    classes: tuple[str, ...]
    channels: int
    sizes: tuple[int, int, int]


SETS = {
    "bloodmnist": Described(
        ("basophil", "eosinophil", "erythroblast", "immature granulocyte", "lymphocyte", "monocyte", "neutrophil",
         "platelet"), 3, (11959, 1712, 3421)),
    "breastmnist": Described(("malignant", "normal or benign"), 1, (546, 78, 156)),
    "chestmnist": Described(("no finding", "any finding"), 1, (78468, 11219, 22433)),
    "dermamnist": Described(
        ("actinic keratosis", "basal cell carcinoma", "benign keratosis", "dermatofibroma", "melanoma", "nevus",
         "vascular lesion"), 3, (7007, 1003, 2005)),
    "octmnist": Described(
        ("choroidal neovascularization", "diabetic macular edema", "drusen", "normal"), 1, (97477, 10832, 1000)),
    "organamnist": Described(ORGANS, 1, (34581, 6491, 17778)),
    "organcmnist": Described(ORGANS, 1, (13000, 2392, 8268)),
    "organsmnist": Described(ORGANS, 1, (13940, 2452, 8829)),
    "pathmnist": Described(
        ("adipose", "background", "debris", "lymphocytes", "mucus", "smooth muscle", "normal mucosa", "stroma",
         "adenocarcinoma"), 3, (89996, 10004, 7180)),
    "pneumoniamnist": Described(("normal", "pneumonia"), 1, (4708, 524, 624)),
    "tissuemnist": Described(
        ("collecting duct", "distal tubule", "glomerular endothelium", "interstitial endothelium", "leukocytes",
         "podocytes", "proximal tubule", "thick ascending limb"), 1, (165466, 23640, 47280)),
}  # fmt: skip


class MedMNIST(ArrayData):
    """One set with its official train, val and test images, in memory.

    Read from `<root>/<name>_<side>.npz`, or the smallest of the publishers' files that is no smaller, whose images are
    resized to side x side (bilinear): `<root>/<name>.npz` holds 28 pixels, `<root>/<name>_64.npz` 64, and so on.
    ChestMNIST has two classes: any of the fourteen findings, or none. A file with fewer images than the publishers'
    works; the sizes are then the file's.

    Args:
        batch_size: the global batch, over all devices.
        name: one of SETS.
        root: folder of the files.
        side: of the images, pixels.
        seed, generated: see DataModule.
    Raises:
        DataError: no such set; a file that is missing, damaged, or holds something else.
    """

    stored = "*.npz"

    def __init__(
        self, batch_size: int, name: str, root: str, side: int = 28, seed: int = 0, generated: bool = False
    ) -> None:
        super().__init__(batch_size, seed=seed, generated=generated)
        if name not in SETS:
            raise DataError(f"name={name!r}: expected one of {', '.join(SETS)}")
        if side < 1:
            raise DataError(f"side={side}: expected 1 or more, pixels")
        self.title, self.root, self.side = name, Path(root), side

    @property
    def spec(self) -> Spec:
        return self._spec or self.declared()

    def declared(self) -> Spec:
        described = SETS[self.title]
        channels = described.channels
        return Spec(
            name=f"{self.title}, {self.side} pixels",
            shape=(channels, self.side, self.side),
            classes=described.classes,
            sizes=dict(zip(PARTS, described.sizes, strict=True)),
            mean=(0.0,) * channels,
            std=(1.0,) * channels,
            split="the official training, validation and test sets",
            where=f"https://medmnist.com: {self.file.name}, in {self.root}/",
        )

    @property
    def file(self) -> Path:
        """The file of the wanted side if it is there, else the smallest larger one; the first choice if none is."""
        exact = self.root / f"{self.title}_{self.side}.npz"
        larger = [
            self.root / (f"{self.title}.npz" if side == STORED_SIDES[0] else f"{self.title}_{side}.npz")
            for side in STORED_SIDES
            if side >= self.side
        ]
        there = [file for file in (exact, *larger) if file.is_file()]
        return (there or larger or [exact])[0]

    def available(self) -> str:
        if self.file.is_file():
            return ""
        smaller = self.root / f"{self.title}.npz"
        told = f" ({smaller} has {STORED_SIDES[0]} pixels, which are not enlarged)" if smaller.is_file() else ""
        return f"{self.file} is missing{told}; {self.declared().where}"

    def setup(self, stage: str | None = None) -> None:
        if self.splits:
            return
        spec = self.declared()
        if self.generated:
            self._stand_in(spec)
        else:
            self.splits = {part: self._part(part) for part in PARTS}
            self._settle(replace(spec, sizes=self._sizes()))

    def _part(self, part: str) -> Split:
        """One part's images (N, C, side, side) and labels (N,)."""
        if problem := self.available():
            raise DataError(problem)
        images, labels = (self._array(f"{part}_{kind}") for kind in ("images", "labels"))
        channels = SETS[self.title].channels
        inner = () if channels == 1 else (channels,)
        if images.dtype != np.uint8 or images.ndim != 3 + len(inner) or images.shape[3:] != inner:
            told = f"{images.dtype} {images.shape}"
            wanted = "uint8 (N, H, W)" if channels == 1 else f"uint8 (N, H, W, {channels})"
            raise DataError(f"{self.file}: {part}_images is {told}; expected {wanted}")
        if len(labels) != len(images) or not len(labels) or labels.dtype.kind not in "iu" or labels.ndim > 2:
            told = f"{labels.dtype} {labels.shape}"
            raise DataError(f"{self.file}: {part}_labels is {told}; expected whole numbers for {len(images)} images")
        pixels = torch.from_numpy(images)
        pixels = pixels[:, None] if channels == 1 else pixels.permute(0, 3, 1, 2).contiguous()
        return self._resized(pixels), self._classes(torch.from_numpy(labels.astype(np.int64)), part)

    def _array(self, key: str) -> np.ndarray:
        try:
            with np.load(self.file, allow_pickle=False) as stored:
                array: np.ndarray = stored[key]
                return array
        except KeyError as error:
            raise DataError(f"{self.file} has no {key}; expected the arrays of MedMNIST") from error
        except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:  # a pickled object is a ValueError
            raise DataError(f"{self.file} is damaged: {error}") from error

    def _resized(self, images: Tensor) -> Tensor:
        """In pieces: a whole set in floating point may not fit into memory."""
        if tuple(images.shape[2:]) == (self.side, self.side):
            return images
        return torch.cat([V.resize(piece, [self.side, self.side], antialias=True) for piece in images.split(4096)])

    def _classes(self, labels: Tensor, part: str) -> Tensor:
        """(N,), (N, 1) or, of several findings, (N, findings) -> (N,)."""
        if self.title == "chestmnist":
            labels = labels.view(len(labels), -1).amax(1).clamp(max=1)
        if labels.ndim == 2 and labels.shape[1] != 1:
            raise DataError(f"{self.file}: {part}_labels has {labels.shape[1]} columns; expected 1")
        labels = labels.flatten()
        highest = len(SETS[self.title].classes) - 1
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high > highest:
            raise DataError(f"{self.file}: {part}_labels from {low} to {high}; expected 0 to {highest}")
        return labels
