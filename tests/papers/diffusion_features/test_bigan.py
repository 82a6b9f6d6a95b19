"""BiGAN's losses by hand, who gets which gradient, and that its players learn."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from modules.diffusion_features.bigan import BiGAN, halvings
from tests.schedules import half


@pytest.fixture
def gan() -> BiGAN:
    torch.manual_seed(0)
    return BiGAN(1, 8, 4, 6, partial(torch.optim.Adam, lr=1e-3))


def manual(gan: BiGAN) -> list[Any]:
    """Optimisers in place of a trainer's."""
    optimizers: Any = gan.configure_optimizers()
    gan.optimizers = lambda: optimizers  # type: ignore[method-assign]
    gan.manual_backward = lambda loss: loss.backward()  # type: ignore[method-assign]
    return optimizers


def test_shapes(gan: BiGAN, batch: Any) -> None:
    code = gan.encoder(batch.x)
    assert code.shape == (60, 6)
    assert gan.generator(code).shape == batch.x.shape
    assert gan.discriminator(batch.x, code).shape == (60,)
    assert float(gan.generator(100 * code).detach().abs().max()) <= 1


def test_slopes_are_dcgans(gan: BiGAN) -> None:
    slopes = [layer.negative_slope for layer in gan.modules() if isinstance(layer, nn.LeakyReLU)]
    assert slopes == [0.2] * (2 + 2 + 2)


def test_both_players_keep_to_the_schedule() -> None:
    assert BiGAN(1, 8, 4, 6, partial(torch.optim.Adam, lr=1e-3), half).schedule is half


def test_reconstruction_is_a_share_of_what_the_mean_image_leaves(
    gan: BiGAN, batch: Any, logged: Callable[..., dict[str, float]]
) -> None:
    """Over batches of unlike size, and again from the beginning in another test."""
    gan.eval()
    gan._trainer = SimpleNamespace(strategy=SimpleNamespace(reduce=lambda value, reduce_op: value))  # type: ignore[assignment]
    parts = [batch._replace(x=batch.x[rows]) for rows in (slice(0, 45), slice(45, 60))]
    with torch.no_grad():
        error = (gan.generator(gan.encoder(batch.x)) - batch.x).square().sum()
        spread = (batch.x - batch.x.mean(0)).square().sum()
        for _ in range(2):
            values = logged(gan, *parts)
            assert values == pytest.approx({"test/reconstruction": float(error / spread), "test/n": 60}, rel=1e-4)


def test_losses_by_hand(gan: BiGAN, batch: Any) -> None:
    manual(gan)
    tracked: dict[str, float] = {}
    gan.track = lambda count, **values: tracked.update({k: float(v) for k, v in values.items()})  # type: ignore[method-assign]
    nn.init.zeros_(gan.discriminator.logit.weight)
    nn.init.constant_(gan.discriminator.logit.bias, 2.0)
    gan.training_step(batch, 0)
    two = torch.tensor(2.0)
    expected = -F.logsigmoid(two) - torch.log(1 - torch.sigmoid(two))
    assert tracked["loss"] == pytest.approx(float(expected), rel=1e-5)
    assert tracked["right"] == 50  # all are called real


def test_each_player_moves_by_its_own_loss(gan: BiGAN, batch: Any) -> None:
    optimizers = manual(gan)
    players = {"discriminator": gan.discriminator, "encoder": gan.encoder, "generator": gan.generator}
    before = {name: [p.detach().clone() for p in player.parameters()] for name, player in players.items()}
    for group in optimizers[1].param_groups:
        group["lr"] = 0.0
    gan.training_step(batch, 0)
    moved = {
        name: any(not torch.equal(p, old) for p, old in zip(player.parameters(), before[name], strict=True))
        for name, player in players.items()
    }
    assert moved == {"discriminator": True, "encoder": False, "generator": False}
    assert all(p.requires_grad for p in gan.discriminator.parameters())


def test_the_discriminator_learns_to_tell_pairs_apart(gan: BiGAN, batch: Any) -> None:
    optimizers = manual(gan)
    for group in optimizers[1].param_groups:
        group["lr"] = 0.0
    torch.manual_seed(0)
    losses = [float(gan.training_step(batch, 0)) for _ in range(60)]
    assert losses[-1] < 0.5 * losses[0]


def test_source_reads_encoder_and_discriminator(gan: BiGAN, batch: Any) -> None:
    source = gan.eval().source()
    assert list(source.shapes) == ["encoder1", "encoder2", "code", "discriminator1", "discriminator2"]
    nothing = torch.zeros(60)
    outputs = source(batch.x, nothing, batch.x, list(source.shapes))
    assert all(tuple(outputs[name].shape[1:]) == shape for name, shape in source.shapes.items())
    assert torch.equal(outputs["code"].flatten(1), gan.encoder(batch.x))
    assert torch.equal(outputs["discriminator2"], gan.discriminator.body(batch.x))


def test_reading_the_shapes_changes_no_mode(gan: BiGAN) -> None:
    statistics = gan.encoder.body[1][1].running_mean.clone()
    gan.source()
    assert all(layer.training for layer in gan.modules())
    assert torch.equal(gan.encoder.body[1][1].running_mean, statistics)


def test_wrong_size() -> None:
    assert halvings(16) == 3
    with pytest.raises(ValueError, match="size=12: expected 2 times 2, 4, 8"):
        halvings(12)
