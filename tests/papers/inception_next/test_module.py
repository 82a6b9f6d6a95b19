"""The independent checks of InceptionNeXt: hand-computed values, library agreement, limit cases, gradient facts."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import pytorch_lightning as pl
import timm
import torch
from timm.models.convnext import checkpoint_filter_fn
from timm.models.vision_transformer import Attention as TimmAttention
from timm.optim import param_groups_weight_decay
from timm.scheduler import CosineLRScheduler
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from experiments import claims, training
from experiments.plan import Plan
from modules.common.mixing import MixedClassifier, warm_cosine
from modules.common.schedules import Position
from modules.inception_next.module import (
    SIZES,
    InceptionDWConv,
    MetaNeXtClassifier,
    TradeOff,
    convnext,
    inception_next,
    renamed,
)
from modules.inception_next.networks import Attention, DWConv, MetaNeXt, MetaNeXtBlock, receptive_field
from modules.inception_next.timing import Throughput, multiply_adds


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def tensor(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def small(**options: Any) -> MetaNeXt:
    torch.manual_seed(0)
    defaults: dict[str, Any] = {"mixer": InceptionDWConv, "mlp_ratios": 4, "patch": 2, "in_channels": 1, "classes": 10}
    return MetaNeXt((1, 2), (16, 24), **{**defaults, **options})


def randomised(network: nn.Module, seed: int = 0) -> nn.Module:
    """Weights, scales and batch statistics that leave no part of the network invisible in its output."""
    source = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if not value.is_floating_point():
                continue
            if name.endswith(("running_var", "gamma")) or (value.ndim == 1 and name.endswith("weight")):
                value.copy_(0.5 + torch.rand(value.shape, generator=source))
            elif value.ndim > 1:  # keeps the scale of activations over many blocks
                fan = value[0].numel()
                value.copy_(0.6 * torch.randn(value.shape, generator=source) * fan**-0.5)
            else:
                value.copy_(0.2 * torch.randn(value.shape, generator=source))
    return network.eval()


# --- sizes and agreement with timm

COUNTS = {"atto": 4_156_520, "tiny": 28_055_680, "small": 49_374_016, "base": 86_672_136}
MADDS = {"atto": 0.505, "tiny": 4.195, "small": 8.364, "base": 14.853}
CONVNEXT = {"atto": 3_695_520, "tiny": 28_589_128, "small": 50_223_688, "base": 88_591_464}


def fvcore(network: nn.Module) -> float:
    """GMAC at 224 as fvcore counts them: convolutions and linear layers, and 2 (batch norm) or 5 (layer norm) for each
    number that is normalised."""
    normalised = [0]

    def hook(module: nn.Module, _: Any, output: Tensor) -> None:
        normalised[0] += output.numel() * (2 if isinstance(module, nn.BatchNorm2d) else 5)

    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d | nn.LayerNorm):
            module.register_forward_hook(hook)
    return (multiply_adds(network, torch.zeros(1, 3, 224, 224)) + normalised[0]) / 1e9


@pytest.mark.parametrize("size", COUNTS)
def test_published_parameters_and_multiply_adds(size: str) -> None:
    with torch.device("meta"):
        network, baseline = inception_next(size), convnext(size)
        assert parameters(network) == COUNTS[size]
        assert parameters(baseline) == CONVNEXT[size]
        assert fvcore(network) == pytest.approx(MADDS[size], abs=0.001)
        if size == "tiny":
            assert fvcore(baseline) == pytest.approx(4.470, abs=0.001)


def agrees(ours: nn.Module, name: str, side: int = 64) -> float:
    theirs = randomised(timm.create_model(name, pretrained=False, num_classes=1000))
    ours.load_state_dict(renamed(theirs.state_dict()))
    x = tensor(2, 3, side, side)
    with torch.inference_mode():
        expected, found = theirs(x), ours.eval()(x)
    assert float(expected.std()) > 0.05  # the comparison is not of zeros
    assert float((expected[0] - expected[1]).abs().max()) > 0.01  # nor of a constant
    return float((found - expected).abs().max())


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
    ours.load_state_dict(renamed(theirs.state_dict()))
    x, y = tensor(4, 3, 64, 64), torch.tensor([0, 1, 2, 3])
    for network in (theirs, ours.train()):
        F.cross_entropy(network(x), y).backward()
    expected = renamed({n: p.grad for n, p in theirs.named_parameters() if p.grad is not None})
    found = {n: p.grad for n, p in ours.named_parameters() if p.grad is not None}
    assert expected.keys() == found.keys()
    largest = max(float(g.abs().max()) for g in expected.values())
    assert largest > 1e-3
    for name, gradient in found.items():  # biases before a batch norm have none, up to rounding
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
        parts = {"dwconv": (c, 1, 7, 7), "norm": (c,), "pwconv1": (4 * c, c), "pwconv2": (c, 4 * c)}
        original |= {f"stages.{i}.0.{part}.weight": tensor(*size, seed=20 + i) for part, size in parts.items()}
        original[f"stages.{i}.0.gamma"] = tensor(c, seed=30 + i)
    original |= {"norm.weight": tensor(32), "head.weight": tensor(5, 32), "head.bias": tensor(5)}
    reference = timm.models.ConvNeXt(num_classes=5, depths=(1, 1, 1, 1), dims=dims)
    by_timm, ours = renamed(checkpoint_filter_fn(dict(original), reference)), renamed(original)
    assert ours.keys() == by_timm.keys()
    assert all(torch.equal(ours[key], by_timm[key]) for key in ours)
    mine = MetaNeXt((1, 1, 1, 1), dims, DWConv, 4, "layer", "linear", classes=5).state_dict()
    assert {key: value.shape for key, value in ours.items()}.items() <= {k: v.shape for k, v in mine.items()}.items()


def test_partial_convolutions_take_the_released_names() -> None:
    names = renamed({"stages.0.0.dwconv.conv.weight": torch.zeros(12, 1, 3, 3)})
    assert list(names) == ["stages.0.blocks.0.token_mixer.conv.weight"]
    assert names.keys() <= convnext("tiny", 3, 0.125).state_dict().keys()


def test_attention_is_timms() -> None:
    theirs = TimmAttention(128, num_heads=2, qkv_bias=True).eval()
    ours = Attention(128, head_width=64)
    ours.load_state_dict({k: v for k, v in theirs.state_dict().items() if k.split(".")[0] in ("qkv", "proj")})
    x = tensor(2, 128, 3, 4)
    expected = theirs(x.flatten(2).transpose(1, 2)).transpose(1, 2).view(2, 128, 3, 4)
    assert torch.allclose(ours(x), expected, atol=1e-5)


def test_features_at_224() -> None:
    with torch.device("meta"):
        shapes = [tuple(f.shape[1:]) for f in inception_next("tiny").features(torch.zeros(1, 3, 224, 224))]
    assert shapes == [(96, 56, 56), (192, 28, 28), (384, 14, 14), (768, 7, 7)]


def test_counts_by_hand() -> None:
    mixer = InceptionDWConv(96)
    assert sum(p.numel() for p in mixer.parameters() if p.ndim > 1) == 12 * 9 + 2 * 12 * 11 == 372
    assert parameters(mixer) == 372 + 36
    assert parameters(DWConv(96, 7)) == 4704 + 96
    with torch.device("meta"):
        network = inception_next("tiny")
        assert parameters(network.blocks()[0]) == 74_904
        assert parameters(network.head) == 768 * 2304 + 2304 + 2 * 2304 + 2304 * 1000 + 1000 == 4_081_384
        s = SIZES["tiny"]
        assert parameters(MetaNeXt(s.depths, s.dims, InceptionDWConv, 4)) == 31_596_928
        printed = MetaNeXt((2, 2, 6, 2), (40, 90, 180, 320), partial(InceptionDWConv, band_kernel=9, ratio=0.25))
        assert parameters(printed) / 1e6 == pytest.approx(4.55, abs=0.01)  # the widths in the paper's table
        x = torch.zeros(1, 96, 56, 56)
        assert multiply_adds(mixer.to("meta"), x) == 372 * 3136
        assert multiply_adds(DWConv(96, 11), x) == 11_616 * 3136
        for size, mixers in (("isotropic", InceptionDWConv), ("isotropic12", Attention)):
            assert parameters(inception_next(size)) / 1e6 == pytest.approx(22, abs=0.5), mixers
        assert parameters(convnext("isotropic")) / 1e6 == pytest.approx(22, abs=0.5)
        assert round(parameters(inception_next("isotropic", mixer=Attention)) / 1e6) == 33  # hence 12 blocks
        isotropic = inception_next("isotropic"), inception_next("isotropic12"), convnext("isotropic")
        assert all(b.gamma is None for network in isotropic for b in network.blocks())


@pytest.mark.parametrize(
    ("kernel", "ratio", "millions"), [(5, 1.0, 28.4), (3, 1.0, 28.3), (3, 0.5, 28.3), (3, 1 / 16, 28.3)]
)
def test_parameters_of_table_1(kernel: int, ratio: float, millions: float) -> None:
    with torch.device("meta"):
        assert parameters(convnext("tiny", kernel, ratio)) / 1e6 == pytest.approx(millions, abs=0.06)


# --- the mixer


def test_identity_channels_pass_bit_for_bit() -> None:
    x = tensor(2, 96, 14, 14)
    mixer = InceptionDWConv(96)
    y = mixer(x)
    assert torch.equal(y[:, :60], x[:, :60])
    assert not (y[:, 60:] == x[:, 60:]).any()
    assert mixer.sizes == [60, 12, 12, 12]
    assert InceptionDWConv(100).sizes == [64, 12, 12, 12]  # floor, and the identity takes the rest


def test_impulse_responses() -> None:
    """3x3 channels answer on 9 pixels, 1x11 ones in one row, 11x1 ones in one column."""
    mixer = InceptionDWConv(96)
    for p in mixer.parameters():
        nn.init.constant_(p, float(p.ndim > 1))
    x = torch.zeros(1, 96, 15, 15)
    x[..., 7, 7] = 1
    y = mixer(x)[0]
    for channel, rows, columns in ((60, 3, 3), (72, 1, 11), (84, 11, 1), (0, 1, 1)):
        hit = y[channel] != 0
        assert int(hit.sum()) == rows * columns
        assert (int(hit.any(1).sum()), int(hit.any(0).sum())) == (rows, columns)
    assert y[72, 7].nonzero().flatten().tolist() == list(range(2, 13))


def test_a_branch_is_a_convolution_with_that_kernel() -> None:
    mixer = InceptionDWConv(24)
    x = tensor(2, 24, 9, 9)
    y = mixer(x)
    wide = mixer.dwconv["w"]
    padded = F.pad(x[:, 18:21], (5, 5))
    by_hand = sum(wide.weight[:, 0, 0, k].view(1, 3, 1, 1) * padded[..., k : k + 9] for k in range(11))
    assert torch.allclose(y[:, 18:21], by_hand + wide.bias.view(1, 3, 1, 1), atol=1e-5)


def test_transposing_the_image_swaps_the_bands() -> None:
    mixer, turned = InceptionDWConv(32), InceptionDWConv(32)
    pairs = {"hw": "hw", "w": "h", "h": "w"}
    for ours, theirs in pairs.items():
        turned.dwconv[ours].weight.data = mixer.dwconv[theirs].weight.data.transpose(2, 3)
        turned.dwconv[ours].bias.data = mixer.dwconv[theirs].bias.data
    x = tensor(1, 32, 9, 13)
    swap = [*range(24), *range(28, 32), *range(24, 28)]  # the groups of the two bands
    assert torch.allclose(turned(x[:, swap].transpose(2, 3)), mixer(x).transpose(2, 3)[:, swap], atol=1e-5)


def test_order_of_the_paper_is_that_of_the_code_with_channels_permuted() -> None:
    code, paper = InceptionDWConv(32), InceptionDWConv(32, identity_first=False)
    paper.load_state_dict(code.state_dict())
    x = tensor(1, 32, 9, 9)
    rolled = [*range(20, 32), *range(20)]  # hw, w, h, id
    assert torch.allclose(paper(x[:, rolled]), code(x)[:, rolled], atol=1e-6)
    assert not torch.allclose(paper(x), code(x), atol=1e-2)  # loading one as the other is a silent error


def test_limits_of_the_mixer() -> None:
    x = tensor(2, 24, 7, 7)
    assert torch.equal(InceptionDWConv(24, ratio=0.0)(x), x)
    ones = InceptionDWConv(24, 1, 1, ratio=1 / 3)
    for p in ones.parameters():
        nn.init.constant_(p, float(p.ndim > 1))
    assert ones.sizes[0] == 0
    assert torch.equal(ones(x), x)
    without = InceptionDWConv(24, branches=("hw", "h"))
    assert without.sizes == [18, 3, 3]
    sequence = InceptionDWConv(24, branches=("hw", "wh"))
    assert parameters(sequence) == parameters(InceptionDWConv(24))
    x = torch.zeros(1, 24, 15, 15)
    x[..., 7, 7] = 1
    reached = (sequence(x) - sequence(torch.zeros_like(x)))[0, 21] != 0
    assert int(reached.sum()) == 11 * 11  # two bands in sequence cover the square


def test_partial_convolution_leaves_the_first_channels() -> None:
    x = tensor(1, 16, 8, 8)
    y = DWConv(16, 3, 0.25)(x)
    assert torch.equal(y[:, :12], x[:, :12])
    assert not (y[:, 12:] == x[:, 12:]).any()


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: InceptionDWConv(16, band_kernel=10), "expected odd"),
        (lambda: InceptionDWConv(16, ratio=0.5), "do not fit"),
        (lambda: InceptionDWConv(16, branches=("hw", "x")), "branches='x': expected one of hw, w, h, wh"),
        (lambda: DWConv(16, 4), "odd"),
        (lambda: DWConv(16, 3, 0.01), "1 to 16"),
        (lambda: Attention(100), "divisor"),
        (lambda: small(norm="group"), "norm='group': expected one of batch, layer"),
        (lambda: small(head="none"), "head='none': expected one of mlp, linear"),
        (lambda: small(mlp_ratios=(4, 4, 4)), "as many"),
        (lambda: inception_next("huge"), "size='huge': expected one of atto"),
        (lambda: MetaNeXtClassifier(10), "either network"),
        (lambda: MetaNeXtClassifier(10, small(), mixup=-1.0), "mixup=-1.0"),
        (lambda: Throughput({"a": nn.Identity()}), "two candidates"),
        (lambda: Throughput({"a": nn.Identity(), "b": nn.Identity()}, layouts=["nhwc"]), "channels_first"),
        (lambda: TradeOff([MetaNeXtClassifier(10, small())], ["a", "b"]), "one for each of 1 arms"),
    ],
)
def test_wrong_values_are_refused_by_name(make: Callable[[], object], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        make()


# --- the block and the network


def block(mixer: Callable[[int], nn.Module] = InceptionDWConv, gamma: float | None = 1e-6) -> MetaNeXtBlock:
    torch.manual_seed(0)
    return MetaNeXtBlock(32, mixer, nn.BatchNorm2d, 4, gamma, 0.0)


def test_the_block_has_one_shortcut() -> None:
    """y = x + gamma MLP(Norm(mixer(x))), written out; a second shortcut around the mixer would be another block."""
    b = block(gamma=0.7).eval()
    x = tensor(2, 32, 9, 9)
    branch = b.mlp.fc2(F.gelu(b.mlp.fc1(b.norm(b.token_mixer(x)))))
    assert torch.allclose(b(x), x + 0.7 * branch, atol=1e-6)


def test_at_the_start_a_block_is_nearly_the_identity_and_its_mixer_nearly_still() -> None:
    x = tensor(2, 32, 9, 9)
    found = {}
    for gamma in (1e-6, 1.0):
        b = block(gamma=gamma)
        y = b(x)
        y.square().sum().backward()
        gradient = b.token_mixer.dwconv["hw"].weight.grad
        found[gamma] = (float((y - x).abs().max().detach()), float(gradient.norm()))
    assert 0 < found[1e-6][0] < 1e-5
    assert found[1e-6][1] == pytest.approx(1e-6 * found[1.0][1], rel=0.3)
    assert torch.equal(block(gamma=0.0)(x), x)


def test_at_the_start_blocks_of_the_published_network_add_about_1e_7() -> None:
    torch.manual_seed(0)
    network = inception_next("tiny", drop_path=0.0, channels_last=False).double()
    added = []
    for b in network.blocks():
        b.register_forward_hook(lambda _, given, y: added.append(float((y - given[0]).abs().mean())))
    with torch.no_grad():
        network(tensor(2, 3, 64, 64).double())
    assert len(added) == 18
    assert all(1e-8 < value < 1e-6 for value in added)
    assert math.exp(sum(map(math.log, added)) / 18) == pytest.approx(1e-7, rel=0.5)


def test_initialisation() -> None:
    torch.manual_seed(0)
    network = small(gamma=1e-6)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            assert not module.bias.any()
    weights = torch.cat([m.weight.detach().flatten() for m in network.modules() if isinstance(m, nn.Linear)])
    assert float(weights.std()) == pytest.approx(0.02, rel=0.03)
    assert all(torch.equal(b.gamma, torch.full_like(b.gamma, 1e-6)) for b in network.blocks())


@pytest.mark.parametrize(("mixer", "mixes"), [(nn.Identity, False), (InceptionDWConv, True)])
def test_without_a_mixer_pixels_of_a_stage_do_not_see_each_other(mixer: Any, mixes: bool) -> None:
    network = randomised(small(mixer=mixer))
    assert isinstance(network, MetaNeXt)
    stage = network.stages[0]
    x = tensor(1, 16, 6, 6)
    order = torch.randperm(36, generator=torch.Generator().manual_seed(1))

    def permuted(value: Tensor) -> Tensor:
        return value.flatten(2)[..., order].view_as(value)

    assert torch.allclose(stage(permuted(x)), permuted(stage(x)), atol=1e-5) != mixes


def test_drop_path_rates_grow_linearly_and_drop_whole_branches() -> None:
    network = inception_next("atto", drop_path=0.3)
    rates = [b.drop_path.p for b in network.blocks()]
    assert rates == pytest.approx([0.3 * i / 11 for i in range(12)])
    network.set_drop_path(0.7)
    assert network.blocks()[-1].drop_path.p == pytest.approx(0.7)
    b = block(gamma=1.0)
    assert type(b.drop_path) is nn.Dropout  # what several processes share the masks of
    b.drop_path.p = 0.25
    torch.manual_seed(0)
    x = tensor(1, 32, 5, 5).expand(4000, -1, -1, -1)
    with torch.no_grad():
        branch = (b(x) - x).flatten(1)
        whole = b.mlp(b.norm(b.token_mixer(x[:2]))).flatten(1)[0]
    alive = branch.abs().amax(1) > 1e-4
    assert float(alive.float().mean()) == pytest.approx(0.75, abs=0.03)
    assert torch.allclose(branch[alive][0], whole / 0.75, atol=1e-4)  # the mean of the branch is kept
    assert torch.allclose(b.eval()(x[:1]) - x[:1], b.mlp(b.norm(b.token_mixer(x[:1]))), atol=1e-5)


@pytest.mark.parametrize("norm", ["batch", "layer"])
def test_layouts_give_the_same_numbers_and_gradients(norm: str) -> None:
    """The MLP is convolutions in one layout and matrix products in the other."""
    first, last = small(norm=norm, channels_last=False), small(norm=norm, channels_last=True)
    last.load_state_dict(randomised(first).state_dict())
    x, y = tensor(4, 1, 16, 16), torch.arange(4)
    assert torch.allclose(first.eval()(x), last.eval()(x), atol=1e-5)
    assert last.features(x)[0].is_contiguous(memory_format=torch.channels_last)
    for network in (first, last):
        F.cross_entropy(network(x), y).backward()
    pairs = zip(first.named_parameters(), last.parameters(), strict=True)
    assert all(torch.allclose(p.grad, q.grad, rtol=1e-3, atol=1e-6) for (_, p), q in pairs)


def test_bands_see_further_along_the_axes_than_a_3x3() -> None:
    """The gradient of the middle of the last map with respect to the input, on networks of one block."""
    fields = {}
    for name, mixer in {"bands": InceptionDWConv, "dw3": partial(DWConv, kernel=3), "none": nn.Identity}.items():
        torch.manual_seed(0)
        network = MetaNeXt((1,), (32,), mixer, 4, patch=1, gamma=1.0, in_channels=1, classes=10)
        fields[name] = receptive_field(network, tensor(2, 1, 21, 21)) > 0
    assert int(fields["none"].sum()) == 1
    assert int(fields["dw3"].sum()) == 9
    assert int(fields["bands"].sum()) == 9 + 2 * (11 - 3)  # the square and a cross of 11


# --- training


def test_weight_decay_groups_are_timms() -> None:
    module = MetaNeXtClassifier(10, small())
    ours = module.trained()
    theirs = param_groups_weight_decay(module.network, 0.05)
    decayed = {id(p) for p in ours[0]["params"]}
    assert decayed == {id(p) for g in theirs if g["weight_decay"] for p in g["params"]}
    assert {id(p) for p in ours[1]["params"]} == {id(p) for g in theirs if not g["weight_decay"] for p in g["params"]}
    assert ours[1]["weight_decay"] == 0
    gammas = {id(b.gamma) for b in module.network.blocks()}
    assert gammas
    assert not gammas & decayed


@pytest.mark.parametrize(
    ("line", "name", "timm_options", "epochs"),
    [
        ("scale=full", "inception", {"t_initial": 300, "lr_min": 1e-5, "warmup_t": 20, "warmup_lr_init": 1e-6}, 310),
        ("variant=atto", "convnext", {"t_initial": 450, "lr_min": 5e-7, "warmup_t": 5, "warmup_lr_init": 5e-7}, 460),
        ("variant=base_384", "finetuned", {"t_initial": 30, "lr_min": 1e-5}, 30),
        ("variant=base_384", "finetuned_convnext", {"t_initial": 30, "lr_min": 1e-5}, 30),
    ],
)
def test_schedules_are_timms(
    make_plan: Callable[..., Plan], line: str, name: str, timm_options: dict[str, Any], epochs: int
) -> None:
    stage = make_plan("paper=inception_next", "scale=full", line).stages[name]
    schedule = training.build(stage.module["schedule"])
    base = stage.module["optimizer"]["lr"]
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=base)
    theirs = CosineLRScheduler(optimizer, **timm_options)
    assert stage.trainer["max_epochs"] == epochs
    for epoch in range(epochs):
        theirs.step(epoch)
        ours = base * schedule(Position(epoch, 3, 10, epochs))
        assert ours == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-6), epoch


def test_the_schedule_alone_is_a_cosine() -> None:
    assert warm_cosine(Position(0, 0, 10, 30)) == 1.0
    assert warm_cosine(Position(15, 0, 10, 30)) == pytest.approx(0.5)


def test_mixed_labels_carry_the_share_of_each_image_and_smoothing_commutes() -> None:
    module = MixedClassifier(small(), 10, 0.1, mixup=0.8, cutmix=1.0)
    kinds = set()
    for seed in range(40):
        torch.manual_seed(seed)
        x = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 1, 16, 16).clone()
        mixed, soft = module.mixed(x, torch.arange(4))
        assert torch.allclose(soft.sum(1), torch.ones(4))
        value = (soft * torch.arange(10.0)).sum(1)  # image i has value i: its mean is that of its label
        assert torch.allclose(mixed.mean((1, 2, 3)), value, atol=1e-4)
        kinds.add(len(mixed[1].unique()) > 1)
    assert kinds == {True, False}  # boxes and blends
    z = tensor(4, 10)
    smoothed = 0.9 * soft + 0.1 / 10  # timm mixes smoothed labels
    by_hand = -(smoothed * z.log_softmax(1)).sum(1).mean()
    assert torch.allclose(F.cross_entropy(z, soft, label_smoothing=0.1), by_hand)


def test_only_one_kind_of_mixing() -> None:
    torch.manual_seed(0)
    x, y = tensor(4, 1, 8, 8), torch.arange(4)
    blended, _ = MixedClassifier(small(), 10, mixup=0.8).mixed(x, y)
    assert not (blended == x).any()
    plain = MixedClassifier(small(), 10)
    assert plain.mixed(x, y)[0] is x
    loss = plain.train().training_step((x, y), 0)
    assert torch.allclose(loss, F.cross_entropy(plain.network(x), y))


def test_average_by_hand_and_what_is_tested() -> None:
    module = MetaNeXtClassifier(10, small(), ema=0.9)
    assert module.average is not None
    assert parameters(module) == parameters(module.network)  # the average is no parameter
    before = {k: v.clone() for k, v in module.average.values().items()}
    assert before.keys() == module.network.state_dict().keys()
    with torch.no_grad():
        for p in module.network.parameters():
            p.add_(1.0)
        module.network.stem[1].running_mean.add_(1.0)
    module.average.update(module.network)
    after = module.average.values()
    for key in ("stem.0.weight", "stem.1.running_mean", "stages.0.blocks.0.gamma"):
        assert torch.allclose(after[key], before[key] + 0.1, atol=1e-6), key
    x = tensor(2, 1, 8, 8)
    module.eval()
    averaged = small()
    averaged.load_state_dict(after)
    assert torch.allclose(module(x), averaged.eval()(x), atol=1e-6)
    assert torch.equal(module.final()(x), module(x))
    assert not torch.allclose(module(x), module.network(x))
    assert {k for k in module.state_dict() if k.startswith("average.")}  # it is in the checkpoint
    with torch.inference_mode():  # where pictures are drawn
        assert not any(p.is_inference() for p in module.final().parameters())


def test_average_follows_every_update() -> None:
    """Two batches through Lightning: a0 = w0, a <- d a + (1 - d) w after each update."""
    torch.manual_seed(0)
    module = MetaNeXtClassifier(10, small(), ema=0.5, optimizer=partial(torch.optim.SGD, lr=0.1))
    key = "head.fc2.weight"
    expected, seen = module.network.state_dict()[key].clone(), []
    step = module.network.register_forward_hook(lambda *_: seen.append(module.network.state_dict()[key].clone()))
    data = [(tensor(4, 1, 8, 8, seed=i), torch.arange(4)) for i in range(2)]
    pl.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False
    ).fit(module, DataLoader(data, batch_size=None))  # type: ignore[arg-type]
    step.remove()
    for weights in (seen[1], module.network.state_dict()[key]):  # after the first update and after the second
        expected = 0.5 * expected + 0.5 * weights
    assert module.average is not None
    assert torch.allclose(module.average.values()[key], expected, atol=1e-6)
    assert not torch.allclose(expected, module.network.state_dict()[key], atol=1e-4)


def test_fine_tuning_starts_from_the_tested_weights_with_new_rates() -> None:
    first = MetaNeXtClassifier(10, small(), ema=0.5)
    with torch.no_grad():
        for p in first.network.parameters():
            p.add_(1.0)
    second = MetaNeXtClassifier(10, start=first, drop_path=0.7, head_dropout=0.5)
    assert second.network is not first.network
    assert first.average is not None
    assert all(torch.equal(v, first.average.values()[k]) for k, v in second.network.state_dict().items())
    assert second.network.blocks()[-1].drop_path.p == pytest.approx(0.7)
    assert second.network.head.drop.p == 0.5
    x = tensor(2, 1, 24, 24)  # another input size
    assert second(x).shape == (2, 10)


ARMS = ("inception", "dw7", "dw3", "identity")


@pytest.mark.parametrize(
    "line", ["scale=mini", "variant=cifar10", "scale=full", *(f"variant={v}" for v in ("atto", "small", "base"))]
)
def test_arms_of_a_comparison_differ_in_the_mixer_alone(make_plan: Callable[..., Plan], line: str) -> None:
    scale = "mini" if line in ("scale=mini", "variant=cifar10") else "full"
    stages = make_plan("paper=inception_next", f"scale={scale}", line).stages
    arms = [stages[name] for name in ARMS]
    for part in ("data", "trainer", "reference_batch"):
        assert all(getattr(a, part) == getattr(arms[0], part) for a in [*arms, stages["convnext"]])
    bare = [{**a.module, "network": {**a.module["network"], "mixer": None}} for a in arms]
    assert all(b == bare[0] for b in bare)
    assert len({str(a.module["network"]["mixer"]) for a in arms}) == 4
    assert {**stages["convnext"].module, "network": None} == {**arms[0].module, "network": None}


def test_fine_tuning_is_the_same_for_both_networks(make_plan: Callable[..., Plan]) -> None:
    stages = make_plan("paper=inception_next", "scale=full", "variant=base_384").stages
    ours, theirs = stages["finetuned"], stages["finetuned_convnext"]
    assert (ours.needs, theirs.needs) == ({"start": "inception"}, {"start": "convnext"})
    assert all(getattr(ours, k) == getattr(theirs, k) for k in ("module", "data", "trainer", "reference_batch"))
    assert stages["inception"].data == stages["convnext"].data
    assert stages["inception"].module["network"]["size"] == stages["convnext"].module["network"]["size"] == "base"


@pytest.mark.parametrize(
    ("variant", "trained", "ema"),
    [("no_3x3", "inception", 0.0), ("attention", "inception", 0.0), ("partial_1_8", "convnext", 0.9999)],
)
def test_variants_about_one_network_train_it_alone_and_claim_nothing(
    make_plan: Callable[..., Plan], variant: str, trained: str, ema: float
) -> None:
    plan = make_plan("paper=inception_next", "scale=full", f"variant={variant}")
    assert [name for name, stage in plan.stages.items() if stage.fit] == [trained]
    assert [name for name, stage in plan.stages.items() if stage.test and not stage.fit] == ["speed"]
    assert not claims.read(plan.config).claims
    assert {item.stage for item in claims.published(plan.config)} == {trained, "speed"}
    assert plan.stages[trained].module["ema"] == ema


@pytest.mark.parametrize(
    "line", ["scale=full", "variant=small", "variant=atto", "variant=isotropic", "variant=base_384"]
)
def test_claims_are_about_what_is_run(make_plan: Callable[..., Plan], line: str) -> None:
    plan = make_plan("paper=inception_next", "scale=full", line)
    questions = claims.read(plan.config)
    read = {s for claim in questions.claims for s in claims.stages_of(claim, list(plan.stages))}
    assert read
    assert all(plan.stages[name].test for name in read)
    fitted = {name for name, stage in plan.stages.items() if stage.fit}
    needed = {needed for name in fitted for needed in plan.stages[name].predecessors}
    assert fitted <= read | needed  # nothing is trained that no claim compares


# --- the clock


def test_the_trade_off_is_of_the_tested_weights_on_all_images(logged: Callable[..., dict[str, float]]) -> None:
    """Top-1 is that of each arm's final network before timing, whose steps move copies alone."""
    torch.manual_seed(0)
    arms = [MetaNeXtClassifier(10, small(gamma=1.0)), MetaNeXtClassifier(10, small(mixer=nn.Identity), ema=0.5)]
    for number, arm in enumerate(arms):
        randomised(arm.network, number)
    before = [{k: v.clone() for k, v in arm.network.state_dict().items()} for arm in arms]
    x = tensor(48, 1, 8, 8)
    expected = []
    for arm in arms:
        with torch.no_grad():
            expected.append(arm.eval()(x).argmax(-1))
    y = torch.where(torch.arange(48) < 36, expected[0], (expected[0] + 1) % 10)
    module = TradeOff(arms, ["first", "second"], rounds=1)
    found = logged(module, (x[:32], y[:32]), (x[32:], y[32:]))
    assert found["test/top1_first"] == pytest.approx(75.0)
    assert found["test/top1_second"] == pytest.approx(100 * float((expected[1] == y).float().mean()))
    assert module.images == 32
    assert found["test/infer_per_s_first"] > 0
    assert all(
        torch.equal(v, b[k]) for arm, b in zip(arms, before, strict=True) for k, v in arm.network.state_dict().items()
    )
    assert list(module.pictures(None)) == ["accuracy against throughput"]


def test_speed_is_of_the_published_size_and_of_what_the_full_recipe_trains(
    make_plan: Callable[..., Plan],
) -> None:
    for lines in (
        ("scale=mini",),
        ("scale=full",),
        ("scale=full", "variant=no_3x3"),
        ("scale=full", "variant=base_384"),
    ):
        stages = make_plan("paper=inception_next", *lines).stages
        speed = stages["speed"].module["candidates"]
        with torch.device("meta"):
            counts = {name: parameters(training.build(item)) for name, item in speed.items()}
            if "scale=full" in lines:
                assert counts["inception"] == parameters(training.build(stages["inception"].module["network"]))
                assert counts["convnext"] == parameters(training.build(stages["convnext"].module["network"]))
            else:
                assert (counts["inception"], counts["convnext"]) == (COUNTS["tiny"], CONVNEXT["tiny"])
        assert not any(item["channels_last"] for item in speed.values())  # the stage tries both layouts
