"""The picture of accuracy against training images counts what its stages say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from datamodules.common.loader import batch_type
from modules.off_the_shelf.curve import Curve
from modules.off_the_shelf.module import LinearSVM


def batch(*columns: Tensor) -> Any:
    return batch_type(("x", "x2", "y") if len(columns) == 3 else ("x", "y"))(*columns)


def test_curve_counts_what_its_stages_say(
    task: Callable[..., tuple[Tensor, Tensor]], logged: Callable[..., dict[str, float]]
) -> None:
    a, y = task()
    b = a.roll(1, -1) + 0.1  # other features of the same images
    machines = [LinearSVM(3, 1.0) for _ in range(4)]
    for svm, x, n in zip(machines, (a, a, b, b), (6, 60, 6, 60), strict=True):
        svm.solve(x[:n], y[:n])

    curve = Curve(machines, ["a", "b"], [6, 60])
    curve.test_step(batch(a[60:80], b[60:80], y[60:80]), 0)
    curve.test_step(batch(a[80:], b[80:], y[80:]), 1)
    assert logged(curve)["test/n"] == 30
    for number, (svm, x) in enumerate(zip(machines, (a, a, b, b), strict=True)):
        svm.test_step(batch(x[60:], y[60:]), 0)
        assert float(curve.accuracy.flatten()[number]) == pytest.approx(logged(svm)["test/top1"])
    assert curve.per_class.shape == (2, 3)
    assert torch.allclose(curve.per_class.mean(1), curve.accuracy[:, -1], atol=1e-3)  # classes are equally frequent
    assert curve(*curve.example(a.shape[1:])).shape == (4, 1)
    with pytest.raises(ValueError, match="4 machines: expected 2 features x 3 sizes"):
        Curve(machines, ["a", "b"], [1, 2, 3])
