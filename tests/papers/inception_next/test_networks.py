"""MetaNeXt: other mixers, the block, initial weights, drop path, layouts, receptive fields."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from timm.models.vision_transformer import Attention as TimmAttention
from torch import Tensor, nn
from torch.nn import functional as F

from modules.inception_next.module import InceptionDWConv
from modules.inception_next.networks import Attention, DWConv, MetaNeXt, MetaNeXtBlock, Stem, receptive_field
from modules.inception_next.sizes import convnext, inception_next
from tests.papers.inception_next.helpers import randomised, small, tensor


def test_attention_is_timms() -> None:
    theirs = TimmAttention(128, num_heads=2, qkv_bias=True).eval()
    ours = Attention(128, head_width=64)
    ours.load_state_dict({k: v for k, v in theirs.state_dict().items() if k.split(".")[0] in ("qkv", "proj")})
    x = tensor(2, 128, 3, 4)
    expected = theirs(x.flatten(2).transpose(1, 2)).transpose(1, 2).view(2, 128, 3, 4)
    assert torch.allclose(ours(x), expected, atol=1e-5)


def test_partial_convolution_leaves_the_first_channels() -> None:
    x = tensor(1, 16, 8, 8)
    y = DWConv(16, 3, 0.25)(x)
    assert torch.equal(y[:, :12], x[:, :12])
    assert not (y[:, 12:] == x[:, 12:]).any()


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
    actual = {}
    for gamma in (1e-6, 1.0):
        b = block(gamma=gamma)
        y = b(x)
        y.square().sum().backward()
        gradient = b.token_mixer.dwconv["hw"].weight.grad
        actual[gamma] = (float((y - x).abs().max().detach()), float(gradient.norm()))
    assert 0 < actual[1e-6][0] < 1e-5
    assert actual[1e-6][1] == pytest.approx(1e-6 * actual[1.0][1], rel=0.3)
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
    with torch.device("meta"):
        for build, own in ((convnext, 0.4), (inception_next, 0.3)):  # the published rates, and others
            last = [build("small", drop_path=rate).blocks()[-1].drop_path.p for rate in (None, 0.0, 0.2)]
            assert last == pytest.approx([own, 0.0, 0.2])
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
        network = MetaNeXt((1,), (32,), mixer, 4, stem=Stem(1, 1), gamma=1.0, classes=10)
        fields[name] = receptive_field(network, tensor(2, 1, 21, 21)) > 0
    assert int(fields["none"].sum()) == 1
    assert int(fields["dw3"].sum()) == 9
    assert int(fields["bands"].sum()) == 9 + 2 * (11 - 3)  # the square and a cross of 11
