"""Classifiers of hard labels: their loss, what they report, and a judge that says what it sees."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from datamodules.common.loader import batch_type
from modules.common.classifier import Classifier
from modules.common.judge import Judge
from tests.schedules import half

Batch = batch_type(("x", "y"))
LOGITS = torch.tensor([[3.0, 1.0, 0.0], [0.0, 1.0, 2.0], [0.0, 0.5, 0.0], [1.0, 0.0, 0.0]])
LABELS = torch.tensor([0, 2, 1, 2])  # three of four are right
SGD = partial(torch.optim.SGD, lr=0.5)


def means(module: Any) -> dict[str, float]:
    return {name: float(value) / module._count for name, value in module._sums.items()}


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_is_cross_entropy(smoothing: float) -> None:
    module = Classifier(nn.Identity(), 3, smoothing, SGD, half)
    loss = module.training_step((LOGITS, LABELS), 0)
    assert float(loss) == pytest.approx(float(F.cross_entropy(LOGITS, LABELS, label_smoothing=smoothing)))
    assert means(module) == pytest.approx({"loss": float(loss), "top1": 75.0})
    assert module._count == 4
    assert (module.classes, module.optimizer_factory, module.schedule) == (3, SGD, half)
    assert Classifier(nn.Identity(), 3).label_smoothing == 0


def test_an_epochs_metrics_are_reported_and_start_anew(logged: Callable[..., dict[str, float]]) -> None:
    module = Classifier(nn.Identity(), 3)
    first = logged(module, (LOGITS[:3], LABELS[:3]), (LOGITS[3:], LABELS[3:]))
    assert (first["test/top1"], first["test/n"]) == (75.0, 4.0)
    assert first["test/nll"] == pytest.approx(float(F.cross_entropy(LOGITS, LABELS)))
    again = logged(module, (LOGITS[3:], LABELS[3:]))
    assert (again["test/top1"], again["test/n"]) == (0.0, 1.0)

    values: dict[str, Tensor] = {}
    module.log_dict = values.update  # type: ignore[method-assign, assignment]
    module.validation_step((LOGITS, LABELS), 0)
    module.on_validation_epoch_end()
    assert (float(values["val/top1"]), float(values["val/n"])) == (75.0, 4.0)
    module.validation_step((LOGITS[3:], LABELS[3:]), 0)
    module.on_validation_epoch_end()
    assert float(values["val/n"]) == 1.0


def judge(**options: Any) -> Judge:
    torch.manual_seed(0)
    return Judge(nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 3)), 3, **options)


def test_a_judges_features_enter_its_last_layer() -> None:
    module, x = judge(optimizer=SGD, schedule=half), torch.randn(4, 3, 2, 2)
    features, logits = module.describe(x)
    assert torch.equal(features, module.network[2](module.network[1](x.flatten(1))))
    assert torch.equal(logits, module(x))
    assert (module.features, module.suffix, module.classes) == (5, "_judge", 3)
    assert (module.optimizer_factory, module.schedule) == (SGD, half)
    with torch.autocast("cpu", torch.bfloat16):
        precise = module.describe(x.bfloat16())
    assert [part.dtype for part in precise] == [torch.float32] * 2
    assert torch.allclose(precise[1], module(x.bfloat16().float()), atol=1e-6)
    assert judge(suffix="_other").suffix == "_other"


def test_a_judge_without_features_or_a_name_is_refused() -> None:
    with pytest.raises(ValueError, match="network ends in ReLU; expected a Linear"):
        Judge(nn.Sequential(nn.Linear(2, 3), nn.ReLU()), 3)
    with pytest.raises(ValueError, match="suffix='': expected a name"):
        judge(suffix="")
