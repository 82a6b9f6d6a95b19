"""The loss's limit cases in place, what is left out of it, what labels may reach, and the learning rates."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from datamodules.common.loader import batch_type
from datamodules.g_simclr.images import GuidedBatches
from modules.common.contrastive import nt_xent
from modules.common.schedules import Position
from modules.g_simclr.module import GSimCLR, same_class
from modules.g_simclr.schedules import cosine_restarts, cosine_steps

Small = Callable[..., GSimCLR]


def batch(x: Tensor, x2: Tensor, y: Tensor) -> Any:
    return batch_type(("x", "y", "x2"))(x, y, x2)


def test_equal_outputs_cost_ln_127(small: Small) -> None:
    module = small()
    for parameter in module.head.last.parameters():
        parameter.data.fill_(0.3)
    module.head.last.weight.data.zero_()
    x = torch.rand(64, 1, 28, 28)
    loss = module.training_step(batch(x, x, torch.zeros(64)), 0)
    assert float(loss.detach()) == pytest.approx(math.log(127), abs=1e-4)


def test_two_orthogonal_images_cost_what_is_computed_by_hand() -> None:
    z = torch.eye(2)
    assert float(nt_xent(z, z, 1.0)) == pytest.approx(math.log(1 + 2 / math.e), abs=1e-6)
    assert math.log(1 + 2 / math.e) == pytest.approx(0.55144, abs=1e-5)


def test_the_step_is_the_loss_of_both_views_written_out(small: Small) -> None:
    module = small(temperature=0.2).eval()
    x, x2 = torch.rand(2, 5, 1, 28, 28).unbind()
    z = F.normalize(torch.cat([module(x), module(x2)]).detach().double(), dim=1)
    terms = []
    for i in range(10):
        j = (i + 5) % 10
        others = [float(z[i] @ z[k]) / 0.2 for k in range(10) if k != i]
        terms.append(math.log(sum(map(math.exp, others))) - float(z[i] @ z[j]) / 0.2)
    loss = module.training_step(batch(x, x2, torch.zeros(5)), 0)
    assert float(loss.detach()) == pytest.approx(sum(terms) / 10, abs=1e-4)


def test_views_apart_have_batch_statistics_of_their_own(small: Small) -> None:
    """Two passes in training mode, each counted by the batch norms; one pass mixes the statistics of both views."""
    x, x2 = torch.rand(4, 1, 28, 28), 0.3 * torch.rand(4, 1, 28, 28)
    losses = {}
    for apart in (True, False):
        module = small(views_apart=apart)
        losses[apart] = float(module.training_step(batch(x, x2, torch.zeros(4)), 0).detach())
        counts = {int(count) for name, count in module.named_buffers() if name.endswith("num_batches_tracked")}
        assert counts == {2 if apart else 1}
    reference = small()
    expected = nt_xent(reference(x), reference(x2), 0.1)
    assert losses[True] == pytest.approx(float(expected.detach()), abs=1e-5)
    assert losses[False] != pytest.approx(losses[True], abs=1e-3)


def test_a_masked_class_is_left_out_of_the_denominator_but_for_the_positive(small: Small) -> None:
    """Two classes in a batch: each anchor sees its other view and the other class, by hand."""
    module = small(masked=True, temperature=0.5).eval()
    x, x2 = torch.rand(2, 4, 1, 28, 28).unbind()
    y = torch.tensor([0, 1, 0, 1])
    z = F.normalize(torch.cat([module(x), module(x2)]).detach().double(), dim=1)
    terms = []
    for i in range(8):
        j = (i + 4) % 8
        kept = [k for k in range(8) if k == j or y[k % 4] != y[i % 4]]
        terms.append(math.log(sum(math.exp(float(z[i] @ z[k]) / 0.5) for k in kept)) - float(z[i] @ z[j]) / 0.5)
    loss = module.training_step(batch(x, x2, y), 0)
    assert float(loss.detach()) == pytest.approx(sum(terms) / 8, abs=1e-4)
    one_class = module.training_step(batch(x, x2, torch.zeros(4)), 0)
    assert float(one_class.detach()) == pytest.approx(0, abs=1e-6)  # no negative is left
    assert same_class(y).tolist()[0] == [True, False, True, False]


@pytest.mark.parametrize("sampler", ["random", "strict", "rank_order", "reweighted"])
def test_permuted_labels_leave_pretraining_as_it_is(
    sampler: str, small: Small, guided: Callable[..., GuidedBatches]
) -> None:
    ends = []
    for permuted in (False, True):
        data, module = guided(sampler), small()
        images, labels = data.splits["train"]
        if permuted:
            data.splits["train"] = (images, labels[torch.randperm(len(labels))])
        optimizer = torch.optim.SGD(module.parameters(), 0.1)
        for number, step in enumerate(data.train_dataloader()):
            optimizer.zero_grad()
            module.training_step(step, number).backward()
            optimizer.step()
        ends.append(module.state_dict())
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_pretraining_reaches_the_whole_encoder_and_head(small: Small, guided: Callable[..., GuidedBatches]) -> None:
    module = small()
    module.training_step(next(iter(guided().train_dataloader())), 0).backward()
    reached = {name for name, p in module.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    assert {name for name, _ in module.named_parameters() if "weight" in name} <= reached


def test_similarity_is_the_mean_cosine_of_different_images(
    small: Small, logged: Callable[..., dict[str, float]], attach: Callable[..., Any]
) -> None:
    module = small().eval()
    attach(module)
    x = torch.rand(7, 1, 28, 28)
    z = F.normalize(module(x).detach(), dim=1)
    cosines = [float(z[i] @ z[j]) for i in range(7) for j in range(7) if i != j]
    with torch.no_grad():
        metrics = logged(module, batch(x[:4], x[:4], x[:4]), batch(x[4:], x[4:], x[4:]))
    assert metrics["test/similarity"] == pytest.approx(sum(cosines) / 42, abs=1e-4)
    assert metrics["test/n"] == 7


def at(step: int) -> Position:
    return Position(step // 781, step % 781, 781, 15)


def test_rates_restart_after_1000_and_3000_steps() -> None:
    rates = [cosine_restarts(at(step)) for step in (0, 500, 999, 1000, 2000, 2999, 3000, 6999, 7000)]
    assert rates == pytest.approx([1, 0.5, 0, 1, 0.5, 0, 1, 0, 1], abs=1e-5)


def test_rates_of_the_photos_end_after_1000_steps() -> None:
    assert [cosine_steps(at(step)) for step in (0, 500, 1000, 3799)] == pytest.approx([1, 0.5, 0, 0])


def test_sums_of_a_test_are_no_weights_and_are_added_up_over_processes(
    small: Small, logged: Callable[..., dict[str, float]], attach: Callable[..., Any]
) -> None:
    """Two processes with the same six images: all pairs of one of them, and the pairs of an image with itself."""
    module = small().eval()
    trainer = attach(module)
    assert not any(name.startswith("total") for name in module.state_dict())
    batch = batch_type(("x", "y"))(torch.rand(6, 1, 28, 28), torch.arange(6))
    with torch.no_grad():
        alone = logged(module, batch)
        trainer.strategy.reduce = lambda value, reduce_op: {"sum": 2 * value}[reduce_op]
        both = logged(module, batch)
    assert both["test/n"] == 12
    expected = (4 * 30 * alone["test/similarity"] + 12) / (12 * 11)  # 6 cosines of 1 between the halves, both ways
    assert both["test/similarity"] == pytest.approx(expected, abs=1e-4)
