"""Scores of detectors: hand-computed accuracies, chance for constant answers, one output or two."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import nn
from torch.nn import functional as F

from datamodules.common.loader import batch_type
from modules.common.detection import DetectionScores, Detector, score_of
from tests.schedules import half


def test_two_outputs_are_one() -> None:
    logits = torch.randn(7, 2)
    y = torch.randint(2, (7,))
    two = F.cross_entropy(logits, y)
    one = F.binary_cross_entropy_with_logits(score_of(logits), y.float())
    assert torch.allclose(one, two)
    single = torch.randn(7, 1)
    assert torch.equal(score_of(single), single[:, 0])
    zero = F.binary_cross_entropy_with_logits(score_of(torch.zeros(1, 2)), torch.ones(1))
    assert float(zero) == pytest.approx(math.log(2))
    with pytest.raises(ValueError, match=r"expected \(B, 1\) or \(B, 2\)"):
        score_of(torch.zeros(2, 3))


def test_accuracies_by_hand() -> None:
    """Real: 3 of 4 right; generator a: 1 of 2; b: 2 of 2."""
    scores = DetectionScores(["a", "b"])
    scores.update(torch.tensor([-1.0, -2, -3, 1]), torch.zeros(4), torch.full((4,), -1))
    scores.update(torch.tensor([2.0, -1, 3, 4]), torch.ones(4), torch.tensor([0, 0, 1, 1]))
    values = scores.compute(["a"])
    assert values["real_acc"] == 75
    assert (values["fake_acc_a"], values["fake_acc_b"]) == (50, 100)
    assert (values["acc_a"], values["acc_b"]) == (62.5, 87.5)
    assert (values["acc"], values["own"], values["others"], values["n"]) == (75, 62.5, 87.5, 8)


def test_real_pictures_of_a_subset_count_there_alone() -> None:
    scores = DetectionScores(["a", "b"])
    scores.update(torch.tensor([1.0, -1, 1, 1]), torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1]))
    values = scores.compute()
    assert (values["acc_a"], values["acc_b"]) == (50, 100)
    assert "own" not in values
    assert "others" not in values


@pytest.mark.parametrize("answer", [-1.0, 1.0])
def test_a_constant_answer_is_chance_whatever_the_numbers(answer: float) -> None:
    scores = DetectionScores(["a"])
    y = torch.tensor([0] * 30 + [1] * 5)
    scores.update(torch.full((35,), answer), y, torch.where(y > 0, 0, -1))
    values = scores.compute()
    assert values["acc_a"] == 50
    assert values["auroc_a"] == 0.5


def test_areas_are_sklearns() -> None:
    scores = DetectionScores(["a"])
    y = torch.randint(2, (60,))
    score = torch.randn(60) + y
    scores.update(score, y, torch.where(y > 0, 0, -1))
    values = scores.compute()
    assert values["auroc_a"] == pytest.approx(roc_auc_score(y, score))
    assert values["ap_a"] == pytest.approx(average_precision_score(y, score))


def test_a_detectors_test_is_that_of_its_scores(logged: Callable[..., dict[str, float]]) -> None:
    """Over the whole test set, by generator; those trained on apart. The next epoch starts anew."""
    module = Detector(nn.Identity())
    assert module.kept == {}
    module._trainer = SimpleNamespace(datamodule=SimpleNamespace(names=["a", "b"], train_on=["b"]))  # type: ignore[assignment]
    score = torch.tensor([[1.0], [-2.0], [3.0], [-1.0], [0.5], [-0.5]])
    y, subset = torch.tensor([1, 1, 1, 0, 0, 0]), torch.tensor([0, 1, 1, -1, -1, -1])
    batch = batch_type(("x", "y", "subset"))
    for _ in range(2):
        module.on_test_epoch_start()
        values = logged(module, batch(score[:2], y[:2], subset[:2]), batch(score[2:], y[2:], subset[2:]))
        own = DetectionScores(["a", "b"])
        own.update(score[:, 0], y, subset)
        expected = own.compute(["b"])
        assert module.kept == expected
        assert values == pytest.approx({f"test/{name}": value for name, value in expected.items()})
        assert (expected["acc_a"], expected["acc_b"]) == pytest.approx((250 / 3, 175 / 3))
        assert (expected["own"], expected["others"]) == (expected["acc_b"], expected["acc_a"])
        assert module.scores is None


def test_generators_without_pictures_are_left_out_and_later_ones_are_not() -> None:
    scores = DetectionScores(["none", "a", "alone"])
    scores.update(torch.tensor([1.0, 0.0, -1.0]), torch.tensor([1, 0, 1]), torch.tensor([1, 1, 2]))
    values = scores.compute()
    assert {name for name in values if name.startswith("acc")} == {"acc_a", "acc"}
    assert values["acc_a"] == values["real_acc"] == 100  # log odds of 0 are no answer of "generated"


def test_a_score_of_nothing_is_an_answer_of_real() -> None:
    """Accuracy of training: above 0 is generated; 0 is not."""

    module = Detector(nn.Identity(), torch.optim.SGD, half)
    scores = torch.tensor([[2.0], [0.0], [-1.0], [3.0]])
    y = torch.tensor([1, 0, 1, 1])
    loss = module.training_step(batch_type(("x", "y"))(scores, y), 0)
    expected = float(F.binary_cross_entropy_with_logits(scores[:, 0], y.float()))
    means = {name: float(value) / module._count for name, value in module._sums.items()}
    assert means == pytest.approx({"loss": expected, "acc": 75.0})
    assert float(loss) == pytest.approx(expected)
    assert (module.optimizer_factory, module.schedule) == (torch.optim.SGD, half)
