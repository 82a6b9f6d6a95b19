"""Accuracy against throughput of trained networks."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from modules.inception_next.module import MetaNeXtClassifier
from modules.inception_next.timing import Timing
from modules.inception_next.trade_off import TradeOff
from tests.papers.inception_next.helpers import randomised, small, tensor


def test_the_trade_off_is_of_the_tested_weights_on_all_images(logged: Callable[..., dict[str, float]]) -> None:
    """Top-1 is that of each arm's final network before timing, whose steps move copies alone."""
    torch.manual_seed(0)
    arms = [MetaNeXtClassifier(10, small(gamma=1.0)), MetaNeXtClassifier(10, small(mixer=nn.Identity), ema=0.5)]
    for number, arm in enumerate(arms):
        randomised(arm.network, number)
    before = [{k: v.clone() for k, v in arm.network.state_dict().items()} for arm in arms]
    x = tensor(48, 1, 8, 8)
    expected = []
    for arm in arms:
        with torch.no_grad():
            expected.append(arm.eval()(x).argmax(-1))
    y = torch.where(torch.arange(48) < 36, expected[0], (expected[0] + 1) % 10)
    module = TradeOff(arms, ["first", "second"], Timing(rounds=1, layouts=["channels_last"]))
    metrics = logged(module, (x[:32], y[:32]), (x[32:], y[32:]))
    assert metrics["test/top1_first"] == pytest.approx(75.0)
    assert metrics["test/top1_second"] == pytest.approx(100 * float((expected[1] == y).float().mean()))
    assert module.images == 32
    assert metrics["test/infer_per_s_first"] > 0
    assert all(
        torch.equal(v, b[k]) for arm, b in zip(arms, before, strict=True) for k, v in arm.network.state_dict().items()
    )
    assert list(module.pictures(None)) == ["accuracy against throughput"]
