"""Sizes, shapes, initial weights and symmetries of the prototype network."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modules.case_based_prototypes.networks import CaseBasedNetwork


def test_published_sizes(network: Callable[..., CaseBasedNetwork], parameters: Callable[..., int]) -> None:
    net = network()
    assert parameters(net.encoder) == 320 + 9_248 + 9_248 + 2_890 == 21_706
    assert parameters(net.decoder) == 2_912 + 9_248 + 9_248 + 289 == 21_697
    assert parameters(net.units) == 600
    assert net.weight.numel() == 150
    assert parameters(net) == 44_153
    dense = network(layer="dense")
    assert parameters(dense.units) == 40 * 15 + 15
    assert parameters(network(layer="dense", decode=False)) == parameters(dense) - 21_697


@pytest.mark.parametrize("act", ["relu", "sigmoid"])
def test_shapes(
    network: Callable[..., CaseBasedNetwork], batch: Callable[..., tuple[Tensor, Tensor]], act: str
) -> None:
    net, (x, _) = network(act=act), batch()
    sides = [x.shape[-1]]
    maps = x
    for layer in list(net.encoder)[:-1]:
        maps = layer(maps)
        if isinstance(layer, nn.Conv2d):
            sides.append(maps.shape[-1])
    assert sides == [28, 14, 7, 4, 2]
    codes = net.encoder(x)
    outputs, logits = net.classify(codes)
    assert net.decoder is not None
    decoded = net.decoder(codes)
    assert [tuple(t.shape) for t in (codes, outputs, logits, decoded)] == [(6, 40), (6, 15), (6, 10), (6, 1, 28, 28)]
    assert bool(((decoded > 0) & (decoded < 1)).all())
    kinds = [type(layer) for layer in (*net.encoder, *net.decoder) if not list(layer.parameters())]
    assert kinds.count(nn.Sigmoid) == (1 if act == "relu" else 8)


@pytest.mark.parametrize("size", [8, 27, 28, 30, 33])
def test_the_decoder_gives_back_every_size(network: Callable[..., CaseBasedNetwork], size: int) -> None:
    net = network(size=size)
    assert net.decoder is not None
    assert net.decoder(net.encoder(torch.zeros(2, 1, size, size))).shape == (2, 1, size, size)


def test_initial_weights_as_released(network: Callable[..., CaseBasedNetwork]) -> None:
    net = network(seed=3)
    kernels = torch.cat([p.flatten() for n, p in net.named_parameters() if n.endswith("weight") and p.ndim == 4])
    assert float(kernels.detach().std()) == pytest.approx(0.01, rel=0.03)
    assert not any(p.any() for n, p in net.named_parameters() if n.endswith("bias"))
    assert net.prototypes is not None
    for drawn in (net.prototypes, net.weight):
        assert 0 <= float(drawn.min()) < 0.1
        assert 0.9 < float(drawn.max()) < 1


def test_arms_start_alike_where_they_are_alike(network: Callable[..., CaseBasedNetwork]) -> None:
    full, dense, plain = network(), network(layer="dense"), network(layer="dense", decode=False)
    assert full.decoder is not None
    assert dense.decoder is not None
    assert torch.equal(full.weight, dense.weight)
    for first, second in (
        (full.encoder, dense.encoder),
        (full.encoder, plain.encoder),
        (full.decoder, dense.decoder),
        (dense.units, plain.units),
    ):
        assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not torch.equal(full.weight, network(seed=1).weight)


def test_padding_is_tensorflows_on_the_image_turned_by_180_degrees() -> None:
    """SAME with stride 2 pads an even side with 0 before and 1 after, an odd one with 1 on both sides."""
    x, kernel = torch.rand(2, 3, 28, 28), torch.rand(5, 3, 3, 3)
    turned = F.conv2d(F.pad(x.flip(2, 3), (0, 1, 0, 1)), kernel.flip(2, 3), stride=2)
    assert torch.allclose(F.conv2d(x, kernel, stride=2, padding=1), turned.flip(2, 3), atol=1e-5)


def test_with_one_prototype_a_class_it_is_the_nearest_prototype_rule(
    lively: Callable[..., CaseBasedNetwork], batch: Callable[..., tuple[Tensor, Tensor]]
) -> None:
    net, (x, _) = lively(units=10), batch(30)
    owner = torch.randperm(10, generator=torch.Generator().manual_seed(1))  # the class of each prototype
    for sharpness in (1.0, 1e5):
        with torch.no_grad():
            net.weight.copy_(-sharpness * F.one_hot(owner, 10))
            distances, logits = net.classify(net.encoder(x))
        assert torch.equal(logits.argmax(-1), owner[distances.argmin(-1)])
    assert torch.allclose(logits.softmax(-1).amax(-1), torch.ones(30))  # certain in the limit
    assert torch.equal(net.class_of_each_prototype(), owner)


def test_a_constant_on_a_prototypes_row_changes_no_probability(
    lively: Callable[..., CaseBasedNetwork], batch: Callable[..., tuple[Tensor, Tensor]]
) -> None:
    net, (x, _) = lively(), batch()
    before = net(x).softmax(-1)
    with torch.no_grad():
        net.weight[4] += 0.7
    assert torch.allclose(net(x).softmax(-1), before, atol=1e-5)


@pytest.mark.parametrize("option", ["layer", "act"])
def test_a_switch_names_its_values(network: Callable[..., CaseBasedNetwork], option: str) -> None:
    with pytest.raises(ValueError, match=f"{option}='wrong': expected one of"):
        network(**{option: "wrong"})


def test_distances_and_logits_are_exact_in_low_precision(lively: Callable[..., CaseBasedNetwork]) -> None:
    net = lively()
    codes = torch.randn(6, 40, generator=torch.Generator().manual_seed(0))
    expected = net.classify(codes)
    with torch.autocast("cpu", torch.bfloat16):
        actual = net.classify(codes)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(actual, expected, strict=True))
