"""Curves of errors compared, and kept in the checkpoint."""

from __future__ import annotations

import pytest
import torch

from modules.inception_v4.comparison import Curves, Race, compare_curves
from modules.inception_v4.module import InceptionClassifier
from tests.papers.inception_v4.helpers import batch, quiet, small


def test_race_by_hand() -> None:
    first, second = torch.tensor([50.0, 40.0, 35.0, 36.0]), torch.tensor([80.0, 60.0, 41.0, 38.0])
    metrics = {name: float(value) for name, value in compare_curves(first, second).items()}
    assert metrics == {"area_gap": pytest.approx(14.5), "lead": pytest.approx(2.0), "match": pytest.approx(0.75)}
    assert float(compare_curves(second, first)["match"]) == pytest.approx(1.25)  # never
    assert float(compare_curves(first, first)["area_gap"]) == 0
    with pytest.raises(ValueError, match="3 and 4 epochs"):
        compare_curves(first[:3], second)
    with pytest.raises(ValueError, match="0 and 0 epochs"):
        compare_curves(first[:0], second[:0])


def test_the_curve_is_kept_in_the_checkpoint() -> None:
    module = InceptionClassifier(small(), 10).eval()
    logged = quiet(module)
    for seed in range(3):
        module.validation_step(batch(seed=seed), 0)
        module.on_validation_epoch_end()
    assert len(module.curve) == 3
    again = InceptionClassifier(small(seed=3), 10).eval()
    again.load_state_dict(module.state_dict())
    assert torch.equal(again.curve, module.curve)
    module.test_step(batch(), 0)
    module.on_test_epoch_end()
    assert logged["test/curve_error"] == pytest.approx(float(module.curve.mean()))
    contest = Race(again, module, 10).eval()
    metrics = quiet(contest)
    contest.test_step(batch(), 0)
    contest.on_test_epoch_end()
    assert (metrics["test/area_gap"], metrics["test/gap"], metrics["test/n"]) == (0, 0, 8)
    board = Curves([again, module], ["a", "b"])
    last = quiet(board)
    board.on_test_epoch_end()
    assert last == {f"test/{name}_last_error": pytest.approx(float(module.curve[-1])) for name in ("a", "b")}
    (figure,) = board.pictures(None).values()
    assert [line.get_label() for line in figure.axes[0].lines] == ["a", "b"]
    with pytest.raises(ValueError, match="2 members"):
        Curves([again, module], ["a"])
