"""LOTA's front end: noise images of the low bit planes, and the patch with the largest gradient.

    z_c = x_c AND (2^n - 1)                                        the n lowest of an 8-bit channel's planes
    thresholding  255 [z_c > 0],   scaling  255 (z_c - min z_c) / (max z_c - min z_c)
    high pass     128 + 8 (x_c - the mean of its 3 x 3 pixels)      no bit plane: content is taken away in another way
    g_p = |p * [-1 1]|_1 + |p * [-1 1]^T|_1 + |p * [[-1 0] [0 1]]|_1 + |p * [[0 -1] [1 0]]|_1   over channels, unpadded

Bits are those of the decoded file: nothing may resize, scale or normalise a picture before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

MODES = ("threshold", "scale", "rgb", "highpass")
SELECTIONS = ("max", "min", "random")
GREY = 128  # a high-passed picture where a pixel is the mean of its neighbourhood
GAIN = 8  # of a high-passed picture: it shows eighths of a grey level


def low_bits(x: Tensor, bits: int = 3) -> Tensor:
    """The lowest planes of uint8 pictures, values from 0 to 2^bits - 1, uint8."""
    return x & (2**bits - 1)


def noise_image(x: Tensor, mode: str = "threshold", bits: int = 3) -> Tensor:
    """Noise images of uint8 pictures (B, C, H, W): the same shape, uint8.

    "rgb" leaves the pictures as they are; "highpass" is not the paper's, see high_pass.

    Scaling takes lowest and highest value of each picture and channel; where they are equal, the noise image is 0.
    """
    if mode == "rgb":
        return x
    if mode == "highpass":
        return high_pass(x)
    z = low_bits(x, bits)
    if mode == "threshold":
        return (z > 0).to(torch.uint8) * 255
    low, high = z.amin((2, 3), keepdim=True), z.amax((2, 3), keepdim=True)
    spread = (high - low).clamp(min=1).float()
    return ((z - low).float() * 255 / spread).round().to(torch.uint8)


def high_pass(x: Tensor) -> Tensor:
    """128 + 8 (x - the mean of its 3 x 3 pixels), rounded and clamped, the border mirrored; uint8 (B, C, H, W) both.

    What a picture shows is mostly gone, as from the low planes, but all eight planes take part.
    """
    pixels = x.float()
    blurred = F.avg_pool2d(F.pad(pixels, (1, 1, 1, 1), mode="reflect"), 3, stride=1)
    return (GREY + GAIN * (pixels - blurred)).round().clamp(0, 255).to(torch.uint8)


def differences(x: Tensor) -> tuple[Tensor, ...]:
    """Of uint8 images (..., C, H, W) to the right, down and along both diagonals: absolute, summed over channels.

    Differences are signed before: in 8 bits they would wrap around.
    """
    p = x.to(torch.int16)
    right = p[..., :, 1:] - p[..., :, :-1]
    down = p[..., 1:, :] - p[..., :-1, :]
    diagonal = p[..., 1:, 1:] - p[..., :-1, :-1]
    antidiagonal = p[..., 1:, :-1] - p[..., :-1, 1:]
    return tuple(d.abs().sum(-3, dtype=torch.int32) for d in (right, down, diagonal, antidiagonal))


def gradient_score(patches: Tensor) -> Tensor:
    """g of patches (..., C, p, p) uint8: (...,) int64."""
    return torch.stack([d.sum((-2, -1)) for d in differences(patches)]).sum(0)


def gradient_scores(images: Tensor, top: Tensor, left: Tensor, side: int) -> Tensor:
    """g of many patches of each image at once, by integral images: each pixel is looked at once, not once a patch.

    Args:
        images: (B, C, H, W) uint8.
        top, left: (B, K) the patches' first row and column.
        side: of the patches, p.
    Returns:
        (B, K) int64, gradient_score of each patch.
    """
    total = torch.zeros_like(top)
    for d, (short, narrow) in zip(differences(images), ((0, 1), (1, 0), (1, 1), (1, 1)), strict=True):
        integral = F.pad(d.cumsum(-1).cumsum(-2), (1, 0, 1, 0))  # (B, H' + 1, W' + 1) int64
        width = integral.shape[-1]
        first, last = top * width, (top + side - short) * width
        right = left + side - narrow
        corner = integral.flatten(1).gather
        total += corner(1, last + right) - corner(1, first + right) - corner(1, last + left) + corner(1, first + left)
    return total


def corners(places: Tensor, size: Sequence[int], side: int) -> tuple[Tensor, Tensor]:
    """First rows and columns (B, K) of patches at places (B, K, 2) in [0, 1) of images of (height, width)."""
    room = torch.tensor([size[0] - side + 1, size[1] - side + 1], device=places.device)
    top, left = (places * room).long().unbind(-1)
    return top, left


def cut(images: Tensor, top: Tensor, left: Tensor, side: int) -> Tensor:
    """One patch of each image: (B, C, H, W), (B,), (B,) -> (B, C, side, side)."""
    steps = torch.arange(side, device=images.device)
    rows, columns = top[:, None] + steps, left[:, None] + steps  # (B, side)
    batch = torch.arange(len(images), device=images.device)[:, None, None]
    patches = images.permute(0, 2, 3, 1)[batch, rows[:, :, None], columns[:, None, :]]  # (B, side, side, C)
    return patches.permute(0, 3, 1, 2)


def choose(images: Tensor, places: Tensor, side: int, selection: str) -> Tensor:
    """A patch of each image: the place of the largest or smallest gradient, the first of equals; "random" is place 0.

    Args:
        images: (B, C, H, W) uint8.
        places: (B, K, 2) in [0, 1).
        side: of the patch, p.
        selection: "max", "min" or "random".
    Returns:
        (B, C, p, p) uint8.
    """
    top, left = corners(places.to(images.device), images.shape[-2:], side)  # (B, K) each
    if selection == "random":
        return cut(images, top[:, 0], left[:, 0], side)
    scores = gradient_scores(images, top, left, side)
    best = (scores.argmax(1) if selection == "max" else scores.argmin(1))[:, None]
    return cut(images, top.gather(1, best)[:, 0], left.gather(1, best)[:, 0], side)


@dataclass(frozen=True)
class FrontEnd:
    """From uint8 pictures to what LOTA's networks see.

    Attributes:
        mode: "threshold", "scale", "rgb", the pictures themselves, or "highpass".
        bits: how many of the lowest planes.
        patch: side of the patch, pixels; None takes the whole noise image.
        crops: places that a patch is chosen from; None stands for (256 // patch)^2, as released.
        size: side that the patch is enlarged to (bilinear); None leaves it.
        resize_first: the side that noise images are resized to before patches are cut, as the paper has it; None cuts
            from the noise image as it is. Shrinking low-passes, as Pillow's bilinear filter does.
        guided: for the noise-guided classifier: x is the whole RGB picture, at `size`, and the patch stays as it is.
        mean, std: per channel, in units of [0, 1].
    Raises:
        ValueError: an unknown mode, or numbers that make no patch.
    """

    mode: str = "threshold"
    bits: int = 3
    patch: int | None = 32
    crops: int | None = None
    size: int | None = 256
    resize_first: int | None = None
    guided: bool = False
    mean: Sequence[float] = (0.485, 0.456, 0.406)
    std: Sequence[float] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"mode={self.mode!r}: expected one of {', '.join(MODES)}")
        if not 1 <= self.bits <= 8:
            raise ValueError(f"bits={self.bits}: expected 1 to 8")
        if (self.crops is not None and self.crops < 1) or (self.patch is not None and self.patch < 2):
            raise ValueError(
                f"patch={self.patch}, crops={self.crops}: expected a patch of 2 pixels or more, and a crop"
            )
        if self.guided and self.patch is None:
            raise ValueError("guided=true: expected a patch")

    @property
    def draws(self) -> int:
        """Crops of a picture, K."""
        if self.crops is not None:
            return self.crops
        return 1 if self.patch is None else max(1, 256 // self.patch) ** 2

    def extract(self, x: Tensor, places: Tensor, selection: str) -> Tensor:
        """The patch of each picture, or its whole noise image, as bytes.

        Args:
            x: (B, C, H, W) uint8.
            places: (B, K, 2) in [0, 1), of K crops.
            selection: "max", "min" or "random".
        Returns:
            (B, C, patch, patch) uint8.
        """
        noise = noise_image(x, self.mode, self.bits)
        side = self.resize_first
        if (
            self.patch is not None and min(noise.shape[-2:]) < self.patch
        ):  # as released: too small a picture is enlarged
            side = side or 8 * self.patch
        if side is not None:
            noise = resize(noise.float(), side).round().clamp(0, 255).to(torch.uint8)
        if self.patch is None:
            return noise
        return choose(noise, places, self.patch, selection)

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 images at `size`, as networks see them."""
        mean, std = (torch.tensor(tuple(v), device=images.device).view(-1, 1, 1) for v in (self.mean, self.std))
        x = images.float() / 255
        return ((x if self.size is None else resize(x, self.size)) - mean) / std

    def __call__(self, x: Tensor, places: Tensor, selection: str = "max") -> tuple[Tensor, Tensor]:
        """What the network sees, (B, C, S, S), and the patch in [0, 1], (B, C, p, p)."""
        patch = self.extract(x, places, selection)
        return self.normalise(x if self.guided else patch), patch.float() / 255


def resize(x: Tensor, side: int) -> Tensor:
    """(B, C, H, W) at side x side, bilinear. Shrinking averages, as in Pillow and unlike plain interpolation."""
    height, width = x.shape[-2:]
    if (height, width) == (side, side):
        return x
    shrinks = max(height, width) > side
    return F.interpolate(x, (side, side), mode="bilinear", align_corners=False, antialias=shrinks)
