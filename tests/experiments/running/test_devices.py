"""What `auto` means: a CUDA GPU or the CPU, on any machine."""

from __future__ import annotations

import pytest

from experiments.common.errors import InputError
from experiments.config import compose
from experiments.running import devices
from experiments.running.plan import plan


def test_auto_on_a_mac_is_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = {"accelerator": "auto", "devices": 1}
    assert devices.settle_accelerator(trainer) == trainer  # here Lightning means the same
    monkeypatch.setattr(devices.sys, "platform", "darwin")
    assert devices.settle_accelerator(trainer) == {"accelerator": "cpu", "devices": 1}
    assert trainer["accelerator"] == "auto"
    assert devices.settle_accelerator({**trainer, "accelerator": "gpu"})["accelerator"] == "gpu"


def test_mps_is_refused() -> None:
    config = compose.compose(compose.request(["scale=smoke", "trainer.accelerator=mps"]).overrides)
    with pytest.raises(InputError, match=r"accelerator 'mps' does not exist\. Valid: auto, cpu, cuda, gpu"):
        plan(config, 0)
