"""What makes training faster on a GPU: what each switch does, on a CPU, and how wrong values are answered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from experiments.common.errors import InputError
from experiments.config import switches
from experiments.config.stages import Trainer
from experiments.config.written import read
from experiments.running import training
from experiments.running.plan import Plan, Stage

ON = {"channels_last": True, "fused": True, "compile": True, "matmul_precision": "high", "benchmark": True}
ON |= {"flush_denormal": True}
DENORMAL = 1e-40


def train(folder: Path, **trainer: Any) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """The record and the weights of a small stage."""
    net = {"_target_": "modules.common.networks.ConvNet", "in_channels": 3, "input_size": 32, "classes": 10}
    stage = Stage(
        name="any",
        module={
            "_target_": "modules.common.classifier.Classifier",
            "classes": 10,
            "network": {**net, "widths": [4], "strides": [4]},
            "optimizer": {"_target_": "torch.optim.SGD", "_partial_": True, "lr": 0.1, "momentum": 0.9},
        },
        data={"_target_": "datamodules.common.torchvision_sets.CIFAR10", "generated": True, "batch_size": 8},
        trainer={"accelerator": "cpu", "devices": 1, "precision": "32-true", "max_epochs": 2, **trainer},
        directory=folder,
    )
    config = {"checkpoint_seconds": 30, "logger": {"name": "csv"}, "seeds": [1], "threads": 1}
    result = training.train(Plan("any", "mini", None, 0, {"any": stage}, config), stage)
    return result, training.read_checkpoint(folder / "last.ckpt")[0]["state_dict"]


def test_switches_change_no_more_than_rounding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[str] = []
    optimizers: list[bool] = []
    step, compile_ = torch.optim.SGD.step, torch.nn.Module.compile

    def without_a_compiler(self: torch.nn.Module) -> None:
        compiled.append(type(self).__name__)
        compile_(self, backend="eager")

    def watched(self: torch.optim.SGD, **arguments: Any) -> Any:
        optimizers.append(bool(self.defaults["fused"]))
        return step(self, **arguments)

    monkeypatch.setattr(torch.nn.Module, "compile", without_a_compiler)
    monkeypatch.setattr(torch.optim.SGD, "step", watched)
    plain, before = train(tmp_path / "plain")
    assert (compiled, set(optimizers)) == ([], {False})
    assert plain["switches"] == []
    optimizers.clear()

    fast, after = train(tmp_path / "fast", **ON)
    assert torch.get_float32_matmul_precision() == "high"
    assert float(torch.tensor(DENORMAL) * 1.0) == 0.0
    assert (compiled, set(optimizers)) == (["ConvNet"], {True})
    assert fast["switches"] == [
        "benchmark",
        "channels_last",
        "fused",
        "compile",
        "flush_denormal",
        "matmul_precision=high",
    ]
    assert fast["metrics"]["train/loss"] == pytest.approx(plain["metrics"]["train/loss"], abs=1e-4)
    assert before.keys() == after.keys()  # compiled in place
    for name, value in before.items():
        assert torch.allclose(value, after[name], atol=1e-4), name
    assert any(v.dim() == 4 and v.is_contiguous(memory_format=torch.channels_last) for v in after.values())

    train(tmp_path / "next")
    assert torch.get_float32_matmul_precision() == "highest"  # a stage's choice ends with it
    assert float(torch.tensor(DENORMAL) * 1.0) > 0.0
    assert not torch.backends.cudnn.benchmark


def test_the_layout_reaches_weights_of_images_and_of_volumes() -> None:
    flat, deep = torch.nn.Conv2d(2, 3, 3), torch.nn.Conv3d(2, 3, 3)
    switches.apply({"channels_last": True}, torch.nn.ModuleList([flat, deep]))
    assert flat.weight.is_contiguous(memory_format=torch.channels_last)
    assert deep.weight.is_contiguous(memory_format=torch.channels_last_3d)


def test_every_optimiser_that_can_be_fused_is() -> None:
    sgd, lars = {"_target_": "torch.optim.SGD", "lr": 1}, {"_target_": "modules.common.lars.LARS", "lr": 1}
    switched = switches.fused({"optimizer": sgd, "others": [lars, {"inner": sgd}], "size": 3})
    assert switched == {
        "optimizer": {**sgd, "fused": True},
        "others": [lars, {"inner": {**sgd, "fused": True}}],
        "size": 3,
    }


@pytest.mark.parametrize(
    ("trainer", "message"),
    [
        ({"compile": "yes"}, r"stages\.any\.trainer\.compile='yes': expected true or false"),
        ({"matmul_precision": "hihg"}, "did you mean 'high'"),
        ({"fused": True, "gradient_clip_val": 1.0, "precision": "bf16-mixed"}, "cannot be had with gradient_clip_val"),
    ],
)
def test_wrong_values_are_named(trainer: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(Trainer, {"precision": "32-true", **trainer}, "stages.any.trainer")
