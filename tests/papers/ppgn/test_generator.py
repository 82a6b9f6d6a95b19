"""Training of G: whose weights a step changes, what each arm's terms are, noise, and the denoisers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from modules.ppgn.codes import Codes
from modules.ppgn.denoiser import Denoiser
from modules.ppgn.generator import GeneratorTraining, Noise, crop
from modules.ppgn.losses import Pause, Weights
from modules.ppgn.networks import DenseDenoiser, PixelDenoiser, encode
from tests.papers.ppgn.conftest import train_generator

X = torch.randn(8, 1, 28, 28, generator=torch.Generator().manual_seed(3))


def step(module: GeneratorTraining, monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """One training step without Lightning; returns what was tracked."""
    tracked: dict[str, float] = {}
    made = module.configure_optimizers()
    monkeypatch.setattr(module, "optimizers", lambda: made if len(made) > 1 else made[0])
    monkeypatch.setattr(module, "manual_backward", lambda loss: loss.backward())
    monkeypatch.setattr(
        module, "track", lambda n, **values: tracked.update({k: float(v.detach()) for k, v in values.items()})
    )
    torch.manual_seed(0)
    module.training_step(SimpleNamespace(x=X), 0)
    return tracked


def weights(network: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in network.parameters()]


def changed(network: nn.Module, before: list[Tensor]) -> bool:
    return any(not torch.equal(p, old) for p, old in zip(network.parameters(), before, strict=True))


def test_a_step_trains_g_and_d_and_leaves_e(stages: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    module = train_generator(stages.encoder)
    assert module.discriminator is not None
    before = [weights(n) for n in (module.generator, module.discriminator, stages.encoder)]
    tracked = step(module, monkeypatch)
    assert changed(module.generator, before[0])
    assert changed(module.discriminator, before[1])
    assert not changed(stages.encoder, before[2])
    assert all(p.grad is None for p in stages.encoder.parameters())
    assert all(p.requires_grad for p in module.discriminator.parameters())
    assert {"image", "feature", "adversarial", "discriminator", "loss"} <= set(tracked)
    assert "code" not in tracked
    assert tracked["loss"] == pytest.approx(
        tracked["image"] + 0.3 * tracked["feature"] + 0.05 * tracked["adversarial"], rel=1e-5
    )


def test_the_encoder_is_frozen_in_evaluation_mode_and_passes_gradients(stages: Any) -> None:
    module = train_generator(stages.encoder)
    module.train()
    (encoder,) = module.encoder.networks
    assert not encoder.training
    assert "encoder" not in {name.split(".")[0] for name in module.state_dict()}
    fake = module.generate(torch.rand(2, 128))
    encode(encoder, fake)[0].sum().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in module.generator.parameters())


@pytest.mark.parametrize(
    ("pause", "trains"),
    [(Pause(0.0, 1e9), (True, True)), (Pause(1e6, 1e9), (False, True)), (Pause(0, 1e-9), (True, False))],
)
def test_whoever_is_paused_keeps_its_weights(
    stages: Any, monkeypatch: pytest.MonkeyPatch, pause: Pause, trains: tuple[bool, bool]
) -> None:
    module = train_generator(stages.encoder, pause=pause)
    assert module.discriminator is not None
    before = [weights(module.discriminator), weights(module.generator)]
    tracked = step(module, monkeypatch)
    assert (changed(module.discriminator, before[0]), changed(module.generator, before[1])) == trains
    assert (tracked["d_trains"], tracked["g_trains"]) == trains


def test_without_a_discriminator(stages: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = Weights(image=1.0, feature=0.3, adversarial=0.0, form="mean")
    module = train_generator(stages.encoder, weights=bare, discriminator=None)
    assert len(module.configure_optimizers()) == 1
    assert set(step(module, monkeypatch)) == {"image", "feature", "loss"}
    with pytest.raises(ValueError, match=r"adversarial=0.0: expected 0 without a discriminator"):
        train_generator(stages.encoder, weights=bare)


def test_a_perfect_reconstruction_costs_nothing(stages: Any) -> None:
    module = train_generator(stages.encoder, weights=Weights(1.0, 0.3, 0.1, 0.05))
    (encoder,) = module.encoder.networks
    h1, h = encode(encoder, X)
    terms = module.reconstruction_terms(encoder, X, h1, h, X)
    assert set(terms) == {"image", "feature", "code"}
    assert all(float(term) == 0 for term in terms.values())


def test_noise_of_the_joint_arm(stages: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    stages.codes.spread.copy_(torch.tensor([2.0, 3.0, 5.0]))
    silent = train_generator(stages.encoder, noise=Noise(), codes=stages.codes)
    (encoder,) = silent.encoder.networks
    h1, h = encode(encoder, X)
    torch.testing.assert_close(silent.corrupt(encoder, X, h1, h), h)
    on_h = train_generator(stages.encoder, noise=Noise(h=0.1), codes=stages.codes)
    big = h.repeat(40, 1)
    added = on_h.corrupt(encoder, X.repeat(40, 1, 1, 1), h1.repeat(40, 1, 1, 1), big) - big
    assert float(added.std()) == pytest.approx(0.1 * 5, rel=0.05)
    for noise in (Noise(x=0.1), Noise(h1=0.1)):
        arm = train_generator(stages.encoder, noise=noise, codes=stages.codes)
        assert not torch.equal(arm.corrupt(encoder, X, h1, h), h)
    with pytest.raises(ValueError, match="expected a stage `codes`"):
        train_generator(stages.encoder, noise=Noise())


def test_the_middle_of_an_image() -> None:
    x = torch.arange(36.0).view(1, 1, 6, 6)
    assert crop(x, 2).flatten().tolist() == [14, 15, 20, 21]
    assert crop(torch.zeros(1, 3, 256, 256), 227).shape == (1, 3, 227, 227)


def test_spread_and_top_of_codes(stages: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    module = Codes(stages.encoder, quantile=0.9)
    monkeypatch.setattr(module, "log_dict", lambda values: None)
    monkeypatch.setattr(module, "log", lambda name, value: None)
    monkeypatch.setattr(module, "_trainer", SimpleNamespace(optimizers=[]))
    for part in X[:6].split(3):
        module.training_step(SimpleNamespace(x=part), 0)
    stored: dict[str, Any] = {}
    module.on_save_checkpoint(stored)
    module = Codes(stages.encoder, quantile=0.9)  # interrupted, and begun again
    monkeypatch.setattr(module, "log_dict", lambda values: None)
    monkeypatch.setattr(module, "log", lambda name, value: None)
    monkeypatch.setattr(module, "_trainer", SimpleNamespace(optimizers=[]))
    module.on_load_checkpoint(stored)
    module.training_step(SimpleNamespace(x=X[6:]), 2)
    module.on_train_epoch_end()
    h1, h = encode(stages.encoder.network.eval(), X)
    expected = [values.std(correction=0) for values in (X, h1, h)]
    torch.testing.assert_close(module.spread, torch.stack(expected), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(module.top, h.quantile(0.9, dim=0))
    with pytest.raises(ValueError, match="quantile=2: expected a number above 0, up to 1"):
        Codes(stages.encoder, quantile=2)


# Denoisers


def test_a_trained_denoiser_is_the_score() -> None:
    """Data N(0, 1), noise sigma: R(s) = s / (1 + sigma^2), so that (R(s) - s) / sigma^2 = -s / (1 + sigma^2)."""
    torch.manual_seed(0)
    sigma = 0.7
    network = DenseDenoiser(1, (32, 32))
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    for _ in range(1200):
        s = torch.randn(256, 1)
        loss = nn.functional.mse_loss(network(s + sigma * torch.randn_like(s)), s)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    s = torch.linspace(-1.5, 1.5, 7)[:, None]
    score = (network(s) - s) / sigma**2
    torch.testing.assert_close(score, -s / (1 + sigma**2), atol=0.15, rtol=0)


def test_a_denoiser_of_codes_and_one_of_pixels(stages: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    stages.codes.spread.copy_(torch.tensor([2.0, 3.0, 5.0]))
    codes = Denoiser(DenseDenoiser(128, (16,)), stages.codes, 0.1, encoder=stages.encoder)
    pixels = Denoiser(PixelDenoiser(), stages.codes, 0.1)
    assert (codes.sigma, pixels.sigma) == (pytest.approx(0.5), pytest.approx(0.2))
    torch.testing.assert_close(codes.states(X), encode(stages.encoder.network, X)[1])
    assert pixels.states(X) is X
    for module in (codes, pixels):
        monkeypatch.setattr(module, "track", lambda n, **values: None)
        module.training_step(SimpleNamespace(x=X), 0).backward()
        assert all(p.grad is not None for p in module.network.parameters())
    assert all(p.grad is None for p in stages.encoder.parameters())
    with pytest.raises(ValueError, match="sigma=0: expected a number above 0"):
        Denoiser(PixelDenoiser(), stages.codes, 0)


def test_a_denoiser_is_compared_with_the_noise(stages: Any, logged: Any) -> None:
    """One that leaves everything as it is has exactly the error of the noise."""
    stages.codes.spread.copy_(torch.tensor([2.0, 3.0, 5.0]))
    for module in (
        Denoiser(nn.Identity(), stages.codes, 0.1),
        Denoiser(nn.Identity(), stages.codes, 0.1, stages.encoder),
    ):
        torch.manual_seed(0)
        with torch.no_grad():
            metrics = logged(module, SimpleNamespace(x=X[:5]), SimpleNamespace(x=X[5:]))
        assert metrics["test/n"] == 8
        assert metrics["test/noise"] == pytest.approx(module.sigma**2, rel=0.2)
        assert metrics["test/mse"] == pytest.approx(metrics["test/noise"], rel=1e-4)
    assert [tuple(part.shape) for part in module.example((1, 28, 28))] == [(1, 128)]
    pixels = Denoiser(PixelDenoiser(), stages.codes)
    assert pixels(*pixels.example((1, 28, 28))).shape == (1, 1, 28, 28)


def test_reconstructions_are_compared_with_their_images(stages: Any, logged: Any) -> None:
    module = train_generator(stages.encoder, judge=stages.judge).eval()
    encoder, judge = stages.encoder.network.eval(), stages.judge.eval()
    with torch.no_grad():
        h = encode(encoder, X)[1]
        made = module.generate(h)
        called = judge(made).argmax(1)
        y = torch.where(torch.arange(8) < 3, (called + 1) % 10, called)
        module.on_test_epoch_start()
        metrics = logged(module, SimpleNamespace(x=X[:5], y=y[:5]), SimpleNamespace(x=X[5:], y=y[5:]))
        assert metrics["test/code_mse"] == pytest.approx(
            float((encode(encoder, made)[1] - h).square().mean()), rel=1e-4
        )
    assert metrics["test/image_mse"] == pytest.approx(float((made - X).square().mean()), rel=1e-4)
    assert metrics["test/judge_top1"] == pytest.approx(100 * 5 / 8)
    assert metrics["test/n"] == 8
    torch.testing.assert_close(torch.stack(module._shown), torch.stack([X[:5], made[:5]]))
    without = train_generator(stages.encoder).eval()
    with torch.no_grad():
        assert set(logged(without, SimpleNamespace(x=X, y=y))) == {"test/image_mse", "test/code_mse", "test/n"}


def test_no_optimiser_steps_while_codes_are_looked_at(stages: Any) -> None:
    assert not Codes(stages.encoder).automatic_optimization
    assert Codes(stages.encoder).configure_optimizers() == []
