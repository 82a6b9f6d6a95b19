"""Back-propagation, greedy layers and the adjoint method."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from modules.noprop.baselines import AdjointEuler, EndToEnd, Greedy, NeuralODE
from modules.noprop.label_diffusion import LabelSpace, Noise
from modules.noprop.networks import Network

ADAMW = partial(torch.optim.AdamW, lr=1e-2, weight_decay=0.1)


def test_adjoint_gradient_approaches_that_of_back_propagation(
    continuous: Callable[..., Any], batch: Callable[..., tuple[Tensor, Tensor]]
) -> None:
    """Both integrate the same equation; Euler's error in the gradient halves when the steps double."""
    module, (x, y) = continuous(NeuralODE).eval(), batch()
    network = module.network
    trained = [*network.label.parameters(), *network.time.parameters(), *network.head.parameters()]  # type: ignore
    for p in trained:
        p.data.mul_(1.5)  # a field that bends
    z_0, features = torch.randn(32, 10), network.image(x).detach().requires_grad_()
    errors = []
    for steps in (20, 40):
        z = z_0.clone()
        for k in range(steps):
            z = z + module.velocity(z, features, torch.tensor([k / steps])) / steps
        adjoint: Any = AdjointEuler.apply(module.velocity, steps, z_0, features, *trained)
        assert torch.allclose(adjoint, z, atol=1e-5)
        exact, ours = (
            torch.cat([g.flatten() for g in torch.autograd.grad(F.cross_entropy(end, y), [features, *trained])])
            for end in (z, adjoint)
        )
        errors.append(float((ours - exact).norm() / exact.norm()))
    assert errors[0] < 0.2
    assert errors[0] / errors[1] == pytest.approx(2, abs=0.4)


def test_the_neural_ode_learns_from_the_end_of_its_path(
    continuous: Callable[..., Any], batch: Callable[..., tuple[Tensor, Tensor]]
) -> None:
    """Cross-entropy of f_out at t = 1, after five Euler steps; the image's tower learns too."""
    module, (x, y) = continuous(NeuralODE, 5).eval(), batch()
    torch.manual_seed(5)
    loss = module.loss(x, y, Noise(x))
    loss.backward()
    torch.manual_seed(5)
    start = z = torch.randn(32, 10)
    with torch.no_grad():
        features = module.network.image(x)
        for k in range(5):
            z = z + module.network(z, features, torch.tensor([k / 5])) / 5  # the embedding is one-hot
        *_, (_, end) = module.chain(x, start)
        expected = F.cross_entropy(module.label.f_out(z), y)
    assert torch.allclose(end, z, atol=1e-5)
    assert float(loss.detach()) == pytest.approx(float(expected), rel=1e-5)
    assert all(bool(p.grad.any()) for p in module.network.image.parameters())


def test_back_propagation_moves_z_by_alpha(
    end_to_end: Callable[..., EndToEnd], batch: Callable[..., tuple[Tensor, Tensor]]
) -> None:
    module, (x, _) = end_to_end(2, alpha=0.25).eval(), batch()
    z = torch.randn(32, 10)
    with torch.no_grad():
        (logits, first), (_, last) = module.chain(x, z)
    assert torch.allclose(first, 0.75 * z + 0.25 * logits.softmax(-1), atol=1e-6)
    assert not torch.equal(first, last)
    loss = F.cross_entropy(module(x), batch()[1])
    loss.backward()
    assert all(p.grad is not None for p in [*module.blocks.parameters(), module.w])


def test_classes_do_not_come_to_share_an_embedding_end_to_end(without_trainer: Callable[..., Any]) -> None:
    """From random weights of f_out, three to five of ten classes are never answered here."""
    torch.manual_seed(0)
    network = partial(Network, in_channels=1, size=8, widths=[8, 8, 8], hidden=32)
    label = LabelSpace("onehot", 10, 10)
    module: Any = without_trainer(EndToEnd(4, network, label, optimizer=ADAMW))
    x, y = torch.randn(10, 1, 8, 8).repeat(5, 1, 1, 1), torch.arange(50) % 10  # one image per class
    for _ in range(60):
        module.descend(x, y)
    with torch.no_grad():
        right = (module.eval()(x).argmax(-1) == y).float().mean()
    assert float(right) > 0.85


def test_greedy_layers_do_not_teach_each_other(batch: Callable[..., tuple[Tensor, Tensor]]) -> None:
    torch.manual_seed(0)
    module, (x, y) = Greedy(10, 1, [3, 4, 5], [1], 8, optimizer=ADAMW), batch()
    _, second, _ = module.outputs(x)
    F.cross_entropy(second, y).backward()
    assert all(p.grad is not None for p in [*module.bodies[1].parameters(), *module.heads[1].parameters()])
    others = [module.bodies[0], module.heads[0], module.bodies[2], module.heads[2]]
    assert all(p.grad is None for part in others for p in part.parameters())


def test_greedy_layers_are_pooled_where_the_list_says() -> None:
    x, sides = torch.zeros(2, 1, 8, 8), []
    for body in Greedy(10, 1, [3, 4, 5], [1, 3], 8).bodies:
        x = body(x)
        sides.append(x.shape[-1])
    assert sides == [4, 4, 2]
