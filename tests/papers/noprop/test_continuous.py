"""NoProp-CT and NoProp-FM: Equations 9, 11 and 13, and their chains."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modules.noprop.baselines import NeuralODE
from modules.noprop.continuous import NoPropCT, NoPropFM
from modules.noprop.label_diffusion import LabelSpace, Noise
from modules.noprop.module import NoProp


def test_guess_is_a_mixture_of_labels_and_the_flow_is_not(
    stack: Callable[..., NoProp], continuous: Callable[..., Any], batch: Callable[..., tuple[Tensor, Tensor]]
) -> None:
    (x, _), z = batch(), torch.randn(32, 10)
    with torch.no_grad():
        for logits, _ in stack().eval().chain(x, z):
            guess = LabelSpace("onehot", 10, 10).mixed(logits.softmax(-1))
            assert torch.allclose(guess.sum(-1), torch.ones(32))
            assert float(guess.min()) >= 0
        flow = continuous(NoPropFM).eval()
        velocity = flow.velocity(z, flow.network.image(x), torch.zeros(1))
    assert not torch.allclose(velocity.sum(-1), torch.ones(32), atol=1e-2)


@pytest.mark.parametrize("steps", [1, 7, 50])
def test_true_velocity_lands_on_the_label(
    continuous: Callable[..., Any], Oracle: type[nn.Module], shown: Callable[..., Tensor], steps: int
) -> None:
    module, y = continuous(NoPropFM, steps), torch.arange(10)
    z, u = torch.randn(10, 10), torch.eye(10)

    class Straight(Oracle):
        def forward(self, z_t: Tensor, features: Tensor, t: Tensor | None = None) -> Tensor:
            return u - z

    module.network = Straight()  # type: ignore[assignment]
    *_, (_, last) = module.chain(shown(y), z)
    assert float((last - u).abs().max()) < 1e-5
    assert torch.equal(module.answer(last).argmax(-1), y)


def test_continuous_chain_with_a_known_label(
    continuous: Callable[..., Any], Oracle: type[nn.Module], shown: Callable[..., Tensor]
) -> None:
    module, y = continuous(NoPropCT, 200), torch.arange(500) % 10
    module.network = Oracle()  # type: ignore[assignment]
    torch.manual_seed(0)
    with torch.no_grad():
        *_, (_, last) = module.chain(shown(y), torch.randn(500, 10))
        abar = torch.sigmoid(-module.gamma(torch.ones(1))[0])
    noise = last - abar.sqrt() * F.one_hot(y, 10)
    assert float(noise.var()) == pytest.approx(float(1 - abar), rel=0.1)


@pytest.mark.parametrize("kind", [NoPropCT, NoPropFM, NeuralODE])
def test_a_step_moves_the_network_and_another_arm_goes_on_from_it(
    kind: Any, continuous: Callable[..., Any], batch: Callable[..., tuple[Tensor, Tensor]]
) -> None:
    first, (x, y) = continuous(kind), batch()
    before = {name: p.detach().clone() for name, p in first.network.named_parameters()}
    assert bool(first.descend(x, y)["loss"].isfinite())
    assert not any(torch.equal(p, before[name]) for name, p in first.network.named_parameters())

    schedule = {"gamma": first.gamma} if kind is NoPropCT else {}
    other = LabelSpace("onehot", 10, 10)
    second = kind(7, None, other, start=first, inference_runs=2, **schedule).eval()
    assert second.network is first.network
    assert second.label is first.label
    with torch.no_grad():
        assert len(list(second.chain(x, torch.randn(32, 10)))) == 7
        assert second.infer(x, second.inference_runs)[0].shape == (2, 32, 10)


def test_diffusion_trains_the_schedule(
    continuous: Callable[..., Any], batch: Callable[..., tuple[Tensor, Tensor]]
) -> None:
    module, (x, y) = continuous(NoPropCT), batch()
    module.loss(x, y, Noise(x)).backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in module.gamma.parameters())


def test_diffusion_loss_is_equation_9(
    continuous: Callable[..., Any], batch: Callable[..., tuple[Tensor, Tensor]]
) -> None:
    module, (x, y) = continuous(NoPropCT).eval(), batch()
    module.eta = 0.7
    torch.manual_seed(5)
    loss = module.loss(x, y, Noise(x)).detach()

    def snr(t: Tensor) -> Tensor:
        return torch.exp(-module.gamma(t)[0]).detach()

    torch.manual_seed(5)
    t, eps, eps_last = torch.rand(32).double(), torch.randn(32, 10), torch.randn(32, 10)
    rise = (snr(t + 1e-5) - snr(t - 1e-5)) / 2e-5
    start, *_, end = snr(torch.linspace(0, 1, 3).double())
    abar_0, abar_1, abar = start / (1 + start), end / (1 + end), (snr(t) / (1 + snr(t)))[:, None]
    u = F.one_hot(y, 10).double()
    z, z_last = abar.sqrt() * u + (1 - abar).sqrt() * eps, abar_1.sqrt() * u + (1 - abar_1).sqrt() * eps_last
    with torch.no_grad():
        guess = module.network(z.float(), module.network.image(x), t.float()).softmax(-1)
        cross_entropy = F.cross_entropy(module.label.f_out(z_last.float()), y)
    prior = 0.5 * (abar_0 - 10 * abar_0 - 10 * torch.log(1 - abar_0))
    expected = cross_entropy + prior + 0.7 / 2 * (rise * ((guess - u) ** 2).sum(-1)).mean()
    assert float(loss) == pytest.approx(float(expected), rel=1e-4)


def test_flow_loss_is_equation_11_and_13(
    continuous: Callable[..., Any], batch: Callable[..., tuple[Tensor, Tensor]]
) -> None:
    (x, y), u = batch(), F.one_hot(batch()[1], 10).float()
    module = continuous(NoPropFM).eval()
    torch.manual_seed(5)
    loss = module.loss(x, y, Noise(x)).detach()
    torch.manual_seed(5)
    t, z_0 = torch.rand(32), torch.randn(32, 10)
    v = module.network((1 - t)[:, None] * z_0 + t[:, None] * u, module.network.image(x), t).detach()
    assert float(loss) == pytest.approx(float(((v - u + z_0) ** 2).sum() / 32), rel=1e-5)
    assert module.label.f_out.weight.grad is None
    learned = continuous(NoPropFM, label=LabelSpace("learned", 10, 20))
    learned.loss(x, y, Noise(x)).backward()
    assert learned.label.f_out.weight.grad is not None
