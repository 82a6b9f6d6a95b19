"""Networks and head: published sizes, shapes, selective kernels, what a block is at first."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import resnet50

from modules.simclr_v2.networks import (
    AveragePool,
    Bottleneck,
    ProjectionHead,
    ResNet,
    SelectiveKernel,
    variance_scaling,
)


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("depth", "width", "selective", "count"),
    [
        (50, 1, False, 23_508_032),
        (50, 1, True, 35_215_584),
        (50, 2, False, 93_907_072),
        (50, 2, True, 140_306_048),
        (101, 1, True, 64_662_304),
        (152, 1, False, 58_143_808),
        (152, 1, True, 88_940_896),
        (152, 2, True, 353_398_528),
        (152, 3, True, 794_704_160),
    ],
)
def test_published_sizes(depth: int, width: int, selective: bool, count: int) -> None:
    with torch.device("meta"):
        assert parameters(ResNet(depth, width, selective)) == count


def test_resnet_50_is_torchvisions() -> None:
    """The same convolutions and norms: with its weights in the order of both, the outputs agree."""
    torch.manual_seed(0)
    theirs, ours = resnet50(), ResNet(50)
    theirs.fc = nn.Identity()  # type: ignore[assignment]
    assert parameters(theirs) == parameters(ours)
    assert parameters(theirs) + 2049 * 1000 == 25_557_032

    stem = {"conv1": "stem.0", "bn1": "stem.1"}
    inner = {"conv1": "branch.0", "bn1": "branch.1", "conv2": "branch.3", "bn2": "branch.4", "conv3": "branch.6"}
    inner |= {"bn3": "branch.7", "downsample.0": "shortcut.0", "downsample.1": "shortcut.1"}
    renamed, block = {}, -1
    for name, value in theirs.state_dict().items():
        owner, _, last = name.rpartition(".")
        if owner in stem:
            renamed[f"{stem[owner]}.{last}"] = value
            continue
        part = owner.split(".", 2)[2]
        block += part == "conv1"
        renamed[f"groups.{block}.{inner[part]}.{last}"] = value
    ours.load_state_dict(renamed)
    theirs.maxpool = ours.stem[3]  # type: ignore[assignment] # TensorFlow's padding is torchvision's only inside
    x = noise(2, 3, 64, 64)
    assert torch.allclose(ours.eval()(x), theirs.eval()(x), atol=1e-4)


@pytest.mark.parametrize(("features", "count"), [(2048, 8_659_072), (4096, 34_095_232), (6144, 76_308_608)])
def test_sizes_of_the_head(features: int, count: int) -> None:
    with torch.device("meta"):
        head = ProjectionHead(features)
    assert parameters(head) == count == 2 * (features**2 + 2 * features) + 128 * features + 128


@pytest.mark.parametrize(("stem", "side"), [("imagenet", 64), ("cifar", 32), ("small", 28)])
@pytest.mark.parametrize("selective", [False, True])
def test_shapes(stem: str, side: int, selective: bool) -> None:
    network = ResNet([1, 2, 1, 1], 0.125, selective, stem=stem)
    h = network(noise(3, 3, side, side))
    assert h.shape == (3, 256) == (3, network.features)
    outputs = ProjectionHead(256, outputs=128)(h)
    assert [tuple(o.shape) for o in outputs] == [(3, 256), (3, 256), (3, 256), (3, 128)]
    assert outputs[0] is h


def test_strides_divide_the_side() -> None:
    x = noise(1, 3, 224, 224)
    network = ResNet([1, 1, 1, 1], 0.0625)
    stem = network.stem(x)
    assert stem.shape[-2:] == (56, 56)
    assert network.groups(stem).shape[-2:] == (7, 7)
    assert ResNet([1, 1, 1, 1], 0.0625, stem="cifar").stem(noise(1, 3, 32, 32)).shape[-2:] == (32, 32)


@pytest.mark.parametrize("selective", [False, True])
def test_the_first_pool_takes_maxima_of_3x3_from_the_first_pixel_on(selective: bool) -> None:
    """TensorFlow's "same" on an even side: nothing is padded before the map, one row and column after it."""
    pool = ResNet([1], 0.0625, selective).stem[-1]
    x = noise(1, 4, 6, 6)
    rows = [[float(x[0, 2, i : i + 3, j : j + 3].max()) for j in (0, 2, 4)] for i in (0, 2, 4)]
    assert pool(x)[0, 2].tolist() == rows


@pytest.mark.parametrize(("stem", "side"), [("cifar", 28), ("small", 14)])
def test_stems_for_small_images_are_one_3x3_convolution(stem: str, side: int) -> None:
    """What lies more than one pixel away from a place's own pixel does not reach it."""
    network = ResNet([1], 0.0625, in_channels=1, stem=stem).eval()
    dot = torch.zeros(1, 1, 28, 28)
    dot[0, 0, 14, 14] = 1.0
    y = network.stem[0](dot)
    assert y.shape[-2:] == (side, side)
    reached = {tuple(place) for place in y[0].any(0).nonzero().tolist()}
    rows = [i for i in range(side) if abs(28 // side * i - 14) <= 1]
    assert reached == {(i, j) for i in rows for j in rows}


def test_selective_kernels_mix_two_streams() -> None:
    layer = SelectiveKernel(6, 8).eval()
    x = noise(3, 6, 5, 5)
    first, second = layer.streams(x).chunk(2, 1)
    a1, a2 = layer.attention(first + second)
    assert a1.shape == (3, 8, 1, 1)
    assert torch.allclose(a1 + a2, torch.ones_like(a1))
    assert torch.allclose(layer(x), a1 * first + a2 * second)
    assert layer.squeeze[0].out_channels == 32  # never narrower  # type: ignore[union-attr]
    nn.init.zeros_(layer.mix.weight)
    assert torch.allclose(layer(x), (first + second) / 2, atol=1e-6)


def test_average_pooling_at_the_border() -> None:
    x = torch.arange(9.0).view(1, 1, 3, 3)
    assert AveragePool(1)(x)[0, 0].tolist() == [[2, 3, 3.5], [5, 6, 6.5], [6.5, 7.5, 8]]
    assert AveragePool(2)(x)[0, 0].tolist() == [[2, 3.5], [6.5, 8]]
    even = noise(2, 3, 6, 6)
    assert torch.equal(AveragePool(2)(even), F.avg_pool2d(even, 2))


@pytest.mark.parametrize("selective", [False, True])
@pytest.mark.parametrize("project", [False, True])
def test_a_block_starts_as_its_shortcut(selective: bool, project: bool) -> None:
    """The inner convolutions have no gradient then, the last norm's scale has."""
    block = Bottleneck(16, 4, 1, project, selective)
    x = noise(4, 16, 6, 6)
    output = block(x)
    assert torch.equal(output, F.relu(block.shortcut(x)))
    (output * noise(4, 16, 6, 6, seed=1)).sum().backward()
    convolutions = [m for m in block.branch.modules() if isinstance(m, nn.Conv2d)]
    assert all(m.weight.grad is not None and not m.weight.grad.any() for m in convolutions)
    scale = block.branch[-1].weight
    assert scale.grad is not None  # type: ignore[union-attr]
    assert bool(scale.grad.any())  # type: ignore[union-attr]


def test_the_last_layer_of_the_head_has_no_shift_and_no_relu() -> None:
    head = ProjectionHead(32, outputs=16)
    z = head(noise(64, 32))[-1]
    assert torch.allclose(z.mean(0), torch.zeros(16), atol=1e-5)
    assert bool((z < 0).any())
    middle = head(noise(64, 32))[1]
    assert float(middle.detach().min()) == 0
    assert all(not isinstance(m, nn.Linear) or m.bias is None for m in head.modules())
    assert float(head.layers[0][0].weight.detach().std()) == pytest.approx(0.01, rel=0.05)  # type: ignore[index]


def test_variance_scaling_has_the_variance_of_one_over_fan_in() -> None:
    weight = torch.empty(512, 64, 3, 3)
    variance_scaling(weight)
    assert float(weight.std()) == pytest.approx((64 * 9) ** -0.5, rel=0.01)
    assert float(weight.abs().max()) <= 2 / 0.8796 * (64 * 9) ** -0.5 + 1e-6


def test_what_there_is_not_is_named() -> None:
    with pytest.raises(ValueError, match="depth=18: expected one of 50, 101"):
        ResNet(18)
    with pytest.raises(ValueError, match="stem='big': expected one of"):
        ResNet([1], stem="big")
    with pytest.raises(ValueError, match="layers=0"):
        ProjectionHead(8, 0)
    with pytest.raises(ValueError, match=r"layer=3: expected 0 .* to 2"):
        ProjectionHead(8).first(3)
