"""NT-Xent by hand, against lightly's, its limits and gradients, and over two processes."""

from __future__ import annotations

import math
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from torch import Tensor
from torch.nn import functional as F

from modules.common.contrastive import nt_xent
from modules.common.distributed import gather, place_in_batch

E1, E2 = torch.eye(2)


def views(n: int, d: int = 8, seed: int = 0) -> tuple[Tensor, Tensor]:
    source = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=source), torch.randn(n, d, generator=source)


@pytest.mark.parametrize("n", [4, 64])
def test_equal_outputs_cannot_tell_the_partner(n: int) -> None:
    """ln 7 = 1.94591 for 4 images, ln 127 = 4.84419 for 64."""
    same = torch.ones(n, 5)
    assert float(nt_xent(same, same, 0.1)) == pytest.approx(math.log(2 * n - 1), abs=1e-5)


@pytest.mark.parametrize(("temperature", "value"), [(1.0, 0.55144), (0.1, 9.0796e-5)])
def test_identical_views_of_orthogonal_images(temperature: float, value: float) -> None:
    """ln(1 + 2 exp(-1 / tau)), half of what the released code's sum over both directions gives."""
    z = torch.stack([E1, E2]).double()
    assert float(nt_xent(z, z, temperature)) == pytest.approx(value, rel=1e-4)


def test_partners_that_are_the_other_image() -> None:
    """ln(2 + e): half of 3.10289."""
    loss = nt_xent(torch.stack([E1, E2]), torch.stack([E2, E1]), 1.0)
    assert float(loss) == pytest.approx(math.log(2 + math.e), abs=1e-5)
    assert 2 * float(loss) == pytest.approx(3.10289, abs=1e-5)


@pytest.mark.parametrize("temperature", [0.07, 0.1, 0.5, 1.0])
def test_loss_and_gradient_are_those_of_lightly(temperature: float) -> None:
    reference = pytest.importorskip("lightly.loss").NTXentLoss(temperature)
    actual = []
    for loss in (lambda a, b: nt_xent(a, b, temperature), reference):
        first, second = (z.requires_grad_() for z in views(13))
        value = loss(first, second)
        actual.append((value.detach(), *torch.autograd.grad(value, (first, second))))
    assert all(torch.allclose(ours, theirs, atol=1e-6) for ours, theirs in zip(*actual, strict=True))


def test_neither_length_nor_the_order_of_the_views_matters() -> None:
    first, second = views(6)
    loss = nt_xent(first, second, 0.2)
    scaled = first * torch.rand(6, 1).add(0.1)
    assert torch.allclose(nt_xent(scaled, second * 7, 0.2), loss)
    assert torch.allclose(nt_xent(second, first, 0.2), loss)


def test_excluded_pairs_are_not_in_the_denominator() -> None:
    first, second = views(5)
    labels = torch.tensor([0, 1, 0, 2, 1])
    same = labels[:, None] == labels
    loss = nt_xent(first, second, 0.3, same)

    z = F.normalize(torch.cat([first, second]), dim=1)
    expected = []
    for i in range(10):
        partner = (i + 5) % 10
        denominator = [k for k in range(10) if k == partner or labels[k % 5] != labels[i % 5]]
        exponentials = torch.stack([(z[i] @ z[k] / 0.3).exp() for k in denominator])
        expected.append(-((z[i] @ z[partner] / 0.3).exp() / exponentials.sum()).log())
    assert torch.allclose(loss, torch.stack(expected).mean(), atol=1e-6)
    assert torch.allclose(nt_xent(first, second, 0.3, same.repeat(2, 2)), loss)


def test_the_positive_cannot_be_excluded() -> None:
    """With every negative left out nothing competes with the positive."""
    first, second = views(4)
    assert float(nt_xent(first, second, 0.1, torch.ones(4, 4, dtype=torch.bool))) == pytest.approx(0, abs=1e-6)
    nothing = torch.zeros(8, 8, dtype=torch.bool)
    assert torch.equal(nt_xent(first, second, 0.1, nothing), nt_xent(first, second, 0.1))


def test_extra_negatives_stand_in_every_denominator() -> None:
    """Four equal outputs and 3 negatives like them: ln(7 + 3); orthogonal ones count exp(-1 / tau)."""
    same = torch.tensor([[2.0, 0.0]]).expand(4, 2)
    assert float(nt_xent(same, same, 0.1, extra=5 * same[:3])) == pytest.approx(math.log(10), abs=1e-5)
    far = torch.tensor([[0.0, 9.0]])
    assert float(nt_xent(same, same, 1.0, extra=far)) == pytest.approx(math.log(7 + math.exp(-1)), abs=1e-5)


def test_half_precision_is_not_used_for_similarities() -> None:
    first, second = views(6)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = nt_xent(first, second, 0.1)
    assert torch.equal(mixed, nt_xent(first, second, 0.1))


@pytest.mark.parametrize(
    ("second", "temperature", "excluded", "message"),
    [
        (torch.ones(3, 2), 0.1, None, "two .n, D. tensors"),
        (torch.ones(4, 2), 0.0, None, "temperature=0.0"),
        (torch.ones(4, 2), 0.1, torch.zeros(4, 8, dtype=torch.bool), "excluded has shape"),
    ],
)
def test_what_does_not_fit_is_named(second: Tensor, temperature: float, excluded: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        nt_xent(torch.ones(4, 2), second, temperature, excluded)


SHARES = (slice(0, 4), slice(4, 7))  # of 7 images: uneven


def _network() -> torch.nn.Linear:
    torch.manual_seed(5)
    return torch.nn.Linear(8, 6)


def _mask(labels: Tensor) -> Tensor:
    return labels[:, None] == labels


LABELS = torch.tensor([0, 1, 2, 1, 3, 0, 2])


def _rank(rank: int, folder: str) -> None:
    """One of two processes: its images through a shared network; gradients averaged as DistributedDataParallel does."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    network, part = _network(), SHARES[rank]
    first, second = (network(z[part]) for z in views(7))
    excluded = _mask(gather(LABELS[part]))
    loss = nt_xent(first, second, 0.2, excluded, extra=views(3, 6, seed=1)[0])
    alone = F.normalize(first, dim=1) @ F.normalize(second, dim=1).T  # of this process's images
    loss.backward()
    for parameter in network.parameters():
        torch.distributed.all_reduce(parameter.grad)
    gradients = [p.grad / 2 for p in network.parameters() if p.grad is not None]
    torch.save((loss.detach(), gradients, place_in_batch(first), len(alone)), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_compute_what_one_does(tmp_path: Path) -> None:
    """Shares of 4 and 3 images, with a mask and extra negatives; without gathering the loss is another one."""
    mp.start_processes(_rank, (str(tmp_path),), nprocs=2, start_method="fork")
    parts = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    network, extra = _network(), views(3, 6, seed=1)[0]
    first, second = (network(z) for z in views(7))
    loss = nt_xent(first, second, 0.2, _mask(LABELS), extra)
    loss.backward()
    assert [part[2] for part in parts] == [(7, 0), (7, 4)]
    for value, gradients, _, _ in parts:
        assert float(value) == pytest.approx(float(loss.detach()), rel=1e-6)
        for ours, theirs in zip(gradients, network.parameters(), strict=True):
            assert theirs.grad is not None
            assert torch.allclose(ours, theirs.grad, atol=1e-6)

    split = [nt_xent(first[p], second[p], 0.2, _mask(LABELS[p]), extra) * len(first[p]) / 7 for p in SHARES]
    assert abs(float((split[0] + split[1] - loss).detach())) > 0.1


def test_rows_are_numbered_where_the_outputs_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # it does not know this device
    first, second = (z.to("meta") for z in views(3))
    loss = nt_xent(first, second, 0.5, extra=views(2)[0].to("meta"))
    assert (loss.device.type, loss.shape) == ("meta", ())


def test_further_negatives_are_as_precise_as_the_others() -> None:
    first, second = (z.bfloat16() for z in views(3))
    extra = views(4, seed=5)[0]
    expected = nt_xent(first.float(), second.float(), 0.1, extra=extra.bfloat16().float())
    assert torch.equal(nt_xent(first, second, 0.1, extra=extra.bfloat16()), expected)
