"""What a RotNet's validation and test count, on images whose rotation can be read off a corner."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from modules.rotnet import heads
from modules.rotnet.module import RotNet


class Same(nn.Module):
    """A trunk of one block that changes nothing."""

    shapes = ((1, 8, 8),)

    def forward(self, x: Tensor) -> list[Tensor]:
        return [x]


class Corners(nn.Module):
    """The corner that was the upper right one is bright: it is the upper left one after a quarter turn to the left."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([x[:, 0, 0, -1], x[:, 0, 0, 0], x[:, 0, -1, 0], x[:, 0, -1, -1]], 1)


@pytest.fixture
def reader(small: Callable[..., RotNet]) -> RotNet:
    module = small()
    module.trunk = Same()  # type: ignore[assignment]
    module.head = Corners()
    return module


def marked(*right: bool) -> tuple[Tensor, Tensor]:
    """Images with a bright upper right corner, or where not right an upper left one, of which no turn is read right."""
    x = torch.zeros(len(right), 1, 8, 8)
    for image, is_right in zip(x, right, strict=True):
        image[0, 0, -1 if is_right else 0] = 1
    return x, torch.full((len(right),), 7)  # labels are not looked at


def test_the_test_counts_images_and_their_copies(reader: RotNet, logged: Callable[..., dict[str, float]]) -> None:
    assert logged(reader, marked(True, True), marked(True, False)) == {"test/rotation_top1": 75.0, "test/n": 4.0}


def test_each_validation_starts_anew(reader: RotNet) -> None:
    scores: list[dict[str, float]] = []
    reader.log_dict = lambda values, **_: scores.append({k: float(v) for k, v in values.items()})  # type: ignore[assignment]
    for batch in (marked(True, False), marked(True)):
        reader.validation_step(batch, 0)
        reader.on_validation_epoch_end()
    assert scores == [{"val/rotation_top1": 50.0, "val/n": 2.0}, {"val/rotation_top1": 100.0, "val/n": 1.0}]


def test_training_tracks_its_loss_and_the_share_of_copies_that_are_right(reader: RotNet) -> None:
    """Logits of a copy that is read right are 1, 0, 0, 0: L = log(e + 3) - 1; wrong: log(e + 3)."""
    tracked: dict[str, Any] = {}
    reader.track = lambda count, **terms: tracked.update(terms, count=count)  # type: ignore[method-assign]
    loss = reader.training_step(marked(True, True, True, False), 0)
    assert loss is not None
    assert float(loss) == pytest.approx(float(torch.tensor(1.0).exp().add(3).log()) - 0.75)
    assert (tracked["count"], float(tracked["rotation_top1"])) == (16, 75.0)
    assert float(tracked["loss"]) == float(loss)


def test_a_new_head_on_a_trunk_that_is_there(small: Callable[..., RotNet]) -> None:
    start = small()
    same, other = RotNet(start=start), RotNet(start=start, head=heads.conv_block, angles=(0, 180))
    assert same.trunk is other.trunk is start.trunk
    assert same.head is not start.head
    assert [type(layer) for layer in same.head] == [type(layer) for layer in start.head]  # type: ignore[arg-type, union-attr]
    assert other.head[-1].out_features == 2  # type: ignore[index]
    assert isinstance(other.head[0], nn.Conv2d)  # type: ignore[index]
    with pytest.raises(ValueError, match="either network and head, or start"):
        RotNet(network=start.trunk, start=start)
    with pytest.raises(ValueError, match="either network and head, or start"):
        RotNet(network=start.trunk)


def test_he_weights_are_for_convolutions_alone(small: Callable[..., RotNet]) -> None:
    """The rotation head's linear layer keeps torch's own: uniform within 1 / sqrt(inputs), 7 of them."""
    module = small(init="he")
    first = module.trunk[0][0].weight.detach()  # type: ignore[index] # 6 filters of 5x5
    assert float(first.std()) == pytest.approx((2 / (6 * 25)) ** 0.5, rel=0.2)
    linear = module.head[-1]  # type: ignore[index]
    assert float(linear.weight.detach().abs().max()) <= 7**-0.5
    assert float(linear.bias.detach().abs().max()) == 0


def test_starting_from_a_trunk_draws_none_of_its_weights_anew(small: Callable[..., RotNet]) -> None:
    start = small()
    before = [p.clone() for p in start.trunk.parameters()]
    module = RotNet(start=start, init="he")
    assert all(torch.equal(a, b) for a, b in zip(before, module.trunk.parameters(), strict=True))
