"""R_BN against hand-computed values, an independent computation and two processes."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torchvision.models import resnet18, resnet50

from modules.cda import statistics
from modules.cda.module import global_cross_entropy
from modules.cda.statistics import batch_norms, batch_statistics, statistics_loss, watch
from modules.common.classifier import Classifier


def test_resnet_batch_norms_are_counted() -> None:
    with torch.device("meta"):
        assert len(batch_norms(resnet18())) == 20
        assert len(batch_norms(resnet50())) == 53


def test_a_zero_batch_through_a_fresh_resnet18_by_hand() -> None:
    """Running variance 1, batch variance 0, both means 0: sqrt(channels) for every layer."""
    network = resnet18().eval()
    layers = batch_norms(network)
    with torch.inference_mode():
        _, inputs = watch(network, layers, torch.zeros(2, 3, 32, 32))
        each = [float(statistics_loss([x], [layer], first=1.0)) for x, layer in zip(inputs, layers, strict=True)]
        total = float(statistics_loss(inputs, layers, first=1.0))
        weighted = float(statistics_loss(inputs, layers))
    assert each == pytest.approx([math.sqrt(layer.num_features) for layer in layers], abs=1e-4)
    assert total == pytest.approx(289.706, abs=2e-3)
    assert weighted == pytest.approx(361.706, abs=2e-3)


def test_statistics_are_those_of_numpy() -> None:
    x = torch.randn(5, 3, 4, 6, generator=torch.Generator().manual_seed(0))
    mean, variance = batch_statistics(x)
    flat = x.permute(1, 0, 2, 3).reshape(3, -1).double().numpy()
    assert mean.tolist() == pytest.approx(flat.mean(1).tolist(), abs=1e-6)
    assert variance.tolist() == pytest.approx(flat.var(1).tolist(), abs=1e-6)  # biased
    assert batch_statistics(x.bfloat16())[0].dtype == torch.float32


def test_statistics_over_processes_are_sums_over_their_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes that hold the same images: every sum is twice as large, and both statistics are the same."""
    x = 3 + torch.randn(5, 3, 4, 6)
    mean, variance = batch_statistics(x)
    monkeypatch.setattr(statistics, "world_size", lambda: 2)
    monkeypatch.setattr(statistics, "summed", lambda value: 2 * value)
    both = batch_statistics(x)
    assert torch.allclose(both[0], mean, atol=1e-5)
    assert torch.allclose(both[1], variance, atol=1e-5)


def test_loss_by_hand_is_not_squared() -> None:
    """Means 3 and 4 away: 5, not 25; the variances are 1 and 1 away: sqrt 2."""
    layer = nn.BatchNorm2d(2)
    assert layer.running_mean is not None
    layer.running_mean.copy_(torch.tensor([3.0, 4.0]))
    x = torch.zeros(2, 2, 1, 1)
    assert float(statistics_loss([x], [layer], first=1.0)) == pytest.approx(5 + math.sqrt(2))
    assert float(statistics_loss([x, x], [layer, layer], first=10.0)) == pytest.approx(11 * (5 + math.sqrt(2)))


def test_equal_statistics_cost_nothing_and_have_a_finite_gradient() -> None:
    x = torch.randn(8, 3, 4, 4)
    layer = nn.BatchNorm2d(3, momentum=None)
    layer(x)
    assert layer.running_mean is not None
    assert layer.running_var is not None
    layer.running_mean.copy_(x.mean((0, 2, 3)))
    layer.running_var.copy_(x.var((0, 2, 3), correction=0))
    x.requires_grad_()
    loss = statistics_loss([x], [layer])
    (gradient,) = torch.autograd.grad(loss, x)
    assert float(loss.detach()) == pytest.approx(0, abs=1e-5)
    assert bool(torch.isfinite(gradient).all())


def test_inputs_are_those_before_the_norm_and_buffers_stay(squeezed: Classifier) -> None:
    network = squeezed.network.eval()
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    layers = batch_norms(network)
    x = torch.randn(4, 1, 8, 8)
    output, inputs = watch(network, layers, x)
    assert torch.equal(inputs[0], network[0](x))
    assert torch.equal(inputs[1], network[:4](x))
    assert torch.equal(output, network(x))
    assert all(torch.equal(before[name], buffer) for name, buffer in network.named_buffers())
    assert not any(layer._forward_pre_hooks for layer in layers)


def test_networks_without_statistics_are_refused() -> None:
    with pytest.raises(ValueError, match="running statistics"):
        batch_norms(nn.Sequential(nn.Conv2d(1, 1, 1)))
    with pytest.raises(ValueError, match="running statistics"):
        batch_norms(nn.BatchNorm2d(1, track_running_stats=False))


def whole_loss(x: Tensor, y: Tensor) -> Tensor:
    """CE of logits that are the images' channel means, and R_BN of two layers."""
    bn = statistics_loss([x, 2 * x], [nn.BatchNorm2d(3), nn.BatchNorm2d(3)])
    return bn + global_cross_entropy(x.mean((2, 3)), y)


def _share(rank: int, x: Tensor, y: Tensor, gradients: Tensor, losses: Tensor, port: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{port}", rank=rank, world_size=2)
    torch.set_num_threads(1)
    own = x[:2] if rank == 0 else x[2:]
    own = own.clone().requires_grad_()
    loss = whole_loss(own, y[:2] if rank == 0 else y[2:])
    loss.backward()
    assert own.grad is not None
    (gradients[:2] if rank == 0 else gradients[2:]).copy_(own.grad / 2)  # DDP's mean over two processes
    losses[rank] = loss.detach()
    dist.destroy_process_group()


def test_two_processes_have_the_gradient_of_one(tmp_path: Path) -> None:
    """Shares of 2 and 3 images."""
    x = 2 * torch.randn(5, 3, 4, 4) + 1
    gradients, losses = torch.zeros_like(x).share_memory_(), torch.zeros(2).share_memory_()
    y = torch.tensor([0, 2, 1, 1, 0])
    mp.start_processes(_share, (x, y, gradients, losses, f"{tmp_path / 'meet'}"), nprocs=2, start_method="fork")
    whole = x.clone().requires_grad_()
    loss = whole_loss(whole, y)
    loss.backward()
    assert whole.grad is not None
    assert losses.tolist() == pytest.approx([float(loss.detach())] * 2, rel=1e-5)
    assert torch.allclose(gradients, whole.grad, atol=1e-6)
