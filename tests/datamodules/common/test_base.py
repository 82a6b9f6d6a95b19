"""Order, shares and randomness of batches."""

from __future__ import annotations

import pytest
import torch

from datamodules.common.augment import HorizontalFlip, RandomCrop, RandomResizedCrop
from datamodules.common.base import Batches, DataModule, Draws, InOrder, Spec, stream
from datamodules.meal_v2 import RandomAffine


def epoch(batches: Batches, number: int) -> list[list[int]]:
    batches.set_epoch(number)
    return [share.indices.tolist() for share in batches]


def test_an_epoch_is_a_permutation_fixed_by_seed_and_epoch() -> None:
    a, b = Batches(10, 4, shuffle=True, seed=1), Batches(10, 4, shuffle=True, seed=1)
    assert epoch(a, 0) == epoch(b, 0)
    assert epoch(a, 0) != epoch(a, 1)
    assert epoch(a, 0) != epoch(Batches(10, 4, shuffle=True, seed=2), 0)
    assert sorted(i for part in epoch(a, 3) for i in part) == list(range(10))
    assert [len(part) for part in epoch(a, 0)] == [4, 4, 2]


@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_the_batches_of_one(world: int) -> None:
    one = epoch(Batches(64, 12, shuffle=True, seed=1), 5)
    shares = [epoch(Batches(64, 12, shuffle=True, seed=1, rank=r, world=world), 5) for r in range(world)]
    assert [[i for part in parts for i in part] for parts in zip(*shares, strict=True)] == one


def test_a_last_batch_too_small_to_share_is_dropped_on_every_rank() -> None:
    for rank in (0, 1):
        batches = Batches(9, 4, shuffle=True, rank=rank, world=2)
        assert len(batches) == len(epoch(batches, 0)) == 2


@pytest.mark.parametrize(("size", "world"), [(101, 2), (9, 2), (10, 3), (1, 2)])
def test_evaluation_deals_every_image_once_without_padding(size: int, world: int) -> None:
    shares = [Batches(size, 4, shuffle=False, rank=r, world=world) for r in range(world)]
    served = [[share.indices.tolist() for share in batches] for batches in shares]
    assert sorted(i for parts in served for part in parts for i in part) == list(range(size))
    assert [len(batches) for batches in shares if size >= world] == [len(p) for p in served if size >= world]


def test_resuming_skips_what_was_served_once() -> None:
    batches = Batches(10, 2, shuffle=True, seed=1)
    whole = epoch(batches, 2)
    served = iter(batches)
    first = [next(served).indices.tolist() for _ in range(3)]
    resumed = Batches(10, 2, shuffle=True, seed=1)
    resumed.load_state_dict(batches.state_dict())
    assert first + epoch(resumed, 2) == whole
    assert len(epoch(resumed, 3)) == 5
    epoch(batches, 2)
    assert batches.state_dict() == {"position": 0}


def draws(total: int = 8, start: int = 0, count: int = 8, seed: int = 0) -> Draws:
    return Draws(torch.Generator().manual_seed(seed), total, start, count)


@pytest.mark.parametrize(
    "operation",
    [HorizontalFlip(), RandomCrop(2), RandomAffine(0.3, (0.8, 1.2), 0.2), RandomResizedCrop()],
    ids=lambda o: type(o).__name__,
)
def test_augmentation_of_a_share_is_the_share_of_the_augmentation(operation: HorizontalFlip) -> None:
    images = torch.rand(8, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    whole = operation(images, draws())
    assert whole.shape == images.shape
    assert not torch.equal(whole, images)
    assert torch.equal(operation(images, draws()), whole)
    assert torch.allclose(operation(images[3:6], draws(start=3, count=3)), whole[3:6], atol=1e-6)


def test_augmentations_in_their_limits() -> None:
    images = torch.rand(8, 1, 6, 6)
    assert torch.equal(HorizontalFlip(1.0)(images, draws()), images.flip(-1))
    assert torch.equal(HorizontalFlip(0.0)(images, draws()), images)
    assert torch.equal(RandomCrop(0)(images, draws()), images)
    assert torch.allclose(RandomAffine()(images, draws()), images, atol=1e-5)
    assert torch.allclose(RandomResizedCrop((1.0, 1.0), (1.0, 1.0))(images, draws()), images, atol=1e-5)
    quarter = RandomAffine(rotation=torch.pi / 2)
    turned = quarter(images, _Fixed(1.0))  # type: ignore[arg-type]
    assert torch.allclose(turned, torch.rot90(images, 1, (-2, -1)), atol=1e-4) or torch.allclose(
        turned, torch.rot90(images, -1, (-2, -1)), atol=1e-4
    )


def test_crops_tell_their_boxes() -> None:
    """A picture of its own coordinates shows in each crop where it was cut."""
    side = 64
    at = (torch.arange(side) + 0.5) / side
    images = torch.stack([at.expand(side, side), at[:, None].expand(side, side)]).expand(8, 2, side, side)
    crops, boxes = RandomResizedCrop().crop(images, draws())
    assert torch.equal(RandomResizedCrop()(images, draws()), crops)
    x1, y1, x2, y2 = boxes.unbind(1)
    size = torch.stack([x2 - x1, y2 - y1], 1)
    assert bool((size > 0).all())
    assert 0 <= float(boxes.min()) <= float(boxes.max()) <= 1
    middle = crops[:, :, side // 2 - 1 : side // 2 + 1, side // 2 - 1 : side // 2 + 1].mean((2, 3))
    assert torch.allclose(middle, torch.stack([x1 + x2, y1 + y2], 1) / 2, atol=1e-4)
    quarter = torch.stack([crops[:, 0, 32, 40] - crops[:, 0, 32, 24], crops[:, 1, 40, 32] - crops[:, 1, 24, 32]], 1)
    assert torch.allclose(4 * quarter, size, atol=1e-4)
    whole = RandomResizedCrop((1.0, 1.0), (1.0, 1.0)).crop(images, draws())[1]
    assert torch.allclose(whole, torch.tensor([0.0, 0.0, 1.0, 1.0]).expand(8, 4))


class _Fixed:
    """Draws that always give the same point of the range."""

    def __init__(self, point: float) -> None:
        self.point = point

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> torch.Tensor:
        return torch.full((8, *shape), low + self.point * (high - low))


def test_random_crop_cuts_windows_of_the_padded_image() -> None:
    images = torch.arange(1, 26.0).view(1, 1, 5, 5).repeat(8, 1, 1, 1)
    padded = torch.nn.functional.pad(images[0, 0], [1] * 4)
    windows = {tuple(padded[r : r + 5, c : c + 5].flatten().tolist()) for r in range(3) for c in range(3)}
    assert {tuple(image.flatten().tolist()) for image in RandomCrop(1)(images, draws())} <= windows


def test_seeds_of_neighbours_are_unrelated() -> None:
    assert len({stream("a", a, b) for a in range(30) for b in range(30)}) == 900
    assert stream("a", 1, 2) != stream("a", 2, 1)
    assert 0 <= stream("a", -5) < 2**63


def test_training_in_order_is_shared_out_and_resumable() -> None:
    whole = [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert epoch(InOrder(10, 4, shuffle=True), 0) == epoch(InOrder(10, 4, shuffle=True, seed=3), 1) == whole
    shares = [epoch(InOrder(10, 4, shuffle=True, rank=rank, world=2), 0) for rank in (0, 1)]
    assert [a + b for a, b in zip(*shares, strict=True)] == whole
    rest = InOrder(10, 4, shuffle=True)
    rest.load_state_dict({"position": 1})
    assert epoch(rest, 0) == whole[1:]


class Photos(DataModule):
    """Declares two channels that are normalised differently."""

    @property
    def spec(self) -> Spec:
        return Spec("photos", (2, 3, 4), ("a", "b"), {"test": 5}, mean=(0.5, 0.2), std=(0.25, 0.1), split="none")


def test_shown_images_are_those_before_normalisation() -> None:
    pixels = torch.rand(5, 2, 3, 4)
    mean = torch.tensor([0.5, 0.2]).view(2, 1, 1)
    std = torch.tensor([0.25, 0.1]).view(2, 1, 1)
    normalised = (pixels - mean) / std
    data = Photos(batch_size=1)
    assert torch.allclose(data.shown(normalised), pixels, atol=1e-6)
    assert torch.allclose(data.shown(normalised[0]), pixels[0], atol=1e-6)


def test_shown_images_lie_in_0_to_1_and_have_no_gradient() -> None:
    x = torch.full((2, 1, 1), 100.0, requires_grad=True)
    x_low = torch.full((2, 1, 1), -100.0, dtype=torch.bfloat16)
    shown = Photos(batch_size=1).shown(x)
    assert shown.flatten().tolist() == [1, 1]
    assert not shown.requires_grad
    assert Photos(batch_size=1).shown(x_low).flatten().tolist() == [0, 0]
    assert Photos(batch_size=1).shown(x_low).dtype == torch.float32
