"""Networks of cells: published sizes and shapes, wiring, drop path, initial weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from modules.nasnet import architectures
from modules.nasnet.architectures import nasnet_a
from modules.nasnet.cells import COMBINATIONS, Block, Genotype, Graph
from modules.nasnet.children import total_loss
from modules.nasnet.networks import CellNetwork, DropPath, Regularisers, Size, Stem, keep_probability
from modules.nasnet.space import Space
from tests.papers.nasnet.helpers import (
    calibrated,
    parameters,
    small,
)


def test_published_sizes() -> None:
    """6@4032 as timm and pytorchcv count, 4@1056 as pytorchcv does; published are 88.9, 5.3 and (6@768) 3.3 M."""
    with torch.device("meta"):
        assert parameters(architectures.nasnet_a_large()) == 88_753_150
        assert parameters(timm.create_model("nasnetalarge", pretrained=False)) == 88_753_150
        assert parameters(architectures.nasnet_a_mobile()) == 5_289_978
        cifar = nasnet_a(size=Size(6, penultimate=768), classes=10, regularisers=Regularisers(auxiliary=True))
        assert cifar.filters == 32
        assert cifar.auxiliary is not None
        assert parameters(cifar) - parameters(cifar.auxiliary) == 3_346_538
        assert parameters(cifar.auxiliary) == 1_631_498


@pytest.mark.parametrize(
    ("make", "side", "multiply_adds"),
    [(architectures.nasnet_a_mobile, 224, 563_638_816), (architectures.nasnet_a_large, 331, 23_783_414_658)],
)
def test_published_multiply_adds(make: Callable[..., CellNetwork], side: int, multiply_adds: int) -> None:
    """Published are 564 M and 23.8 G; timm's nasnetalarge has the same 23.783 G by this counter, which leaves out
    batch norms and poolings. The 23.886 G that also circulate for it come from a counter that has them."""
    with torch.device("meta"), torch.inference_mode(), FlopCounterMode(display=False) as counter:
        make().eval()(torch.empty(1, 3, side, side))
    assert counter.get_total_flops() == 2 * multiply_adds


def test_sizes_that_do_not_come_out() -> None:
    """With the released wiring; printed are 27.6 M, 22.6 M, 10.9 M (and 1538 is no multiple of 24)."""
    with torch.device("meta"):
        assert round(parameters(nasnet_a(size=Size(7, penultimate=2304), classes=10)) / 1e6, 1) == 32.6
        large: dict[str, Any] = {"classes": 1000, "stem": Stem("imagenet", width=96), "input_size": 299}
        sizes = [(7, 1920), (5, 1536)]
        actual = [
            {
                round(parameters(nasnet_a(size=Size(n, penultimate=p), skip_reduction=skip, **large)) / 1e6, 1)
                for skip in (False, True)
            }
            for n, p in sizes
        ]
        assert not actual[0] & {22.6}
        assert not actual[1] & {10.9}
        with pytest.raises(ValueError, match="multiple of 24"):
            nasnet_a(size=Size(5, penultimate=1538), **large)


@pytest.mark.parametrize(
    ("make", "side", "stem", "kinds"),
    [
        (
            partial(architectures.nasnet_a, size=Size(6, penultimate=768), classes=10),
            32,
            (96, 32, 32),
            [(192, 32)] * 6 + [(256, 16)] + [(384, 16)] * 6 + [(512, 8)] + [(768, 8)] * 6,
        ),
        (
            architectures.nasnet_a_mobile,
            224,
            (32, 111, 111),
            [(44, 56), (88, 28)] + [(264, 28)] * 4 + [(352, 14)] + [(528, 14)] * 4 + [(704, 7)] + [(1056, 7)] * 4,
        ),
        (
            architectures.nasnet_a_large,
            331,
            (96, 165, 165),
            [(168, 83), (336, 42)]
            + [(1008, 42)] * 6
            + [(1344, 21)]
            + [(2016, 21)] * 6
            + [(2688, 11)]
            + [(4032, 11)] * 6,
        ),
    ],
)
def test_shapes_of_every_cell(
    make: Callable[..., CellNetwork], side: int, stem: tuple[int, ...], kinds: list[tuple[int, int]]
) -> None:
    with torch.device("meta"):
        network = make().eval()
        x = torch.empty(1, 3, side, side)
        assert network.stem(x).shape[1:] == stem
        assert [tuple(out[0].raw.shape[1:]) for out in network.outputs(x)] == [(c, s, s) for c, s in kinds]
        assert network(x).shape == (1, network.fc.out_features)
    assert [cell.side for cell in network.cells] == [s for _, s in kinds]


def test_cifars_first_cell_written_out() -> None:
    """6@768: no h_{i-1} yet, so the stem stands in bare, 96 channels wide, and leaves through 1x1 and batch norm."""
    network = calibrated(nasnet_a(size=Size(6, penultimate=768), classes=10), torch.randn(4, 3, 32, 32))
    assert isinstance(network, CellNetwork)
    x = torch.randn(2, 3, 32, 32)
    weights = network.state_dict()

    def batch_norm(y: Tensor, name: str) -> Tensor:
        statistics = (weights[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(y, *statistics, eps=1e-3)

    def conv(y: Tensor, name: str, padding: int = 0, groups: int = 1) -> Tensor:
        return F.conv2d(y, weights[f"{name}.weight"], None, 1, padding, 1, groups)

    def one_by_one(y: Tensor, name: str) -> Tensor:
        return batch_norm(conv(y, f"{name}.conv"), f"{name}.bn")

    def separable(y: Tensor, number: int, kernel: int) -> Tensor:
        name = f"cells.0.operations.{number}"
        for k in ("1", "2"):
            y = conv(y.relu(), f"{name}.depthwise{k}", kernel // 2, y.shape[1])
            y = batch_norm(conv(y, f"{name}.pointwise{k}"), f"{name}.bn{k}")
        return y

    def average(y: Tensor) -> Tensor:
        return F.avg_pool2d(y, 3, 1, 1, count_include_pad=False)

    bare = batch_norm(conv(x, "stem.0", 1), "stem.1")  # (2, 96, 32, 32)
    h = one_by_one(bare.relu(), "cells.0.adapt.0")  # (2, 32, 32, 32)
    s2 = separable(h, 0, 5) + separable(bare, 1, 3)
    s3 = separable(bare, 2, 5) + separable(bare, 3, 3)
    s4 = average(h) + one_by_one(bare.relu(), "cells.0.operations.5")
    s5 = one_by_one(average(bare), "cells.0.operations.6") + one_by_one(average(bare), "cells.0.operations.7")
    s6 = separable(h, 8, 3) + h
    expected = torch.cat([one_by_one(bare, "cells.0.leave.1"), s2, s3, s4, s5, s6], 1)
    with torch.inference_mode():
        actual = network.outputs(x)[0][0].raw  # (2, 192, 32, 32)
    assert 0.1 < float(expected.std()) < 10
    assert torch.allclose(actual, expected, atol=1e-4)


def test_a_cell_that_leaves_an_input_unread_fits_the_mobile_network() -> None:
    """Of 44 filters the first stem cell has 11, to which it has to halve the input that it passes on unread."""
    with torch.device("meta"):
        network = CellNetwork(Space().decode([1, 1, 0, 0, 0] * 10), Size(1, 44), 1000, 64, Stem("imagenet"))
        assert network(torch.empty(2, 3, 64, 64)).shape == (2, 1000)


def test_wiring_of_the_large_and_the_small_networks() -> None:
    """After a reduction h_{i-1} is what came before it (mobile, CIFAR) or before its own input (large)."""
    plain, skipping = small(repeats=2), small(repeats=2, skip_reduction=True)
    assert plain.wiring == [(-1,), (0, -1), (1, 0), (2, 1), (3, 2), (4, 3), (5, 4), (6, 5)]
    assert skipping.wiring == [(-1,), (0, -1), (1, 0), (2, 0), (3, 2), (4, 3), (5, 3), (6, 5)]
    stem = small(repeats=1, stem=Stem("imagenet", in_channels=1), input_size=33, skip_reduction=True)
    assert stem.wiring == [(-1,), (0, -1), (1, 0), (2, 1), (3, 1), (4, 3), (5, 3)]


def test_unmerged_cells_hand_all_their_states_on() -> None:
    """NASNet-B's wiring: 4 blocks, 4 inputs, P = 4 states x 4 F."""
    blocks = [Block(b, 3, "sep3", "avg3", way) for b, way in enumerate(COMBINATIONS[:1] * 2 + COMBINATIONS[2:])]
    graph = Graph.of(blocks, inputs=4, merged=False)
    network = small(Genotype(graph, graph))
    assert network.penultimate == 4 * 4 * 4
    assert [len(out) for out in network.outputs(torch.randn(2, 1, 12, 12))] == [4] * 5
    with torch.device("meta"):
        assert CellNetwork(Genotype(graph, graph), Size(4, penultimate=1152), classes=10).filters == 72
    norms = [part for part in network.cells[0].norms if isinstance(part, nn.GroupNorm)]  # type: ignore[union-attr]
    assert [part.num_groups for part in norms] == [1, 4]  # all channels together, each alone


def test_keep_probabilities_by_hand() -> None:
    """CIFAR: 20 cells, 0.6 at the end."""
    actual = [[keep_probability(c, 20, 0.6, t) for c in (0, 9, 19)] for t in (0.0, 0.5, 1.0, 2.0)]
    expected = [[1, 1, 1], [0.99, 0.90, 0.80], [0.98, 0.80, 0.60], [0.98, 0.80, 0.60]]
    assert [value for row in actual for value in row] == pytest.approx([value for row in expected for value in row])
    assert keep_probability(3, 20, 0.6, 0.5, by_depth=False) == pytest.approx(0.8)
    assert len(nasnet_a(size=Size(6, 4), classes=10).cells) == 20


def test_dropped_paths_keep_the_mean() -> None:
    network = small(drop_path=DropPath(0.5)).train()
    network.progress = 1.0
    torch.manual_seed(0)
    masks = network.masks(20_000, torch.device("cpu"))
    assert masks is not None
    assert torch.allclose(masks.mean((1, 2, 3, 4)), torch.ones(len(masks)), atol=0.03)
    assert masks.shape[0] == 3 * 8 + 2 * 9  # all operations of a normal cell but 2 identities, of a reduction but 1
    shares = (masks == 0).float().mean((1, 2, 3, 4))
    assert torch.allclose(shares[:8], torch.full((8,), 0.1), atol=0.01)  # the first of five cells
    assert torch.allclose(shares[-8:], torch.full((8,), 0.5), atol=0.02)
    network.progress = 0.0
    assert network.masks(4, torch.device("cpu")) is None
    network.progress = 1.0
    assert network.eval().masks(4, torch.device("cpu")) is None


def test_random_architectures_train() -> None:
    space = Space()
    torch.manual_seed(0)
    for row in space.uniform(6).tolist():
        network = small(space.decode(row), auxiliary=True, drop_path=DropPath(0.7))
        network.progress = 0.5
        logits, second = network.with_auxiliary(torch.randn(2, 1, 12, 12))
        total_loss(logits, second, torch.tensor([1, 2])).backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in network.fc.parameters())
        assert network.penultimate == network.genotype.normal.multiple * 4 * network.filters


def test_initial_weights_have_the_variance_of_their_fan_out() -> None:
    torch.manual_seed(0)
    network = nasnet_a(size=Size(1, 64), classes=10)
    op = network.cells[4].operations[0]  # type: ignore[index, union-attr]
    assert float(op.pointwise1.weight.detach().std()) == pytest.approx(math.sqrt(2 / 256), rel=0.03)  # type: ignore[union-attr, operator]
    assert float(op.depthwise1.weight.detach().std()) == pytest.approx(math.sqrt(2 / 25), rel=0.05)  # type: ignore[union-attr, operator]
    assert float(op.pointwise1.weight.detach().abs().max()) <= 2 * math.sqrt(2 / 256) / 0.87962566  # type: ignore[union-attr, operator, arg-type]
    assert float(network.fc.weight.detach().std()) == pytest.approx(math.sqrt(2 / 10), rel=0.03)
