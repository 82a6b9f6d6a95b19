"""The independent checks of NASNet: sizes, other implementations, hand-computed values, limit cases, gradient facts."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from typing import Any

import pytest
import timm
import torch
from timm.layers.pool2d_same import AvgPool2dSame
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from datamodules.common.digits import Digits
from datamodules.nasnet.trials import Trials
from experiments import claims, training
from experiments.plan import Plan
from modules.common.schedules import Position, cosine
from modules.nasnet import architectures, cells, released
from modules.nasnet import operations as cell_operations
from modules.nasnet import search as searching
from modules.nasnet.architectures import nasnet_a
from modules.nasnet.cells import Block, Cell, CellNetwork, Genotype, Graph, keep_probability
from modules.nasnet.controller import Controller
from modules.nasnet.module import NASNet, Search, ppo_loss
from modules.nasnet.operations import State, same_padding
from modules.nasnet.search import Children, RewardTable, total_loss
from modules.nasnet.space import Space
from modules.nasnet.transfer import Ranking, top_curves

TINY = Space(1, ["identity", "max3"], ["add", "concat"], [[0, 1, "max3", "avg3", "add"]])


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def norm(channels: int) -> nn.Module:
    return nn.BatchNorm2d(channels, eps=1e-6)


def small(genotype: Genotype = architectures.NASNET_A, **options: Any) -> CellNetwork:
    torch.manual_seed(0)
    return CellNetwork(
        genotype, **{"repeats": 1, "classes": 10, "filters": 4, "in_channels": 1, "input_size": 12, **options}
    )


# --- sizes and other implementations ---------------------------------------------------------------------------------


def test_published_sizes() -> None:
    """6@4032 as timm and pytorchcv count, 4@1056 as pytorchcv does; published are 88.9, 5.3 and (6@768) 3.3 M."""
    with torch.device("meta"):
        assert parameters(architectures.nasnet_a_large()) == 88_753_150
        assert parameters(timm.create_model("nasnetalarge", pretrained=False)) == 88_753_150
        assert parameters(architectures.nasnet_a_mobile()) == 5_289_978
        cifar = nasnet_a(repeats=6, penultimate=768, classes=10, auxiliary=True)
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
        assert round(parameters(nasnet_a(repeats=7, penultimate=2304, classes=10)) / 1e6, 1) == 32.6
        large: dict[str, Any] = {"classes": 1000, "stem": "imagenet", "stem_width": 96, "input_size": 299}
        sizes = [(7, 1920), (5, 1536)]
        found = [
            {
                round(parameters(nasnet_a(repeats=n, penultimate=p, skip_reduction=skip, **large)) / 1e6, 1)
                for skip in (False, True)
            }
            for n, p in sizes
        ]
        assert not found[0] & {22.6}
        assert not found[1] & {10.9}
        with pytest.raises(ValueError, match="multiple of 24"):
            nasnet_a(repeats=5, penultimate=1538, **large)


@pytest.mark.parametrize(
    ("make", "side", "stem", "kinds"),
    [
        (
            partial(architectures.nasnet_a, repeats=6, penultimate=768, classes=10),
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


def calibrated(reference: nn.Module, x: Tensor) -> nn.Module:
    """With batch statistics that keep activations near 1, then disturbed: neither 0 and 1 nor those of any batch."""
    torch.manual_seed(3)
    norms = [part for part in reference.modules() if isinstance(part, nn.BatchNorm2d)]
    for part in reference.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight)
    for part in norms:
        part.momentum = 1.0
    with torch.no_grad():
        reference.train()(x)
        for part in norms:
            assert part.running_mean is not None
            assert part.running_var is not None
            part.running_mean.add_(0.1 * part.running_var.sqrt() * torch.randn_like(part.running_mean))
            part.running_var.mul_(0.9 + 0.4 * torch.rand_like(part.running_var))
            part.weight.uniform_(0.7, 1.3)
            part.bias.normal_(0, 0.1)
    return reference.eval()


def agree(ours: nn.Module, reference: nn.Module, x: Tensor) -> None:
    with torch.inference_mode():
        expected, found = reference(x), ours.eval()(x)
    assert 0.1 < float(expected.std()) < 10
    assert float((found - expected).abs().max()) < 1e-4


def test_mobile_agrees_with_pytorchcv() -> None:
    provider = pytest.importorskip("pytorchcv.model_provider")
    x = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    reference = calibrated(provider.get_model("nasnet_4a1056", pretrained=False), x)
    ours = architectures.nasnet_a_mobile()
    ours.load_state_dict(released.from_pytorchcv(reference.state_dict()))
    agree(ours, reference, x)


@pytest.mark.slow
def test_large_agrees_with_pytorchcv() -> None:
    provider = pytest.importorskip("pytorchcv.model_provider")
    x = torch.randn(2, 3, 331, 331, generator=torch.Generator().manual_seed(0))
    reference = calibrated(provider.get_model("nasnet_6a4032", pretrained=False), x)
    ours = architectures.nasnet_a_large()
    ours.load_state_dict(released.from_pytorchcv(reference.state_dict()))
    agree(ours, reference, x)


class UncountedPadding(nn.Module):
    """TensorFlow's SAME average: timm pads with zeros first and then counts them (its source says FIXME)."""

    def __init__(self, pool: AvgPool2dSame) -> None:
        super().__init__()
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(x) / self.pool(torch.ones_like(x))


@pytest.mark.slow
def test_large_agrees_with_timm() -> None:
    """Once timm's average pooling at stride 2 leaves out the padding, as TensorFlow's does."""
    x = torch.randn(2, 3, 331, 331, generator=torch.Generator().manual_seed(0))
    reference = calibrated(timm.create_model("nasnetalarge", pretrained=False), x)
    ours = architectures.nasnet_a_large().eval()
    ours.load_state_dict(released.from_timm(reference.state_dict()))
    for part in list(reference.modules()):
        for name, child in list(part.named_children()):
            if isinstance(child, AvgPool2dSame):
                setattr(part, name, UncountedPadding(child))
    agree(ours, reference, x)


def test_cifars_first_cell_written_out() -> None:
    """6@768: no h_{i-1} yet, so the stem stands in bare, 96 channels wide, and leaves through 1x1 and batch norm."""
    network = calibrated(nasnet_a(repeats=6, penultimate=768, classes=10), torch.randn(4, 3, 32, 32))
    assert isinstance(network, CellNetwork)
    x = torch.randn(2, 3, 32, 32)
    weights = network.state_dict()

    def batch_norm(y: Tensor, name: str) -> Tensor:
        parts = (weights[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(y, *parts, eps=1e-3)

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
        found = network.outputs(x)[0][0].raw  # (2, 192, 32, 32)
    assert 0.1 < float(expected.std()) < 10
    assert torch.allclose(found, expected, atol=1e-4)


def test_names_that_are_not_nasnets() -> None:
    for function in (released.from_timm, released.from_pytorchcv):
        name = "features.stage1.unit1.conv1x1.conv.weight"
        with pytest.raises(ValueError, match="wrong: not a parameter"):
            function(
                {name: torch.zeros(1), "wrong": torch.zeros(1)}
                if function is released.from_pytorchcv
                else {"wrong": torch.zeros(1)}
            )
    with pytest.raises(ValueError, match="not a parameter"):
        released.from_timm({"cell_0.wrong.weight": torch.zeros(1)})


# --- cells -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", [1, 3, 5, 7])
@pytest.mark.parametrize("size", [4, 5, 8, 11])
def test_padding_is_tensorflows_same(kernel: int, size: int) -> None:
    """Windows at stride s begin at s i - before; TensorFlow's output has ceil(n / s), the odd pixel after."""
    x = torch.randn(2, 3, size, size)
    before, after = same_padding(size, kernel, 2)
    assert after - before in (0, 1)
    conv = cell_operations.SameConv2d(3, 4, kernel, 2)
    padded = F.pad(x, (before, after, before, after))
    assert torch.allclose(conv(x), F.conv2d(padded, conv.weight, None, 2), atol=1e-6)
    assert conv(x).shape[-1] == math.ceil(size / 2)
    infinite = F.pad(x, (before, after, before, after), value=-math.inf)
    assert torch.equal(State(x).pooled("max", kernel, 2), F.max_pool2d(infinite, kernel, 2))
    counted = F.avg_pool2d(F.pad(torch.ones_like(x), (before, after, before, after)), kernel, 2)
    assert torch.allclose(State(x).pooled("avg", kernel, 2), F.avg_pool2d(padded, kernel, 2) / counted, atol=1e-6)


def test_an_even_map_is_padded_after() -> None:
    assert same_padding(4, 3, 2) == (0, 1)
    assert same_padding(5, 3, 2) == (1, 1)
    assert same_padding(42, 7, 2) == (2, 3)
    x = torch.arange(16.0).view(1, 1, 4, 4)
    assert State(x).pooled("max", 3, 2)[0, 0].tolist() == [[10, 11], [14, 15]]
    assert State(x).pooled("avg", 3, 2)[0, 0].tolist() == [[5, 6.5], [11, 12.5]]


def test_factorized_reduction_by_hand() -> None:
    """On [[1, 2], [3, 4]] with identity convolutions the first path sees 1, the second, shifted by a pixel, 4."""
    reduction = cell_operations.FactorizedReduction(1, 2, lambda channels: nn.Identity())
    for conv in (reduction.conv1, reduction.conv2):
        nn.init.ones_(conv.weight)
    assert reduction(State(torch.tensor([[[[1.0, 2], [3, 4]]]]))).flatten().tolist() == [1, 4]
    odd = reduction(State(torch.arange(1.0, 10).view(1, 1, 3, 3)))
    assert odd[0].tolist() == [[[1, 3], [7, 9]], [[5, 0], [0, 0]]]  # the shifted path sees the padding


def test_a_factorized_reduction_gives_an_odd_channel_to_its_second_path() -> None:
    """As slim's nasnet_utils.factorized_reduction: 11 channels, a quarter of 44 filters, are 5 and 6."""
    reduction = cell_operations.FactorizedReduction(3, 11, norm)
    assert (reduction.conv1.out_channels, reduction.conv2.out_channels) == (5, 6)
    assert reduction(State(torch.randn(2, 3, 8, 8))).shape == (2, 11, 4, 4)


def test_a_cell_that_leaves_an_input_unread_fits_the_mobile_network() -> None:
    """Of 44 filters the first stem cell has 11, to which it has to halve the input that it passes on unread."""
    with torch.device("meta"):
        network = CellNetwork(Space().decode([1, 1, 0, 0, 0] * 10), 1, 1000, 44, input_size=64, stem="imagenet")
        assert network(torch.empty(2, 3, 64, 64)).shape == (2, 1000)


def test_a_separable_convolution_is_applied_twice() -> None:
    """ReLU-dw-pw-BN-ReLU-dw-pw-BN, written out with plain functions; the stride is the first one's."""
    torch.manual_seed(0)
    op = cell_operations.SeparableTwice(3, 4, 5, norm, 2)
    x = torch.randn(2, 3, 9, 9)

    def batch_norm(y: Tensor) -> Tensor:
        variance = y.var((0, 2, 3), unbiased=False, keepdim=True) + 1e-6
        return (y - y.mean((0, 2, 3), keepdim=True)) / variance.sqrt()

    y = F.conv2d(x.relu(), op.depthwise1.weight, None, 2, 2, groups=3)
    y = batch_norm(F.conv2d(y, op.pointwise1.weight))
    y = F.conv2d(y.relu(), op.depthwise2.weight, None, 1, 2, groups=4)
    y = batch_norm(F.conv2d(y, op.pointwise2.weight))
    assert torch.allclose(op(State(x)), y, atol=1e-5)
    assert parameters(op) == 3 * 25 + 3 * 4 + 8 + 4 * 25 + 4 * 4 + 8


def test_normal_cell_without_convolutions() -> None:
    """Zero separable convolutions: s5 = 2 avg3(h_{i-1}), and on a constant map 2c up to the border."""
    cell = Cell(architectures.NORMAL_A, [(4, 6), (4, 6)], 4, 1, norm).eval()
    for part in cell.modules():
        if isinstance(part, cell_operations.SeparableTwice):
            nn.init.zeros_(part.pointwise2.weight)
    nn.init.dirac_(cell.adapt[0].conv.weight)  # type: ignore[union-attr, arg-type]
    previous = torch.full((1, 4, 6, 6), 3.0)
    current = torch.rand(1, 4, 6, 6)
    out = cell([State(current), State(previous)])[0].raw  # (1, 24, 6, 6): h_{i-1}, s2 .. s6
    h, s2, s3, s4, s5, s6 = out.split(4, 1)
    average = F.avg_pool2d(current, 3, 1, 1, count_include_pad=False)
    assert torch.equal(h, previous)
    assert float(torch.cat([s2, s3]).detach().abs().max()) == 0
    assert torch.allclose(s4, average + previous)
    assert torch.allclose(s5, torch.full_like(s5, 6.0))
    assert torch.allclose(s6, current)


def test_stride_is_on_the_cells_inputs_alone() -> None:
    cell = Cell(architectures.REDUCTION_A, [(8, 8), (8, 8)], 4, 2, norm)
    strides = [
        op.depthwise1.stride[0]
        if isinstance(op, cell_operations.SeparableTwice)
        else getattr(op, "options", (0, 0, 1))[2]
        for op in cell.operations
    ]
    assert strides == [2, 2, 2, 2, 2, 2, 1, 1, 1, 2]
    assert architectures.REDUCTION_A.outputs == (3, 4, 5, 6)  # 3 although state 5 reads it
    assert Graph.of(architectures.REDUCTION_A.blocks).outputs == (4, 5, 6)
    assert (architectures.NORMAL_A.multiple, architectures.REDUCTION_A.multiple) == (6, 4)


@pytest.mark.parametrize("name", cell_operations.OPERATIONS)
@pytest.mark.parametrize(("i", "stride"), [(4, 1), (4, 2), (6, 1), (6, 2)])
def test_every_operation_has_the_cells_shape(name: str, i: int, stride: int) -> None:
    x = torch.randn(2, i, 7, 7)
    out = cell_operations.operation(name, i, 4, stride, norm)(State(x))
    assert out.shape == (2, 4, math.ceil(7 / stride), math.ceil(7 / stride))
    if name == "identity" and (i, stride) == (4, 1):
        assert torch.equal(out, x)


def test_dilated_and_factored_convolutions() -> None:
    x = torch.randn(1, 2, 8, 8)
    dilated = cell_operations.operation("dil3", 2, 2, 1, lambda channels: nn.Identity())
    expected = F.conv2d(x.relu(), dilated.conv.weight, None, 1, 2, 2)  # type: ignore[union-attr]
    assert torch.allclose(dilated(State(x)), expected, atol=1e-6)
    kernels = [
        c.kernel_size
        for c in cell_operations.operation("conv1x7_7x1", 2, 2, 1, norm).modules()
        if isinstance(c, nn.Conv2d)
    ]
    assert kernels == [(1, 7), (7, 1)]


def test_wiring_of_the_large_and_the_small_networks() -> None:
    """After a reduction h_{i-1} is what came before it (mobile, CIFAR) or before its own input (large)."""
    plain, skipping = small(repeats=2), small(repeats=2, skip_reduction=True)
    assert plain.wiring == [(-1,), (0, -1), (1, 0), (2, 1), (3, 2), (4, 3), (5, 4), (6, 5)]
    assert skipping.wiring == [(-1,), (0, -1), (1, 0), (2, 0), (3, 2), (4, 3), (5, 3), (6, 5)]
    stem = small(repeats=1, stem="imagenet", input_size=33, skip_reduction=True)
    assert stem.wiring == [(-1,), (0, -1), (1, 0), (2, 1), (3, 1), (4, 3), (5, 3)]


def test_unmerged_cells_hand_all_their_states_on() -> None:
    """NASNet-B's wiring: 4 blocks, 4 inputs, P = 4 states x 4 F."""
    blocks = [
        Block(b, 3, "sep3", "avg3", way) for b, way in enumerate(cells.COMBINATIONS[:1] * 2 + cells.COMBINATIONS[2:])
    ]
    graph = Graph.of(blocks, inputs=4, merged=False)
    network = small(Genotype(graph, graph))
    assert network.penultimate == 4 * 4 * 4
    assert [len(out) for out in network.outputs(torch.randn(2, 1, 12, 12))] == [4] * 5
    with torch.device("meta"):
        assert CellNetwork(Genotype(graph, graph), repeats=4, classes=10, penultimate=1152).filters == 72
    norms = [part for part in network.cells[0].norms if isinstance(part, nn.GroupNorm)]  # type: ignore[union-attr]
    assert [part.num_groups for part in norms] == [1, 4]  # all channels together, each alone


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Graph((Block(0, 2, "sep3", "sep3"),), (2,)), "does not exist yet"),
        (lambda: Graph((Block(0, 1, "sep4", "sep3"),), (2,)), "'sep4': expected one of identity"),
        (lambda: Graph((Block(0, 1, "sep3", "sep3", "mul"),), (2,)), "'mul': expected one of add"),
        (lambda: Graph((Block(0, 1, "sep3", "sep3"),), (5,)), "outputs"),
        (lambda: cell_operations.operation("wrong", 1, 1, 1, norm), "expected one of identity"),
        (lambda: small(stem="wrong"), "stem='wrong': expected one of cifar, imagenet"),
        (lambda: small(penultimate=96), "expected one of them"),
        (lambda: small(keep=0.0), "keep"),
        (lambda: small(filters=6, stem="imagenet", input_size=33), "multiple of 4"),
        (lambda: small(auxiliary=True, input_size=8), "too small"),
        (lambda: NASNet(10, small(), drop_path="wrong"), "drop_path='wrong': expected one of scheduled"),
        (lambda: NASNet(10, small, drop_path="none"), "network"),
        (lambda: Search(TINY, 4, "wrong"), "method='wrong': expected one of ppo, random"),
        (lambda: Search(TINY, 4, finds="wrong"), "finds='wrong': expected one of best, frequent"),
        (lambda: Search(TINY, 4), "expected children to train or a table"),
        (lambda: RewardTable(Space(), children()), "too many for a table"),
    ],
)
def test_wrong_arguments_are_named(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


# --- drop path -------------------------------------------------------------------------------------------------------


def test_keep_probabilities_by_hand() -> None:
    """CIFAR: 20 cells, 0.6 at the end."""
    found = [[keep_probability(c, 20, 0.6, t) for c in (0, 9, 19)] for t in (0.0, 0.5, 1.0, 2.0)]
    expected = [[1, 1, 1], [0.99, 0.90, 0.80], [0.98, 0.80, 0.60], [0.98, 0.80, 0.60]]
    assert [value for row in found for value in row] == pytest.approx([value for row in expected for value in row])
    assert keep_probability(3, 20, 0.6, 0.5, by_depth=False) == pytest.approx(0.8)
    assert len(nasnet_a(repeats=6, filters=4, classes=10).cells) == 20


def test_dropped_paths_keep_the_mean() -> None:
    network = small(keep=0.5).train()
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


def test_a_dropped_path_is_gone_for_that_image_and_identities_never_drop() -> None:
    cell = Cell(architectures.NORMAL_A, [(4, 6), (4, 6)], 4, 1, norm).train()
    inputs = [torch.randn(3, 4, 6, 6), torch.randn(3, 4, 6, 6)]
    masks = torch.ones(8, 3, 1, 1, 1)
    masks[:, 1] = 0  # every path of the second image
    whole = cell([State(x) for x in inputs])[0].raw
    out = cell([State(x) for x in inputs], masks)[0].raw
    assert torch.allclose(out[[0, 2]], whole[[0, 2]])
    h, s2, s3, s4, s5, s6 = out[1].split(4)
    assert float(torch.stack([s2, s3, s5]).detach().abs().max()) == 0
    assert torch.equal(s4, h)
    assert torch.allclose(s6, cell.adapt[0](State(inputs[0]))[1], atol=1e-6)


def test_masks_promote_no_mixed_precision() -> None:
    cell = Cell(architectures.NORMAL_A, [(4, 6), (4, 6)], 4, 1, norm).to(torch.bfloat16).train()
    inputs = [State(torch.randn(2, 4, 6, 6, dtype=torch.bfloat16)) for _ in range(2)]
    assert cell(inputs, torch.full((8, 2, 1, 1, 1), 1.25))[0].raw.dtype == torch.bfloat16


class Clock:
    """What NASNet asks of a trainer."""

    num_training_batches, max_epochs, current_epoch = 10, 4, 0
    optimizers: Sequence[Any] = ()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"drop_path": "scheduled"}, [0, 0.25, 0.5]),
        ({"drop_path": "scheduled", "drop_path_steps": 10}, [0, 1, 1]),
        ({"drop_path": "constant"}, [1, 1, 1]),
        ({"drop_path": "none"}, [0, 0, 0]),
    ],
)
def test_progress_of_drop_path(options: dict[str, Any], expected: list[float]) -> None:
    module = NASNet(10, small(keep=0.6), **options)
    module._trainer = Clock()  # type: ignore[assignment]
    found = []
    for epoch in (0, 1, 2):
        module._trainer.current_epoch = epoch  # type: ignore[union-attr, misc]
        module.on_train_batch_start(None, 0)
        found.append(module.network.progress)
    assert found == pytest.approx(expected)


# --- space, controller, PPO ------------------------------------------------------------------------------------------


def test_size_of_the_space() -> None:
    space = Space()
    assert space.count == (math.factorial(6) ** 2 * 338**5) ** 2
    assert space.count == pytest.approx(5.23e36, rel=1e-3)
    one = math.prod(space.sizes[:25])
    assert one == pytest.approx(2.287e18, rel=1e-3)
    assert len(space.sizes) == 2 * 5 * 5
    assert Space(4, inputs=4, merged=False, combinations=cells.COMBINATIONS).sizes[:5] == [4, 4, 13, 13, 4]


def test_every_number_is_one_sequence() -> None:
    assert TINY.count == 2**5
    sequences = list(product(*(range(size) for size in TINY.sizes)))
    assert TINY.number(torch.tensor(sequences)).tolist() == list(range(32))
    assert TINY.decode([0, 1, 1, 0, 1]).normal == Graph((Block(0, 1, "max3", "identity", "concat"),), (2,))
    assert TINY.decode([0, 0, 1, 0, 0]).normal.outputs == (1, 2)  # h_{i-1} is unused and leaves the cell


def test_a_cell_is_counted_once() -> None:
    """(a, b, p, q) is (b, a, q, p): of n (state, operation) pairs, n (n + 1) / 2 remain, for each combination."""
    mini = Space(1, ["identity", "sep3", "avg3", "max3"], ["add", "concat"], TINY.reduction)
    assert (mini.count, len(mini.architectures())) == (128, 8 * 9 // 2 * 2)
    rows = TINY.architectures()
    assert len(rows) == 4 * 5 // 2 * 2
    assert TINY.place(rows).tolist() == list(range(20))
    assert TINY.number(rows).tolist() == sorted(TINY.number(rows).tolist())
    swapped = rows[:, [1, 0, 3, 2, 4]]
    assert torch.equal(TINY.canonical(swapped), rows)
    assert torch.equal(TINY.place(swapped), torch.arange(20))
    assert TINY.canonical(torch.tensor([0, 0, 1, 0, 1])).tolist() == [0, 0, 0, 1, 1]
    assert TINY.canonical(torch.tensor([1, 0, 0, 1, 0])).tolist() == [0, 1, 1, 0, 0]  # operations go with their states


@pytest.mark.parametrize("way", ["add", "concat"])
def test_exchanged_halves_are_the_same_network(way: str) -> None:
    """With the weights of both halves exchanged, and for concat the next weights' channels."""
    fixed = Graph.of([Block(0, 1, "max3", "avg3")])
    one, other = (
        small(Genotype(Graph.of([block]), fixed)).eval()
        for block in (Block(0, 1, "sep3", "max3", way), Block(1, 0, "max3", "sep3", way))
    )
    cell, exchanged = one.cells[0], other.cells[0]
    halves = {"operations.0.": "operations.1.", "operations.1.": "operations.0."}
    exchanged.load_state_dict({halves.get(k[:13], k[:13]) + k[13:]: v for k, v in cell.state_dict().items()})
    inputs = [State(torch.randn(2, 12, 12, 12)) for _ in range(2)]
    left, right = cell(inputs)[0].raw, exchanged(inputs)[0].raw
    if way == "concat":
        right = torch.cat(right.chunk(2, 1)[::-1], 1)
    assert torch.allclose(left, right, atol=1e-6)


def test_nasnet_a_is_in_the_space() -> None:
    space = Space()
    ops = {name: i for i, name in enumerate(space.operations)}
    actions = [
        choice
        for graph in (architectures.NORMAL_A, architectures.REDUCTION_A)
        for b in graph.blocks
        for choice in (b.first, b.second, ops[b.first_op], ops[b.second_op], 0)
    ]
    genotype = space.decode(actions)
    assert genotype.normal.blocks == architectures.NORMAL_A.blocks
    assert genotype.reduction.blocks == architectures.REDUCTION_A.blocks


def test_random_architectures_train() -> None:
    space = Space()
    torch.manual_seed(0)
    for row in space.uniform(6).tolist():
        network = small(space.decode(row), auxiliary=True, keep=0.7)
        network.progress = 0.5
        logits, second = network.with_auxiliary(torch.randn(2, 1, 12, 12))
        total_loss(logits, second, torch.tensor([1, 2])).backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in network.fc.parameters())
        assert network.penultimate == network.genotype.normal.multiple * 4 * network.filters


def test_a_uniform_controller_has_the_log_probability_of_the_space() -> None:
    controller = Controller(Space().sizes)
    for head in (*controller.heads, *controller.head_biases):
        nn.init.zeros_(head)
    log_p, entropy = controller(controller.sample(3))
    expected = -2 * (2 * math.log(720) + 5 * math.log(338))
    assert expected == pytest.approx(-84.55, abs=0.01)
    assert log_p.flatten().tolist() == pytest.approx([expected] * 3, abs=1e-3)
    assert entropy.flatten().tolist() == pytest.approx([-expected] * 3, abs=1e-3)


def test_the_controller_starts_uniform_within_a_tenth() -> None:
    torch.manual_seed(0)
    values = torch.cat([p.detach().flatten() for p in Controller(Space().sizes).parameters()])
    assert 0.0999 < float(values.abs().max()) <= 0.1
    assert float(values.mean()) == pytest.approx(0, abs=1e-3)
    assert float(values.std()) == pytest.approx(0.1 / math.sqrt(3), rel=0.01)


def test_the_controllers_cell_is_torchs_lstm() -> None:
    torch.manual_seed(0)
    controller = Controller([3, 4, 2], units=6, init=0.5)
    lstm = nn.LSTMCell(6, 6)
    lstm.load_state_dict(
        {
            "weight_ih": controller.weight[0, :6].T,
            "weight_hh": controller.weight[0, 6:].T,
            "bias_ih": controller.bias[0, 0],
            "bias_hh": torch.zeros(24),
        }
    )
    actions = torch.tensor([[[2, 1, 0], [0, 3, 1]]])
    x, state, total = controller.first[0].expand(2, -1), None, torch.zeros(2)
    for t in range(3):
        state = lstm(x, state)
        log_p = (state[0] @ controller.heads[t][0] + controller.head_biases[t][0]).log_softmax(-1)
        total = total + log_p[torch.arange(2), actions[0, :, t]]
        x = controller.embeddings[t][0][actions[0, :, t]] if t < 2 else x
    assert torch.allclose(controller(actions)[0][0], total, atol=1e-6)


def test_replays_do_not_touch_each_other() -> None:
    torch.manual_seed(0)
    controller = Controller([3, 4], units=5, replays=3)
    log_p, entropy = controller(controller.sample(7))
    (log_p[1].sum() + entropy[1].sum()).backward()
    for p in controller.parameters():
        assert p.grad is not None
        assert float(p.grad[[0, 2]].abs().max()) == 0
        assert float(p.grad[1].abs().max()) > 0


def test_samples_follow_the_probabilities() -> None:
    torch.manual_seed(0)
    controller = Controller([3, 2], units=4, init=1.0)
    with torch.no_grad():
        p = [float(controller(torch.tensor([[list(pair)]]))[0].exp()) for pair in product(range(3), range(2))]
    drawn = controller.sample(20_000)[0]
    counts = (2 * drawn[:, 0] + drawn[:, 1]).bincount(minlength=6) / 20_000
    assert sum(p) == pytest.approx(1, abs=1e-5)
    assert torch.allclose(counts, torch.tensor(p), atol=0.012)


def test_ppo_starts_as_reinforce_with_a_baseline() -> None:
    """At theta_old the ratio is 1 and the gradient that of -A log p."""
    torch.manual_seed(0)
    controller = Controller([3, 4, 2], units=6)
    actions, advantage = controller.sample(5), torch.randn(1, 5)
    log_p, entropy = controller(actions)
    loss = ppo_loss(log_p, log_p.detach(), advantage, entropy, 0.2, 0.0)
    ours = torch.autograd.grad(loss, list(controller.parameters()), retain_graph=True)
    reinforce = torch.autograd.grad(-(advantage * log_p).mean(), list(controller.parameters()))
    assert all(torch.allclose(a, b, atol=1e-7) for a, b in zip(ours, reinforce, strict=True))
    assert float(loss.detach()) == pytest.approx(-float(advantage.mean()), abs=1e-6)


@pytest.mark.parametrize(
    ("ratio", "advantage", "gradient"),
    [(1.3, 1.0, 0.0), (1.3, -1.0, 1.3), (0.7, 1.0, -0.7), (0.7, -1.0, 0.0), (1.1, 1.0, -1.1)],
)
def test_ppo_clips_by_hand(ratio: float, advantage: float, gradient: float) -> None:
    """d loss / d log p = -r A, and 0 where the clipped value is the smaller one."""
    log_p = torch.tensor([math.log(ratio)], requires_grad=True)
    loss = ppo_loss(log_p, torch.zeros(1), torch.tensor([advantage]), torch.tensor([2.0]), 0.2, 0.01)
    (found,) = torch.autograd.grad(loss, log_p)
    assert float(found) == pytest.approx(gradient, abs=1e-6)
    clipped = min(ratio * advantage, min(max(ratio, 0.8), 1.2) * advantage)
    assert float(loss.detach()) == pytest.approx(-clipped - 0.02, abs=1e-6)


# --- searches --------------------------------------------------------------------------------------------------------


def children(**options: Any) -> Children:
    network = partial(CellNetwork, repeats=1, filters=2, classes=10, in_channels=1, input_size=8)
    return Children(
        **{
            "network": network,
            "epochs": 1,
            "optimizer": partial(torch.optim.SGD, lr=0.05),
            "schedule": cosine,
            **options,
        }
    )


def trials(count: int, batch: int = 4) -> Trials:
    data = Trials(Digits(20, train_size=40, val_size=30, test_size=20), batch, count)
    data.setup()
    return data


def table() -> RewardTable:
    """Rewards 0 to 0.19 in the order of the numbers, test accuracies the other way round."""
    made = RewardTable(TINY, children())
    made.rewards.copy_(torch.arange(20) / 100)
    made.repeated.copy_(torch.arange(20) / 100)
    made.accuracies.copy_(torch.arange(20).flip(0) / 100)
    return made


def search(method: str = "ppo", samples: int = 400, **options: Any) -> Search:
    """Run by hand on the table, without a trainer."""
    torch.manual_seed(options.pop("seed", 0))
    module = Search(TINY, samples, method, **{"table": table(), "units": 20, **options})
    optimizer = torch.optim.Adam(module.controller.parameters(), 0.02)
    module.optimizers = lambda: optimizer  # type: ignore[method-assign, assignment]
    module._trainer = type("T", (), {"datamodule": trials(20, 20)})()  # type: ignore[assignment]
    for step in range(samples // 20):
        module.training_step(torch.arange(20), step)
    return module


def test_the_baseline_is_a_moving_average() -> None:
    """From 0.5, after rewards of 0.7: 0.51. The first minibatch sets it to its own mean."""
    module = search(samples=20)
    module.baseline.fill_(0.5)
    module.improve(module.drawn.transpose(0, 1), torch.full((1, 20), 0.7))
    assert float(module.baseline) == pytest.approx(0.51)
    module.baseline.fill_(math.nan)
    module.improve(module.drawn.transpose(0, 1), torch.full((1, 20), 0.3))
    assert float(module.baseline) == pytest.approx(0.3)


def test_ppo_learns_and_random_search_does_not(logged: Callable[..., dict[str, float]]) -> None:
    ppo, random = logged(search(replays=4)), logged(search("random", replays=4))
    mean = float(table().rewards[TINY.place(torch.tensor(list(product(range(2), repeat=5))))].mean()) * 100
    assert ppo["test/late_reward"] > mean + 4
    assert random["test/late_reward"] == pytest.approx(mean, abs=1.5)
    assert random["test/mean_reward"] == pytest.approx(mean, abs=1.0)
    assert ppo["test/late_reward"] + ppo["test/late_top1"] == pytest.approx(19, abs=1e-3)  # it saw the rewards alone


def test_top_counts_different_architectures() -> None:
    module = search("random", samples=20)
    module.outcome[:, 0, 0] = torch.tensor([3.0] * 10 + [2.0] * 9 + [1.0])
    module.drawn[:10], module.drawn[10:19], module.drawn[19:] = 0, 1, torch.tensor([0, 1, 0, 0, 0])
    assert [float(module.top(k)) for k in (1, 2, 3, 25)] == [3, 2.5, 2, 2]
    actions, rewards = module.evaluated()
    assert rewards.tolist() == [1, 2, 3]
    assert module.best() == module.found() == actions[-1].tolist() == [0] * 5
    assert module.genotype() == TINY.decode([0] * 5)


def test_what_is_drawn_is_canonical() -> None:
    module = search("random")
    assert torch.equal(module.drawn, TINY.canonical(module.drawn))
    assert torch.equal(module.outcome[..., 0], module.looked_up[TINY.place(module.drawn), 0])  # type: ignore[index]
    assert len(module.evaluated()[0]) == 20


def test_the_frequent_architecture_is_a_late_one() -> None:
    """Not the luckiest draw and not what was frequent early; of equally frequent ones that of higher reward."""
    module = search("random", samples=20, finds="frequent", late=0.3)  # the last six
    first, second, lucky, early = [0, 1, 0, 0, 0], [0, 1, 0, 0, 1], [1, 1, 0, 1, 0], [0, 0, 0, 0, 0]
    module.drawn[:, 0] = torch.tensor([early] * 14 + [first, first, second, second, lucky, early])
    module.outcome[:, 0, 0] = torch.tensor([0.5] * 14 + [0.2, 0.2, 0.3, 0.3, 0.9, 0.5])
    assert module.found() == second
    assert module.best() == lucky
    assert module.genotype() == TINY.decode(second)


def test_an_architecture_is_trained_once() -> None:
    torch.manual_seed(0)
    module = Search(TINY, 40, "random", children=children())
    asked: list[int] = []

    def outcomes(how: Children, genotypes: Sequence[Genotype], splits: Sequence[str] = ()) -> Tensor:
        asked.append(len(genotypes))
        return torch.rand(len(genotypes), 2)

    module.outcomes = outcomes  # type: ignore[method-assign]
    module._trainer = type("T", (), {"datamodule": trials(20, 20)})()  # type: ignore[assignment]
    for step in range(2):
        module.training_step(torch.arange(20), step)
    rows = [tuple(row) for row in module.drawn[:, 0].tolist()]
    assert sum(asked) == len(set(rows)) < 40
    for row in set(rows):
        assert len({float(module.outcome[k, 0, 0]) for k in range(40) if rows[k] == row}) == 1
    with pytest.raises(ValueError, match="samples=40"):
        module.training_step(torch.arange(20), 2)


def test_a_table_must_be_whole_and_of_this_space() -> None:
    holed = table()
    holed.rewards[3] = math.nan
    with pytest.raises(ValueError, match=r"1 architectures have no reward"):
        Search(TINY, 20, table=holed).on_fit_start()
    with pytest.raises(ValueError, match="another one"):
        Search(Space(1, ["sep3"], ["add"], [[0, 1, "max3", "avg3", "add"]]), 20, table=table())


def test_a_child_is_a_function_of_its_seed_and_leaves_the_random_state() -> None:
    data, genotype = trials(4), TINY.decode([0, 1, 1, 1, 0])
    torch.manual_seed(5)
    first = children().train(genotype, data, 7, torch.device("cpu"))
    drawn = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(3), drawn)
    again = children().train(genotype, data, 7, torch.device("cpu"))
    other = children().train(genotype, data, 8, torch.device("cpu"))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(first.fc.weight, other.fc.weight)


def test_other_seeds_have_other_orders_of_the_images(monkeypatch: pytest.MonkeyPatch) -> None:
    data, seen, forward = trials(4), [], CellNetwork.with_auxiliary

    def recorded(network: CellNetwork, x: Tensor) -> Any:
        seen.append(x.sum((1, 2, 3)))
        return forward(network, x)

    monkeypatch.setattr(CellNetwork, "with_auxiliary", recorded)
    for seed in (7, 7, 8):
        children().train(TINY.decode([0, 1, 1, 1, 0]), data, seed, torch.device("cpu"))
    first, again, other = (torch.cat(seen[k : k + 2]) for k in (0, 2, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.allclose(first.sort().values, other.sort().values)


def relabelled(count: int, batch: int) -> Trials:
    """Trials whose test labels are all another class, so that accuracy on test cannot pass for that on val."""
    data = trials(count, batch)
    labels = data.source.splits["test"][1]
    labels.copy_((labels + 1) % 10)
    return data


def share_right(network: nn.Module, data: Trials, split: str) -> float:
    """Accuracy counted by hand on the whole split."""
    images, labels = data.source.splits[split][:2]
    with torch.no_grad():
        chosen = torch.cat([network(x) for x, _ in data.images(split)]).argmax(-1)
    assert len(images) == len(chosen)
    return float((chosen == labels).float().mean())


def test_reward_and_judgement_come_from_two_trainings() -> None:
    """Reward: training 1 on val images. Judged by training 2 alone, on test images. Ranked by the mean on val."""
    made, data, how = RewardTable(TINY, children()), relabelled(20, 4), children()
    made._trainer = type("T", (), {"datamodule": data})()  # type: ignore[assignment]
    torch.manual_seed(0)
    made.training_step(torch.tensor([3, 5]), 0)
    torch.manual_seed(0)
    once, twice = torch.randint(2**31, (2,)).tolist(), torch.randint(2**31, (2,)).tolist()
    for k, n in enumerate((3, 5)):
        genotype = TINY.decode(TINY.architectures()[n].tolist())
        one, two = (how.train(genotype, data, seeds[k], torch.device("cpu")) for seeds in (once, twice))
        assert float(made.rewards[n]) == pytest.approx(share_right(one, data, "val"))
        assert float(made.repeated[n]) == pytest.approx(share_right(two, data, "val"))
        assert float(made.accuracies[n]) == pytest.approx(share_right(two, data, "test"))
    assert not torch.equal(made.repeated[[3, 5]], made.accuracies[[3, 5]])
    assert int(made.rewards.isnan().sum()) == 18


def test_the_table_ranks_by_the_mean_and_reports_what_repeats(logged: Callable[..., dict[str, float]]) -> None:
    made = table()
    made.repeated.copy_(torch.arange(20).flip(0) / 100 + torch.arange(20) / 50)  # mean: larger with the number
    made.repeated[0] = 1.0
    actions, means = made.evaluated()
    assert torch.equal(actions[-1], TINY.architectures()[0])
    assert torch.equal(actions[:-1], TINY.architectures()[1:])
    assert float(means[-1]) == pytest.approx(0.5)
    made.repeated.copy_(made.rewards.flip(0))
    made.accuracies.copy_(made.rewards)
    assert logged(made)["test/reliability"] == pytest.approx(-1)


def test_a_childs_reward_is_its_validation_accuracy() -> None:
    """Of children trained on demand, counted by hand."""
    data, how = relabelled(2, 2), children()
    module = Search(TINY, 2, "random", children=how)
    module._trainer = type("T", (), {"datamodule": data})()  # type: ignore[assignment]
    torch.manual_seed(1)
    module.training_step(torch.arange(2), 0)
    torch.manual_seed(1)
    drawn = TINY.canonical(TINY.uniform(1, 2))[0].tolist()
    seeds = torch.randint(2**31, (2,)).tolist()
    assert drawn[0] != drawn[1]
    for k in range(2):
        network = how.train(TINY.decode(drawn[k]), data, seeds[k], torch.device("cpu"))
        expected = [share_right(network, data, split) for split in ("val", "test")]
        assert module.outcome[k, 0].tolist() == pytest.approx(expected)
    assert not torch.equal(module.outcome[..., 0], module.outcome[..., 1])


def test_the_reward_is_not_test_accuracy() -> None:
    """Rewards come from images drawn from the training set that no child trains on."""
    data = trials(4)
    asked: list[str] = []
    images = data.images
    data.images = lambda split: (asked.append(split), images(split))[1]  # type: ignore[method-assign]
    children().outcome(TINY.decode([0, 1, 1, 1, 0]), data, 0, torch.device("cpu"), ["val"])
    assert asked == ["train", "val"]
    train, val = (data.source.splits[name][0].flatten(1) for name in ("train", "val"))
    assert not (train[:, None] == val[None]).all(-1).any()


def test_ranking_takes_cells_evenly_and_reports_thirds(logged: Callable[..., dict[str, float]]) -> None:
    found, random = search(), search("random", replays=4)
    module = Ranking(table(), found, random, children(), cells=6)
    assert TINY.place(module.chosen[:-1]).tolist() == [0, 4, 8, 11, 15, 19]
    assert module.chosen[-1].tolist() == found.found()
    module.accuracies.copy_(torch.tensor([0.1, 0.2, 0.3, 0.5, 0.4, 0.6, 0.55]))
    values = logged(module)
    thirds = [values[f"test/{name}_third_top1"] for name in ("worst", "middle", "best")]
    assert thirds == pytest.approx([15, 40, 50], abs=1e-4)
    assert values["test/spearman"] == pytest.approx(1 - 6 * 2 / (6 * 35), abs=1e-6)
    assert values["test/found_top1"] == pytest.approx(55, abs=1e-4)
    assert sum(p.numel() for p in module.parameters()) == 0  # the searches are no part of it
    seen = Ranking(random, found, random, children(), cells=6)  # what a search has drawn can be ranked too
    assert torch.equal(seen.chosen, module.chosen)
    with pytest.raises(ValueError, match="multiple of 3"):
        Ranking(found, found, random, children(), cells=4)


def test_both_searches_are_drawn_on_the_same_axes() -> None:
    module = search("random", samples=40)
    figure = top_curves({"PPO": module, "random search": module}, points=4)
    assert [axes.get_title() for axes in figure.axes] == ["best 1", "best 5", "best 25"]
    for axes, number in zip(figure.axes, searching.TOP, strict=True):
        assert [line.get_label() for line in axes.lines] == ["PPO", "random search"]
        x, y = axes.lines[0].get_data()
        assert list(x) == [10, 20, 30, 40]
        assert y[-1] == pytest.approx(100 * float(module.top(number)))
    assert len({axes.get_ylim() for axes in figure.axes}) == 1


# --- training one architecture ---------------------------------------------------------------------------------------


def test_loss_with_the_auxiliary_head() -> None:
    z, second, y = torch.zeros(2, 4), torch.tensor([[math.log(3.0), 0, 0, 0]] * 2), torch.tensor([0, 0])
    assert float(total_loss(z, None, y)) == pytest.approx(math.log(4))
    assert float(total_loss(z, second, y)) == pytest.approx(math.log(4) + 0.4 * math.log(2))


def test_the_auxiliary_head_changes_training_alone() -> None:
    with_head, without = small(auxiliary=True).eval(), small().eval()
    without.load_state_dict({k: v for k, v in with_head.state_dict().items() if not k.startswith("auxiliary")})
    x = torch.randn(2, 1, 12, 12)
    assert torch.equal(with_head(x), without(x))
    assert with_head.auxiliary_at == 2  # normal, reduction, normal | reduction, normal
    module = NASNet(10, with_head.train(), drop_path="none", auxiliary_weight=0.0)
    module.training_step((x, torch.tensor([1, 2])), 0).backward()
    assert all(float(p.grad.abs().max()) == 0 for p in with_head.auxiliary.parameters() if p.grad is not None)  # type: ignore[union-attr]


def test_averaged_weights() -> None:
    """Moved by optimiser steps, (1 + n) / (10 + n) for young averages; evaluation uses them, training does not."""
    module = NASNet(10, small(), drop_path="none", average_decay=0.9999)
    before = module.network.fc.weight.detach().clone()

    def step() -> None:
        with torch.no_grad():
            module.network.fc.weight.add_(1.0)

    optimizer = torch.optim.SGD(module.network.parameters(), 0.0)
    module.optimizer_step(0, 0, optimizer, step)
    assert module.average is not None
    averaged = module.average.values()["fc.weight"]
    assert torch.allclose(averaged, before + (1 - 1 / 10), atol=1e-6)
    module.optimizer_step(0, 1, optimizer, step)
    assert torch.allclose(averaged, before + 0.9 * 2 / 11 + 2 * 9 / 11, atol=1e-6)
    x = torch.randn(2, 1, 12, 12)
    module.eval()
    found = module(x)
    with torch.no_grad():
        module.network.fc.weight.copy_(averaged)
    assert torch.allclose(found, module.network(x), atol=1e-5)
    assert sum(p.numel() for p in module.parameters()) == parameters(module.network)


def test_weight_decay_is_on_weights_alone() -> None:
    groups = NASNet(10, small(auxiliary=True)).trained()
    assert all(p.dim() > 1 for p in groups[0]["params"])
    assert groups[1]["weight_decay"] == 0
    assert sum(len(g["params"]) for g in groups) == len(list(small(auxiliary=True).parameters()))


def test_initial_weights_have_the_variance_of_their_fan_out() -> None:
    torch.manual_seed(0)
    network = nasnet_a(repeats=1, filters=64, classes=10)
    op = network.cells[4].operations[0]  # type: ignore[index, union-attr]
    assert float(op.pointwise1.weight.detach().std()) == pytest.approx(math.sqrt(2 / 256), rel=0.03)  # type: ignore[union-attr, operator]
    assert float(op.depthwise1.weight.detach().std()) == pytest.approx(math.sqrt(2 / 25), rel=0.05)  # type: ignore[union-attr, operator]
    assert float(op.pointwise1.weight.detach().abs().max()) <= 2 * math.sqrt(2 / 256) / 0.87962566  # type: ignore[union-attr, operator, arg-type]


def test_learning_rates_of_the_full_recipe(make_plan: Callable[..., Plan]) -> None:
    cifar = make_plan("paper=nasnet", "scale=full").stages["nasnet_a"]
    assert cifar.trainer["max_epochs"] * 50_000 / cifar.data["batch_size"] == 937_500
    rate = training.build(cifar.module["schedule"])
    assert [rate(Position(e, 0, 1562, 600)) for e in (0, 300, 600)] == pytest.approx([1, 0.5, 0], abs=1e-6)
    large = make_plan("paper=nasnet", "scale=full", "variant=large").stages["nasnet_a"]
    assert large.module["optimizer"]["lr"] == pytest.approx(0.015 * 100)
    assert large.data["batch_size"] == large.reference_batch == 16 * 100
    rate = training.build(large.module["schedule"])
    assert [rate(Position(e, 0, 800, 312)) for e in (0, 2, 3, 24)] == pytest.approx([1, 1, 0.97, 0.97**10])
    assert rate(Position(2, 320, 800, 312)) == pytest.approx(0.97)
    mobile = make_plan("paper=nasnet", "scale=full", "variant=mobile").stages["nasnet_a"]
    assert mobile.module["optimizer"]["lr"] == pytest.approx(0.04 * 50)
    assert large.trainer["max_epochs"] == round(large.module["drop_path_steps"] * 1600 / 1_281_167)


def test_arms_differ_in_the_method_alone(make_plan: Callable[..., Plan]) -> None:
    stages = make_plan("paper=nasnet", "scale=mini").stages
    ppo, random = stages["ppo"], stages["random"]
    assert ppo.data == random.data
    assert (ppo.needs, ppo.trainer) == (random.needs, random.trainer)
    shared = {k: v for k, v in ppo.module.items() if k in random.module and k != "method"}
    assert shared == {k: v for k, v in random.module.items() if k != "method"}
    assert stages["table"].data["source"] == ppo.data["source"]
    arms = [stages[name] for name in ("nasnet_a", "drop_path", "no_drop_path")]
    assert all(arm.data == arms[0].data and arm.trainer == arms[0].trainer for arm in arms)
    modules = [{k: v for k, v in arm.module.items() if k != "drop_path"} for arm in arms]
    assert modules[0] == modules[1] == modules[2]
    assert stages["table"].data["trials"] == len(training.build(stages["table"].module["space"]).architectures()) == 72
    assert stages["ranking"].needs == {"searched": "table", "found": "ppo", "against": "random"}


def test_arms_of_the_full_recipe(make_plan: Callable[..., Plan]) -> None:
    plan = make_plan("paper=nasnet", "scale=full")
    found, other = plan.stages["found"], plan.stages["found_random"]
    assert (found.module, found.data, found.trainer) == (other.module, other.data, other.trainer)
    assert (found.needs, other.needs) == ({"found": "ppo"}, {"found": "random"})
    judged = {s for claim in claims.read(plan.config).claims for s in claims.stages_of(claim, list(plan.stages))}
    assert "ranking" not in judged  # it trains on what was searched on


@pytest.mark.parametrize("variant", ["no_cutout", "wide", "mobile", "large"])
def test_variants_train_one_network(make_plan: Callable[..., Plan], variant: str) -> None:
    plan = make_plan("paper=nasnet", "scale=full", f"variant={variant}")
    assert list(plan.stages) == ["nasnet_a"]
    assert not claims.read(plan.config).claims
