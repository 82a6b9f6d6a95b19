"""What several processes compute is what one does: batch statistics, gradients, dropout, draws."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from torch import Tensor, nn

from modules.common import distributed
from modules.common.distributed import (
    SharedDropout,
    SyncedBatchNorm,
    gather,
    place_in_batch,
    shared_draw,
    shared_normal,
    summed,
    synced,
    world_size,
)


def _rank(rank: int, folder: str) -> None:
    """One of two processes: half of a batch through a network with batch norm; saves output, gradients, statistics."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    network, x = _network()
    half = x.tensor_split([5])[rank]  # uneven: five and three
    output = synced(network)(half)
    summed(output.square().sum()).backward()
    gradients = [p.grad for p in network.parameters()]
    for gradient in gradients:
        torch.distributed.all_reduce(gradient)
    torch.save((output.detach(), [g / 2 for g in gradients], dict(network.named_buffers())), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def _network() -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)]
    return nn.Sequential(*layers).double(), torch.randn(8, 1, 6, 6, dtype=torch.double)


def test_batch_statistics_and_gradients_are_those_of_one_process(tmp_path: Path) -> None:
    """`summed` gives both processes the whole loss, so that its gradient arrives twice: hence the half."""
    mp.start_processes(_rank, (str(tmp_path),), nprocs=2, start_method="fork")
    network, x = _network()
    output = network(x)
    output.square().sum().backward()
    parts = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    assert torch.allclose(torch.cat([p[0] for p in parts]), output, atol=1e-12)
    for ours, theirs in zip(parts[0][1], network.parameters(), strict=True):
        assert theirs.grad is not None
        assert torch.allclose(ours, theirs.grad, atol=1e-10)
    for name, buffer in network.named_buffers():
        assert torch.allclose(parts[0][2][name], buffer, atol=1e-12), name


def test_one_process_is_plain_batch_norm() -> None:
    network, x = _network()
    expected = network(x)
    replaced = synced(_network()[0])
    assert isinstance(replaced[1], SyncedBatchNorm)
    assert torch.equal(replaced(x), expected)
    assert list(replaced.state_dict()) == list(network.state_dict())


class Processes:
    """Stands in for torch.distributed on one of several processes, whose batches have these sizes."""

    def __init__(self, sizes: list[int], rank: int) -> None:
        self.sizes, self.rank = sizes, rank

    def is_available(self) -> bool:
        return True

    def is_initialized(self) -> bool:
        return True

    def get_world_size(self) -> int:
        return len(self.sizes)

    def get_rank(self) -> int:
        return self.rank

    def all_gather(self, sizes: list[Tensor], own: Tensor) -> None:
        assert own.tolist() == [self.sizes[self.rank]]
        for target, size in zip(sizes, self.sizes, strict=True):
            target.copy_(torch.tensor([size]))


@pytest.fixture
def be(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Be this process among others; what is summed comes from it alone."""

    def become(sizes: list[int], rank: int) -> None:
        monkeypatch.setattr(distributed, "dist", Processes(sizes, rank))
        monkeypatch.setattr(distributed, "all_reduce", lambda x: x.clone())

    return become


def test_alone_nothing_is_shared() -> None:
    x = torch.randn(3, 2)
    assert world_size() == 1
    assert summed(x) is x
    assert gather(x) is x
    assert place_in_batch(x) == (3, 0)


def test_a_process_knows_its_rows_of_the_global_batch(be: Any) -> None:
    be([2, 3, 4], 1)
    assert world_size() == 3
    x = torch.arange(6.0).view(3, 2)
    assert place_in_batch(x) == (9, 2)
    gathered = gather(x)
    assert torch.equal(gathered, torch.cat([torch.zeros(2, 2), x, torch.zeros(4, 2)]))
    assert gather(torch.tensor([5, 6, 7])).tolist() == [0, 0, 5, 6, 7, 0, 0, 0, 0]


def test_draws_are_cut_from_the_global_batchs(be: Any) -> None:
    be([2, 3, 4], 1)
    x = torch.zeros(3, 7)
    asked: list[int] = []

    def count(total: int) -> Tensor:
        asked.append(total)
        return torch.arange(total)

    assert shared_draw(x, count).tolist() == [2, 3, 4]
    assert asked == [9]
    torch.manual_seed(0)
    whole = torch.randn(9, 5)
    torch.manual_seed(0)
    assert torch.equal(shared_normal(x, 5), whole[2:5])


@pytest.mark.parametrize("shape", [(6, 4), (6, 4, 5), (6, 4, 3, 3)])
@pytest.mark.parametrize("options", [{}, {"momentum": 0.3, "eps": 0.01}, {"momentum": None}, {"affine": False}])
def test_the_long_way_round_is_torchs_batch_norm(be: Any, shape: tuple[int, ...], options: dict[str, Any]) -> None:
    """Two processes of which the other has nothing to add: statistics, gradients and buffers of one."""
    kinds: dict[int, Any] = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d}
    theirs = kinds[len(shape)](4, **{**options, "momentum": options.get("momentum", 0.1) or 0.1})
    ours = SyncedBatchNorm(4, **options)
    for layer in (ours, theirs):
        if layer.affine:
            nn.init.constant_(layer.weight, 1.5)
            nn.init.constant_(layer.bias, 0.5)
    x = torch.randn(shape) * 3 + 2
    first, second = x.clone().requires_grad_(), x.clone().requires_grad_()
    weights = torch.randn(shape)
    expected = theirs(first)
    (expected * weights).sum().backward()

    be([6, 0], 0)
    actual = ours(second)
    (actual * weights).sum().backward()
    assert torch.allclose(actual, expected, atol=1e-5)
    assert first.grad is not None
    assert second.grad is not None
    assert torch.allclose(second.grad, first.grad, atol=1e-5)
    for name, buffer in theirs.named_buffers():
        assert torch.allclose(ours.get_buffer(name), buffer, atol=1e-5), name

    ours.eval()
    theirs.eval()
    assert torch.allclose(ours(x), theirs(x), atol=1e-5)
    with pytest.raises(ValueError, match="at least 2 dimensions, got 1"):
        ours(x.flatten())


def test_a_mask_is_cut_from_the_global_batchs(be: Any) -> None:
    layer, x = SharedDropout(0.25), torch.ones(3, 50)
    assert torch.equal(layer.eval()(x), x)
    torch.manual_seed(0)
    mask = torch.empty(9, 50).bernoulli_(0.75)
    torch.manual_seed(0)
    be([2, 3, 4], 1)
    layer.train()
    assert torch.allclose(layer(x), mask[2:5] / 0.75)


def test_alone_a_shared_dropout_is_torchs() -> None:
    layer, x = SharedDropout(0.25), torch.ones(3, 50)
    torch.manual_seed(0)
    expected = nn.Dropout(0.25)(x)
    torch.manual_seed(0)
    assert torch.equal(layer(x), expected)


def test_every_layer_of_a_tree_is_replaced_with_what_it_had() -> None:
    norm = nn.BatchNorm1d(3, eps=0.01, momentum=0.2, affine=True).eval()
    nn.init.constant_(norm.bias, 4.0)
    norm.get_buffer("running_mean").fill_(2.0)
    bare = nn.BatchNorm2d(2, affine=False)
    tree = nn.Sequential(nn.Linear(3, 3), nn.Sequential(norm, nn.Dropout(0.2).eval()), nn.Dropout2d(0.1), bare)
    changed = synced(tree)
    assert changed is tree
    replaced, dropout = tree[1]
    assert (type(replaced), type(dropout), type(tree[2])) == (SyncedBatchNorm, SharedDropout, nn.Dropout2d)
    assert (replaced.eps, replaced.momentum, replaced.training) == (0.01, 0.2, False)
    assert (dropout.p, dropout.training) == (0.2, False)
    assert replaced.weight is norm.weight
    assert replaced.bias is norm.bias
    assert replaced.running_mean.tolist() == [2.0] * 3
    assert (type(tree[3]), tree[3].weight, tree[3].training) == (SyncedBatchNorm, None, True)
    assert synced(tree)[1][0] is replaced  # once is enough
