"""Whether the graph joins the classes that a network without it confuses."""

from __future__ import annotations

from torch import Tensor
from torchmetrics.classification import MulticlassConfusionMatrix

from modules.common.module import StageModule
from modules.napa_vq.graph import pairs_across, task_of_each
from modules.napa_vq.module import NapaVQ
from modules.napa_vq.prototypes import ROTATIONS


class EdgeEvidence(StageModule):
    """Does the graph join the classes that a network without it confuses? Not trained.

    Takes the pairs of classes from different tasks, ranks them by how often `confused` takes one for the other on the
    test images, and counts how many of the first ones are edges of `graph` between rotations 0. Chance is what as many
    pairs of the same tasks would give: a network that forgets takes most images for its newest classes, and the graph
    may have more edges there too, whichever classes they are.

    Args:
        confused: an arm without the graph, after its last task.
        graph: an arm with it, after the same task.
        pairs: how many of the most confused pairs to look at.
    Raises:
        ValueError: the two arms have other tasks, or do not stand after the same one.
    """

    joined: Tensor  # (C, C) bool
    across: Tensor  # (C, C) bool: each pair of classes from different tasks once
    tasks: Tensor  # (C, C) int64: which two tasks a pair comes from

    def __init__(self, confused: NapaVQ, graph: NapaVQ, pairs: int) -> None:
        super().__init__()
        if confused.tasks != graph.tasks or confused.task != graph.task:
            raise ValueError("confused and graph: expected the same tasks, and both after the same one")
        self.confused = confused
        self.pairs = pairs
        self.confusion = MulticlassConfusionMatrix(confused.classes, validate_args=False)

        task = task_of_each(confused.tasks, confused.classes)
        self.register_buffer("joined", graph.edges[::ROTATIONS, ::ROTATIONS] > 0)
        self.register_buffer("across", pairs_across(confused.tasks, confused.classes))
        self.register_buffer("tasks", task[:, None] * len(confused.tasks) + task[None, :])

    def forward(self, x: Tensor) -> Tensor:
        return self.confused(x)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.confusion.update(self(batch[0]), batch[1])

    def on_test_epoch_end(self) -> None:
        """Shares of pairs that are edges: the most confused ones, others of the same tasks (by chance), and all."""
        counts = self.confusion.compute()
        self.confusion.reset()

        mistaken = (counts + counts.T)[self.across]  # (P,), P pairs
        joined = self.joined[self.across].float()
        tasks = self.tasks[self.across]

        most = mistaken.argsort(descending=True, stable=True)[: self.pairs]
        alike = (tasks[most][:, None] == tasks[None, :]).float()  # (pairs, P): those of the same two tasks
        metrics = {
            "confused_joined": joined[most].mean(),
            "chance_joined": (alike @ joined / alike.sum(1)).mean(),
            "all_joined": joined.mean(),
            "n": counts.sum().float(),
        }
        self.log_dict({f"test/{name}": value for name, value in metrics.items()})
