"""The independent checks of NoProp: hand-computed values, torch.distributions, limit cases, gradient facts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal, kl_divergence
from torch.nn import functional as F

from experiments import training
from experiments.plan import Plan
from modules.noprop.continuous import Continuous
from modules.noprop.label_diffusion import (
    AdjointEuler,
    LabelSpace,
    LearnedSchedule,
    Noise,
    cosine_schedule,
    medoid,
    noised,
    prior_kl,
    transitions,
)
from modules.noprop.module import Arm, Greedy, Stack, shuffled_top1
from modules.noprop.networks import Network

SMALL = partial(Network, in_channels=1, size=8, widths=[3, 4, 5], hidden=16)
ADAMW = partial(torch.optim.AdamW, lr=1e-2, weight_decay=0.1)


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def alone(module: Any) -> Any:
    """The module with optimisers and without a trainer."""
    made = module.configure_optimizers()
    module.optimizers = lambda: made
    module.manual_backward = lambda loss: loss.backward()
    return module


def stack(blocks: int = 3, seed: int = 0, label: LabelSpace | None = None, **options: Any) -> Stack:
    torch.manual_seed(seed)
    return alone(Stack(blocks, SMALL, label or LabelSpace("onehot", 10, 10), optimizer=ADAMW, **options))


def continuous(objective: str, steps: int = 10, seed: int = 0, label: LabelSpace | None = None) -> Continuous:
    torch.manual_seed(seed)
    label = label or LabelSpace("onehot", 10, 10)
    return alone(Continuous(objective, steps, SMALL, label, LearnedSchedule(-6.0, 6.0), optimizer=ADAMW))


def batch(size: int = 32, seed: int = 1) -> tuple[Tensor, Tensor]:
    source = torch.Generator().manual_seed(seed)
    return torch.randn(size, 1, 8, 8, generator=source), torch.randint(10, (size,), generator=source)


class Oracle(nn.Module):
    """A network that knows the label: the image holds it, one-hot, in its first ten pixels."""

    def image(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :10]

    def forward(self, z: Tensor, features: Tensor, t: Tensor | None = None) -> Tensor:
        return 1e4 * features


def shown(labels: Tensor) -> Tensor:
    """Images (B, 1, 8, 8) that hold their label."""
    return F.pad(F.one_hot(labels, 10).float(), (0, 54)).view(-1, 1, 8, 8)


@pytest.mark.parametrize(
    ("timed", "classes", "dim", "channels", "size", "count"),
    [
        (False, 10, 10, 1, 28, 2_001_290),
        (False, 10, 10, 3, 32, 2_493_386),
        (False, 100, 100, 3, 32, 2_528_036),
        (False, 10, 20, 1, 28, 2_003_850),
        (False, 10, 20, 3, 32, 2_495_946),
        (False, 100, 20, 3, 32, 2_507_556),
        (True, 10, 10, 1, 28, 1_949_066),
        (True, 10, 10, 3, 32, 2_441_162),
        (True, 100, 100, 3, 32, 2_475_812),
    ],
)
def test_published_sizes(timed: bool, classes: int, dim: int, channels: int, size: int, count: int) -> None:
    with torch.device("meta"):
        network = Network(dim, classes, False, timed, channels, size)
    assert parameters(network) == count
    assert any(isinstance(m, nn.BatchNorm1d) for m in network.modules()) != timed


def test_cosine_schedule_values() -> None:
    expected = [1e-4, 0.02409, 0.09405, 0.20312, 0.34081, 0.49384, 0.64748, 0.78691, 0.89871, 0.97209, 0.9999]
    abar = cosine_schedule(10)
    assert abar.tolist() == pytest.approx(expected, abs=1e-5)
    rises = [0.0246, 0.0791, 0.1511, 0.2621, 0.4587, 0.861, 1.856, 5.179, 25.96, 9964.2]
    assert (abar / (1 - abar)).diff().tolist() == pytest.approx(rises, rel=2e-3)
    a, b, c = (values[4].item() for values in transitions(abar))
    assert (a, b, c) == pytest.approx((0.33036, 0.63787, 0.237943), abs=1e-5)
    assert stack(10).weights == pytest.approx([5 * 0.1 * rise for rise in rises], rel=2e-3)


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


def test_loss_is_equation_8() -> None:
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


def test_gradient_of_a_block_reaches_no_other() -> None:
    module, (x, y) = stack(), batch()
    module.loss(2, x, y, Noise(x))[0].backward()
    assert all(p.grad is not None for p in module.blocks[1].parameters())
    assert all(p.grad is None for t in (0, 2) for p in module.blocks[t].parameters())
    assert not module.label.embedding.requires_grad
    learned = stack(label=LabelSpace("learned", 10, 20))
    learned.loss(2, x, y, Noise(x))[0].backward()
    assert learned.label.embedding.grad is not None


def test_f_out_learns_from_the_noisy_label_alone() -> None:
    found = []
    for seed in (1, 2):  # other images, same labels and noise
        module, y = stack(), batch()[1]
        torch.manual_seed(5)
        module.loss(3, batch(seed=seed)[0], y, Noise(y))[0].backward()
        found.append(module.label.f_out.weight.grad)
    assert found[0] is not None
    assert torch.equal(found[0], found[1])


def test_one_block_s_update_moves_nothing_else() -> None:
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


def test_order_of_the_blocks_does_not_matter() -> None:
    """Blocks trained in any order, hence side by side, end with the same bits."""
    found = []
    for order in ((1, 2, 3), (3, 1, 2)):
        module, (x, y) = stack(), batch()
        optimizers: Any = module.optimizers()
        for t in order:
            for step in range(3):
                torch.manual_seed(100 * t + step)
                module.step(module.loss(t, x, y, Noise(x))[0], optimizers[t - 1])
        found.append(module.blocks.state_dict())
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())


def test_guess_is_a_mixture_of_labels_and_the_flow_is_not() -> None:
    (x, _), z = batch(), torch.randn(32, 10)
    with torch.no_grad():
        for logits, _ in stack().eval().chain(x, z):
            guess = LabelSpace("onehot", 10, 10).mixed(logits.softmax(-1))
            assert torch.allclose(guess.sum(-1), torch.ones(32))
            assert float(guess.min()) >= 0
        flow = continuous("flow").eval()
        velocity = flow.velocity(z, flow.network.image(x), torch.zeros(1))
    assert not torch.allclose(velocity.sum(-1), torch.ones(32), atol=1e-2)


def test_blocks_that_know_the_label_classify_and_follow_q() -> None:
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


def test_random_labels_teach_nothing() -> None:
    module = stack(2)
    for step in range(40):
        x, y = batch(64, seed=step)
        torch.manual_seed(step)
        module.descend(x, y)
    x, y = batch(2000, seed=99)
    with torch.no_grad():
        right = (module.eval()(x).argmax(-1) == y).float().mean()
    assert float(right) == pytest.approx(0.1, abs=4 * math.sqrt(0.09 / 2000))


@pytest.mark.parametrize("steps", [1, 7, 50])
def test_true_velocity_lands_on_the_label(steps: int) -> None:
    module, y = continuous("flow", steps), torch.arange(10)
    z, u = torch.randn(10, 10), torch.eye(10)

    class Straight(Oracle):
        def forward(self, z_t: Tensor, features: Tensor, t: Tensor | None = None) -> Tensor:
            return u - z

    module.network = Straight()  # type: ignore[assignment]
    *_, (_, last) = module.chain(shown(y), z)
    assert float((last - u).abs().max()) < 1e-5
    assert torch.equal(module.answer(last).argmax(-1), y)


def test_continuous_chain_with_a_known_label() -> None:
    module, y = continuous("diffusion", 200), torch.arange(500) % 10
    module.network = Oracle()  # type: ignore[assignment]
    assert module.noise is not None
    torch.manual_seed(0)
    with torch.no_grad():
        *_, (_, last) = module.chain(shown(y), torch.randn(500, 10))
        abar = torch.sigmoid(-module.noise(torch.ones(1))[0])
    noise = last - abar.sqrt() * F.one_hot(y, 10)
    assert float(noise.var()) == pytest.approx(float(1 - abar), rel=0.1)


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


def test_diffusion_trains_the_schedule() -> None:
    module, (x, y) = continuous("diffusion"), batch()
    module.diffusion_loss(x, y, Noise(x)).backward()
    assert module.noise is not None
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in module.noise.parameters())


def test_diffusion_loss_is_equation_9() -> None:
    module, (x, y) = continuous("diffusion").eval(), batch()
    module.eta = 0.7
    torch.manual_seed(5)
    loss = module.diffusion_loss(x, y, Noise(x)).detach()

    def snr(t: Tensor) -> Tensor:
        assert module.noise is not None
        return torch.exp(-module.noise(t)[0]).detach()

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


def test_flow_loss_is_equation_11_and_13() -> None:
    (x, y), u = batch(), F.one_hot(batch()[1], 10).float()
    module = continuous("flow").eval()
    torch.manual_seed(5)
    loss = module.flow_loss(x, y, Noise(x)).detach()
    torch.manual_seed(5)
    t, z_0 = torch.rand(32), torch.randn(32, 10)
    v = module.network((1 - t)[:, None] * z_0 + t[:, None] * u, module.network.image(x), t).detach()
    assert float(loss) == pytest.approx(float(((v - u + z_0) ** 2).sum() / 32), rel=1e-5)
    assert module.label.f_out.weight.grad is None
    learned = continuous("flow", label=LabelSpace("learned", 10, 20))
    learned.flow_loss(x, y, Noise(x)).backward()
    assert learned.label.f_out.weight.grad is not None


def test_adjoint_gradient_approaches_that_of_back_propagation() -> None:
    """Both integrate the same equation; Euler's error in the gradient halves when the steps double."""
    module, (x, y) = continuous("adjoint").eval(), batch()
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


def test_back_propagation_moves_z_by_alpha() -> None:
    module, (x, _) = stack(2, training="end_to_end", alpha=0.25).eval(), batch()
    z = torch.randn(32, 10)
    with torch.no_grad():
        (logits, first), (_, last) = module.chain(x, z)
    assert torch.allclose(first, 0.75 * z + 0.25 * logits.softmax(-1), atol=1e-6)
    assert not torch.equal(first, last)
    loss = F.cross_entropy(module(x), batch()[1])
    loss.backward()
    assert all(p.grad is not None for p in [*module.blocks.parameters(), module.w])


def test_classes_do_not_come_to_share_an_embedding_end_to_end() -> None:
    """From random weights of f_out, three to five of ten classes are never answered here."""
    torch.manual_seed(0)
    network = partial(Network, in_channels=1, size=8, widths=[8, 8, 8], hidden=32)
    label = LabelSpace("onehot", 10, 10)
    module: Any = alone(Stack(4, network, label, training="end_to_end", optimizer=ADAMW))
    x, y = torch.randn(10, 1, 8, 8).repeat(5, 1, 1, 1), torch.arange(50) % 10  # one image per class
    for _ in range(60):
        module.descend(x, y)
    with torch.no_grad():
        right = (module.eval()(x).argmax(-1) == y).float().mean()
    assert float(right) > 0.85


def test_greedy_layers_do_not_teach_each_other() -> None:
    torch.manual_seed(0)
    module, (x, y) = Greedy(10, 1, [3, 4, 5], [1], 8, optimizer=ADAMW), batch()
    _, second, _ = module.outputs(x)
    F.cross_entropy(second, y).backward()
    assert all(p.grad is not None for p in [*module.bodies[1].parameters(), *module.heads[1].parameters()])
    others = [module.bodies[0], module.heads[0], module.bodies[2], module.heads[2]]
    assert all(p.grad is None for part in others for p in part.parameters())


def test_what_backward_needs_is_counted_by_hand() -> None:
    class Tiny(Arm):
        def descend(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
            for _ in range(3):  # each graph goes before the next comes, so this counts once
                self.step(F.relu(x.flatten(1) @ self.w).sum(), self.optimizers())
            return {"loss": torch.zeros(())}

    module: Any = Tiny(10, 1, 1, [], partial(torch.optim.SGD, lr=0.1))
    module.w = nn.Parameter(torch.randn(64, 7))
    alone(module)
    module.track = lambda *args, **values: None
    module._trainer = type("Trainer", (), {"current_epoch": 0})()
    module.training_step(batch(), 0)
    assert int(module.saved_bytes) == 4 * 32 * (64 + 7)  # the input and the ReLU's output; not the weights


def test_memory_of_blocks_trained_alone_does_not_grow_with_their_number() -> None:
    def held(module: Any) -> int:
        module.track = lambda *args, **values: None
        module._trainer = type("Trainer", (), {"current_epoch": 0})()
        module.training_step(batch(), 0)
        return int(module.saved_bytes)

    assert held(stack(2)) == held(stack(6))
    ends = [held(stack(blocks, training="end_to_end")) for blocks in (2, 6)]
    assert ends[1] > 2.8 * ends[0]
    assert ends[1] > 5 * held(stack(6))


def test_answers_are_scored_over_runs_and_beside_images_of_other_classes() -> None:
    """Also where the test images come class by class, as from folders."""

    class Known(Arm):
        def infer(self, x: Tensor, runs: int) -> tuple[Tensor, list[Tensor]]:
            right = x.flatten(1)[:, :10]
            return torch.stack([right, right.roll(1, -1)]), [right.argmax(-1).expand(runs, -1)]

    module: Any = Known(10, 2, 1, ["block1"], None)
    logged: dict[str, float] = {}
    module.log_dict = logged.update
    for label in range(10):
        y = torch.full((4,), label)
        module.test_step((shown(y), y), label)
    module.on_test_epoch_end()
    expected = {"top1": 50, "top1_std": 100 / math.sqrt(2), "shuffled_top1": 10, "block1_top1": 100, "n": 40}
    assert logged == pytest.approx({f"test/{name}": value for name, value in expected.items()})


def test_images_dealt_out_at_random_score_by_the_margins() -> None:
    answers, labels = torch.tensor([0, 0, 1, 2, 2, 2]), torch.tensor([0, 1, 1, 2, 2, 0])
    confusion = torch.zeros(3, 3).index_put((labels, answers), torch.ones(6), accumulate=True)
    every_order = [(answers.roll(shift) == labels).float().mean() for shift in range(6)]  # each pair once
    assert shuffled_top1(confusion) == pytest.approx(100 * float(torch.stack(every_order).mean()))


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
    with pytest.raises(ValueError, match="training='both'"):
        stack(training="both")


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


def test_prototypes_pass_through_a_tower_like_images() -> None:
    module, (x, y) = stack(2, label=LabelSpace("prototype", 10, 64)), batch()
    module.descend(x, y)
    convolutions = [m for m in module.blocks[0].modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) == 6
    assert module.eval()(x).shape == (32, 10)


def test_inference_runs_share_the_batch_and_differ_in_noise() -> None:
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


def test_arms_start_from_the_same_weights(make_plan: Callable[..., Plan]) -> None:
    plan = make_plan("paper=noprop")
    made: dict[str, Any] = {n: training.construct(plan, plan.stages[n]) for n in plan.stages}

    def same(one: nn.Module, other: nn.Module) -> bool:
        pairs: Iterator[Any] = zip(one.parameters(), other.parameters(), strict=True)
        return all(torch.equal(p, q) for p, q in pairs)

    assert same(made["noprop"].blocks, made["backprop"].blocks)
    assert same(made["noprop"].blocks[0], made["single"].blocks[0])
    assert same(made["noprop"].label, made["backprop"].label)
    assert same(made["ct"].network, made["fm"].network)
    assert same(made["ct"].network, made["adjoint"].network)


def test_arms_of_a_comparison_train_alike(make_plan: Callable[..., Plan]) -> None:
    for scale, groups in {
        "mini": (("noprop", "backprop", "single", "greedy"), ("ct", "fm", "adjoint")),
        "full": (("noprop", "backprop", "single", "greedy"), ("ct", "fm")),  # the adjoint method had 4 epochs
    }.items():
        stages = make_plan("paper=noprop", f"scale={scale}").stages
        for group in groups:
            first, *others = (stages[name] for name in group)
            for other in others:
                assert (other.data, other.trainer) == (first.data, first.trainer)
                rates = [{k: stage.module["optimizer"][k] for k in ("lr", "weight_decay")} for stage in (first, other)]
                assert rates[0] == rates[1]


def test_full_recipe_is_table_3(make_plan: Callable[..., Plan]) -> None:
    stages = make_plan("paper=noprop", "scale=full").stages
    expected = {"noprop": 150, "backprop": 150, "ct": 500, "fm": 500, "adjoint": 4}
    assert {name: stages[name].trainer["max_epochs"] for name in expected} == expected
    optimizers = {name: stages[name].module["optimizer"] for name in expected}
    assert all(o["lr"] == o["weight_decay"] == 1e-3 for o in optimizers.values())
    assert {n for n, o in optimizers.items() if o["_target_"] == "torch.optim.AdamW"} == {
        "noprop",
        "backprop",
        "adjoint",
    }
    assert all(stages[name].data["batch_size"] == 128 for name in expected)
    assert (stages["noprop"].module["eta"], stages["ct"].module["eta"]) == (0.1, 1.0)
    assert (stages["noprop"].module["blocks"], stages["ct"].module["steps"]) == (10, 1000)
    mnist = make_plan("paper=noprop", "scale=full", "variant=mnist").stages
    assert [mnist[n].trainer["max_epochs"] for n in expected] == [100, 100, 100, 100, 2]
    assert make_plan("paper=noprop", "scale=full", "variant=cifar100").stages["fm"].trainer["max_epochs"] == 1000
