"""The matrix by hand, and the one-number control."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from datamodules.common.loader import batch_type
from modules.aria.matrix import TransferMatrix, draw_matrix, summarise
from modules.aria.number import NumberDetector, OneNumber, energy, threshold
from modules.common.detection import Detector

CELLS = {"a": {"a": 90.0, "b": 60.0}, "b": {"a": 50.0, "b": 80.0}}


def test_the_matrix_by_hand() -> None:
    assert summarise(CELLS) == {
        "diagonal": 85.0,
        "off_diagonal": 55.0,
        "gap": 30.0,
        "best_other": 60.0,
        "worst_other": 50.0,
    }
    with pytest.raises(ValueError, match="needs cells on its diagonal and beside it"):
        summarise({"a": {"a": 1.0}})
    assert draw_matrix(CELLS).axes


def test_bad_input_is_named() -> None:
    detector = Detector(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 1)))
    with pytest.raises(ValueError, match="expected one for each of 1 detectors"):
        TransferMatrix([detector], ["a", "b"])
    with pytest.raises(ValueError, match="by='photo'"):
        TransferMatrix([detector], ["a"], by="photo")


def test_a_constant_detector_is_at_chance_everywhere() -> None:
    """It finds every generated picture: the share of them does not help."""
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 1))
    torch.nn.init.zeros_(network[1].weight)
    torch.nn.init.ones_(network[1].bias)
    stage = TransferMatrix([Detector(network), Detector(network)], ["a", "b"])
    logged: dict[str, Any] = {}
    stage.log = lambda name, value, **_: logged.update({name: value})  # type: ignore[method-assign]
    stage.log_dict = lambda values, **_: logged.update(values)  # type: ignore[method-assign]
    stage.tested = lambda: ("a", "b")  # type: ignore[method-assign]

    class Trainer:
        datamodule = None

    stage._trainer = Trainer()  # type: ignore[assignment]
    stage.on_test_epoch_start()
    make = batch_type(("x", "y", "subset", "category"))
    y = torch.tensor([0, 1, 1, 1, 1])
    subset = torch.tensor([-1, 0, 0, 0, 1])
    stage.test_step(make(torch.rand(5, 3, 2, 2), y, subset, torch.zeros(5)), 0)
    stage.on_test_epoch_end()
    assert {value for name, value in logged.items() if "cell" in name} == {50.0}
    assert (logged["test/gap"], logged["test/fake_acc"], logged["test/real_acc"]) == (0, 100, 0)


def test_a_threshold_by_hand() -> None:
    values = torch.tensor([1.0, 2, 3, 10, 11])
    cut, side = threshold(values, torch.tensor([0, 0, 0, 1, 1]))
    assert (cut, side) == (6.5, 1)
    cut, side = threshold(values, torch.tensor([1, 1, 0, 0, 0]))
    assert (cut, side) == (2.5, -1)


def test_one_number_learns_its_threshold() -> None:
    sharp, flat = torch.rand(20, 3, 8, 8), 0.1 * torch.rand(20, 3, 8, 8)
    stage = NumberDetector()
    stage.seen = [(energy(torch.cat([sharp, flat])), torch.tensor([0] * 20 + [1] * 20))]
    stage.finish()
    assert isinstance(stage.network, OneNumber)
    assert bool((stage.network(flat) > 0).all())
    assert bool((stage.network(sharp) < 0).all())
    assert stage.state_dict().keys() >= {"network.cut", "network.side"}
