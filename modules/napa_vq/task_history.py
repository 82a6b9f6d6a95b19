"""Bookkeeping of class-incremental learning: what is known after each task, and what has been forgotten.

Labels are positions in the order in which classes arrive, so that task t owns labels sum(tasks[:t]) to
sum(tasks[:t + 1]) - 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchmetrics.classification import MulticlassConfusionMatrix


class TaskHistory(nn.Module):
    """Test images recognised after each task, by the task they belong to.

    The size of its buffers follows from `tasks` alone: a stage keeps it in its checkpoint and hands it to the next.

    Args:
        tasks: classes of each task.
    """

    correct: Tensor  # (T, T) int64; [t, j] is the number of task j's test images that are right after task t
    counted: Tensor  # (T,) int64, test images of each task

    def __init__(self, tasks: Sequence[int]) -> None:
        super().__init__()
        self.tasks = list(tasks)
        self.register_buffer("correct", torch.zeros(len(tasks), len(tasks), dtype=torch.long))
        self.register_buffer("counted", torch.zeros(len(tasks), dtype=torch.long))

    def record(self, task: int, confusion: Tensor) -> None:
        """Enter the outcome after `task`, replacing an earlier entry.

        confusion (C, C) counts over the C classes seen so far: row is the true class, column the predicted one.
        """
        n = task + 1
        right = confusion.diagonal().split(self.tasks[:n])
        total = confusion.sum(1).split(self.tasks[:n])
        self.correct[task, :n] = torch.stack([counts.sum() for counts in right]).long()
        self.counted[:n] = torch.stack([counts.sum() for counts in total]).long()

    def by_task(self, task: int) -> Tensor:
        """(task + 1, task + 1) percent: after task t (row) on the classes of task j (column); NaN where j > t."""
        n = task + 1
        accuracy = 100.0 * self.correct[:n, :n] / self.counted[:n].clamp(min=1)
        return accuracy.masked_fill(torch.ones(n, n, device=accuracy.device).triu(1).bool(), torch.nan)

    def seen(self, task: int) -> Tensor:
        """(task + 1,) percent: after each task, on all classes seen until then."""
        n = task + 1
        return 100.0 * self.correct[:n, :n].sum(1) / self.counted[:n].cumsum(0).clamp(min=1)

    def metrics(self, task: int) -> dict[str, Tensor]:
        """What is reported after `task`, all in percent.

        avg_incremental_acc: mean over tasks 0..t of the accuracy on all classes seen until then. first_acc: that of
        task 0 alone, the one that needs no memory. From task 1 on also avg_later_acc: the same mean without task 0;
        new_acc: on the classes of this task; old_acc: on all earlier ones; forgetting: mean over earlier tasks of
        their best accuracy before now minus that of now.
        """
        seen = self.seen(task)
        metrics = {"avg_incremental_acc": seen.mean(), "first_acc": seen[0]}
        if not task:
            return metrics

        by_task = self.by_task(task)
        best = by_task[:task, :task].nan_to_num(-torch.inf).max(0).values
        return metrics | {
            "avg_later_acc": seen[1:].mean(),
            "new_acc": by_task[task, task],
            "old_acc": 100.0 * self.correct[task, :task].sum() / self.counted[:task].sum().clamp(min=1),
            "forgetting": (best - by_task[task, :task]).mean(),
        }


class TaskScores(nn.Module):
    """One way of predicting: counted during a test, entered into the history at its end.

    Args:
        tasks: classes of each task.
        task: the present one; its test has the classes of all tasks up to it.
    """

    def __init__(self, tasks: Sequence[int], task: int) -> None:
        super().__init__()
        classes = sum(tasks[: task + 1])
        self.task = task
        self.history = TaskHistory(tasks)
        self.confusion = MulticlassConfusionMatrix(classes, validate_args=False)
        self.last_confusion = torch.zeros(classes, classes)  # of the last test, rows are true classes

    def update(self, scores: Tensor, y: Tensor) -> None:
        """Count the largest of the scores (B, C) against the labels (B,)."""
        self.confusion.update(scores, y)

    def close(self) -> None:
        """Enter what was counted into the history, and count from 0 again."""
        self.last_confusion = self.confusion.compute()
        self.history.record(self.task, self.last_confusion)
        self.confusion.reset()
