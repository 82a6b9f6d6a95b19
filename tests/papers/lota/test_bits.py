"""The front end: hand-computed bits and gradients, the paper's convolutions, and what cannot matter."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from datamodules.lota.bits import (
    FrontEnd,
    choose,
    corners,
    cut,
    gradient_score,
    gradient_scores,
    high_pass,
    low_bits,
    noise_image,
)


def random_bytes(*shape: int) -> torch.Tensor:
    return torch.randint(256, shape, dtype=torch.uint8)


def test_bits_by_hand() -> None:
    x = torch.tensor([0, 7, 8, 255], dtype=torch.uint8)
    assert low_bits(x).tolist() == [0, 7, 0, 7]
    x = x.view(1, 1, 2, 2)
    assert noise_image(x, "threshold").flatten().tolist() == [0, 255, 0, 255]
    assert noise_image(x, "scale").flatten().tolist() == [0, 255, 0, 255]
    assert torch.equal(noise_image(x), noise_image(x, "threshold", 3))
    assert torch.equal(noise_image(x, "rgb"), x)
    assert low_bits(torch.tensor([5], dtype=torch.uint8), 1).item() == 1


@pytest.mark.parametrize("mode", ["threshold", "scale"])
def test_only_the_low_bits_count(mode: str) -> None:
    """Whatever the upper five planes show, the noise image is the same; and the lower three are not left out."""
    x, other = random_bytes(4, 3, 16, 16), random_bytes(4, 3, 16, 16)
    mixed = (other & 248) | (x & 7)
    assert torch.equal(noise_image(mixed, mode), noise_image(x, mode))
    assert not torch.equal(noise_image((x & 248) | (other & 7), mode), noise_image(x, mode))
    assert torch.equal(noise_image((x // 2) & 127, mode), noise_image(((x // 2) & 127) + 128, mode))


def test_noise_images_of_random_bytes() -> None:
    x = random_bytes(8, 3, 64, 64)
    assert noise_image(x, "threshold").float().mean().item() == pytest.approx(255 * 7 / 8, abs=1)
    assert noise_image(x, "scale").float().mean().item() == pytest.approx(127.5, abs=1)


@pytest.mark.parametrize("mode", ["threshold", "scale"])
def test_multiples_of_eight_have_no_noise(mode: str) -> None:
    assert not noise_image(random_bytes(2, 3, 8, 8) & 248, mode).any()


def test_high_passed_pictures_by_hand() -> None:
    """128 where all is even, on slopes too; a single brighter pixel is 8/9 of its height above the mean around it."""
    assert bool((high_pass(torch.full((1, 3, 5, 5), 200, dtype=torch.uint8)) == 128).all())
    slope = (10 * torch.arange(6)).to(torch.uint8).expand(1, 1, 6, 6)
    assert bool((high_pass(slope)[..., 1:-1] == 128).all())
    dot = torch.zeros(1, 1, 5, 5, dtype=torch.uint8)
    dot[..., 2, 2] = 9
    expected = torch.full((5, 5), 128)
    expected[1:4, 1:4] = 120  # 128 - 8 * 1
    expected[2, 2] = 192  # 128 + 8 * 8
    assert torch.equal(high_pass(dot)[0, 0].long(), expected)
    edge = torch.tensor([0, 255], dtype=torch.uint8).repeat_interleave(3).expand(1, 1, 6, 6)
    assert high_pass(edge)[0, 0, 0].tolist() == [128, 128, 0, 255, 128, 128]


def test_high_passed_pictures_use_all_planes() -> None:
    """A lighter picture is the same; one whose low planes are wiped out is not all grey."""
    x = random_bytes(2, 3, 8, 8) // 2
    assert torch.equal(noise_image(x, "highpass"), noise_image(x + 100, "highpass"))
    assert noise_image(x & 248, "highpass").float().std() > 20


def test_of_the_lowest_plane_alone_odd_values_are_white() -> None:
    x = torch.tensor([2, 3, 6, 9], dtype=torch.uint8).view(1, 1, 2, 2)
    patch = FrontEnd(bits=1, patch=2).extract(x, torch.zeros(1, 1, 2), "max")
    assert patch.flatten().tolist() == [0, 255, 0, 255]


def test_gradients_by_hand() -> None:
    patch = torch.tensor([[0, 255], [0, 255]], dtype=torch.uint8)[None]
    assert gradient_score(patch).item() == 1020
    assert gradient_score(torch.full((3, 32, 32), 9, dtype=torch.uint8)).item() == 0
    rows, columns = torch.arange(32)[:, None], torch.arange(32)
    board = (((rows + columns) % 2) * 255).to(torch.uint8).expand(3, 32, 32)
    assert gradient_score(board).item() == 1_517_760
    stripes = ((columns % 2) * 255).to(torch.uint8).expand(3, 32, 32)
    assert gradient_score(stripes).item() == 2_229_210


def test_gradients_are_the_papers_convolutions() -> None:
    p = random_bytes(5, 3, 12, 12)
    kernels = ([[-1.0, 1.0]], [[-1.0], [1.0]], [[-1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [-1.0, 0.0]])
    expected = torch.zeros(5)
    for kernel in kernels:
        weight = torch.tensor(kernel).expand(3, 1, -1, -1)
        expected += F.conv2d(p.float(), weight, groups=3).abs().sum((1, 2, 3))
    assert torch.equal(gradient_score(p).float(), expected)


def test_flips_and_the_negative_have_the_same_gradient() -> None:
    p = random_bytes(4, 3, 16, 16)
    for other in (p.flip(-1), p.flip(-2), p.transpose(-1, -2), 255 - p):
        assert torch.equal(gradient_score(other), gradient_score(p))


def test_crops_lie_where_they_are_said_to() -> None:
    x = torch.arange(36, dtype=torch.uint8).view(1, 1, 6, 6)
    top, left = corners(torch.tensor([[[0.0, 0.0], [0.99, 0.99], [0.5, 0.0]]]), (6, 6), 4)
    patches = cut(x.expand(3, -1, -1, -1), top[0], left[0], 4)
    assert patches.shape == (3, 1, 4, 4)
    assert patches[:, 0, 0, 0].tolist() == [0, 14, 6]
    assert torch.equal(patches[1, 0], x[0, 0, 2:, 2:])


@pytest.mark.parametrize("side", [2, 8, 15])
def test_all_places_are_scored_as_each_patch_alone(side: int) -> None:
    x = random_bytes(3, 3, 15, 21)
    top, left = corners(torch.rand(3, 9, 2), (15, 21), side)
    alone = [gradient_score(cut(x, top[:, k], left[:, k], side)) for k in range(9)]
    assert torch.equal(gradient_scores(x, top, left, side), torch.stack(alone, 1))


def test_selection_is_ordered() -> None:
    x, places = random_bytes(6, 3, 32, 32), torch.rand(6, 20, 2)
    low, some, high = (gradient_score(choose(x, places, 8, how)) for how in ("min", "random", "max"))
    assert bool((low <= some).all())
    assert bool((some <= high).all())
    mean = gradient_scores(x, *corners(places, (32, 32), 8), 8).double().mean(1)
    assert bool(((low <= mean) & (mean <= high)).all())
    whole = random_bytes(2, 3, 8, 8), torch.rand(2, 5, 2), 8
    assert torch.equal(choose(*whole, "max"), choose(*whole, "min"))


def test_what_networks_see() -> None:
    x = random_bytes(2, 3, 40, 48)
    image, patch = FrontEnd()(x, torch.rand(2, 64, 2))
    assert image.shape == (2, 3, 256, 256)
    assert patch.shape == (2, 3, 32, 32)
    assert set(patch.unique().tolist()) <= {0.0, 1.0}
    image, patch = FrontEnd(guided=True, size=64)(x, torch.rand(2, 64, 2))
    assert image.shape == (2, 3, 64, 64)
    whole, _ = FrontEnd(patch=None, size=None, mean=(0.0,) * 3, std=(1.0,) * 3)(x, torch.rand(2, 1, 2))
    assert torch.equal((whole * 255).to(torch.uint8), noise_image(x))
    _, patch = FrontEnd()(random_bytes(1, 3, 20, 20), torch.rand(1, 64, 2))
    assert patch.shape == (1, 3, 32, 32)  # as released: a picture smaller than a patch is enlarged first
    _, patch = FrontEnd(resize_first=64)(x, torch.rand(2, 64, 2))
    assert patch.shape == (2, 3, 32, 32)


PLAIN = {"mean": (0.0,) * 3, "std": (1.0,) * 3}


def test_patches_are_enlarged_bilinearly() -> None:
    """Two pixels 0 and 1 at four: 0, 1/4, 3/4, 1 along a row, as OpenCV has them; nearest neighbours: 0, 0, 1, 1."""
    x = torch.tensor([[0, 255], [0, 255]], dtype=torch.uint8).expand(1, 3, 2, 2)
    seen, patch = FrontEnd(mode="rgb", patch=2, size=4, **PLAIN)(x, torch.zeros(1, 1, 2))
    assert patch[0, 0].tolist() == [[0, 1], [0, 1]]
    for row in seen.flatten(0, 2):
        assert row.tolist() == pytest.approx([0, 0.25, 0.75, 1])


@pytest.mark.parametrize(("side", "spread"), [(512, 25.8), (1024, 13.5)])
def test_resizing_averages_as_pillow_does(side: int, spread: float) -> None:
    """The noise image at 256 before patches are cut. Without a low-pass the spread would be 41.2 from either side."""
    x = random_bytes(1, 3, side, side)
    resized = FrontEnd(mode="scale", patch=None, resize_first=256).extract(x, torch.rand(1, 1, 2), "max")
    noise = Image.fromarray(noise_image(x, "scale")[0].permute(1, 2, 0).numpy())
    expected = torch.from_numpy(np.array(noise.resize((256, 256), Image.Resampling.BILINEAR))).permute(2, 0, 1)
    assert int((resized[0].int() - expected.int()).abs().max()) <= 1
    assert float(resized.float().std()) * 252 / 255 == pytest.approx(spread, abs=0.5)


def test_whole_pictures_are_shrunk_as_pillow_does() -> None:
    x = random_bytes(1, 3, 48, 80)
    seen, _ = FrontEnd(mode="rgb", patch=None, size=32, **PLAIN)(x, torch.rand(1, 1, 2))
    pillow = Image.fromarray(x[0].permute(1, 2, 0).numpy()).resize((32, 32), Image.Resampling.BILINEAR)
    expected = torch.from_numpy(np.array(pillow)).permute(2, 0, 1)
    assert torch.allclose(seen[0] * 255, expected.float(), atol=1.01)


@pytest.mark.parametrize(("patch", "draws"), [(16, 256), (32, 64), (48, 25), (64, 16), (300, 1), (None, 1)])
def test_smaller_patches_are_chosen_from_more_crops(patch: int | None, draws: int) -> None:
    assert FrontEnd(patch=patch).draws == draws
    assert FrontEnd(patch=patch, crops=9).draws == 9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "soft"}, "mode='soft'"),
        ({"bits": 9}, "bits=9"),
        ({"patch": 1}, "patch=1"),
        ({"guided": True, "patch": None}, "expected a patch"),
    ],
)
def test_bad_options_are_named(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FrontEnd(**options)
