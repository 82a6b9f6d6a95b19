"""Parameter counts, initialisation, equivalences and receptive field of Inception nnU-Net."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet, ResidualUNet
from dynamic_network_architectures.building_blocks.residual import BasicBlockD
from torch import Tensor, nn
from torch.nn import functional as F

from modules.mswal.networks import InceptionNnunet, MiniInception, build_network, watched_sides
from tests.papers.mswal.helpers import parameters, randomise, small_network

RES_ENC_L = [32, 64, 128, 256, 320, 320]
BLOCKS = [1, 3, 4, 6, 6, 6]
UNIT: dict[str, Any] = {
    "conv_bias": True,
    "norm_op": nn.InstanceNorm3d,
    "norm_op_kwargs": {"eps": 1e-5, "affine": True},
    "nonlin": nn.LeakyReLU,
    "nonlin_kwargs": {"inplace": True},
}


def build_block(width: int = 8, out: int | None = None, stride: int = 1, kind: type[BasicBlockD] = BasicBlockD) -> Any:
    torch.manual_seed(0)
    made = kind(nn.Conv3d, width, out or width, 3, stride, **UNIT)
    for part in made.modules():
        ResidualUNet.initialize(part)
    return made


@pytest.mark.parametrize(
    ("kind", "options", "decoder", "count"),
    [
        (InceptionNnunet, {"n_blocks_per_stage": BLOCKS}, 1, 110_692_552),
        (ResidualUNet, {"n_blocks_per_stage": BLOCKS}, 1, 107_852_360),
        (ResidualEncoderUNet, {"n_blocks_per_stage": BLOCKS}, 1, 102_354_600),
        (PlainConvUNet, {"n_conv_per_stage": 2}, 2, 31_200_424),
    ],
)
def test_published_sizes(kind: Any, options: dict[str, Any], decoder: int, count: int) -> None:
    with torch.device("meta"):
        network = build_network(partial(kind, **options), RES_ENC_L, 8, decoder)
    assert parameters(network) == count
    if kind is InceptionNnunet:
        inside = [m for m in network.modules() if isinstance(m, MiniInception)]
        widths = [m.output_channels for m in inside]
        assert [widths.count(w) for w in sorted(set(RES_ENC_L))] == [1, 2, 3, 5, 10]
        assert sum(2 * w**2 + 4 * w for w in widths) == 2_840_192 == 110_692_552 - 107_852_360
        assert not any(isinstance(m, MiniInception) for m in network.decoder.stages.modules())


def test_small_network() -> None:
    network = small_network()
    assert parameters(network) == 160_902
    assert parameters(small_network(ResidualUNet)) == 157_990
    outputs = network(torch.randn(1, 1, 16, 16, 16))
    assert [tuple(z.shape) for z in outputs] == [(1, 3, 16, 16, 16), (1, 3, 8, 8, 8)]


def test_one_block() -> None:
    block = build_block(kind=MiniInception)
    assert parameters(block) == 3_664 == parameters(build_block()) + 160
    assert parameters(build_block()) == 3_504


def test_a_block_starts_as_its_side_and_identity() -> None:
    block, x = build_block(kind=MiniInception), torch.randn(2, 8, 6, 6, 6)
    with torch.no_grad():
        assert float(block.side(x).abs().max()) > 0.1  # not zeroed
        assert torch.allclose(block(x), F.leaky_relu(x + block.side(x), 0.01), atol=1e-6)
        block.side[1].norm.weight.zero_()
        assert torch.allclose(block(x), F.leaky_relu(x, 0.01), atol=1e-6)
        assert torch.allclose(build_block()(x), F.leaky_relu(x, 0.01), atol=1e-6)


def test_with_a_silent_side_any_weights_give_the_residual_block() -> None:
    residual, block, x = randomise(build_block()), build_block(kind=MiniInception), torch.randn(2, 8, 6, 6, 6)
    block.load_state_dict(residual.state_dict(), strict=False)
    with torch.no_grad():
        nn.init.zeros_(block.side[1].norm.weight)
        nn.init.zeros_(block.side[1].norm.bias)
        assert torch.allclose(block(x), residual(x), atol=1e-6)
        randomise(block.side)
        assert not torch.allclose(block(x), residual(x), atol=1e-2)


def test_the_side_has_no_activation() -> None:
    """Pointwise and, but for the norms' statistics, linear: side(x) and side(-x) mirror each other about the bias."""
    block, x = randomise(build_block(kind=MiniInception)), torch.randn(1, 8, 6, 6, 6)
    with torch.no_grad():
        bias = block.side[1].norm.bias.view(1, -1, 1, 1, 1)
        assert torch.allclose(block.side(x) - bias, -(block.side(-x) - bias), atol=1e-5)


@pytest.mark.parametrize(("out", "stride"), [(8, 2), (16, 1), (16, 2)])
def test_strided_and_widening_blocks_have_no_side(out: int, stride: int) -> None:
    with pytest.raises(ValueError, match="no side branch"):
        MiniInception(nn.Conv3d, 8, out, 3, stride, **UNIT)


def test_with_silent_sides_the_network_is_the_residual_unet() -> None:
    network, baseline, x = small_network(), small_network(ResidualUNet), torch.randn(1, 1, 16, 16, 16)
    shared = randomise(baseline).state_dict()
    missing = network.load_state_dict(shared, strict=False)
    assert not missing.unexpected_keys
    assert all(".side." in name for name in missing.missing_keys)
    for block in network.modules():
        if isinstance(block, MiniInception):
            nn.init.zeros_(block.side[1].norm.weight)
    with torch.no_grad():
        for a, b in zip(network(x), baseline(x), strict=True):
            assert torch.allclose(a, b, atol=1e-5)


def test_the_side_adds_no_receptive_field() -> None:
    """Norms aside (they see the whole map), a voxel's output depends on the same inputs with and without sides."""

    def reach(network: nn.Module) -> Tensor:
        randomise(network).double()
        for parent in list(network.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, nn.InstanceNorm3d):
                    setattr(parent, name, nn.Identity())
        x = torch.randn(1, 1, 48, 48, 48, dtype=torch.float64, requires_grad=True)
        network(x)[0][0, :, 24, 24, 24].sum().backward()
        assert x.grad is not None
        return x.grad[0, 0] != 0

    tiny = {"features": [2, 2, 4], "classes": 2}
    seen = [
        reach(build_network(partial(k, n_blocks_per_stage=[1, 1, 1]), **tiny)) for k in (InceptionNnunet, ResidualUNet)
    ]
    assert 1000 < int(seen[0].sum()) < seen[0].numel()
    assert torch.equal(seen[0], seen[1])


def test_initial_weights_are_shared_where_the_architectures_are() -> None:
    network, baseline = small_network(seed=3).state_dict(), small_network(ResidualUNet, seed=3).state_dict()
    assert all(torch.equal(value, network[name]) for name, value in baseline.items())
    stem = "encoder.stem.convs.0.conv.weight"
    assert not torch.equal(network[stem], small_network(seed=4).state_dict()[stem])


def test_he_normal_and_zero_last_norms() -> None:
    network = small_network()
    for block in network.modules():
        if isinstance(block, BasicBlockD):
            assert not bool(block.conv2.norm.weight.any())
            weight = block.conv1.conv.weight.detach()
            fan = weight[0].numel()
            assert float(weight.std()) == pytest.approx((2 / (1 + 0.01**2) / fan) ** 0.5, rel=0.1)
            assert not bool(block.conv1.conv.bias.any())


def test_the_side_branchs_share_is_of_standard_deviations() -> None:
    """1 at the start, where the main branch gives 0; 0 without a side branch's last norm; else by hand."""
    network, x = small_network(), torch.randn(2, 1, 16, 16, 16)
    blocks = [block for block in network.modules() if isinstance(block, MiniInception)]
    with torch.no_grad(), watched_sides(network) as shares:
        network(x)
    assert [float(share) for share in shares] == [1] * len(blocks)

    block, y = randomise(blocks[0]), torch.randn(2, 8, 6, 6, 6)
    with torch.no_grad():
        with watched_sides(block) as shares:
            block(y)
        side, main = block.side(y).std(), block.conv2(block.conv1(y)).std()
        assert float(shares[0]) == pytest.approx(float(side / (side + main)), rel=1e-5)
        nn.init.zeros_(block.side[1].norm.weight)
        nn.init.zeros_(block.side[1].norm.bias)
        with watched_sides(block) as nothing:
            block(y)
    assert [float(share) for share in nothing] == [0]
    assert len(shares) == 1  # what was closed watches no longer

    plain = small_network(ResidualUNet)
    with torch.no_grad(), watched_sides(plain) as none:
        plain(x)
    assert none == []
