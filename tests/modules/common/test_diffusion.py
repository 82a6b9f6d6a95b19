"""Noise schedule, losses and samplers against hand-computed values, independent references and limit cases."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from datamodules.common.loader import batch_type
from modules.common import diffusion
from modules.common.diffusion import (
    DDPM,
    NoiseSchedule,
    RowNoise,
    discretised_log_likelihood,
    gaussian_kl,
    variational_bound,
)
from modules.common.unet import UNet


def network(**options: Any) -> UNet:
    torch.manual_seed(0)
    return UNet(4, 1, 8, (1, 1), 1, (), 4, 4, zero=False, **options)


class Known(nn.Module):
    """Predicts the noise exactly, for images that are all x_0 = value."""

    classes = None

    def __init__(self, schedule: NoiseSchedule, value: float) -> None:
        super().__init__()
        self.schedule, self.value = schedule, value

    def forward(self, noisy: Tensor, t: Tensor) -> Tensor:
        return (noisy - self.schedule.at("signal", t) * self.value) / self.schedule.at("noise", t)


def test_published_schedule() -> None:
    abar = NoiseSchedule().abar
    expected = {10: 0.99781, 30: 0.98771, 50: 0.96995, 90: 0.91326, 150: 0.78589, 300: 0.39401, 500: 0.0778}
    for t, value in expected.items():
        assert float(abar[t]) == pytest.approx(value, abs=6e-6)
    assert float(NoiseSchedule(100).abar[-1]) < 1e-4  # fewer steps end in noise too


def test_noise_and_back() -> None:
    schedule, x, eps = NoiseSchedule(), torch.rand(4, 1, 4, 4), torch.randn(4, 1, 4, 4)
    t = torch.tensor([0, 90, 500, 800])
    noisy = schedule.diffuse(x, t, eps)
    assert torch.allclose(schedule.clean(noisy, t, eps), x, atol=1e-4)
    assert torch.allclose(schedule.diffuse(x, t[:1].expand(4), torch.zeros_like(x)), x, atol=1e-4)


def test_posterior_is_bayes_rule() -> None:
    """Of x_{t-1} ~ N(sqrt(abar_{t-1}) x_0, 1 - abar_{t-1}) and x_t ~ N(sqrt(1 - beta_t) x_{t-1}, beta_t)."""
    schedule, t = NoiseSchedule(), torch.tensor([400])
    x, noisy = torch.tensor(0.3).view(1, 1, 1, 1), torch.tensor(-0.8).view(1, 1, 1, 1)
    before, beta = float(schedule.abar[399].double()), float(schedule.beta[400].double())
    precision = 1 / (1 - before) + (1 - beta) / beta
    mean = (math.sqrt(before) * 0.3 / (1 - before) + math.sqrt(1 - beta) * -0.8 / beta) / precision
    got, log_variance = schedule.posterior(x, noisy, t)
    assert float(got) == pytest.approx(mean, rel=1e-4)
    assert float(log_variance.exp()) == pytest.approx(1 / precision, rel=1e-4)


def test_learned_variance_lies_between() -> None:
    schedule, t = NoiseSchedule(), torch.tensor([7])
    one = torch.ones(1, 1, 1, 1)
    assert float(schedule.learned(one, t)) == pytest.approx(float(schedule.beta[7].log()))
    assert float(schedule.learned(-one, t)) == pytest.approx(float(schedule.log_variance[7]))


def test_kl_against_torch() -> None:
    m1, m2, v1, v2 = torch.randn(4, 5)
    p, q = (torch.distributions.Normal(m, (0.5 * v).exp()) for m, v in ((m1, v1), (m2, v2)))
    assert torch.allclose(gaussian_kl(m1, v1, m2, v2), torch.distributions.kl_divergence(p, q), atol=1e-5)


def test_probabilities_of_all_values_add_up() -> None:
    values = (torch.arange(256).float() / 127.5 - 1).view(256, 1)
    for mean, log_variance in ((0.0, -2.0), (0.9, 0.5), (-1.2, -6.0)):
        total = discretised_log_likelihood(values, torch.tensor(mean), torch.tensor(log_variance)).exp().sum()
        assert float(total) == pytest.approx(1.0, abs=1e-4)


def test_the_bound_is_zero_for_the_truth_and_does_not_reach_the_mean() -> None:
    schedule, t = NoiseSchedule(), torch.tensor([300, 700])
    x, eps = torch.rand(2, 1, 4, 4) * 2 - 1, torch.randn(2, 1, 4, 4)
    noisy, v = schedule.diffuse(x, t, eps), torch.full((2, 1, 4, 4), -1.0)
    assert torch.allclose(variational_bound(schedule, x, noisy, t, eps, v), torch.zeros(2), atol=1e-5)
    assert bool((variational_bound(schedule, x, noisy, t, eps + 0.5, v) > 1e-4).all())

    model = DDPM(network(learned_variance=True), schedule, learned_variance=True, decay=None)
    batch = batch_type(("x", "y"))(x, torch.zeros(2, dtype=torch.long))
    torch.manual_seed(1)
    both = model.training_step(batch, 0)
    both.backward()
    gradient = model.network.out[2].weight.grad.clone()
    model.zero_grad()
    model.learned_variance = False
    model.network.out[2].register_forward_hook(lambda _, __, output: output[:, :1])
    torch.manual_seed(1)
    model.training_step(batch, 0).backward()
    assert torch.allclose(model.network.out[2].weight.grad[:1], gradient[:1], atol=1e-6)  # of the mean: mse's alone
    assert bool(gradient[1:].any())


def test_respaced_steps_keep_the_noise_levels() -> None:
    schedule = NoiseSchedule()
    short, kept = schedule.respaced(10)
    assert kept.tolist() == [0, 111, 222, 333, 444, 555, 666, 777, 888, 999]
    assert torch.allclose(short.abar, schedule.abar[kept], rtol=1e-4)
    whole, every = schedule.respaced(1000)
    assert torch.allclose(whole.beta, schedule.beta, rtol=1e-3)
    assert every.tolist() == list(range(1000))
    with pytest.raises(ValueError, match="steps=1: expected 2 to 1000"):
        schedule.respaced(1)


@pytest.mark.parametrize("eta", [0.0, 1.0, None])
def test_samplers_end_at_the_only_image_there_is(eta: float | None) -> None:
    schedule = NoiseSchedule()
    model = DDPM(Known(schedule, 0.5), schedule, decay=None)  # type: ignore[arg-type]
    images = model.sample(torch.randn(3, 1, 4, 4), steps=20, eta=eta, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(images, torch.full_like(images, 0.5), atol=1e-3)


def test_samples_follow_from_the_noise_they_are_given() -> None:
    model = DDPM(network(), NoiseSchedule(), decay=0.9)
    start = torch.randn(2, 1, 4, 4)
    assert torch.equal(model.sample(start, steps=5), model.sample(start, steps=5))
    assert not torch.equal(model.sample(start, steps=5), model.sample(start + 0.1, steps=5))
    first, again, other = (
        model.sample(start, steps=5, eta=None, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_evaluation_takes_the_averaged_weights() -> None:
    model = DDPM(network(classes=2), NoiseSchedule(), decay=0.5)
    x, t, y = torch.randn(2, 1, 4, 4), torch.tensor([3, 4]), torch.tensor([0, 1])
    assert torch.equal(model.predict(x, t, y=y), model(x, t, y=y))
    with torch.no_grad():
        for parameter in model.network.parameters():
            parameter.add_(1.0)
    assert not torch.equal(model.predict(x, t, y=y), model(x, t, y=y))
    assert torch.equal(model.predict(x, t, y=y), model.averaged()(x, t, y))
    model.on_train_batch_end(None, None, 0)
    assert torch.allclose(model.averaged().out[0].bias, torch.full((8,), 0.9))  # warm: 1 / 10 of the old is kept
    assert model.inputs(batch_type(("x", "y"))(x, y))["y"] is y
    assert [tuple(a.shape) for a in model.example((1, 4, 4))] == [(1, 1, 4, 4), (1,), (1,)]


def test_noise_of_rows_does_not_depend_on_how_they_are_shared_out() -> None:
    images = torch.zeros(5, 1, 2, 2)
    t, eps = RowNoise(7)(images, 1000)
    for rank in (0, 1):
        share = RowNoise(7, rank, 2)
        rows = torch.arange(rank, 5, 2)
        parts = [share(images[rows][:1], 1000), share(images[rows][1:], 1000)]
        assert torch.equal(torch.cat([p[0] for p in parts]), t[rows])
        assert torch.equal(torch.cat([p[1] for p in parts]), eps[rows])
    assert not torch.equal(RowNoise(8)(images)[1], eps)
    assert len({tuple(image.flatten().tolist()) for image in eps}) == 5


def test_training_noise_is_cut_from_the_global_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.zeros(6, 1, 2, 2)
    torch.manual_seed(0)
    whole, steps = diffusion.draw_normal(x), diffusion.draw_steps(x, 1000)
    monkeypatch.setattr(diffusion, "place_in_batch", lambda like: (6, 4))
    torch.manual_seed(0)
    assert torch.equal(diffusion.draw_normal(x[4:]), whole[4:])
    assert torch.equal(diffusion.draw_steps(x[4:], 1000), steps[4:])


def test_loss_of_a_network_that_says_zero() -> None:
    model = DDPM(UNet(4, 1, 8, (1, 1), 1, (), 4, 4), NoiseSchedule(), decay=None)
    x = torch.rand(500, 1, 4, 4)
    loss = model.training_step(batch_type(("x", "y"))(x, torch.zeros(500)), 0)
    assert float(loss) == pytest.approx(1.0, abs=0.05)


def test_wrong_betas() -> None:
    with pytest.raises(ValueError, match="expected above 0 and below 1"):
        NoiseSchedule(10, 1e-4, 0.02)
