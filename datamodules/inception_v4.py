"""ImageNet as the Inception papers feed it: distorted colours in training, whole photos for many crops of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from datamodules.common.base import DataError, Spec
from datamodules.common.folders import ImageNet
from datamodules.common.loader import WorkerLoader

# TF-slim's orders of brightness, saturation, hue and contrast, of which each image gets one; its scripts train "fast"
ORDERS = {"fast": ("bs",), "full": ("bshc", "sbch", "chbs", "hscb")}


class DistortColour:
    """Brightness, saturation, hue and contrast, each by a random amount; then cut to [0, 1].

    Brightness is added, as TensorFlow does it. Contrast is stretched about the mean grey value (torchvision), which in
    TensorFlow is each channel's mean.

    Args:
        mode: "fast", brightness and saturation alone, or "full", all four in one of four orders.
        brightness: largest amount added, both ways.
        saturation, contrast: range of the factor.
        hue: largest turn, as a fraction of the circle, both ways; at most 0.5.
    """

    def __init__(
        self,
        mode: str = "fast",
        brightness: float = 32 / 255,
        saturation: Sequence[float] = (0.5, 1.5),
        hue: float = 0.2,
        contrast: Sequence[float] = (0.5, 1.5),
    ) -> None:
        self.orders = ORDERS[mode]
        self.ranges = {"b": (-brightness, brightness), "s": tuple(saturation), "h": (-hue, hue), "c": tuple(contrast)}

    def __call__(self, image: Tensor) -> Tensor:
        """(3, H, W) float in [0, 1] -> the same."""
        order = self.orders[int(torch.randint(len(self.orders), ()))]
        amounts = {key: float(torch.empty(()).uniform_(*self.ranges[key])) for key in order}
        return distorted(image, order, amounts)


def distorted(image: Tensor, order: str, amounts: dict[str, float]) -> Tensor:
    """Apply the operations named by the letters of `order`, each with its amount."""
    from torchvision.transforms.v2 import functional

    for key in order:
        if key == "b":
            image = image + amounts[key]
        else:
            image = image.clamp(0, 1)
            operation = {
                "s": functional.adjust_saturation,
                "h": functional.adjust_hue,
                "c": functional.adjust_contrast,
            }[key]
            image = operation(image, amounts[key])
    return image.clamp(0, 1)


class InceptionImageNet(ImageNet):
    """ImageNet-1k with TF-slim's training augmentation: random area and aspect, mirror, distorted colours.

    slim draws one of four interpolations for each training image where it is not fast; here all have the same. Testing:
    see ImageFolder.

    Args:
        distort: the colours in training: "fast", "full" (see DistortColour) or "none".
        interpolation: of training and test photos: "bilinear" or "bicubic".
        others: see ImageFolder.
    Raises:
        DataError: another interpolation or distortion; others see ImageFolder.
    """

    def __init__(
        self, root: str, batch_size: int, distort: str = "fast", interpolation: str = "bilinear", **options: Any
    ) -> None:
        super().__init__(root, batch_size, **options)
        if interpolation not in ("bilinear", "bicubic"):
            raise DataError(f"interpolation={interpolation!r}: expected bilinear or bicubic")
        if distort not in (*ORDERS, "none"):
            raise DataError(f"distort={distort!r}: expected fast, full or none")
        self.distort, self.interpolation = distort, interpolation

    def transform(self, *, train: bool) -> Any:
        from torchvision.transforms import v2

        mode = v2.InterpolationMode(self.interpolation)
        head = (
            [v2.RandomResizedCrop(self.image_size, self.crop_scale, interpolation=mode), v2.RandomHorizontalFlip()]
            if train
            else [v2.Resize(self.resize, interpolation=mode), v2.CenterCrop(self.image_size)]
        )
        pixels = [v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)]
        colours = [DistortColour(self.distort)] if train and self.distort != "none" else []
        return v2.Compose([*head, *pixels, *colours, v2.Normalize(self.mean, self.std)])


class WholeImageNet(ImageNet):
    """ImageNet-1k's validation photos at their own size, one to a batch and device, for networks that cut views.

    The declared size (500x375) is the most frequent one.

    Raises:
        DataError: more than one photo to a device.
    """

    @property
    def spec(self) -> Spec:
        return replace(super().spec, shape=(3, 375, 500), split="the validation photos, uncut")

    def transform(self, *, train: bool) -> Any:
        from torchvision.transforms import v2

        return v2.PILToTensor()

    def _loader(self, split: str) -> WorkerLoader:
        world = self.rank_and_world[1]
        if self.batch_size != world and not self.generated:
            raise DataError(
                f"batch_size={self.batch_size}: photos of different sizes need a batch of {world}, one each"
            )
        return super()._loader(split)
