"""Averages and forgetting by hand."""

from __future__ import annotations

import pytest
import torch

from modules.napa_vq.task_history import TaskHistory, TaskScores
from tests.papers.napa_vq.helpers import TASKS


def test_forgetting_and_averages_by_hand() -> None:
    history = TaskHistory(TASKS)
    history.record(0, torch.diag(torch.tensor([10, 10, 10, 6])) + torch.tensor([[0] * 4] * 3 + [[4, 0, 0, 0]]))
    after_1 = torch.full((6, 6), 0).fill_diagonal_(5)
    after_1[:, 0] += 5
    history.record(1, after_1)  # 5 of 10 right, class 0 all 10
    after_2 = torch.zeros(8, 8, dtype=torch.long)
    after_2[:, 7] = 10  # all taken for the newest class
    history.record(2, after_2)
    assert torch.allclose(history.seen(2), torch.tensor([90.0, 100 * 35 / 60, 12.5]))
    actual = {name: float(value) for name, value in history.metrics(2).items()}
    assert actual == pytest.approx(
        {
            "avg_incremental_acc": (90 + 100 * 35 / 60 + 12.5) / 3,
            "first_acc": 90.0,
            "avg_later_acc": (100 * 35 / 60 + 12.5) / 2,
            "new_acc": 50.0,
            "old_acc": 0.0,
            "forgetting": (90.0 + 50.0) / 2,
        },
        rel=1e-5,
    )
    assert set(history.metrics(0)) == {"avg_incremental_acc", "first_acc"}


def test_a_task_with_one_test_image_is_right_or_wrong() -> None:
    history = TaskHistory([1, 1])
    history.record(0, torch.tensor([[1]]))
    assert history.by_task(0).tolist() == [[100.0]]


def test_scores_are_counted_until_they_enter_the_history() -> None:
    scores = TaskScores(TASKS, 0)
    scores.update(torch.eye(4), torch.arange(4))
    scores.update(torch.eye(4), torch.tensor([1, 0, 2, 3]))
    scores.close()
    assert scores.history.seen(0).tolist() == [75.0]
    assert scores.last_confusion[0].tolist() == [1, 1, 0, 0]
    scores.update(torch.eye(4), torch.arange(4))  # from 0 again, in place of the earlier entry
    scores.close()
    assert scores.history.seen(0).tolist() == [100.0]
