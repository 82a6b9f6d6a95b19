"""Generators: shapes, what each enlarges by, hand-computed quality, and that training moves both players."""

from __future__ import annotations

import io
import itertools
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from modules.common.diffusion import NoiseSchedule
from modules.common.generators import (
    AutoEncoder,
    AutoEncoderNet,
    PictureDDPM,
    PictureGAN,
    Quality,
    draw_rows,
    laplacian,
)
from modules.common.unet import UNet


@pytest.mark.parametrize("enlarge", ["transposed", "nearest"])
def test_autoencoders_give_pictures_of_any_size(enlarge: str) -> None:
    network = AutoEncoderNet(8, 4, enlarge)
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 3, 32, 32)
    assert network(torch.zeros(1, 3, 64, 40)).shape == (1, 3, 64, 40)
    kinds = {type(layer) for layer in network.decoder.modules()}
    assert (nn.ConvTranspose2d in kinds) == (enlarge == "transposed")
    assert (nn.Upsample in kinds) == (enlarge == "nearest")


def test_an_unknown_way_to_enlarge_is_refused() -> None:
    with pytest.raises(ValueError, match="enlarge='bicubic': expected one of transposed, nearest"):
        AutoEncoderNet(enlarge="bicubic")


def test_gan_and_diffusion_draw_pictures_from_noise_alone() -> None:
    gan = PictureGAN(32, width=4, code=8)
    unet = UNet(32, 3, 8, [1, 2], res_blocks=1, head_channels=8, groups=4)
    ddpm = PictureDDPM(unet, NoiseSchedule(100), steps=2, decay=None)
    of_codes = UNet(8, 6, 8, [1, 2], res_blocks=1, head_channels=8, groups=4)
    latent = PictureDDPM(of_codes, NoiseSchedule(100), 2, AutoEncoder(AutoEncoderNet(4, 6)), decay=None)
    assert latent(*latent.example((3, 32, 32))).shape == (1, 6, 8, 8)
    noise = torch.randn(2, 3, 32, 32)
    for stage in (gan, ddpm, latent):
        stage.eval()
        first, second = stage.make(torch.zeros(2, 3, 32, 32), noise), stage.make(torch.ones(2, 3, 32, 32), noise)
        assert first.shape == (2, 3, 32, 32)
        assert torch.equal(first, second)
        assert float(first.detach().abs().max()) <= 1 + 1e-5
    with pytest.raises(ValueError, match="size=48"):
        PictureGAN(48)


def test_codes_are_standardised_and_the_autoencoder_stays_as_it_is() -> None:
    autoencoder = AutoEncoder(AutoEncoderNet(4, 6))
    unet = UNet(8, 6, 8, [1, 2], res_blocks=1, head_channels=8, groups=4)
    latent = PictureDDPM(unet, NoiseSchedule(100), 2, autoencoder, decay=None)
    x = torch.rand(16, 3, 32, 32) * 2 - 1
    codes = latent.encode(x)
    assert torch.allclose(codes.mean((0, 2, 3)), torch.zeros(6), atol=1e-5)
    assert torch.allclose(codes.std((0, 2, 3), correction=0), torch.full((6,), 1 / 3), atol=5e-3)
    for _ in range(200):
        latent.encode(x)  # until the running moments are those of the batch
    latent.eval()
    assert torch.allclose(latent.decode(latent.encode(x)), autoencoder(x).clamp(-1, 1), atol=1e-4)
    assert not [name for name, _ in latent.named_parameters() if not name.startswith("network")]


def test_the_laplacian_is_a_convolution() -> None:
    x = torch.rand(3, 2, 9, 7, dtype=torch.float64)
    kernel = torch.tensor([[0.0, -1, 0], [-1, 4, -1], [0, -1, 0]], dtype=torch.float64).expand(2, 1, 3, 3)
    assert torch.allclose(laplacian(x), F.conv2d(x, kernel, groups=2).square().mean((1, 2, 3)))
    assert float(laplacian(torch.ones(1, 1, 5, 5))) == 0


def test_quality_by_hand() -> None:
    real = torch.randn(6, 3, 8, 8)
    quality = Quality()
    quality.update(real[:2], real[:2] / 2)
    quality.update(real[2:], real[2:] / 2)
    values = quality.compute()
    assert values["n"] == 6
    assert values["contrast"] == pytest.approx(0.5, abs=1e-6)
    assert values["detail"] == pytest.approx(-2, abs=1e-6)  # a quarter of the energy
    error = (real / 2).square().flatten(1).mean(1) / 4
    assert values["psnr"] == pytest.approx(float((-10 * error.log10()).mean()), abs=1e-4)
    flat = Quality()
    flat.update(real, torch.zeros_like(real))
    assert flat.compute()["contrast"] == 0
    assert math.isfinite(flat.compute()["detail"])


@pytest.mark.usefixtures("real_layout")
def test_rows_of_pictures_leave_room_for_their_names() -> None:
    figure = draw_rows(torch.rand(2, 3, 3, 8, 8), ("real", "generated"))
    before = [axis.get_position().bounds for axis in figure.axes]
    figure.savefig(io.BytesIO())
    assert [axis.get_position().bounds for axis in figure.axes] != before  # the layout was looked for
    boxes = [axis.get_tightbbox() for axis in figure.axes]
    assert not [1 for one, two in itertools.combinations(boxes, 2) if one.overlaps(two)]
    assert all(figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1 for box in boxes)
