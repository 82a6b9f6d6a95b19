"""Accuracies against sets of valid labels, by hand."""

from __future__ import annotations

import pytest
import torch

from modules.common.multilabel import MultiLabelAccuracy, among, class_average

PREDICTION = torch.tensor([0, 1, 2, 2, 0])
ORIGINAL = torch.tensor([0, 0, 1, 2, 2])
VALID = torch.tensor([[0, -1], [0, 1], [1, -1], [1, -1], [2, -1]])
SKIP = torch.tensor([False, False, False, False, True])


def test_a_prediction_is_valid_if_it_is_in_the_images_own_list() -> None:
    assert among(PREDICTION, VALID).tolist() == [True, True, False, False, False]
    assert float(class_average(torch.tensor([1.0, 0.0, 3.0]), torch.tensor([2, 0, 3]))) == 0.75


def test_of_five_images_one_is_skipped() -> None:
    """Class 0: both valid, one of them the original. Class 1: wrong. Class 2: the original, which is not valid."""
    metric = MultiLabelAccuracy(3)
    for rows in torch.arange(5).split(3):
        metric.update(PREDICTION[rows], ORIGINAL[rows], VALID[rows], SKIP[rows])
    values = {name: value for name, value in metric.compute().items() if name != "confused"}
    expected = {"mla": 100 * (1 + 0 + 0) / 3, "macro_top1": 100 * (1 / 2 + 0 + 1) / 3, "ml_acc": 50.0}
    expected |= {"mistakes": 2, "remaining": 2, "valid_share": 50.0, "counted": 4, "classes": 3, "pairs": 2}
    expected |= {"top1": 40.0, "n": 5}
    assert {name: float(value) for name, value in values.items()} == pytest.approx(expected)
    assert metric.compute()["confused"].tolist() == [[0, 0, 0], [0, 0, 1], [0, 0, 1]]
    metric.reset()
    metric.update(PREDICTION[:1], ORIGINAL[:1], VALID[:1], SKIP[:1])
    assert float(metric.compute()["n"]) == 1
