"""The paper's networks: exact numbers of parameters and shapes, on the meta device where they are large."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from modules.ppgn.networks import (
    DenseDenoiser,
    PixelDenoiser,
    SmallDiscriminator,
    SmallEncoder,
    SmallGenerator,
    SmallJudge,
    encode,
)
from modules.ppgn.paper_networks import AlexNet, Discriminator, Generator, ResNet50, torchvision_network


def count(module: nn.Module, trained: bool = False) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not trained)


def test_the_generator() -> None:
    with torch.device("meta"):
        generator = Generator()
        assert generator(torch.zeros(2, 4096)).shape == (2, 3, 256, 256)
    assert count(generator) == 56_097_891
    assert count(generator, trained=True) == 56_096_256
    dense = [layer for layer in generator.layers if isinstance(layer, nn.Linear)]
    assert sum(count(layer) for layer in dense) == 50_343_936
    maps = [layer for layer in generator.layers if isinstance(layer, nn.ConvTranspose2d)]
    assert sum(count(layer) for layer in maps) == 5_753_955
    assert isinstance(generator.layers[-1], nn.ConvTranspose2d)
    assert {layer.negative_slope for layer in generator.layers if isinstance(layer, nn.LeakyReLU)} == {0.3}


def test_the_discriminator() -> None:
    with torch.device("meta"):
        discriminator = Discriminator()
        x = torch.zeros(2, 3, 227, 227)
        assert discriminator(x, torch.zeros(2, 4096)).shape == (2, 2)
        sides = []
        for layer in discriminator.image:
            x = layer(x)
            if isinstance(layer, nn.Conv2d | nn.AvgPool2d):
                sides.append(x.shape[-1])
    assert sides == [56, 52, 25, 23, 11, 1]
    assert count(discriminator.image) == 1_015_104
    assert count(discriminator.code) + count(discriminator.head) == 5_114_882


def test_the_encoder() -> None:
    with torch.device("meta"):
        encoder = AlexNet(pretrained=False)
        x = torch.zeros(2, 3, 227, 227)
        h1, h = encode(encoder, x)
        assert encoder.maps(x).shape == (2, 256, 13, 13)
        assert encoder(x).shape == (2, 1000)
    assert h1.shape == (2, 256, 6, 6)
    assert h1[0].numel() == 9216
    assert h.shape == (2, 4096)
    assert count(encoder) == 61_100_840


def test_the_seven_hidden_layers_of_the_denoiser() -> None:
    with torch.device("meta"):
        layers = [layer for layer in DenseDenoiser(4096) if isinstance(layer, nn.Linear)]
    assert [layer.out_features for layer in layers] == [4096, 2048, 1024, 500, 1024, 2048, 4096, 4096]


def test_the_parts_of_alexnet_are_torchvisions() -> None:
    torch.manual_seed(0)
    whole = torchvision_network("alexnet", 5, pretrained=False).eval()
    torch.manual_seed(0)
    encoder = AlexNet(5, pretrained=False).eval()
    x = 50 * torch.randn(2, 3, 227, 227)
    std = 255 * torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
    torch.testing.assert_close(encoder(x), whole(x / std))
    h1, h = encode(encoder, x)
    assert bool((h >= 0).all())
    torch.testing.assert_close(h1, whole.get_submodule("features")(x / std))


def test_the_judge_ends_in_its_linear_layer() -> None:
    with torch.device("meta"):
        judge = ResNet50(pretrained=False)
        assert judge(torch.zeros(1, 3, 227, 227)).shape == (1, 1000)
    assert isinstance(judge[-1], nn.Linear)
    assert judge[-1].in_features == 2048
    assert count(judge) == 25_557_032


def test_weights_of_the_user(tmp_path: Path) -> None:
    network = torchvision_network("squeezenet1_1", 3, pretrained=False)
    path = tmp_path / "weights.pth"
    torch.save(network.state_dict(), path)
    loaded = torchvision_network("squeezenet1_1", 3, pretrained=str(path))
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in network.state_dict().items())
    with pytest.raises(ValueError, match="does not fit SqueezeNet"):
        torchvision_network("squeezenet1_1", 4, pretrained=str(path))
    with pytest.raises(ValueError, match="no such file; expected weights, true"):
        torchvision_network("squeezenet1_1", 3, pretrained=str(tmp_path / "none.pth"))
    with pytest.raises(ValueError, match="classes=205: torchvision's weights have 1000"):
        AlexNet(205)


def test_small_networks_fit_together() -> None:
    encoder, x = SmallEncoder(), torch.randn(2, 1, 28, 28)
    h1, h = encode(encoder, x)
    assert h1.shape == (2, 32, 7, 7)
    assert h.shape == (2, 128)
    assert bool((h >= 0).all())
    generated = SmallGenerator()(h)
    assert generated.shape == x.shape
    assert SmallDiscriminator()(generated, h).shape == (2, 2)
    assert SmallJudge()(x).shape == encoder(x).shape == (2, 10)
    assert PixelDenoiser()(x).shape == x.shape
    assert PixelDenoiser(3, 4, 227)(torch.randn(1, 3, 227, 227)).shape == (1, 3, 227, 227)
    with pytest.raises(ValueError, match="side=30: expected a multiple of 4"):
        SmallGenerator(side=30)


def sides(network: nn.Sequential, x: torch.Tensor) -> list[int]:
    """Width of the maps behind each convolution."""
    made = []
    for layer in network:
        x = layer(x)
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            made.append(x.shape[-1])
    return made


def test_maps_of_the_small_networks() -> None:
    x = torch.randn(2, 1, 28, 28)
    assert sides(PixelDenoiser(), x) == [14, 7, 14, 28]
    discriminator = SmallDiscriminator()
    assert sides(discriminator.image, x) == [14, 7, 4]
    slopes = [layer.negative_slope for layer in discriminator.modules() if isinstance(layer, nn.LeakyReLU)]
    assert slopes == [0.3] * 5
    assert isinstance(discriminator.code[-1], nn.LeakyReLU)
