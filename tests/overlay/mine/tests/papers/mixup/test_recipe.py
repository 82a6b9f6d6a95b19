"""The full recipe against the released code (1fe8c5e), and what the arms of the comparison share."""

from __future__ import annotations

import pytest

from experiments.config import compose
from experiments.running.plan import Plan, plan

ARMS = ("mixup", "erm", "smoothed")


def composed(scale: str) -> Plan:
    return plan(compose.compose(compose.request(["paper=mixup", f"scale={scale}"]).overrides), 0)


@pytest.mark.parametrize("scale", ["full", "mini"])
def test_the_arms_share_budget_and_start(scale: str) -> None:
    method, *others = (composed(scale).stages[name] for name in ARMS)
    for other in others:
        assert (other.data, other.trainer) == (method.data, method.trainer)
        assert other.start_like == method.start_like
        for part in ("network", "optimizer", "schedule"):
            assert other.module[part] == method.module[part]


def test_the_numbers_of_the_full_recipe() -> None:
    stages = composed("full").stages
    stage = stages["mixup"]
    assert stage.trainer["max_epochs"] == 200
    assert stage.data["batch_size"] == stage.reference_batch == 128
    optimizer = stage.module["optimizer"]
    assert (optimizer["lr"], optimizer["momentum"], optimizer["weight_decay"]) == (0.1, 0.9, 1e-4)
    assert stage.module["schedule"]["milestones"] == [100, 150]
    assert stage.module["alpha"] == 1.0
    assert stages["smoothed"].module["label_smoothing"] == 0.1
