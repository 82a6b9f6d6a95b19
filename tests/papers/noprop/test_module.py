"""NoProp-DT: Equation 8, gradient facts, the chain of blocks."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modules.noprop.label_diffusion import LabelSpace, Noise, cosine_schedule, noised, transitions
from modules.noprop.module import NoProp


def test_cosine_schedule_values(stack: Callable[..., NoProp]) -> None:
    expected = [1e-4, 0.02409, 0.09405, 0.20312, 0.34081, 0.49384, 0.64748, 0.78691, 0.89871, 0.97209, 0.9999]
    abar = cosine_schedule(10)
    assert abar.tolist() == pytest.approx(expected, abs=1e-5)
    rises = [0.0246, 0.0791, 0.1511, 0.2621, 0.4587, 0.861, 1.856, 5.179, 25.96, 9964.2]
    assert (abar / (1 - abar)).diff().tolist() == pytest.approx(rises, rel=2e-3)
    a, b, c = (values[4].item() for values in transitions(abar))
    assert (a, b, c) == pytest.approx((0.33036, 0.63787, 0.237943), abs=1e-5)
    assert stack(10).weights == pytest.approx([5 * 0.1 * rise for rise in rises], rel=2e-3)


def test_loss_is_equation_8(stack: Callable[..., NoProp], batch: Callable[..., tuple[Tensor, Tensor]]) -> None:
    module, (x, y) = stack(10).eval(), batch()
    torch.manual_seed(5)
    loss, _ = module.loss(4, x, y, Noise(x))
    torch.manual_seed(5)
    eps_last, eps = torch.randn(32, 10), torch.randn(32, 10)
    abar, u = cosine_schedule(10), F.one_hot(y, 10).float()
    guess = module.blocks[3](noised(u, abar[3].float(), eps), module.blocks[3].image(x)).softmax(-1)  # type: ignore
    error = ((guess - u) ** 2).sum() / 32
    snr = abar / (1 - abar)
    ce = F.cross_entropy(module.label.f_out(abar[10].sqrt().float() * u + (1 - abar[10]).sqrt().float() * eps_last), y)
    expected = ce + 5.0025e-5 + 10 / 2 * 0.1 * (snr[4] - snr[3]).float() * error
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)


def test_gradient_of_a_block_reaches_no_other(
    stack: Callable[..., NoProp], batch: Callable[..., tuple[Tensor, Tensor]]
) -> None:
    module, (x, y) = stack(), batch()
    module.loss(2, x, y, Noise(x))[0].backward()
    assert all(p.grad is not None for p in module.blocks[1].parameters())
    assert all(p.grad is None for t in (0, 2) for p in module.blocks[t].parameters())
    assert not module.label.embedding.requires_grad
    learned = stack(label=LabelSpace("learned", 10, 20))
    learned.loss(2, x, y, Noise(x))[0].backward()
    assert learned.label.embedding.grad is not None


def test_f_out_learns_from_the_noisy_label_alone(
    stack: Callable[..., NoProp], batch: Callable[..., tuple[Tensor, Tensor]]
) -> None:
    gradients = []
    for seed in (1, 2):  # other images, same labels and noise
        module, y = stack(), batch()[1]
        torch.manual_seed(5)
        module.loss(3, batch(seed=seed)[0], y, Noise(y))[0].backward()
        gradients.append(module.label.f_out.weight.grad)
    assert gradients[0] is not None
    assert torch.equal(gradients[0], gradients[1])


def test_one_block_s_update_moves_nothing_else(
    stack: Callable[..., NoProp], batch: Callable[..., tuple[Tensor, Tensor]]
) -> None:
    """Weight decay and momentum of a shared optimiser would move the idle blocks."""
    module, (x, y) = stack(), batch()
    before = [[p.clone() for p in block.parameters()] for block in module.blocks]
    optimizers: Any = module.optimizers()
    for _ in range(2):
        module.step(module.loss(2, x, y, Noise(x))[0], optimizers[1], optimizers[-1])
    same = [
        all(torch.equal(p, q) for p, q in zip(block.parameters(), old, strict=True))
        for block, old in zip(module.blocks, before, strict=True)
    ]
    assert same == [True, False, True]


def test_order_of_the_blocks_does_not_matter(
    stack: Callable[..., NoProp], batch: Callable[..., tuple[Tensor, Tensor]]
) -> None:
    """Blocks trained in any order, hence side by side, end with the same bits."""
    states = []
    for order in ((1, 2, 3), (3, 1, 2)):
        module, (x, y) = stack(), batch()
        optimizers: Any = module.optimizers()
        for t in order:
            for step in range(3):
                torch.manual_seed(100 * t + step)
                module.step(module.loss(t, x, y, Noise(x))[0], optimizers[t - 1])
        states.append(module.blocks.state_dict())
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_blocks_that_know_the_label_classify_and_follow_q(
    stack: Callable[..., NoProp], Oracle: type[nn.Module], shown: Callable[..., Tensor]
) -> None:
    module, y = stack(10, abar_cap=0.99), torch.arange(2000) % 10
    module.blocks = nn.ModuleList(Oracle() for _ in range(10))
    nn.init.eye_(module.label.f_out.weight)
    nn.init.zeros_(module.label.f_out.bias)
    torch.manual_seed(0)
    with torch.no_grad():
        logits, _ = module.infer(shown(y), 2)
        path = [z for _, z in module.chain(shown(y), torch.randn(2000, 10))]
    assert float((logits.argmax(-1) == y).float().mean()) > 0.999
    u, abar = F.one_hot(y, 10).float(), cosine_schedule(10, cap=0.99)
    for t in (1, 5, 10):  # z_0 ~ N(0, 1) instead of q(z_0|y): a difference of 1e-4 in abar_0
        noise = path[t - 1] - abar[t].sqrt() * u
        assert float(noise.mean()) == pytest.approx(0, abs=0.02)
        assert float(noise.var()) == pytest.approx(float(1 - abar[t]), rel=0.05)


def test_random_labels_teach_nothing(stack: Callable[..., NoProp], batch: Callable[..., tuple[Tensor, Tensor]]) -> None:
    module = stack(2)
    for step in range(40):
        x, y = batch(64, seed=step)
        torch.manual_seed(step)
        module.descend(x, y)
    x, y = batch(2000, seed=99)
    with torch.no_grad():
        right = (module.eval()(x).argmax(-1) == y).float().mean()
    assert float(right) == pytest.approx(0.1, abs=4 * math.sqrt(0.09 / 2000))


def test_prototypes_pass_through_a_tower_like_images(
    stack: Callable[..., NoProp], batch: Callable[..., tuple[Tensor, Tensor]]
) -> None:
    module, (x, y) = stack(2, label=LabelSpace("prototype", 10, 64)), batch()
    module.descend(x, y)
    convolutions = [m for m in module.blocks[0].modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) == 6
    assert module.eval()(x).shape == (32, 10)


def test_prototypes_are_images_of_their_class_where_training_begins(stack: Callable[..., NoProp]) -> None:
    """One training image a class, which is then its class's medoid; a test loads what was learnt."""
    images = torch.randint(256, (10, 1, 8, 8))
    data = type(
        "Data", (), {"splits": {"train": (images, torch.arange(10))}, "normalised": staticmethod(lambda x: x / 255)}
    )
    module: Any = stack(2, label=LabelSpace("prototype", 10, 64))
    module._trainer = type("Trainer", (), {"datamodule": data})()
    before = module.label.embedding.detach().clone()
    module.setup("test")
    assert torch.equal(module.label.embedding, before)
    module.setup("fit")
    assert torch.equal(module.label.embedding, images.flatten(1) / 255)


def test_inference_runs_share_the_batch_and_differ_in_noise(
    stack: Callable[..., NoProp], batch: Callable[..., tuple[Tensor, Tensor]]
) -> None:
    module, (x, _) = stack(3).eval(), batch()
    with torch.no_grad():
        logits, guesses = module.infer(x, 4)
    assert logits.shape == (4, 32, 10)
    assert [guess.shape for guess in guesses] == [(4, 32)] * 3
    assert not torch.equal(logits[0], logits[1])
    torch.manual_seed(7)
    one = module.infer(x, 2)[0]
    torch.manual_seed(7)
    z = torch.randn(64, 10)
    *_, (_, last) = module.chain(torch.cat([x, x]), z)
    assert torch.allclose(one.flatten(0, 1), module.label(last), atol=1e-5)


def test_a_run_is_a_draw_from_what_the_blocks_believe(stack: Callable[..., NoProp]) -> None:
    """Blocks that find two classes possible answer each as often as they find it probable, not the likelier one always.

    The exact posterior given z and x is p(y | x) reweighed by how well each class explains z: the chain is then the
    reverse of q, and its class is drawn from p(y | x).
    """

    class Posterior(nn.Module):
        def __init__(self, abar: float) -> None:
            super().__init__()
            self.abar = abar

        def image(self, x: Tensor) -> Tensor:
            return x.flatten(1)[:, :10]  # log p(y | x)

        def forward(self, z: Tensor, features: Tensor) -> Tensor:
            u = torch.eye(10)
            distance = (z[:, None] - math.sqrt(self.abar) * u).square().sum(-1)
            return features - distance / (2 * (1 - self.abar))

    module = stack(10).eval()
    module.blocks = nn.ModuleList(Posterior(float(abar)) for abar in module.abar[:-1])
    p = torch.tensor([0.7, 0.3, *[1e-9] * 8])
    x = F.pad(p.log(), (0, 54)).view(1, 1, 8, 8).expand(400, -1, -1, -1)
    y = torch.zeros(400, dtype=torch.long)

    torch.manual_seed(0)
    logits, guesses = module.infer(x, 25)
    right = (logits.argmax(-1) == 0).float().mean()
    assert float(right) == pytest.approx(0.7, abs=0.04)  # steps use the mean of p, which is exact for many of them
    assert float((guesses[0] == 0).float().mean()) > 0.95  # the first block's guess is the likelier class

    notes = module.explain(x, y)
    assert float(notes["block1_p"].mean()) == pytest.approx(0.7, abs=0.02)
    assert float(notes["block10_p"].mean()) == pytest.approx(0.7, abs=0.1)
    assert float(notes["quiet_top1"].mean()) > float(right) + 0.1
    assert module.noise == 1
