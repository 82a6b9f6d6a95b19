"""What the tests of NASNet share: small networks, children, tables and searches."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from datamodules.common.digits import Digits
from datamodules.nasnet.trials import Trials
from modules.common.schedules import cosine
from modules.nasnet import architectures
from modules.nasnet.cells import Genotype
from modules.nasnet.children import Children
from modules.nasnet.module import PPO, Choice, Search
from modules.nasnet.networks import CellNetwork, Regularisers, Size, Stem
from modules.nasnet.space import Space
from modules.nasnet.table import RewardTable

TINY = Space(1, ["identity", "max3"], ["add", "concat"], [[0, 1, "max3", "avg3", "add"]])


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def norm(channels: int) -> nn.Module:
    return nn.BatchNorm2d(channels, eps=1e-6)


def small(genotype: Genotype = architectures.NASNET_A, **options: Any) -> CellNetwork:
    """Options that Size or Regularisers have go there."""
    torch.manual_seed(0)
    size = {"repeats": 1, "filters": 4, **of(Size, options)}
    regularisers = Regularisers(**of(Regularisers, options))
    defaults = {"classes": 10, "input_size": 12, "stem": Stem(in_channels=1)}
    return CellNetwork(genotype, Size(**size), regularisers=regularisers, **{**defaults, **options})


def of(kind: Any, options: dict[str, Any]) -> dict[str, Any]:
    """Those that a dataclass has, taken out."""
    return {name: options.pop(name) for name in list(options) if name in kind.__dataclass_fields__}


def calibrated(reference: nn.Module, x: Tensor) -> nn.Module:
    """With batch statistics that keep activations near 1, then disturbed: neither 0 and 1 nor those of any batch."""
    torch.manual_seed(3)
    norms = [part for part in reference.modules() if isinstance(part, nn.BatchNorm2d)]
    for part in reference.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight)
    for part in norms:
        part.momentum = 1.0
    with torch.no_grad():
        reference.train()(x)
        for part in norms:
            assert part.running_mean is not None
            assert part.running_var is not None
            part.running_mean.add_(0.1 * part.running_var.sqrt() * torch.randn_like(part.running_mean))
            part.running_var.mul_(0.9 + 0.4 * torch.rand_like(part.running_var))
            part.weight.uniform_(0.7, 1.3)
            part.bias.normal_(0, 0.1)
    return reference.eval()


def children(**options: Any) -> Children:
    network = partial(CellNetwork, size=Size(1, 2), classes=10, input_size=8, stem=Stem(in_channels=1))
    return Children(
        **{
            "network": network,
            "epochs": 1,
            "optimizer": partial(torch.optim.SGD, lr=0.05),
            "schedule": cosine,
            **options,
        }
    )


def trials(count: int, batch: int = 4) -> Trials:
    data = Trials(Digits(20, train_size=40, val_size=30, test_size=20), batch, count)
    data.setup()
    return data


def table() -> RewardTable:
    """Rewards 0 to 0.19 in the order of the numbers, test accuracies the other way round."""
    filled = RewardTable(TINY, children())
    filled.rewards.copy_(torch.arange(20) / 100)
    filled.repeated.copy_(torch.arange(20) / 100)
    filled.accuracies.copy_(torch.arange(20).flip(0) / 100)
    return filled


def search(method: str = "ppo", samples: int = 400, **options: Any) -> Search:
    """Run by hand on the table, without a trainer; options that Choice has go there."""
    torch.manual_seed(options.pop("seed", 0))
    how: dict[str, Any] = {"ppo": PPO(units=20) if method == "ppo" else None, "choice": Choice(**of(Choice, options))}
    module = Search(TINY, samples, **{"table": table(), **how, **options})
    optimizer = torch.optim.Adam(module.controller.parameters(), 0.02)
    module.optimizers = lambda: optimizer  # type: ignore[method-assign, assignment]
    module._trainer = type("T", (), {"datamodule": trials(20, 20)})()  # type: ignore[assignment]
    for step in range(samples // 20):
        module.training_step(torch.arange(20), step)
    return module


def relabelled(count: int, batch: int) -> Trials:
    """Trials whose test labels are all another class, so that accuracy on test cannot pass for that on val."""
    data = trials(count, batch)
    labels = data.source.splits["test"][1]
    labels.copy_((labels + 1) % 10)
    return data


def share_right(network: nn.Module, data: Trials, split: str) -> float:
    """Accuracy counted by hand on the whole split."""
    images, labels = data.source.splits[split][:2]
    with torch.no_grad():
        chosen = torch.cat([network(x) for x, _ in data.images(split)]).argmax(-1)
    assert len(images) == len(chosen)
    return float((chosen == labels).float().mean())
