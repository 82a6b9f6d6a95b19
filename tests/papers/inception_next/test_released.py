"""Released weights: timm's outputs, gradients and names."""

from __future__ import annotations

import pytest
import timm
import torch
from timm.models.convnext import checkpoint_filter_fn
from torch import Tensor, nn
from torch.nn import functional as F

from modules.inception_next.networks import DWConv, MetaNeXt
from modules.inception_next.released import rename_weights
from modules.inception_next.sizes import convnext, inception_next
from tests.papers.inception_next.helpers import randomised, tensor


def agrees(ours: nn.Module, name: str, side: int = 64) -> float:
    theirs = randomised(timm.create_model(name, pretrained=False, num_classes=1000))
    ours.load_state_dict(rename_weights(theirs.state_dict()))
    x = tensor(2, 3, side, side)
    with torch.inference_mode():
        expected, actual = theirs(x), ours.eval()(x)
    assert float(expected.std()) > 0.05  # the comparison is not of zeros
    assert float((expected[0] - expected[1]).abs().max()) > 0.01  # nor of a constant
    return float((actual - expected).abs().max())


@pytest.mark.parametrize("size", ["atto", "tiny"])
def test_timm_gives_the_same_outputs(size: str) -> None:
    assert agrees(inception_next(size), f"inception_next_{size}") < 1e-4
    assert agrees(convnext(size), f"convnext_{size}") < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("size", ["small", "base"])
def test_timm_gives_the_same_outputs_at_the_large_sizes(size: str) -> None:
    assert agrees(inception_next(size), f"inception_next_{size}") < 1e-4
    assert agrees(convnext(size), f"convnext_{size}") < 1e-4


@pytest.mark.slow
def test_timm_gives_the_same_outputs_at_384_and_in_the_other_layout() -> None:
    assert agrees(inception_next("base", channels_last=False), "inception_next_base.sail_in1k_384", 384) < 1e-4


def test_timm_gives_the_same_gradients() -> None:
    """In training mode, with batch statistics of the batch."""
    theirs = timm.create_model("inception_next_atto", pretrained=False)
    randomised(theirs).train()
    ours = inception_next("atto", drop_path=0.0)
    ours.load_state_dict(rename_weights(theirs.state_dict()))
    x, y = tensor(4, 3, 64, 64), torch.tensor([0, 1, 2, 3])
    for network in (theirs, ours.train()):
        F.cross_entropy(network(x), y).backward()
    expected = rename_weights({n: p.grad for n, p in theirs.named_parameters() if p.grad is not None})
    actual = {n: p.grad for n, p in ours.named_parameters() if p.grad is not None}
    assert expected.keys() == actual.keys()
    largest = max(float(g.abs().max()) for g in expected.values())
    assert largest > 1e-3
    for name, gradient in actual.items():  # biases before a batch norm have none, up to rounding
        error = float((gradient - expected[name]).abs().max())
        assert error <= 1e-3 * float(expected[name].abs().max()) + 1e-6 * largest, name


def test_names_of_the_convnext_code_are_those_timm_makes_of_them() -> None:
    """timm's own conversion of the ConvNeXt code's weights, then ours, equals ours alone."""
    dims = (8, 16, 24, 32)
    original: dict[str, Tensor] = {}
    for i, c in enumerate(dims):
        conv, norm = ("0", "1") if i == 0 else ("1", "0")
        shape = (c, 3, 4, 4) if i == 0 else (c, dims[i - 1], 2, 2)
        original[f"downsample_layers.{i}.{conv}.weight"] = tensor(*shape, seed=i)
        original[f"downsample_layers.{i}.{norm}.bias"] = tensor(dims[max(i - 1, 0)], seed=10 + i)
        shapes = {"dwconv": (c, 1, 7, 7), "norm": (c,), "pwconv1": (4 * c, c), "pwconv2": (c, 4 * c)}
        original |= {f"stages.{i}.0.{part}.weight": tensor(*size, seed=20 + i) for part, size in shapes.items()}
        original[f"stages.{i}.0.gamma"] = tensor(c, seed=30 + i)
    original |= {"norm.weight": tensor(32), "head.weight": tensor(5, 32), "head.bias": tensor(5)}
    reference = timm.models.ConvNeXt(num_classes=5, depths=(1, 1, 1, 1), dims=dims)
    by_timm, ours = rename_weights(checkpoint_filter_fn(dict(original), reference)), rename_weights(original)
    assert ours.keys() == by_timm.keys()
    assert all(torch.equal(ours[key], by_timm[key]) for key in ours)
    mine = MetaNeXt((1, 1, 1, 1), dims, DWConv, 4, "layer", "linear", classes=5).state_dict()
    assert {key: value.shape for key, value in ours.items()}.items() <= {k: v.shape for k, v in mine.items()}.items()


def test_partial_convolutions_take_the_released_names() -> None:
    names = rename_weights({"stages.0.0.dwconv.conv.weight": torch.zeros(12, 1, 3, 3)})
    assert list(names) == ["stages.0.blocks.0.token_mixer.conv.weight"]
    assert names.keys() <= convnext("tiny", 3, 0.125).state_dict().keys()
