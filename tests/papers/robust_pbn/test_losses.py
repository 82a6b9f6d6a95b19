"""The losses: by hand, where they stop, and across processes."""

from __future__ import annotations

import math
import multiprocessing as mp
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from modules.robust_pbn.losses import (
    GLVQ,
    CrossEntropy,
    Margin,
    Robust,
    alignment_loss,
    glvq_loss,
    margin_loss,
    robust_loss,
    tanh_loss,
)

RIGHT = torch.tensor([[True, True, False, False]])


def test_margin_loss_by_hand_and_where_it_stops() -> None:
    scores = torch.tensor([[0.5, 0.7, 0.6, 0.1], [0.2, 0.9, 0.5, 0.1]], requires_grad=True)
    loss = margin_loss(scores, RIGHT.expand(2, 4), 0.3)
    assert torch.allclose(loss, torch.tensor([0.2, 0.0]), atol=1e-6)
    (gradient,) = torch.autograd.grad(loss.sum(), scores)
    assert torch.equal(gradient, torch.tensor([[0.0, -1.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0]]))


def test_robust_loss_asks_nothing_of_a_radius_that_is_reached() -> None:
    radius = torch.tensor([-0.5, 0.2, 0.5, 2.0], requires_grad=True)
    loss = robust_loss(radius, 0.5)
    assert torch.allclose(loss, torch.tensor([1.0, 0.3, 0.0, 0.0]))
    (gradient,) = torch.autograd.grad(loss.sum(), radius)
    assert torch.equal(gradient, torch.tensor([-1.0, -1.0, 0.0, 0.0]))


def test_glvq_loss_by_hand() -> None:
    distances = torch.tensor([[1.0, 3.0, 2.0, 5.0]])
    assert float(glvq_loss(distances, RIGHT)) == pytest.approx(-1 / 3)
    assert float(glvq_loss(distances, ~RIGHT)) == pytest.approx(1 / 3)


def test_every_loss_reads_a_network(small: Callable[..., Any]) -> None:
    network = small(per_class=2)
    x, y = torch.rand(7, 5), torch.randint(3, (7,))
    evidence, right = network.read(x), network.right(y)
    p = evidence.class_scores()
    assert torch.allclose(Margin(0.3)(evidence, right, y), margin_loss(evidence.scores, right, 0.3))
    assert torch.allclose(Robust(0.5)(evidence, right, y), robust_loss(evidence.radius(right), 0.5))
    assert torch.allclose(CrossEntropy()(evidence, right, y), F.cross_entropy(p, y, reduction="none"))
    share = -(p / p.sum(1, keepdim=True)).gather(1, y[:, None]).log().squeeze(1)
    assert torch.allclose(CrossEntropy("share")(evidence, right, y), share, atol=1e-6)
    tempered = F.nll_loss(F.log_softmax(torch.log1p(p**2), 1), y, reduction="none")
    assert torch.allclose(CrossEntropy("pipnet")(evidence, right, y), tempered)
    assert float(GLVQ()(evidence, right, y).abs().max()) <= 1


def test_an_unknown_form_is_named() -> None:
    with pytest.raises(ValueError, match="form='log': expected one of raw, share, pipnet"):
        CrossEntropy("log")


def test_alignment_by_hand_and_which_view_has_the_gradient() -> None:
    first = torch.tensor([0.5, 0.5]).view(1, 2, 1, 1).requires_grad_()
    second = torch.tensor([0.9, 0.1]).view(1, 2, 1, 1).requires_grad_()
    loss = alignment_loss(first, second)
    assert float(loss.detach()) == pytest.approx(math.log(2))
    loss.backward()
    assert first.grad is not None
    assert torch.allclose(first.grad.flatten(), -second.detach().flatten() / 0.5 / 2)
    same = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1)
    assert float(alignment_loss(same, same)) == pytest.approx(0, abs=1e-6)


def test_tanh_loss_by_hand() -> None:
    d = torch.tensor([[0.1, 1.0], [0.2, 0.5]])
    expected = -(math.log(math.tanh(0.3)) + math.log(math.tanh(1.5))) / 2
    assert float(tanh_loss(d)) == pytest.approx(expected, rel=1e-5)


def in_one_of_two(rank: int, address: str, d: Tensor, results: Any) -> None:
    """One of two processes: its share's loss and gradient, averaged as DistributedDataParallel does."""
    torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    own = d[rank * 3 : rank * 3 + 3].clone().requires_grad_()
    loss = tanh_loss(own)
    loss.backward()
    assert own.grad is not None
    results[rank] = (float(loss.detach()), own.grad / 2)
    torch.distributed.destroy_process_group()


def test_tanh_loss_of_two_processes_is_that_of_one(tmp_path: Path) -> None:
    d = torch.rand(6, 4)
    context = mp.get_context("fork")
    with context.Manager() as manager:
        results = manager.dict()
        arguments = (f"file://{tmp_path / 'meet'}", d, results)
        workers = [context.Process(target=in_one_of_two, args=(rank, *arguments)) for rank in range(2)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(60)
        first, second = results[0], results[1]
    whole = d.clone().requires_grad_()
    loss = tanh_loss(whole)
    loss.backward()
    assert whole.grad is not None
    assert first[0] == pytest.approx(float(loss.detach()), rel=1e-6)
    assert second[0] == pytest.approx(first[0], rel=1e-6)
    assert torch.allclose(torch.cat([first[1], second[1]]), whole.grad, atol=1e-6)
