"""Images with one visual characteristic changed (Nauta et al. 2021, arXiv 2011.02863), whole batches at a time.

All functions take and give uint8 images (B, 3, H, W) and are deterministic. Strengths as released: contrast 0.45,
saturation 0.7, hue +0.1 (25 of Pillow's 256 steps, 35 degrees), shape with amplitude 4 px and 0.05 half-waves a pixel
for crops of about 300 px, texture by non-local means of strength 4 (OpenCV's fastNlMeansDenoisingColored), brightness
0.8 (in the code alone).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.io import decode_jpeg, encode_jpeg
from torchvision.transforms import functional as V

CHARACTERISTICS = ("contrast", "saturation", "hue", "shape", "texture")  # and brightness, in the released code alone
JPEG_QUALITY = {"shape": 95, "texture": 95}  # as released; the others 75
TEXTURES = ("denoise", "blur")


@dataclass(frozen=True)
class Strengths:
    """How strongly each characteristic is changed.

    Args:
        contrast: factor of the difference from the mean grey level.
        saturation: factor of the difference from an image's own grey version.
        hue: what is added, in turns of the circle, cut to Pillow's steps of 1/255.
        amplitude: of the warp, pixels; shifts are whole pixels, rounded towards 0.
        frequency: of the warp, half-waves a pixel.
        texture: "denoise", non-local means, or "blur", a Gaussian.
        denoise: strength h of non-local means.
        sigma: of the Gaussian, pixels.
        brightness: factor; None leaves the sixth modification out, as the paper does.
    Raises:
        ValueError: `texture` is neither.
    """

    contrast: float = 0.45
    saturation: float = 0.7
    hue: float = 0.1
    amplitude: float = 4.0
    frequency: float = 0.05
    texture: str = "denoise"
    denoise: float = 4.0
    sigma: float = 1.2
    brightness: float | None = None

    def __post_init__(self) -> None:
        if self.texture not in TEXTURES:
            raise ValueError(f"texture={self.texture!r}: expected one of {', '.join(TEXTURES)}")

    @property
    def names(self) -> tuple[str, ...]:
        return CHARACTERISTICS + (("brightness",) if self.brightness is not None else ())


def modify(images: Tensor, strengths: Strengths, jpeg_roundtrip: bool = False) -> Mapping[str, Tensor]:
    """Each characteristic's name -> the images with this one changed.

    Args:
        images: (B, 3, H, W) uint8.
        jpeg_roundtrip: save and read each as JPEG, as the released code does; then the scores hold its loss too.
    """
    grey = lightness(images)
    mean = (grey.double().mean((1, 2, 3), keepdim=True) + 0.5).floor()  # one level for the whole image
    made = {
        "contrast": blend(images, mean, strengths.contrast),
        "saturation": blend(images, grey, strengths.saturation),
        "hue": turn_hue(images, strengths.hue),
        "shape": warp(images, strengths.amplitude, strengths.frequency),
        "texture": blur(images, strengths.sigma) if strengths.texture == "blur" else denoise(images, strengths.denoise),
    }
    if strengths.brightness is not None:
        made["brightness"] = blend(images, torch.zeros_like(grey), strengths.brightness)
    if jpeg_roundtrip:
        made = {name: through_jpeg(changed, JPEG_QUALITY.get(name, 75)) for name, changed in made.items()}
    return made


def lightness(images: Tensor) -> Tensor:
    """Grey version (B, 1, H, W) of whole numbers, in Pillow's weights; grey stays what it is."""
    red, green, blue = images.long().unbind(1)
    return ((19595 * red + 38470 * green + 7471 * blue + 0x8000) >> 16)[:, None]


def blend(images: Tensor, other: Tensor, factor: float) -> Tensor:
    """other + factor (images - other), rounded towards 0 as Pillow does; exactly the image where both are the same.

    In torchvision's operation on tensors a grey image loses a level.
    """
    return (other + factor * (images.double() - other)).clamp(0, 255).to(torch.uint8)


def turn_hue(images: Tensor, turns: float) -> Tensor:
    """Every hue turned by int(255 turns) of Pillow's 256 steps, through its 8-bit HSV; 0 gives the images back."""
    if turns == 0:
        return images
    pictures = [V.adjust_hue(V.to_pil_image(image), turns) for image in images.cpu()]
    return torch.stack([V.pil_to_tensor(picture) for picture in pictures]).to(images.device)


def shifts(length: int, amplitude: float, frequency: float) -> list[int]:
    """int(A sin(pi w i)) for i = 0, 1, ..."""
    return [int(amplitude * math.sin(math.pi * frequency * i)) for i in range(length)]


def warp(images: Tensor, amplitude: float, frequency: float) -> Tensor:
    """Row i is rolled to the right by shifts[i], then column i down by the same: no pixel is lost or made."""
    height, width = images.shape[-2:]
    rows = torch.tensor(shifts(height, amplitude, frequency), device=images.device)
    columns = torch.tensor(shifts(width, amplitude, frequency), device=images.device)
    i = torch.arange(height, device=images.device)
    j = torch.arange(width, device=images.device)
    rolled = images[..., i[:, None], (j[None] - rows[:, None]) % width]
    return rolled[..., (i[:, None] - columns[None]) % height, j[None]]


def blur(images: Tensor, sigma: float) -> Tensor:
    """A Gaussian over 3 sigma to each side, reflected at the border."""
    side = 2 * math.ceil(3 * sigma) + 1
    return V.gaussian_blur(images, [side, side], [sigma, sigma])


def denoise(images: Tensor, strength: float, template: int = 7, search: int = 21) -> Tensor:
    """Non-local means: lightness, and both colours together, are averaged over places with a like neighbourhood.

    Every place within `search` counts with w = exp(-D / h^2), D the mean squared difference of the templates around
    both, and not at all where w < 0.001. Borders are reflected. As OpenCV's fastNlMeansDenoisingColored, whole numbers
    between the steps included, but for its fixed point, which may differ by a level.

    Args:
        strength: h, in grey levels.
        template, search: sides of the squares, odd, pixels.
    """
    lab = rgb_to_lab(images.float() / 255).round().clamp(0, 255)  # (B, 3, H, W)
    channels = [_denoise(part, strength, template, search).round() for part in (lab[:, :1], lab[:, 1:])]
    return (255 * lab_to_rgb(torch.cat(channels, 1))).clamp(0, 255).to(torch.uint8)  # towards 0, as OpenCV does


def _denoise(x: Tensor, strength: float, template: int, search: int) -> Tensor:
    height, width = x.shape[-2:]
    inner, outer = template // 2, search // 2
    pad = inner + outer
    mode = "reflect" if pad < min(height, width) else "replicate"
    padded = F.pad(x, [pad] * 4, mode=mode)
    centre = padded[..., outer : outer + height + 2 * inner, outer : outer + width + 2 * inner]

    total = torch.zeros_like(x)
    weights = torch.zeros_like(x[:, :1])
    for dy in range(search):
        for dx in range(search):
            other = padded[..., dy : dy + height + 2 * inner, dx : dx + width + 2 * inner]
            difference = (other - centre).square().mean(1, keepdim=True)  # (B, 1, H + t - 1, W + t - 1)
            distance = F.avg_pool2d(difference, template, 1)  # (B, 1, H, W)
            weight = (-distance / strength**2).exp()
            weight = torch.where(weight < 0.001, 0.0, weight)
            total += weight * other[..., inner : inner + height, inner : inner + width]
            weights += weight
    return total / weights


# Primaries of sRGB and the white point D65
TO_XYZ = ((0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169), (0.019334, 0.119193, 0.950227))
WHITE = (0.950456, 1.0, 1.088754)
BEND = (6 / 29) ** 3
LIGHTNESS = 296  # of 2.55 * 116 = 295.8


def rgb_to_lab(images: Tensor) -> Tensor:
    """Linear RGB in [0, 1] -> CIELAB as 8-bit images hold it: lightness times 2.55, colours plus 128. (B, 3, H, W).

    Pixels are taken as linear light, without sRGB's gamma, and 255 of 100 is 296 of 116, as OpenCV does where it
    denoises.
    """
    xyz = torch.einsum("kc,bchw->bkhw", images.new_tensor(TO_XYZ), images) / images.new_tensor(WHITE).view(-1, 1, 1)
    f = torch.where(xyz > BEND, xyz.clamp(min=BEND) ** (1 / 3), xyz * (29 / 6) ** 2 / 3 + 4 / 29)
    x, y, z = f.unbind(1)
    return torch.stack([LIGHTNESS * y - 2.55 * 16, 500 * (x - y) + 128, 200 * (y - z) + 128], 1)


def lab_to_rgb(lab: Tensor) -> Tensor:
    """The inverse of rgb_to_lab, not clipped."""
    lightness, a, b = lab.unbind(1)
    y = (lightness / 2.55 + 16) / 116
    f = torch.stack([y + (a - 128) / 500, y, y - (b - 128) / 200], 1)
    xyz = torch.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29)) * lab.new_tensor(WHITE).view(-1, 1, 1)
    return torch.einsum("kc,bchw->bkhw", torch.linalg.inv(lab.new_tensor(TO_XYZ)), xyz)


def through_jpeg(images: Tensor, quality: int) -> Tensor:
    """uint8 (B, 3, H, W), written as JPEG and read again."""
    return torch.stack([decode_jpeg(encode_jpeg(image, quality)) for image in images])
