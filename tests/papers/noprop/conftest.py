"""What the tests of this paper share."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modules.noprop.baselines import EndToEnd
from modules.noprop.continuous import Continuous, NoPropCT
from modules.noprop.label_diffusion import LabelSpace, LearnedSchedule
from modules.noprop.module import NoProp
from modules.noprop.networks import Network

SMALL = partial(Network, in_channels=1, size=8, widths=[3, 4, 5], hidden=16)
ADAMW = partial(torch.optim.AdamW, lr=1e-2, weight_decay=0.1)


def without_trainer(module: Any) -> Any:
    """The module with its optimisers, to be trained by hand."""
    optimizers = module.configure_optimizers()
    module.optimizers = lambda: optimizers
    module.manual_backward = lambda loss: loss.backward()
    return module


def stack(blocks: int = 3, seed: int = 0, label: LabelSpace | None = None, **options: Any) -> NoProp:
    torch.manual_seed(seed)
    return without_trainer(NoProp(blocks, SMALL, label or LabelSpace("onehot", 10, 10), optimizer=ADAMW, **options))


def end_to_end(blocks: int, **options: Any) -> EndToEnd:
    torch.manual_seed(0)
    return without_trainer(EndToEnd(blocks, SMALL, LabelSpace("onehot", 10, 10), optimizer=ADAMW, **options))


def continuous(kind: type[Continuous], steps: int = 10, label: LabelSpace | None = None) -> Any:
    torch.manual_seed(0)
    label = label or LabelSpace("onehot", 10, 10)
    gamma = {"gamma": LearnedSchedule(-6.0, 6.0)} if kind is NoPropCT else {}
    return without_trainer(kind(steps, SMALL, label, **gamma, start=None, optimizer=ADAMW))  # type: ignore[call-arg]


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


@pytest.fixture(name="without_trainer")
def _without_trainer() -> Callable[..., Any]:
    return without_trainer


@pytest.fixture(name="stack")
def _stack() -> Callable[..., NoProp]:
    return stack


@pytest.fixture(name="end_to_end")
def _end_to_end() -> Callable[..., EndToEnd]:
    return end_to_end


@pytest.fixture(name="continuous")
def _continuous() -> Callable[..., Any]:
    return continuous


@pytest.fixture(name="batch")
def _batch() -> Callable[..., tuple[Tensor, Tensor]]:
    return batch


@pytest.fixture(name="Oracle")
def _oracle() -> type[nn.Module]:
    return Oracle


@pytest.fixture(name="shown")
def _shown() -> Callable[..., Tensor]:
    return shown
