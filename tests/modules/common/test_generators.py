"""Generators: shapes, what each enlarges by, hand-computed quality, and that training moves both players."""

from __future__ import annotations

import copy
import io
import itertools
import math
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from datamodules.common.loader import batch_type
from modules.common.diffusion import NoiseSchedule, RowNoise
from modules.common.generators import (
    AutoEncoder,
    AutoEncoderNet,
    MakesPictures,
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


def test_a_gan_halves_and_doubles_between_code_and_picture() -> None:
    """DCGAN's widths, largest next to the code; the discriminator mirrors the generator."""
    gan = PictureGAN(32, width=4, code=8)
    up = [layer for layer in gan.generator if isinstance(layer, nn.ConvTranspose2d)]
    assert [(layer.in_channels, layer.out_channels) for layer in up] == [(8, 16), (16, 8), (8, 4), (4, 3)]
    down = [layer for layer in gan.discriminator if isinstance(layer, nn.Conv2d)]
    assert [(layer.in_channels, layer.out_channels) for layer in down] == [(3, 4), (4, 8), (8, 16)]
    assert gan.discriminator[-1].in_features == 16 * 4 * 4
    assert gan.discriminator(gan(torch.randn(2, 8))).shape == (2, 1)
    assert PictureGAN(8, width=4).discriminator(torch.zeros(2, 3, 8, 8)).shape == (2, 1)
    for size in (4, 20, 3):
        with pytest.raises(ValueError, match=f"size={size}: expected 4 times 2, 4, 8"):
            PictureGAN(size)
    assert PictureGAN().code == 64
    (code,) = gan.to("meta").example((3, 32, 32))
    assert (code.shape, code.device.type) == ((1, 8), "meta")
    assert gan.players() == [[gan.discriminator], [gan.generator]]


def test_a_gans_step_moves_each_player_by_its_own_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    gan = PictureGAN(8, width=4, code=3, optimizer=partial(torch.optim.SGD, lr=0.1))
    optimizers = gan.configure_optimizers()
    monkeypatch.setattr(gan, "steppers", lambda: optimizers)
    monkeypatch.setattr(gan, "manual_backward", lambda loss: loss.backward())
    losses: list[float] = []
    minimise = gan.minimise
    moved: list[tuple[bool, bool]] = []

    def spy(loss: Tensor, *optimizers: Any) -> None:
        before = [copy.deepcopy(own[0].state_dict()) for own in gan.players()]
        minimise(loss, *optimizers)
        after = [own[0].state_dict() for own in gan.players()]
        parameters = [[name for name, _ in own[0].named_parameters()] for own in gan.players()]
        pairs = zip(before, after, parameters, strict=True)
        moved.append(tuple(any(not torch.equal(b[n], a[n]) for n in names) for b, a, names in pairs))  # type: ignore[arg-type]
        losses.append(float(loss.detach()))

    monkeypatch.setattr(gan, "minimise", spy)
    x = torch.rand(6, 3, 8, 8) * 2 - 1
    returned = gan.training_step(batch_type(("x", "y"))(x, torch.zeros(6)), 0)
    assert moved == [(True, False), (False, True)]
    means = {name: float(value) / gan._count for name, value in gan._sums.items()}
    assert gan._count == 6
    assert (means["loss"], means["generator"]) == pytest.approx(tuple(losses), rel=1e-5)
    assert float(returned) == pytest.approx(losses[0], rel=1e-5)
    assert not returned.requires_grad


def test_the_logistic_loss_of_both_players(monkeypatch: pytest.MonkeyPatch) -> None:
    """A discriminator that says the mean of a picture: softplus of it, by hand; 0 is no answer."""

    fakes = torch.tensor([-2.0, 0.0, 1.0]).view(3, 1, 1, 1).expand(3, 3, 8, 8)

    class Says(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mean((1, 2, 3))[:, None]

    class Draws(nn.Module):
        def forward(self, code: Tensor) -> Tensor:
            return fakes

    gan = PictureGAN(8, width=4, code=3)
    gan.discriminator, gan.generator = Says(), Draws()  # type: ignore[assignment]
    losses: list[Tensor] = []
    monkeypatch.setattr(gan, "steppers", lambda: [None, None])
    monkeypatch.setattr(gan, "minimise", lambda loss, optimizer: losses.append(loss))
    x = torch.tensor([3.0, 0.0, -1.0]).view(3, 1, 1, 1).expand(3, 3, 8, 8)
    gan.training_step(batch_type(("x", "y"))(x, torch.zeros(3)), 0)
    real, fake = torch.tensor([3.0, 0.0, -1.0]), torch.tensor([-2.0, 0.0, 1.0])
    assert float(losses[0]) == pytest.approx(float(F.softplus(-real).mean() + F.softplus(fake).mean()))
    assert float(losses[1]) == pytest.approx(float(F.softplus(-fake).mean()))
    assert float(gan._sums["right"]) / 3 == pytest.approx(100 * 2 / 6)


def test_an_autoencoder_learns_its_input() -> None:
    module = AutoEncoder(AutoEncoderNet(4, 6), torch.optim.Adam, lambda position: 0.5)
    x = torch.rand(5, 3, 8, 8)
    loss = module.training_step(batch_type(("x", "y"))(x, torch.zeros(5)), 0)
    assert float(loss.detach()) == pytest.approx(float(F.mse_loss(module(x), x).detach()))
    assert float(module._sums["loss"]) / 5 == pytest.approx(float(loss.detach()))
    assert (module._count, module.optimizer_factory) == (5, torch.optim.Adam)
    assert module.schedule is not None
    with torch.no_grad():
        assert torch.equal(module.make(x, x), module(x))


class Fades(MakesPictures):
    """Half of each picture, and its noise."""

    def make(self, x: Tensor, noise: Tensor) -> Tensor:
        self.noises = [*getattr(self, "noises", []), noise]
        return (x / 2).bfloat16()


def test_the_test_of_a_generator_keeps_a_picture_for_each(logged: Callable[..., dict[str, float]]) -> None:
    module = Fades()
    assert (module.artifacts(), module.pictures(None)) == ({}, {})
    module._trainer = SimpleNamespace(global_rank=1, world_size=2)  # type: ignore[assignment]
    torch.manual_seed(3)
    module.on_test_epoch_start()
    x = torch.rand(12, 3, 8, 8) * 2 - 1
    batch = batch_type(("x", "y"))
    values = logged(module, batch(x[:9], torch.zeros(9)), batch(x[9:], torch.zeros(3)))
    expected = (((x / 2).bfloat16().float() + 1) / 2 * 255).round().to(torch.uint8)
    assert torch.equal(torch.from_numpy(module.artifacts()["pictures"]), expected)

    quality = Quality()
    quality.update(x, expected.float() / 127.5 - 1)
    assert values == pytest.approx({f"test/{name}": value for name, value in quality.compute().items()}, rel=1e-5)

    torch.manual_seed(3)
    noise = RowNoise(int(torch.randint(2**31, ())), 1, 2)
    assert torch.equal(torch.cat(module.noises), noise(x)[1])

    shown: list[Tensor] = []

    def show(part: Tensor) -> Tensor:
        shown.append(part)
        return (part + 1) / 2

    assert list(module.pictures(SimpleNamespace(shown=show))) == ["generated pictures"]
    assert torch.equal(shown[0], x[:8])
    assert torch.equal(shown[1], expected[:8].float() / 127.5 - 1)

    module.on_test_epoch_start()  # anew
    assert module.artifacts() == {}
    assert float(module.quality.sums.abs().sum()) == 0
    with pytest.raises(NotImplementedError, match="MakesPictures does not say how"):
        MakesPictures().make(x, x)


def test_sums_of_many_pictures_keep_their_digits() -> None:
    assert Quality().sums.dtype == torch.float64


def test_codes_are_diffused_and_trained_on() -> None:
    """A latent model's loss is that of the standardised codes; decoded pictures stay in range."""
    autoencoder = AutoEncoder(AutoEncoderNet(4, 6))
    unet = UNet(8, 6, 8, [1, 2], res_blocks=1, head_channels=8, groups=4)
    latent = PictureDDPM(unet, NoiseSchedule(100), 3, autoencoder, 0.5, torch.optim.Adam, lambda position: 0.5)
    assert (latent.steps, latent.optimizer_factory) == (3, torch.optim.Adam)
    assert latent.average is not None
    assert latent.average.decay == 0.5
    assert latent.schedule is not None
    seen: list[Tensor] = []
    latent.network.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    latent.training_step(batch_type(("x", "y"))(torch.rand(4, 3, 32, 32), torch.zeros(4)), 0)
    assert seen[0].shape == (4, 6, 8, 8)
    decoded = latent.eval().decode(1e4 * torch.randn(2, 6, 8, 8))
    assert (float(decoded.detach().min()), float(decoded.detach().max())) == (-1.0, 1.0)

    pictures = PictureDDPM(UNet(8, 3, 8, [1, 2], 1, (), 8, 4), NoiseSchedule(100))
    x = torch.rand(2, 3, 8, 8)
    assert pictures.encode(x) is x
    assert pictures.decode(x) is x
    assert (pictures.steps, pictures.average.decay) == (20, 0.99)  # type: ignore[union-attr]
    start, t = pictures.to("meta").example((3, 8, 8))
    assert [(start.shape, start.device.type), (t.dtype, t.device.type)] == [
        ((1, 3, 8, 8), "meta"),
        (torch.int64, "meta"),
    ]


def test_a_sample_starts_from_as_much_noise_as_its_codes_have(monkeypatch: pytest.MonkeyPatch) -> None:
    latent = PictureDDPM(
        UNet(8, 6, 8, [1, 2], 1, (), 8, 4), NoiseSchedule(100), 7, AutoEncoder(AutoEncoderNet(4, 6)), decay=None
    )
    asked: list[Any] = []
    monkeypatch.setattr(latent, "sample", lambda start, steps: asked.append((start, steps)) or start)
    monkeypatch.setattr(latent, "decode", lambda codes: codes)
    latent.eval()
    noise = torch.randn(5, 3, 32, 32)
    assert torch.equal(latent.make(torch.zeros(5, 3, 32, 32), noise), noise.flatten(1)[:, :384].view(5, 6, 8, 8))
    assert asked[0][1] == 7
