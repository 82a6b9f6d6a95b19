"""What several processes need to compute what one would: batch statistics, dropout masks, sums with gradients."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce
from torch.nn.modules.batchnorm import _BatchNorm


def world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def summed(x: Tensor) -> Tensor:
    """The sum over all processes; its gradient is the sum of the gradients (a raw all_reduce would lose it)."""
    return all_reduce(x.contiguous()) if world_size() > 1 else x


def place_in_batch(x: Tensor) -> tuple[int, int]:
    """(rows of all processes, rows of the processes before this one), where x holds this process's rows."""
    if world_size() == 1:
        return len(x), 0
    sizes = [torch.zeros(1, dtype=torch.long, device=x.device) for _ in range(world_size())]
    dist.all_gather(sizes, torch.tensor([len(x)], device=x.device))
    return int(sum(sizes)), int(sum(sizes[: dist.get_rank()]))


def shared_draw(like: Tensor, draw: Callable[[int], Tensor]) -> Tensor:
    """What `draw(N)` gives for the global batch of N rows, cut to the rows of this process's `like` (n, ...)."""
    total, start = place_in_batch(like)
    return draw(total)[start : start + len(like)].to(like.device)


def shared_normal(like: Tensor, *shape: int) -> Tensor:
    """N(0, 1) for each row of this process's `like`, (n, *shape): drawn for the global batch and cut to its part."""
    return shared_draw(like, lambda total: torch.randn(total, *shape, device=like.device))


def gather(x: Tensor) -> Tensor:
    """The rows of all processes, (n, ...) -> (N, ...), in the order of their ranks; shares may differ in size.

    A row's gradient is the sum of what all processes send back to it. Whole numbers (labels) are gathered too.
    """
    if world_size() == 1:
        return x
    total, start = place_in_batch(x)
    before, after = x.new_zeros(start, *x.shape[1:]), x.new_zeros(total - start - len(x), *x.shape[1:])
    return summed(torch.cat([before, x, after]))


class SyncedBatchNorm(_BatchNorm):
    """Batch norm over the global batch, on any backend; torch's SyncBatchNorm needs GPUs.

    Parameters, buffers and their names are those of nn.BatchNorm1d/2d/3d.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"expected at least 2 dimensions, got {input.dim()}")

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or world_size() == 1:
            return super().forward(input)
        assert self.running_mean is not None
        assert self.running_var is not None
        axes = [0, *range(2, input.dim())]
        count = summed(torch.tensor([float(input.numel() / input.shape[1])], device=input.device))
        mean = summed(input.sum(axes)) / count  # (C,)
        shape = (1, -1, *(1 for _ in axes[1:]))
        variance = summed((input - mean.view(shape)).square().sum(axes)) / count  # two passes, as exact as one process
        with torch.no_grad():
            momentum = 0.1 if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean, momentum)
            self.running_var.lerp_(variance * count / (count - 1), momentum)
            if self.num_batches_tracked is not None:
                self.num_batches_tracked.add_(1)
        normal = (input - mean.view(shape)) * (variance.view(shape) + self.eps).rsqrt()
        return normal if self.weight is None else normal * self.weight.view(shape) + self.bias.view(shape)


class SharedDropout(nn.Dropout):
    """Dropout whose mask is drawn for the global batch on every process and cut to its share.

    With the same random state everywhere, an image is treated as one process would treat it.
    """

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or world_size() == 1:
            return super().forward(input)
        total, start = place_in_batch(input)
        mask = input.new_empty(total, *input.shape[1:]).bernoulli_(1 - self.p)
        return input * mask[start : start + len(input)] / (1 - self.p)


def synced(module: nn.Module) -> nn.Module:
    """Replace every batch norm and dropout in a module tree, in place, keeping parameters and buffers."""
    for name, child in module.named_children():
        if type(child) is nn.Dropout:
            setattr(module, name, SharedDropout(child.p).train(child.training))
            continue
        if isinstance(child, _BatchNorm) and not isinstance(child, SyncedBatchNorm):
            size, options = child.num_features, (child.eps, child.momentum, child.affine, child.track_running_stats)
            made = SyncedBatchNorm(size, *options).to(child.running_mean)
            made.load_state_dict(child.state_dict())
            if child.affine:
                made.weight, made.bias = child.weight, child.bias
            setattr(module, name, made.train(child.training))
        else:
            synced(child)
    return module
