"""Parameters and shapes that the released notebooks print, and the autoencoder by an independent network."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from modules.g_simclr.networks import Autoencoder, Bottleneck, CifarResNet, ProjectionHead


def parameters(module: nn.Module) -> tuple[int, int]:
    """(with batch statistics, trained), as Keras counts."""
    trained = sum(p.numel() for p in module.parameters())
    statistics = sum(b.numel() for name, b in module.named_buffers() if name.endswith(("mean", "var")))
    return trained + statistics, trained


def test_parameters_of_the_autoencoders() -> None:
    shallow = Autoencoder()
    assert parameters(shallow) == (335_747, 334_851)
    assert parameters(shallow.encoder) == (94_144, 93_696)
    with torch.device("meta"):
        deep = Autoencoder(filters=(64, 128, 256, 512, 1024), kernel=5)
    assert parameters(deep) == (61_059_843, 61_051_907)
    assert parameters(deep.encoder)[0] == 17_422_720


def test_parameters_of_encoder_and_head() -> None:
    encoder, head = CifarResNet(), ProjectionHead(256)
    assert parameters(encoder) == (1_121_344, 1_114_400)
    assert [parameters(layer)[0] for layer in (head.first, head.second, head.last)] == [65_792, 32_896, 6_450]
    assert parameters(encoder)[0] + parameters(head)[0] == 1_226_482


def test_shapes() -> None:
    x = torch.rand(2, 3, 32, 32)
    autoencoder, encoder = Autoencoder(), CifarResNet()
    assert autoencoder.bottleneck(x)[0].shape == (2, 128, 4, 4)
    assert autoencoder.embed(x).shape == (2, 128)
    assert autoencoder(x).shape == x.shape
    assert encoder.forward_features(x).shape == (2, 256, 8, 8)
    assert encoder(x).shape == (2, 256)
    odd = torch.rand(2, 1, 28, 28)  # sides 28, 14, 7, 3 and back
    assert Autoencoder(1, (2, 3, 4))(odd).shape == odd.shape


def test_autoencoder_is_the_plain_stack_of_its_layers() -> None:
    ours = Autoencoder(3, (4, 5)).eval()
    x = torch.rand(2, 3, 8, 8)
    down = [layer for unit in ours.encoder for layer in (unit, nn.MaxPool2d(2))]
    up = [layer for unit in ours.decoder for layer in (nn.Upsample(scale_factor=2), unit)]
    assert torch.allclose(ours(x), nn.Sequential(*down, *up, ours.output, nn.Sigmoid())(x), atol=1e-6)
    assert [unit[0].out_channels for unit in ours.decoder] == [5, 4]
    assert torch.allclose(ours.embed(x), nn.Sequential(*down, nn.AdaptiveAvgPool2d(1), nn.Flatten())(x), atol=1e-6)


def test_a_block_by_hand() -> None:
    """All weights 0: what is left is the shortcut, a convolution without batch norm; later blocks pass x on."""
    x = torch.randn(2, 3, 4, 4)
    first, later = Bottleneck(3, 2, 5, 2, True, nn.BatchNorm2d), Bottleneck(3, 2, 3, 1, False, nn.BatchNorm2d)
    for block in (first, later):
        for parameter in block.residual.parameters():
            parameter.data.zero_()
    assert isinstance(first.shortcut, nn.Conv2d)
    expected = torch.einsum("oi,bihw->bohw", first.shortcut.weight[:, :, 0, 0], x[:, :, ::2, ::2])
    assert torch.allclose(first(x), (expected + first.shortcut.bias.view(1, -1, 1, 1)).relu(), atol=1e-6)
    assert torch.equal(later(x), x.relu())
    assert [layer.stride for layer in first.residual if isinstance(layer, nn.Conv2d)] == [(1, 1), (2, 2), (1, 1)]


def test_probes_see_the_layers_they_are_named_for() -> None:
    head = ProjectionHead(4, (3, 2, 5))
    h = torch.randn(6, 4)
    hidden = nn.functional.linear(h, head.first.weight, head.first.bias).relu()
    second = nn.functional.linear(hidden, head.second.weight, head.second.bias).relu()
    probed = head.probed(h)
    assert torch.equal(probed["p3"], h)
    assert torch.equal(probed["p2"], hidden)
    assert torch.equal(probed["p1"], second)
    assert torch.equal(head(h), head.last(second))
    assert head.widths == {"p1": 2, "p2": 3, "p3": 4}
    with pytest.raises(ValueError, match="widths has 2 entries; expected 3"):
        ProjectionHead(4, (3, 2))
