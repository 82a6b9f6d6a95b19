"""Noise schedule, losses and samplers against hand-computed values, independent references and limit cases."""

from __future__ import annotations

import math
from types import SimpleNamespace
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
    ddim_step,
    discretised_log_likelihood,
    gaussian_kl,
    variational_bound,
)
from modules.common.unet import UNet
from tests.schedules import half


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
    fewer = NoiseSchedule(100)
    assert float(fewer.abar[-1]) < 1e-4  # fewer steps end in noise too
    assert [float(fewer.beta[0]), float(fewer.beta[-1])] == pytest.approx([1e-3, 0.2])
    assert torch.allclose(fewer.signal**2 + fewer.noise**2, torch.ones(100))
    assert float(fewer.noise[0]) == pytest.approx(math.sqrt(1e-3), rel=1e-4)


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


def test_the_bound_is_in_bits_and_at_the_first_step_a_likelihood() -> None:
    schedule, x = NoiseSchedule(), torch.tensor([-1.0, 51 / 127.5 - 1, 1.0]).view(1, 1, 1, 3)
    eps, v = torch.randn_like(x), torch.zeros_like(x)
    for step in (0, 600):
        t = torch.tensor([step])
        noisy = schedule.diffuse(x, t, eps)
        predicted = eps + 0.3
        mean, _ = schedule.posterior(schedule.clean(noisy, t, predicted), noisy, t)
        log_variance = 0.5 * (schedule.beta[step].log() + schedule.log_variance[step])
        guess = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
        if step:
            truth, own = schedule.posterior(x, noisy, t)
            known = torch.distributions.Normal(truth, (0.5 * own).exp())
            nats = torch.distributions.kl_divergence(known, guess)
        else:
            edges = torch.tensor([-torch.inf, 50.5 / 127.5 - 1, 254.5 / 127.5 - 1]).view_as(x)
            above = torch.tensor([0.5 / 127.5 - 1, 51.5 / 127.5 - 1, torch.inf]).view_as(x)
            nats = -(guess.cdf(above) - guess.cdf(edges)).clamp(min=1e-12).log()
        bits = float(nats.mean()) / math.log(2)
        assert float(variational_bound(schedule, x, noisy, t, predicted, v)) == pytest.approx(bits, rel=1e-3)


def test_a_ddim_step_with_all_its_noise_is_ddpms() -> None:
    """eta = 1: mean and deviation of the posterior; eta = 0: on the line from x_0 to the noise."""
    schedule, clean, x = NoiseSchedule(50), torch.rand(1, 1, 2, 2), torch.randn(1, 1, 2, 2)
    for number in (1, 20, 49):
        t = torch.tensor([number])
        mean, log_variance = schedule.posterior(clean, x, t)
        step, deviation = ddim_step(schedule, clean, x, number, 1.0)
        assert torch.allclose(step, mean, atol=1e-4)
        assert float(deviation) == pytest.approx(float((0.5 * log_variance).exp()), rel=1e-3)
        step, deviation = ddim_step(schedule, clean, x, number, 0.0)
        assert float(deviation) == 0
        before = torch.tensor([number - 1])
        eps = (x - schedule.at("signal", t) * clean) / schedule.at("noise", t)
        assert torch.allclose(step, schedule.diffuse(clean, before, eps), atol=1e-5)
    last, deviation = ddim_step(schedule, clean, x, 0, 1.0)
    assert torch.allclose(last, clean, atol=1e-6)
    assert float(deviation) == 0


class Twice(nn.Module):
    """Predicts 2 everywhere for class 1, 0 for class 0; its second half is of a variance."""

    classes = 2

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(2.0))

    def forward(self, noisy: Tensor, t: Tensor, y: Tensor) -> Tensor:
        assert noisy.shape == (len(t), 1, 4, 4)
        mean = (self.weight * y).view(-1, 1, 1, 1).expand_as(noisy)
        return torch.cat([mean, mean + 100], dim=1)


def test_a_test_is_the_mean_error_over_images_of_all_processes() -> None:
    module = DDPM(Twice(), NoiseSchedule(), learned_variance=True)  # type: ignore[arg-type]
    with torch.no_grad():
        module.network.weight.zero_()  # tested with the averaged weights, which still are 2
    values: dict[str, float] = {}
    module.log_dict = values.update  # type: ignore[method-assign, assignment]
    reduced: list[str] = []

    def reduce(total: Tensor, reduce_op: str) -> Tensor:
        reduced.append(reduce_op)
        return total

    trainer = SimpleNamespace(global_rank=1, world_size=3, strategy=SimpleNamespace(reduce=reduce))
    module._trainer = trainer  # type: ignore[assignment]
    for _ in range(2):  # an epoch starts anew
        torch.manual_seed(4)
        module.on_test_epoch_start()
        images, labels = torch.zeros(3, 1, 4, 4), torch.tensor([0, 1, 1])
        batch = batch_type(("x", "y"))
        module.test_step(batch(images[:2], labels[:2]), 0)
        module.test_step(batch(images[2:], labels[2:]), 1)
        module.on_test_epoch_end()
    torch.manual_seed(4)
    noise = RowNoise(int(torch.randint(2**31, ())), 1, 3)
    _, eps = noise(images, 1000)
    expected = (eps - 2.0 * labels.view(3, 1, 1, 1)).square().mean()
    assert values == pytest.approx({"test/mse": float(expected), "test/n": 3.0}, rel=1e-5)
    assert reduced == ["sum", "sum"]


def test_everything_is_made_where_the_images_are() -> None:
    x = torch.zeros(2, 1, 4, 4, device="meta")
    assert [diffusion.draw_normal(x).device.type, diffusion.draw_steps(x, 10).device.type] == ["meta", "meta"]
    t, eps = RowNoise(0)(x, 10)
    assert (t.device.type, eps.device.type) == ("meta", "meta")
    model = DDPM(network(classes=2), NoiseSchedule(), decay=None).to("meta")
    assert [(a.device.type, a.dtype) for a in model.example((1, 4, 4))] == [
        ("meta", torch.float32),
        ("meta", torch.int64),
        ("meta", torch.int64),
    ]


def test_optimiser_and_schedule_are_kept() -> None:
    model = DDPM(network(), NoiseSchedule(), optimizer=torch.optim.Adam, schedule=half)
    assert (model.optimizer_factory, model.schedule) == (torch.optim.Adam, half)
    assert list(model.trained()) == list(model.network.parameters())
    assert model.average is not None
    assert (model.average.decay, model.learned_variance) == (0.9999, False)


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
    with pytest.raises(ValueError, match=r"beta from 0 to 0\.02: expected above 0"):
        NoiseSchedule(1000, 0.0, 0.02)


def test_a_training_step_is_the_error_of_the_noise_and_the_bound_of_the_variance() -> None:
    """Of labelled images; the network's guess is 2 for class 1, and its second half 100 more."""
    schedule = NoiseSchedule(200)
    module = DDPM(Twice(), schedule, learned_variance=True, decay=None)  # type: ignore[arg-type]
    x, y = torch.rand(4, 1, 4, 4) * 2 - 1, torch.tensor([0, 1, 1, 0])
    torch.manual_seed(2)
    loss = module.training_step(batch_type(("x", "y"))(x, y), 0)
    torch.manual_seed(2)
    t, eps = diffusion.draw_steps(x, 200), diffusion.draw_normal(x)
    guess = (2.0 * y).view(4, 1, 1, 1).expand_as(x)
    bound = variational_bound(schedule, x, schedule.diffuse(x, t, eps), t, guess, guess + 100).mean()
    error = (guess - eps).square().mean()
    assert float(loss.detach()) == pytest.approx(float(error + bound), rel=1e-5)
    assert module._count == 4
    means = {name: float(value) / 4 for name, value in module._sums.items()}
    assert means == pytest.approx({"loss": float(error + bound), "mse": float(error)}, rel=1e-5)
    noisy = torch.zeros(4, 1, 4, 4)
    assert torch.equal(module.predict(noisy, t, y=y)[:, :1], guess)


def test_a_schedule_is_no_part_of_what_is_saved() -> None:
    assert not NoiseSchedule().state_dict()
    assert RowNoise(3)(torch.zeros(8, 1, 1, 1))[0].tolist() == [0] * 8
