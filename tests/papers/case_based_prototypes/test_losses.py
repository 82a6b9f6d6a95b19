"""R, R1 and R2 by hand, against scikit-learn, and over two processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from sklearn.metrics.pairwise import euclidean_distances
from torch import Tensor

from modules.case_based_prototypes.losses import code_error, prototype_error, reconstruction_error
from modules.common.distances import squared_distances

CODES = torch.tensor([[0.0, 0], [3, 0], [1, 1]])


PROTOTYPES = torch.tensor([[1.0, 0], [0, 2]])


def test_error_values_by_hand() -> None:
    distances = squared_distances(CODES, PROTOTYPES)
    assert distances.tolist() == [[1, 4], [4, 13], [1, 2]]
    assert float(prototype_error(distances)) == 1.5  # of 1 and 2
    assert float(code_error(distances)) == 2.0  # of 1, 4 and 1
    x = torch.zeros(2, 1, 2, 2)
    assert float(reconstruction_error(torch.full_like(x, 0.5), x)) == 1.0  # four times a quarter, not a mean


def test_distances_are_those_of_scikit_learn() -> None:
    a, b = torch.randn(50, 40), torch.randn(15, 40)
    assert torch.allclose(squared_distances(a, b), torch.tensor(euclidean_distances(a, b, squared=True)), atol=1e-4)


def test_a_prototype_on_a_code_has_no_error_and_no_gradient() -> None:
    codes = torch.randn(9, 4)
    prototypes = torch.randn(3, 4)
    prototypes[1] = codes[5]
    prototypes.requires_grad_()
    distances = squared_distances(codes, prototypes)
    assert float(distances[:, 1].min().detach()) == 0
    prototype_error(distances).backward()
    assert prototypes.grad is not None
    assert not prototypes.grad[1].any()
    assert prototypes.grad[0].any()


def rows(rank: int, world: int, n: int) -> slice:
    return slice(n * rank // world, n * (rank + 1) // world)


def in_one_of_two(rank: int, address: str, codes: Tensor, prototypes: Tensor, results: Any) -> None:
    """What one of two processes computes of R1, with the gradients averaged as DistributedDataParallel does."""
    torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    own, centres = codes[rows(rank, 2, len(codes))].clone().requires_grad_(), prototypes.clone().requires_grad_()
    loss = prototype_error(squared_distances(own, centres))
    loss.backward()
    assert own.grad is not None
    assert centres.grad is not None
    torch.distributed.all_reduce(centres.grad)
    results[rank] = (float(loss.detach()), own.grad / 2, centres.grad / 2)
    torch.distributed.destroy_process_group()


def test_r1_of_two_processes_is_that_of_one(tmp_path: Path) -> None:
    """Shares of 5 and 6 images: value, and gradients of codes and prototypes."""
    torch.manual_seed(0)
    codes, prototypes = torch.randn(11, 4), torch.randn(6, 4)
    context = mp.get_context("fork")
    with context.Manager() as manager:
        results = manager.dict()
        arguments = (f"file://{tmp_path / 'meet'}", codes, prototypes, results)
        workers = [context.Process(target=in_one_of_two, args=(rank, *arguments)) for rank in range(2)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(60)
        first, second = results[0], results[1]
    codes.requires_grad_()
    prototypes.requires_grad_()
    loss = prototype_error(squared_distances(codes, prototypes))
    loss.backward()
    assert first[0] == pytest.approx(float(loss.detach()), rel=1e-6)
    assert second[0] == first[0]
    assert codes.grad is not None
    assert prototypes.grad is not None
    assert torch.allclose(torch.cat([first[1], second[1]]), codes.grad, atol=1e-6)
    assert torch.allclose(first[2], prototypes.grad, atol=1e-6)
