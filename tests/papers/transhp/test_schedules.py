"""The learning rate against timm."""

from __future__ import annotations

import pytest
import torch
from timm.scheduler import CosineLRScheduler
from torch import nn

from modules.common.schedules import Position
from modules.transhp.module import TransHP
from modules.transhp.schedules import deit_cosine
from tests.papers.transhp.helpers import small_network


def test_learning_rate_is_timms() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1e-3)
    theirs = CosineLRScheduler(optimizer, t_initial=300, lr_min=1e-5, warmup_t=5, warmup_lr_init=1e-6)
    for epoch in range(300):
        ours = 1e-3 * deit_cosine(Position(epoch, 7, 1251, 300))
        assert optimizer.param_groups[0]["lr"] == pytest.approx(ours, rel=1e-9)
        theirs.step(epoch)  # as the released loop does, after the epoch


def test_a_method_trains_with_its_own_optimizer_and_schedule() -> None:
    module = TransHP(small_network(), 10, [1.0], optimizer=torch.optim.AdamW, schedule=deit_cosine)
    assert (module.optimizer_factory, module.schedule) == (torch.optim.AdamW, deit_cosine)
