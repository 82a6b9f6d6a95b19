"""Average precision by hand and by scikit-learn."""

from __future__ import annotations

import math

import pytest
import torch
from sklearn.metrics import average_precision_score

from modules.off_the_shelf.ranking import average_precision, ranked


def test_by_hand() -> None:
    relevant = torch.tensor([True, False, True])
    assert average_precision(relevant) == pytest.approx((1 + 2 / 3) / 2)
    assert average_precision(relevant, "trapezoid") == pytest.approx((1 + (1 / 2 + 2 / 3) / 2) / 2)
    assert average_precision(relevant, "eleven") == pytest.approx((6 * 1 + 5 * 2 / 3) / 11)
    assert average_precision(torch.ones(4), "trapezoid") == average_precision(torch.ones(4), "eleven") == 1
    assert math.isnan(average_precision(torch.zeros(3)))
    with pytest.raises(ValueError, match="rule='ten': expected one of steps, trapezoid, eleven"):
        average_precision(relevant, "ten")


def test_by_scikit_learn() -> None:
    source = torch.Generator().manual_seed(0)
    for _ in range(20):
        scores, relevant = torch.rand(50, generator=source), torch.rand(50, generator=source) < 0.3
        expected = average_precision_score(relevant.numpy(), scores.numpy())
        assert average_precision(ranked(scores, relevant)) == pytest.approx(expected)


def test_equal_scores_keep_their_order() -> None:
    assert ranked(torch.tensor([0.5, 0.7, 0.5]), torch.tensor([1, 0, 0])).tolist() == [False, True, False]
