"""Schedules, noised labels and label spaces: hand-computed values and torch.distributions."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Independent, Normal, kl_divergence
from torch.nn import functional as F

from modules.noprop.label_diffusion import LabelSpace, LearnedSchedule, cosine_schedule, medoid, prior_kl, transitions


def test_true_label_keeps_z_distributed_as_q() -> None:
    """A u + B sqrt(abar_{t-1}) u is the mean of q(z_t|y) and C + B^2 (1 - abar_{t-1}) its variance."""
    abar = cosine_schedule(10)
    a, b, c = transitions(abar)
    assert torch.allclose(a + b * abar[:-1].sqrt(), abar[1:].sqrt(), rtol=0, atol=1e-12)
    assert torch.allclose(c + b.square() * (1 - abar[:-1]), 1 - abar[1:], rtol=0, atol=1e-12)


def test_kl_terms_are_those_of_torch() -> None:
    u = F.one_hot(torch.tensor([3]), 10).double()
    for value, expected in ((1e-4, 5.0025e-5), (0.3, None), (0.0, 0.0)):
        abar = torch.tensor(value, dtype=torch.float64)
        ours = prior_kl(u, abar).item()
        q = Independent(Normal(abar.sqrt() * u, (1 - abar).sqrt()), 1)
        standard = Independent(Normal(torch.zeros_like(u), torch.ones_like(u)), 1)
        assert ours == pytest.approx(kl_divergence(q, standard).item(), abs=1e-12)
        assert expected is None or ours == pytest.approx(expected, abs=1e-8)
    abar = cosine_schedule(10)
    a, b, c = transitions(abar)
    z, guess = torch.randn(1, 10, dtype=torch.float64), torch.randn(1, 10, dtype=torch.float64).softmax(-1)
    snr = abar / (1 - abar)
    for t in range(10):
        true, ours_ = (Independent(Normal(a[t] * v + b[t] * z, c[t].sqrt()), 1) for v in (u, guess))
        half = 0.5 * (snr[t + 1] - snr[t]) * (guess - u).square().sum()
        assert kl_divergence(true, ours_).item() == pytest.approx(half.item(), rel=1e-9)


def test_learned_schedule_rises_and_knows_its_slope() -> None:
    torch.manual_seed(3)
    schedule = LearnedSchedule(-4.0, 5.0)
    t = torch.linspace(0, 1, 101, dtype=torch.float64, requires_grad=True)
    gamma, slope = schedule(t)
    assert gamma[[0, -1]].tolist() == pytest.approx([5, -4])
    assert bool((gamma.diff() < 0).all())
    (by_autograd,) = torch.autograd.grad(gamma.sum(), t)
    assert torch.allclose(slope, by_autograd, atol=1e-10)
    with torch.no_grad():
        inner, h = t[1:-1], 1e-5
        difference = (torch.exp(-schedule(inner + h)[0]) - torch.exp(-schedule(inner - h)[0])) / (2 * h)
    rise = (-slope * torch.exp(-gamma))[1:-1]
    assert torch.allclose(rise, difference, rtol=1e-6)
    assert bool((rise > 0).all())


def test_label_space() -> None:
    onehot, learned = LabelSpace("onehot", 10, 10), LabelSpace("learned", 10, 20)
    assert torch.equal(onehot.embedding, torch.eye(10))
    assert torch.allclose(learned.embedding @ learned.embedding.T, torch.eye(10), atol=1e-5)
    torch.manual_seed(0)
    assert float(LabelSpace("learned", 100, 20).embedding.detach().square().sum(-1).mean()) == pytest.approx(1, abs=0.2)
    with pytest.raises(ValueError, match="one-hot embedding of 10 classes has 10"):
        LabelSpace("onehot", 10, 20)
    with pytest.raises(ValueError, match="kind='two': expected one of onehot, learned, prototype"):
        LabelSpace("two", 10, 10)


def test_f_out_starts_as_the_classifier_by_the_nearest_embedding() -> None:
    torch.manual_seed(0)
    onehot, learned, crowded = (LabelSpace(*a) for a in (("onehot", 10, 10), ("learned", 10, 20), ("learned", 40, 20)))
    prototypes = LabelSpace("prototype", 10, 64)
    images = 5 + torch.arange(1.0, 11).view(-1, 1, 1, 1) * torch.randn(10, 1, 8, 8)  # of very different norms
    prototypes.start_from(images, torch.arange(10))
    for label in (onehot, learned, crowded, prototypes):
        z = label.embedding.detach() + torch.randn(label.classes, label.dim)
        assert torch.equal(label(z).argmax(-1), label.nearness(z).argmax(-1))
    gaps = onehot(torch.eye(10)) - onehot(torch.eye(10))[:, :1]
    assert torch.allclose(gaps, torch.eye(10) - torch.eye(10)[:, :1], atol=1e-6)  # |u_y - u_k|^2 / 2 is 0 or 1


def test_posterior_is_that_of_a_normal_likelihood() -> None:
    torch.manual_seed(0)
    label, z = LabelSpace("learned", 10, 20, output="posterior", sigma=0.5), torch.randn(6, 20)
    reconstruction = label.f_out(z).softmax(-1) @ label.embedding
    likelihood = Normal(label.embedding, 0.5).log_prob(reconstruction[:, None]).sum(-1)
    assert torch.allclose(label(z).log_softmax(-1), likelihood.log_softmax(-1), atol=1e-5)


def test_medoid_is_the_image_nearest_to_its_class() -> None:
    points = torch.tensor([[0.0], [1.0], [2.0], [100.0], [1.5]])
    assert medoid(points).item() == 1.5  # distances to the others 0.5, 0.5, 1.5, 98.5; of 1.0 they are 0.5, 1, 1, 99
    assert medoid(torch.tensor([[7.0]])).item() == 7.0
    label = LabelSpace("prototype", 3, 4)
    before = label.embedding.detach().clone()
    images = torch.arange(12.0).view(3, 1, 2, 2)
    label.start_from(images, torch.tensor([0, 0, 2]))
    assert torch.equal(label.embedding[2], images[2].flatten())
    assert torch.equal(label.embedding[1], before[1])  # a class without images keeps its row
