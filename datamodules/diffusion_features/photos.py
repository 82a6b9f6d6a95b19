"""Photos as guided diffusion sees them: square crops in [-1, 1], of ImageNet and of folders of fine-grained kinds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import functional as V

from datamodules.common.folders import DeclaredFolder, ImageNet

HALF = (0.5, 0.5, 0.5)


def shrink(image: Image.Image, shorter: int) -> Image.Image:
    """The shorter side at `shorter` pixels: halved by boxes while it is twice as long, then bicubic."""
    while min(image.size) >= 2 * shorter:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = shorter / min(image.size)
    return image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)


class Crop:
    """PIL image -> a square of `side` pixels, (3, S, S) from -1 to 1.

    Training: the shorter side at random between `side` and side / 0.8, a random crop, mirrored or not. Testing: the
    shorter side at `side`, the centre.
    """

    def __init__(self, side: int, *, train: bool) -> None:
        self.side, self.train = side, train

    def __call__(self, image: Image.Image) -> Tensor:
        shorter, draws = self.side, torch.zeros(3)
        if self.train:
            largest = math.ceil(self.side / 0.8)
            shorter = int(torch.randint(self.side, largest + 1, ()))
            draws = torch.rand(3)
        image = shrink(image, shorter)

        room = (image.height - self.side, image.width - self.side)
        top, left = (n // 2 for n in room)
        if self.train:
            top, left = (int(draw * (n + 1)) for draw, n in zip(draws[:2].tolist(), room, strict=True))
        x = V.pil_to_tensor(image)[:, top : top + self.side, left : left + self.side]
        x = x.flip(-1) if self.train and float(draws[2]) < 0.5 else x
        return x.float() / 127.5 - 1


class ImageNet256(ImageNet):
    """ImageNet-1k with guided diffusion's crops.

    Args:
        options: see folders.ImageFolder; crop_scale, resize, mean and std do not apply.
    """

    def __init__(self, root: str, batch_size: int, image_size: int = 256, **options: Any) -> None:
        super().__init__(root, batch_size, image_size, mean=HALF, std=HALF, **options)

    def transform(self, *, train: bool) -> Crop:
        return Crop(self.image_size, train=train)


class Kinds256(DeclaredFolder):
    """Photos of fine-grained kinds, whole, with guided diffusion's crops: root/{train,<test_split>}/<class>/*.

    Args:
        declared, where: see folders.DeclaredFolder.
        test_split: name of the folder that is tested on.
        options: see folders.ImageFolder.
    """

    def __init__(
        self,
        root: str,
        batch_size: int,
        declared: Mapping[str, int],
        where: str = "",
        test_split: str = "test",
        image_size: int = 256,
        **options: Any,
    ) -> None:
        super().__init__(root, batch_size, declared, where, image_size=image_size, mean=HALF, std=HALF, **options)
        self.test_split = test_split

    def transform(self, *, train: bool) -> Crop:
        return Crop(self.image_size, train=train)
