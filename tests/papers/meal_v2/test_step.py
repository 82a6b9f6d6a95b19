"""MEAL V2's training step term by term, its box and its groups of parameters."""

from __future__ import annotations

import logging
import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modules.common.classifier import Classifier
from modules.meal_v2 import Discriminator, Ensemble, Labels, MealV2, cutmix, discriminator_loss


def classifier(seed: int) -> Classifier:
    """Linear, on (B, 1, 4, 4): no batch statistics, so that training and evaluation agree."""
    torch.manual_seed(seed)
    return Classifier(nn.Sequential(nn.Flatten(), nn.Linear(16, 10)), 10)


NONE = {"none": True}  # no discriminator


def meal(labels: dict[str, Any] | None = None, discriminator: dict[str, Any] | None = None, **options: Any) -> MealV2:
    student, *teachers = (classifier(seed) for seed in (0, 1, 2))
    told = {"reduction": 2, "final_relu": False, **(discriminator or {})}
    network = None if discriminator is NONE else Discriminator(10, **told)
    return MealV2(student, 10, teachers, Labels(**(labels or {})), network, **options)


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    source = torch.Generator().manual_seed(5)
    return torch.randn(6, 1, 4, 4, generator=source), torch.randint(10, (6,), generator=source)


def track(module: MealV2) -> dict[str, Any]:
    tracked: dict[str, Any] = {}
    module.track = lambda count, **terms: tracked.update(terms, count=count)  # type: ignore[method-assign]
    return tracked


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("inputs", ["logits", "probs"])
def test_the_loss_is_the_weighted_sum_of_its_terms(
    temperature: float, inputs: str, batch: tuple[Tensor, Tensor]
) -> None:
    """2 T^2 L_sim + 0.5 CE + 3 L_D, each written out for itself."""
    labels = {"soft": 2.0, "hard": 0.5, "temperature": temperature}
    module = meal(labels, {"weight": 3.0, "input": inputs})
    tracked = track(module)
    loss = module.training_step(batch, 0)

    x, y = batch
    z_s = module.network(x)
    z_t = [teacher(x) for teacher in module.teachers.networks]
    p_t = sum((z / temperature).softmax(1) for z in z_t) / 2
    log_p_s = (z_s / temperature).log_softmax(1)
    hard = -z_s.log_softmax(1)[range(6), y].mean()
    sim = -(p_t * log_p_s).sum(1).mean()
    kl = (p_t * (p_t.log() - log_p_s)).sum(1).mean()
    student, teacher = (z_s, (z_t[0] + z_t[1]) / 2) if inputs == "logits" else (z_s.softmax(1), p_t)
    of_student, of_teacher = (module.discriminator(z) for z in (student, teacher))  # type: ignore[misc]
    right = [F.logsigmoid(of_student[:, 0]), F.logsigmoid(of_teacher[:, 1])]
    wrong = [F.logsigmoid(-of_student[:, 1]), F.logsigmoid(-of_teacher[:, 0])]
    disc = -torch.stack([*right, *wrong]).mean()

    terms = {"hard": hard, "sim": sim, "kl": kl, "disc": disc}
    for name, term in terms.items():
        assert float(tracked[name]) == pytest.approx(float(term.detach()), abs=1e-5), name
    expected = 2 * temperature**2 * sim + 0.5 * hard + 3 * disc
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    assert float(tracked["loss"]) == float(loss)
    assert tracked["count"] == 6
    assert float(tracked["top1"]) == pytest.approx(100 * float((z_s.argmax(1) == y).float().mean()))


def test_reversal_in_the_step_turns_the_discriminators_part_of_the_students_gradient(
    batch: tuple[Tensor, Tensor],
) -> None:
    def gradient(**options: Any) -> Tensor:
        torch.manual_seed(3)
        module = meal(**options)
        track(module)
        module.training_step(batch, 0).backward()
        return torch.cat([p.grad.flatten() for p in module.network.parameters() if p.grad is not None])

    without = gradient(discriminator=NONE)
    joint, reversed_ = gradient() - without, gradient(discriminator={"reverse": True}) - without
    assert float(joint.abs().max()) > 1e-4
    assert torch.allclose(joint, -reversed_, atol=1e-6)


def test_a_discriminator_needs_no_soft_labels_and_soft_labels_no_discriminator(batch: tuple[Tensor, Tensor]) -> None:
    module = meal({"soft": 0.0})
    tracked = track(module)
    assert float(module.training_step(batch, 0).detach()) == pytest.approx(float(tracked["disc"]), rel=1e-6)
    module = meal(discriminator=NONE)
    tracked = track(module)
    assert float(module.training_step(batch, 0).detach()) == pytest.approx(float(tracked["sim"]), rel=1e-6)
    assert "disc" not in tracked
    for labels, discriminator in ((Labels(soft=0.0), Discriminator(10, 2)), (Labels(), None)):
        with pytest.raises(ValueError, match="need teachers"):
            MealV2(classifier(0), 10, (), labels, discriminator)


def test_one_teacher_is_drawn_for_each_batch(batch: tuple[Tensor, Tensor]) -> None:
    module = meal({"teachers": "random_one"})
    alone = [teacher(batch[0]) for teacher in module.teachers.networks]
    drawn = set()
    for seed in range(20):
        torch.manual_seed(seed)
        z_t = module.teacher_logits(batch[0])
        assert z_t.shape == (1, 6, 10)
        drawn.add(next(i for i, z in enumerate(alone) if torch.equal(z, z_t[0])))
    assert drawn == {0, 1}
    assert torch.equal(meal().teacher_logits(batch[0]), torch.stack(alone))


def test_labels_of_the_discriminator_by_hand() -> None:
    """Rows of D's outputs a, b: BCE is softplus(-a) + softplus(b) for the student, the other way for the teacher."""
    student, teacher = torch.tensor([[1.0, -2.0], [0.5, 3.0]]), torch.tensor([[0.0, 1.0], [2.0, -1.0]])

    def softplus(x: float) -> float:
        return math.log1p(math.exp(x))

    terms = [softplus(-a) + softplus(b) for a, b in student.tolist()]
    terms += [softplus(a) + softplus(-b) for a, b in teacher.tolist()]
    loss = discriminator_loss(nn.Identity(), student, teacher)
    assert float(loss) == pytest.approx(sum(terms) / 8, rel=1e-6)


def test_layers_of_the_discriminator() -> None:
    kinds = [nn.Linear, nn.ReLU, nn.Linear, nn.ReLU, nn.Linear]
    assert [type(layer) for layer in Discriminator(16, 4, final_relu=False)] == kinds
    assert [type(layer) for layer in Discriminator(16, 4)] == [*kinds, nn.ReLU]
    assert Discriminator(16, 4)[2].out_features == 1  # 16 / 4^2: the fewest there may be


def test_a_box_has_the_share_of_the_draw_and_lies_inside() -> None:
    """Beta(b, b) is 1/2 for a large b: a side of sqrt(1/2), 2 floor(11.3 / 2) = 10 of 16 and 22 of 32."""
    x = torch.arange(8.0).view(8, 1, 1, 1).expand(8, 1, 16, 32)
    heights, widths, places = set(), set(), set()
    for seed in range(60):
        torch.manual_seed(seed)
        mixed = cutmix(x, 1e6)
        changed = (mixed != x)[:, 0].any(0)
        rows, columns = changed.any(1).nonzero().flatten(), changed.any(0).nonzero().flatten()
        top, bottom, left, right = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
        assert changed[top:bottom, left:right].all()
        pasted = mixed[:, 0, top, left]
        assert pasted.sort().values.tolist() == list(range(8))  # one permutation of the batch
        assert torch.equal(
            mixed[:, 0, top:bottom, left:right], pasted.view(-1, 1, 1).expand(8, bottom - top, right - left)
        )
        if top > 0 and bottom < 16:
            heights.add(bottom - top)
        else:
            assert bottom - top <= 10
        if left > 0 and right < 32:
            widths.add(right - left)
        else:
            assert right - left <= 22
        places |= {("top", top), ("bottom", bottom), ("left", left), ("right", right)}
    assert (heights, widths) == ({10}, {22})
    assert {("top", 0), ("bottom", 16), ("left", 0), ("right", 32)} < places
    assert torch.equal(x[:, 0, 0, 0], torch.arange(8.0))  # the batch itself is left alone


def test_cutmix_comes_before_student_and_teachers(batch: tuple[Tensor, Tensor]) -> None:
    """With the box of the same draw pasted by hand, the step without a box has the same loss."""
    module = meal(cutmix_beta=1.0)
    track(module)
    torch.manual_seed(4)
    loss = module.training_step(batch, 0)
    torch.manual_seed(4)
    mixed = cutmix(batch[0], 1.0)
    assert not torch.equal(mixed, batch[0])
    module.cutmix_beta = 0.0
    assert float(module.training_step((mixed, batch[1]), 0)) == pytest.approx(float(loss), rel=1e-6)


def test_the_discriminators_own_rate() -> None:
    make = partial(torch.optim.SGD, lr=0.1)
    shared, own, none = (
        MealV2(classifier(0), 10, [classifier(1)], discriminator=network, optimizer=make)
        for network in (Discriminator(10, 2), Discriminator(10, 2, lr=0.003), None)
    )
    rates = {
        name: [group["lr"] for group in module.configure_optimizers().param_groups]  # type: ignore[union-attr]
        for name, module in (("shared", shared), ("own", own), ("none", none))
    }
    assert rates == {"shared": [0.1, 0.1], "own": [0.1, 0.003], "none": [0.1]}


@pytest.mark.parametrize(("epoch", "disc", "told"), [(0, math.log(2), True), (0, 0.69, False), (1, math.log(2), False)])
def test_a_dead_discriminator_is_named_after_the_first_epoch(
    epoch: int, disc: float, told: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = meal()
    module.track(4, disc=torch.tensor(disc, dtype=torch.float64))
    monkeypatch.setattr(MealV2, "current_epoch", epoch)
    monkeypatch.setattr(MealV2.__mro__[1], "on_train_epoch_end", lambda self: None)
    with caplog.at_level(logging.WARNING):
        module.on_train_epoch_end()
    assert ("the discriminator is dead" in caplog.text) == told


def test_members_of_an_ensemble_are_registered_so_that_they_move_with_it() -> None:
    members = [classifier(1), classifier(2)]
    registered = {id(p) for p in Ensemble(members, 10).parameters()}
    assert registered == {id(p) for member in members for p in member.network.parameters()}


def test_defaults_are_the_papers() -> None:
    """K = 8, a ReLU at the end, soft labels and the discriminator with weight 1, no hard labels, temperature 1."""
    network = Discriminator(1000)
    assert [layer.out_features for layer in network if isinstance(layer, nn.Linear)] == [125, 15, 2]
    assert isinstance(network[-1], nn.ReLU)
    assert (network.weight, network.input, network.reverse, network.lr) == (1.0, "logits", False, None)

    module = MealV2(classifier(0), 10, [classifier(1)])
    assert module.labels == Labels(soft=1.0, hard=0.0, smoothing=0.0, temperature=1.0, teachers="mean_prob")
    assert module.cutmix_beta == 0.0
