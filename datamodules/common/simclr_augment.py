"""SimCLR's augmentation, a batch at a time: what makes two views of an image (arXiv 2002.05709, 2006.10029).

Random resized crop, mirror, colour jitter in random order, grey and Gaussian blur, each image with coins, order and
strengths of its own. `views: 2` of the datamodule draws all of them anew for the second view, column `x2`.

The colour operations are the released code's (google-research/simclr, `data_util.py`): brightness is MULTIPLIED as in
version 2 (version 1 added to it), contrast moves away from each channel's own mean, saturation and hue are changed in
HSV, and values are clipped to [0, 1] after each. Images with one channel have neither saturation nor hue.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from datamodules.common.augment import Augmentation, HorizontalFlip, RandomResizedCrop
from datamodules.common.base import Draws


def rgb_to_hsv(images: Tensor) -> Tensor:
    """(B, 3, H, W) in [0, 1] -> hue, saturation and value, all in [0, 1]; the hue of grey is 0."""
    red, green, blue = images.unbind(1)
    value = images.amax(1)  # (B, H, W)
    chroma = value - images.amin(1)

    divisor = torch.where(chroma > 0, chroma, 1.0)
    from_green = torch.where(value == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor)
    hue = torch.where(value == red, (green - blue) / divisor, from_green) / 6 % 1
    hue = torch.where(chroma > 0, hue, 0.0)

    saturation = chroma / torch.where(value > 0, value, 1.0)
    return torch.stack([hue, saturation, value], dim=1)


def hsv_to_rgb(images: Tensor) -> Tensor:
    """The inverse of `rgb_to_hsv`; any real hue, counted in turns."""
    hue, saturation, value = images[:, :, None].unbind(1)  # (B, 1, H, W)
    sector = torch.tensor([5.0, 3.0, 1.0], device=images.device).view(1, 3, 1, 1)
    k = (sector + 6 * hue) % 6  # (B, 3, H, W)
    return value - value * saturation * torch.minimum(k, 4 - k).clamp(0, 1)


def adjust_brightness(images: Tensor, factor: Tensor) -> Tensor:
    """images times factor. (B, C, H, W), (B,)."""
    return images * factor.view(-1, 1, 1, 1)


def adjust_contrast(images: Tensor, factor: Tensor) -> Tensor:
    """The distance to each channel's mean, times factor. (B, C, H, W), (B,)."""
    mean = images.mean((2, 3), keepdim=True)
    return mean + (images - mean) * factor.view(-1, 1, 1, 1)


def adjust_saturation(images: Tensor, factor: Tensor) -> Tensor:
    """HSV's saturation times factor, at most 1. (B, 3, H, W), (B,)."""
    hue, saturation, value = rgb_to_hsv(images).unbind(1)
    saturation = (saturation * factor.view(-1, 1, 1)).clamp(0, 1)
    return hsv_to_rgb(torch.stack([hue, saturation, value], dim=1))


def adjust_hue(images: Tensor, turn: Tensor) -> Tensor:
    """HSV's hue moved by `turn`, 1 being once around. (B, 3, H, W), (B,)."""
    hue, saturation, value = rgb_to_hsv(images).unbind(1)
    return hsv_to_rgb(torch.stack([hue + turn.view(-1, 1, 1), saturation, value], dim=1))


OPERATIONS = (adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue)


class ColorJitter:
    """Brightness, contrast, saturation and hue in a random order, with probability p, of strength s:

        factors in [max(0, 1 - 0.8 s), 1 + 0.8 s], the hue's turn in [-0.2 s, 0.2 s]

    Args:
        strength: s, at least 0; 1 for ImageNet, 0.5 for CIFAR-10.
        p: probability for an image to be changed at all.
    Raises:
        ValueError: the strength is negative.
    """

    def __init__(self, strength: float = 1.0, p: float = 0.8) -> None:
        if strength < 0:
            raise ValueError(f"strength={strength}: expected 0 or more")
        self.strength, self.p = strength, p

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        chosen = draws.uniform() < self.p  # (B,)
        order = draws.uniform(4).argsort(1)  # (B, 4): the operation at each turn
        low, high = max(0.0, 1 - 0.8 * self.strength), 1 + 0.8 * self.strength
        factors = draws.uniform(3, low=low, high=high)
        turns = draws.uniform(1, low=-0.2 * self.strength, high=0.2 * self.strength)
        amounts = torch.cat([factors, turns], dim=1)  # (B, 4)

        present = OPERATIONS if images.shape[1] == 3 else OPERATIONS[:2]
        for position in range(4):
            for number, operation in enumerate(present):
                rows = (chosen & (order[:, position] == number)).nonzero().flatten()
                amount = amounts[rows, number].to(images.device)
                rows = rows.to(images.device)
                changed = operation(images.index_select(0, rows), amount).clamp(0, 1)
                images = images.index_copy(0, rows, changed)
        return images


class RandomGrey:
    """Replaces the colours of each image by its luma with probability p, on all three channels."""

    def __init__(self, p: float = 0.2) -> None:
        self.p = p

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        rows = (draws.uniform() < self.p).nonzero().flatten().to(images.device)
        if images.shape[1] != 3:
            return images
        weights = torch.tensor([0.2989, 0.587, 0.114], device=images.device).view(1, 3, 1, 1)
        grey = (images.index_select(0, rows) * weights).sum(1, keepdim=True)
        return images.index_copy(0, rows, grey.expand(-1, 3, -1, -1))


class GaussianBlur:
    """Blurs each image with probability p by a Gaussian of random width, zero outside the image.

    The kernel has a tenth of the height, made odd: 23 pixels at 224, 3 at 28 and 32. The released code draws one
    width for a batch and view; here each image has its own.

    Args:
        p: probability for an image to be blurred.
        sigma: (smallest, largest) standard deviation, pixels.
    """

    def __init__(self, p: float = 0.5, sigma: tuple[float, float] = (0.1, 2.0)) -> None:
        self.p, self.sigma = p, sigma

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        rows = (draws.uniform() < self.p).nonzero().flatten()
        sigma = draws.uniform(low=self.sigma[0], high=self.sigma[1])[rows].to(images.device)
        rows = rows.to(images.device)
        blurred = gaussian_blur(images.index_select(0, rows), sigma, images.shape[-2] // 20)
        return images.index_copy(0, rows, blurred)


def gaussian_blur(images: Tensor, sigma: Tensor, radius: int) -> Tensor:
    """Each image by a Gaussian of its own on 2 radius + 1 pixels, zero outside. (B, C, H, W), (B,)."""
    offsets = torch.arange(-radius, radius + 1, device=images.device)
    kernel = torch.exp(-(offsets**2) / (2 * sigma[:, None] ** 2))  # (B, 2 radius + 1)
    kernel = (kernel / kernel.sum(1, keepdim=True))[:, :, None, None, None]

    for dim, padding in ((-1, (radius, radius)), (-2, (0, 0, radius, radius))):
        padded = F.pad(images, padding)
        size = images.shape[dim]
        images = kernel[:, 0] * padded.narrow(dim, 0, size)
        for k in range(1, 2 * radius + 1):
            images += kernel[:, k] * padded.narrow(dim, k, size)
    return images


class SimCLRAugmentation:
    """The whole augmentation of one view.

    Args:
        crop_scale: (smallest, largest) area of the random resized crop, as fractions; None does not crop.
        strength: of the colour jitter, s; 0 leaves jitter and grey out.
        flip, jitter, grey, blur: probabilities for an image.
    """

    def __init__(
        self,
        crop_scale: tuple[float, float] | None = (0.08, 1.0),
        strength: float = 1.0,
        flip: float = 0.5,
        jitter: float = 0.8,
        grey: float = 0.2,
        blur: float = 0.5,
    ) -> None:
        self.operations: list[Augmentation] = []
        if crop_scale is not None:
            self.operations.append(RandomResizedCrop(crop_scale))
        self.operations.append(HorizontalFlip(flip))
        if strength:
            self.operations += [ColorJitter(strength, jitter), RandomGrey(grey)]
        if blur:
            self.operations.append(GaussianBlur(blur))

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        for operation in self.operations:
            images = operation(images, draws)
        return images.clamp(0, 1)
