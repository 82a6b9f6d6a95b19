"""Modified images: known values, what each leaves alone, and references."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance
from torch import Tensor
from torchvision.transforms import functional as V

from datamodules.explaining_prototypes.modifications import (
    CHARACTERISTICS,
    Strengths,
    denoise,
    lab_to_rgb,
    modify,
    rgb_to_lab,
    shifts,
    through_jpeg,
    warp,
)

SMALL = Strengths(amplitude=1.5, frequency=0.4, texture="blur")


def colours(*pixels: tuple[int, int, int]) -> Tensor:
    """One image of one row, (1, 3, 1, n)."""
    return torch.tensor(pixels, dtype=torch.uint8).T.reshape(1, 3, 1, -1)


def noise(*shape: int) -> Tensor:
    return torch.randint(256, shape, dtype=torch.uint8)


def test_known_colours() -> None:
    four = colours((255, 0, 0), (0, 255, 0), (0, 0, 255), (200, 100, 50))
    made = modify(four.expand(1, 3, 8, 4).repeat(1, 1, 1, 2), Strengths(texture="blur", brightness=0.8))
    assert made["contrast"][0, :, 0, 0].tolist() == [167, 52, 52]
    assert made["saturation"][0, :, 0, 0].tolist() == [201, 22, 22]
    assert made["hue"][0, :, 0, 0].tolist() == [255, 150, 0]  # 25 of 256 steps; a tenth of a turn would be 153
    assert made["brightness"][0, :, 0, 0].tolist() == [204, 0, 0]


def test_blends_are_pillows() -> None:
    images = noise(1, 3, 9, 13)
    picture = V.to_pil_image(images[0])
    made = modify(images, Strengths(texture="blur", brightness=0.8))
    for name, kind, factor in (
        ("contrast", ImageEnhance.Contrast, 0.45),
        ("saturation", ImageEnhance.Color, 0.7),
        ("brightness", ImageEnhance.Brightness, 0.8),
    ):
        expected = V.pil_to_tensor(kind(picture).enhance(factor)).int()
        assert int((made[name][0].int() - expected).abs().max()) <= 1, name
        assert float((made[name][0] == expected).float().mean()) > 0.98, name


def test_hues_are_turned_by_25_steps_of_pillows_hsv() -> None:
    images = noise(2, 3, 9, 13)
    made = modify(images, Strengths(texture="blur"))["hue"]
    for image, turned in zip(images, made, strict=True):
        hue, saturation, value = V.to_pil_image(image).convert("HSV").split()
        hue = hue.point([(step + 25) % 256 for step in range(256)])
        expected = Image.merge("HSV", (hue, saturation, value)).convert("RGB")
        assert torch.equal(turned, V.pil_to_tensor(expected))


def test_names_and_shapes() -> None:
    images = noise(3, 3, 12, 16)
    made = modify(images, SMALL)
    assert tuple(made) == SMALL.names == CHARACTERISTICS
    assert all(m.shape == images.shape and m.dtype == torch.uint8 for m in made.values())
    assert not any(torch.equal(m, images) for m in made.values())
    six = Strengths(texture="blur", brightness=0.8)
    assert tuple(modify(images, six)) == six.names == (*CHARACTERISTICS, "brightness")
    with pytest.raises(ValueError, match="expected one of denoise, blur"):
        Strengths(texture="median")


def test_an_image_does_not_depend_on_its_batch() -> None:
    images = noise(4, 3, 16, 16)
    together = modify(images, SMALL)
    alone = modify(images[2:3], SMALL)
    assert all(torch.equal(together[name][2:3], alone[name]) for name in together)


def test_strengths_that_change_nothing() -> None:
    images = noise(2, 3, 16, 16)
    none = Strengths(contrast=1.0, saturation=1.0, hue=0.0, amplitude=0.0, texture="blur", sigma=1e-3, brightness=1.0)
    for name, made in modify(images, none).items():
        assert torch.equal(made, images), name


@pytest.mark.parametrize("texture", ["blur", "denoise"])
def test_what_each_modification_cannot_see(texture: str) -> None:
    strengths = Strengths(amplitude=1.5, frequency=0.4, texture=texture)
    grey = noise(2, 1, 24, 24).expand(2, 3, 24, 24).contiguous()
    for name in ("saturation", "hue"):
        assert torch.equal(modify(grey, strengths)[name], grey)
    colour = torch.tensor([200, 100, 50], dtype=torch.uint8).view(1, 3, 1, 1).expand(1, 3, 24, 24).contiguous()
    made = modify(colour, strengths)
    assert torch.equal(made["shape"], colour)
    assert int((made["texture"].int() - colour).abs().max()) <= (texture == "denoise")  # OpenCV rounds towards 0
    assert not torch.equal(made["contrast"], colour)  # blended with the mean GREY
    plain = torch.full((1, 3, 24, 24), 90, dtype=torch.uint8)
    for name, changed in modify(plain, strengths).items():
        lost = int(name == "texture" and texture == "denoise")  # OpenCV makes 89 of 90
        assert torch.equal(changed, plain - lost), name


def test_what_is_brighter_than_white_is_white() -> None:
    made = modify(colours((200, 100, 0)).repeat(1, 1, 8, 8), Strengths(texture="blur", contrast=3.0, brightness=1.5))
    assert made["brightness"][0, :, 0, 0].tolist() == [255, 150, 0]
    assert made["contrast"][0, :, 0, 0].tolist() == [255, 64, 0]  # 118 is the mean grey


@pytest.mark.parametrize("colour", [(255, 192, 255), (255, 255, 0), (0, 255, 255), (255, 192, 128), (3, 1, 2)])
def test_denoising_leaves_a_small_picture_of_one_colour(colour: tuple[int, int, int]) -> None:
    """Smaller than what is searched; rounded colours of CIELAB lie up to four levels beyond 255."""
    image = colours(colour).repeat(1, 1, 8, 8)
    assert int((denoise(image, 4.0).int() - image.int()).abs().max()) <= 4


def test_shifts_as_released() -> None:
    released = shifts(40, 4.0, 0.05)
    assert released[:11] == [0, 0, 1, 1, 2, 2, 3, 3, 3, 3, 4]
    assert released[30] == -4
    assert max(map(abs, shifts(64, 1.5, 0.4))) == 1


def test_the_warp_rolls_rows_then_columns() -> None:
    images = noise(2, 3, 40, 30)
    expected = images.numpy().copy()
    for i, shift in enumerate(shifts(40, 4.0, 0.05)):
        expected[:, :, i] = np.roll(expected[:, :, i], shift, axis=-1)
    for j, shift in enumerate(shifts(30, 4.0, 0.05)):
        expected[:, :, :, j] = np.roll(expected[:, :, :, j], shift, axis=-1)
    made = warp(images, 4.0, 0.05)
    assert np.array_equal(made.numpy(), expected)
    assert torch.equal(made.flatten(2).sort(-1).values, images.flatten(2).sort(-1).values)


def test_the_small_warp_keeps_a_shape_as_the_released_one_does() -> None:
    """Overlap of a disc with its warped self: 300 pixels as released, 48 pixels as here, 48 pixels as released."""

    def overlap(side: int, amplitude: float, frequency: float) -> float:
        line = torch.arange(side) - (side - 1) / 2
        disc = (line[:, None] ** 2 + line**2 < (0.22 * side) ** 2).to(torch.uint8).expand(1, 1, side, side)
        made = warp(disc, amplitude, frequency)
        return float((disc & made).sum() / (disc | made).sum())

    assert overlap(300, 4, 0.05) == pytest.approx(0.93, abs=0.04)
    assert overlap(48, 1.5, 0.4) == pytest.approx(0.9, abs=0.05)
    assert overlap(48, 4, 0.05) < 0.75


def test_lab_is_inverted_and_known() -> None:
    """Up to OpenCV's 296 for 295.8 in lightness. 0.2126 is the luminance of linear red: L = 116 * 0.2126^(1/3) - 16."""
    images = torch.rand(2, 3, 5, 5)
    assert torch.allclose(lab_to_rgb(rgb_to_lab(images)), images, atol=5e-3)
    white, half, red = torch.ones(1, 3, 1, 1), torch.full((1, 3, 1, 1), 0.5), torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1)
    assert rgb_to_lab(white).flatten().tolist() == pytest.approx([255.2, 128, 128], abs=0.05)
    assert float(rgb_to_lab(half)[0, 0]) == pytest.approx(2.55 * (116 * 0.5 ** (1 / 3) - 16), abs=0.25)  # no gamma
    dark = torch.full((1, 3, 1, 1), 0.004)  # below the bend CIE's lightness is a line: 903.3 Y
    assert rgb_to_lab(dark).flatten().tolist() == pytest.approx([2.55 * 903.3 * 0.004, 128, 128], abs=0.05)
    assert rgb_to_lab(torch.zeros(1, 3, 1, 1)).flatten().tolist() == pytest.approx([0, 128, 128], abs=0.05)
    assert torch.allclose(lab_to_rgb(rgb_to_lab(images / 200)), images / 200, atol=5e-5)
    light, a, b = rgb_to_lab(red).flatten().tolist()
    assert (light / 2.55, a - 128, b - 128) == pytest.approx((53.24, 80.09, 67.20), abs=0.1)


def opencv_picture() -> Tensor:
    """(1, 3, 24, 24): two gradients and a red square, all with noise of up to 11 levels."""
    line = torch.arange(24)
    i, j = line[:, None], line[None]
    grain = (7919 * i * i + 104729 * j + 31 * i * j) % 23 - 11
    picture = torch.stack([40 + 7 * i + grain, 200 - 6 * j + grain, 60 + 4 * (i + j) - grain * (j % 2)])
    square = torch.stack([220 + grain, 60 + grain, 30 + grain])
    picture[:, 6:14, 8:18] = square[:, 6:14, 8:18]
    return picture.clamp(0, 255).to(torch.uint8)[None]


OPENCV_ROW_9 = (  # cv2 5.0.0, fastNlMeansDenoisingColored(picture, None, 4, 4, 7, 21)
    (103, 102, 100, 101, 106, 100, 95, 108, 211, 226, 215, 225, 223, 213, 223, 218, 225, 215, 109, 103, 107, 105),
    (195, 192, 187, 181, 174, 167, 156, 160, 54, 65, 56, 62, 59, 55, 59, 54, 62, 58, 93, 84, 85, 73),
    (99, 103, 105, 108, 108, 119, 120, 119, 25, 36, 27, 30, 29, 26, 29, 22, 30, 28, 159, 169, 171, 186),
)
OPENCV_MEANS = (136.46875, 122.015625, 134.97396)


def test_denoising_is_opencvs() -> None:
    """A gamma before CIELAB, or lightness and colours averaged alike, is off by tens of levels."""
    made = denoise(opencv_picture(), 4.0)[0].double()
    expected = torch.tensor(OPENCV_ROW_9).double()
    difference = (made[:, 9, :22] - expected).abs()
    assert float(difference.max()) <= 3
    assert float(difference.mean()) < 0.4
    assert made.mean((1, 2)).tolist() == pytest.approx(OPENCV_MEANS, abs=0.15)


def test_denoising_is_non_local_means() -> None:
    """One pixel of a grey image by plain loops."""
    image = noise(1, 1, 20, 20).expand(1, 3, 20, 20).contiguous()
    made = denoise(image, 30.0, 3, 5)
    light = rgb_to_lab(image.float() / 255)[0, 0].round().clamp(0, 255)
    i = j = 9
    total = weights = 0.0
    for dy in range(-2, 3):
        for dx in range(-2, 3):
            ours = light[i - 1 : i + 2, j - 1 : j + 2]
            theirs = light[i + dy - 1 : i + dy + 2, j + dx - 1 : j + dx + 2]
            weight = math.exp(-float((ours - theirs).square().mean()) / 30.0**2)
            weight *= weight >= 0.001
            total += weight * float(light[i + dy, j + dx])
            weights += weight
    expected = lab_to_rgb(torch.tensor([round(total / weights), 128.0, 128.0]).view(1, 3, 1, 1)) * 255
    assert made[0, :, i, j].tolist() == pytest.approx(expected.flatten().tolist(), abs=1.0)


def test_denoising_takes_noise_and_leaves_edges() -> None:
    clean = torch.full((1, 3, 32, 32), 60.0)
    clean[..., 16:] = 180
    noisy = (clean + 3 * torch.randn(clean.shape)).round().clamp(0, 255).to(torch.uint8)
    made = denoise(noisy, 4.0).float()
    inner = (..., slice(6, 26), slice(2, 12))
    assert float((made - clean)[inner].std()) < 0.6 * float((noisy.float() - clean)[inner].std())
    assert float(made[..., 17].mean() - made[..., 14].mean()) == pytest.approx(120, abs=4)


def test_a_jpeg_round_trip_is_a_switch_that_costs_something() -> None:
    images = noise(2, 3, 16, 16)
    changed = modify(images, SMALL)
    saved = modify(images, SMALL, jpeg_roundtrip=True)
    assert torch.equal(saved["hue"], through_jpeg(changed["hue"], 75))
    assert torch.equal(saved["shape"], through_jpeg(changed["shape"], 95))
    assert not torch.equal(saved["hue"], changed["hue"])
    none = Strengths(contrast=1.0, saturation=1.0, hue=0.0, amplitude=0.0, texture="blur", sigma=1e-3)
    assert not torch.equal(modify(images, none, jpeg_roundtrip=True)["contrast"], images)
