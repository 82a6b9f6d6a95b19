"""NAPA-VQ: Neighborhood Aware Prototype Augmentation with Vector Quantization for Continual Learning.

Malepathirana, Senanayake & Halgamuge, ICCV 2023, arXiv 2308.09297. Classes arrive in tasks, no image is kept. There is
no linear classifier: each class has one coding vector v_c (a row of V), kept away from its neighbours in an edge graph
E that grows as in Neural Gas. With f = f(x) >= 0, d plain Euclidean distances (not squared, nothing normalised):

    L_DCE = CE(-d(f, V) / 0.1, y)
    L_NA  = mean relu(|f - v_y|^2 - sum_n w_n |f - v_n|^2),   n != y with E[y, n] > 0,   w_n ~ exp(-0.001 |f - v_n|^2)
    L_KD  = |F_new - F_old|_F over the whole batch: a norm, neither squared nor averaged
    L_PA  = CE(-d(p, V) / 0.1, c),   p = g p_c + (1 - g) p_n,   n with E[c, n] > 0 (c itself too),   g ~ U(0.5, 1)
    L     = L_DCE + L_NA(f, y) + [task > 0] (10 L_KD + 10 L_PA + L_NA(p, c))

Every image is seen in 4 rotations, each a class of its own: label 4 y + k. Prototypes p are mean features, of a new
class first by the old network, so that it can be a neighbour while the task is learned, then by the trained one.
Coding vectors of earlier tasks are frozen, and prototypes are constants: L_PA and L_NA(p, c) move new coding vectors
alone, and only L_KD holds the network back. Prediction: the largest cosine with a coding vector of rotation 0.

The cosine suits networks that L_NA has drawn to their coding vectors. Those trained by L_DCE alone are only asked to
have the smallest plain distance, so the baselines predict by that (`inference: distance`), as PASS does by the logits
that it trains. Every stage reports both.

As in the released code (it has no licence; only facts are taken from it), E is updated from the nearest coding vector
of each sample, whatever its label, in every evaluation of L_NA. What differs from it:
- its attention modules and linear layer, built and never used, are left out.
- prototypes are means over all images of the task as they are tested; its loop used augmented images and skipped the
  last incomplete batch.
- with several processes, counts of the graph and the norm of L_KD are those of the global batch.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F

from modules.common.distributed import world_size
from modules.common.frozen import Frozen
from modules.common.module import OptimizerFactory, StageModule
from modules.common.schedules import Position, Schedule
from modules.napa_vq.graph import grow_edges, pairs_across
from modules.napa_vq.losses import classification_loss, distances, distillation_loss, neighbour_loss
from modules.napa_vq.pictures import draw_accuracy, draw_confusion, draw_graph
from modules.napa_vq.prototypes import (
    ROTATIONS,
    FeatureMoments,
    draw_mixed_prototypes,
    draw_noisy_prototypes,
    rotate,
)
from modules.napa_vq.task_history import TaskHistory, TaskScores

INFERENCES = ("cosine", "distance")
PROTOTYPES = ("neighbours", "gaussian", "none")


@dataclass(frozen=True)
class Losses:
    """Weights and constants of L; what an arm leaves out has weight 0. The defaults are the paper's.

    Attributes:
        na: weight of L_NA, on images and on prototypes; 0 also keeps the graph out.
        kd: weight of L_KD.
        pa: weight of L_PA.
        prototypes: "neighbours" (NA-PA), "gaussian" (PASS) or "none".
        prototype_batch: prototypes per step, over all processes.
        neighbours: K of the graph.
        temperature: of L_DCE and L_PA.
    Raises:
        ValueError: there are no such prototypes.
    """

    na: float = 1.0
    kd: float = 10.0
    pa: float = 10.0
    prototypes: str = "neighbours"
    prototype_batch: int = 64
    neighbours: int = 15
    temperature: float = 0.1

    def __post_init__(self) -> None:
        if self.prototypes not in PROTOTYPES:
            raise ValueError(f"prototypes={self.prototypes!r}: expected one of {', '.join(PROTOTYPES)}")

    def total(self, terms: Mapping[str, Tensor]) -> Tensor:
        """L from its terms: `dce`, and where there are `na`, `kd`, `na_pa` and `pa`."""
        weights = {"dce": 1.0, "na": self.na, "kd": self.kd, "na_pa": self.na, "pa": self.pa}
        return functools.reduce(torch.add, [weights[name] * term for name, term in terms.items()])


@dataclass(frozen=True)
class CodingVectors:
    """The new coding vectors and how they are trained, apart from the network.

    Attributes:
        features: D, the width of f(x).
        optimizer: called with the vectors; None for stages that are only tested.
        schedule: of their rate; None takes the network's.
    """

    features: int
    optimizer: OptimizerFactory | None = None
    schedule: Schedule | None = None


class NapaVQ(StageModule):
    """One task of one arm; an arm is a chain of these, each taking over from the previous one.

    Args:
        tasks: number of classes of each task; this one is number 0, or the one after that of `previous`.
        vectors: the coding vectors of this task's classes.
        losses: weights of L; they make the arm.
        network: images to f(x), of task 0; later tasks go on with that of `previous`.
        previous: the module of the task before.
        inference: "cosine" or "distance", see above; what the unprefixed metrics go by.
        optimizer, schedule: of the network, see StageModule.
    Raises:
        ValueError: more stages than tasks, a previous stage with other tasks, no network, or no such inference.
    """

    old_vectors: Tensor  # (4 C_old, D) coding vectors of earlier tasks, never trained again
    edges: Tensor  # (4 C, 4 C)
    prototypes: Tensor  # (4 C, D), NaN where not known yet
    radius: Tensor  # () of PASS's noise, measured in task 0

    def __init__(
        self,
        tasks: Sequence[int],
        vectors: CodingVectors,
        losses: Losses,
        network: nn.Module | None = None,
        previous: NapaVQ | None = None,
        inference: str = "cosine",
        optimizer: OptimizerFactory | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        super().__init__(optimizer, schedule)
        self.automatic_optimization = False

        if inference not in INFERENCES:
            raise ValueError(f"inference={inference!r}: expected one of {', '.join(INFERENCES)}")
        self.losses = losses
        self.vectors = vectors
        self.inference = inference

        self.tasks = list(tasks)
        self.task = task_after(previous, self.tasks)
        self.old = sum(tasks[: self.task])  # classes of earlier tasks, and all
        self.classes = sum(tasks[: self.task + 1])

        new = ROTATIONS * tasks[self.task]
        m, features = ROTATIONS * self.classes, vectors.features
        self.new_vectors = nn.Parameter(torch.randn(new, features))
        self.register_buffer("old_vectors", torch.empty(0, features))
        self.register_buffer("edges", torch.eye(m))
        self.register_buffer("prototypes", torch.full((m, features), torch.nan))
        self.register_buffer("radius", torch.zeros(()))

        self.task_scores = {name: TaskScores(tasks, self.task) for name in INFERENCES}
        for name, scores in self.task_scores.items():  # registered for moves and checkpoints; the dict keeps their type
            self.add_module(f"scores_{name}", scores)
        self.val_scores = TaskScores(tasks, self.task)

        if previous is not None:
            self.take_over(previous)
        elif network is not None:
            self.network = network
            self.teacher = Frozen([])
        else:
            raise ValueError("network=None: the first task needs one, later ones take over that of `previous`")

    def take_over(self, previous: NapaVQ) -> None:
        """Go on where the previous task ended; nothing of it is referred to afterwards but the trained network."""
        before = ROTATIONS * self.old
        self.network = previous.network
        self.teacher = Frozen([copy.deepcopy(previous.network)])
        self.old_vectors = previous.coding_vectors.detach().clone()
        self.edges[:before, :before] = previous.edges
        self.prototypes[:before] = previous.prototypes
        self.radius.copy_(previous.radius)
        for name, scores in self.task_scores.items():
            scores.history.load_state_dict(previous.task_scores[name].history.state_dict())
        self.val_scores.history.load_state_dict(previous.val_scores.history.state_dict())

    @property
    def coding_vectors(self) -> Tensor:
        """V (4 C, D), in the order in which classes arrived."""
        return torch.cat([self.old_vectors, self.new_vectors])

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = rotate(*batch)  # (4 B, C, S, S), (4 B,)
        f = self.network(x).float()  # (4 B, D)
        v = self.coding_vectors
        d = distances(f, v)  # (4 B, 4 C)

        terms = {"dce": classification_loss(d, y, self.losses.temperature)}
        if self.losses.na:
            terms["na"] = self.neighbour_loss(d, y)
        if self.task and self.losses.kd:
            terms["kd"] = distillation_loss(f, self.teacher.logits(x)[0].float())
        if self.task and self.losses.prototypes != "none":
            p, c = self.draw_prototypes()
            d_p = distances(p, v)
            if self.losses.na:
                terms["na_pa"] = self.neighbour_loss(d_p, c)
            terms["pa"] = classification_loss(d_p, c, self.losses.temperature)

        loss = self.losses.total(terms)
        self.descend(loss)
        self.track(len(batch[1]), loss=loss, top1=100 * (d.argmin(1) == y).float().mean(), **terms)
        return loss.detach()

    def neighbour_loss(self, d: Tensor, y: Tensor) -> Tensor:
        """L_NA with the graph as this batch changes it. The loss sees an edge from its own side first."""
        edges = grow_edges(self.edges, d, self.losses.neighbours)
        self.edges.copy_((edges + edges.T) / 2)
        return neighbour_loss(d, y, edges)

    def draw_prototypes(self) -> tuple[Tensor, Tensor]:
        """This process's share of the old prototypes of a step: (b, D) and their labels (b,)."""
        count = self.losses.prototype_batch
        if self.losses.prototypes == "gaussian":
            p, c = draw_noisy_prototypes(self.prototypes, self.radius, self.old, count)
        else:
            p, c = draw_mixed_prototypes(self.prototypes, self.edges, self.old, count)
        first = count * self.global_rank // world_size()
        last = count * (self.global_rank + 1) // world_size()
        return p[first:last], c[first:last]

    def descend(self, loss: Tensor) -> None:
        """One step of both optimisers."""
        optimizers: Any = self.optimizers()
        for optimizer in optimizers:
            optimizer.zero_grad()
        self.manual_backward(loss)
        for optimizer in optimizers:
            optimizer.step()

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        if self.optimizer_factory is None or self.vectors.optimizer is None:
            raise ValueError("NapaVQ is to be fitted but lacks optimizer or vectors.optimizer in its configuration")
        of_network = self.optimizer_factory(self.network.parameters())
        of_vectors = self.vectors.optimizer([self.new_vectors])
        return [self.prepared(of_network), self.prepared(of_vectors)]

    def factors(self, position: Position) -> list[float]:
        assert self.schedule is not None
        return [self.schedule(position), (self.vectors.schedule or self.schedule)(position)]

    # What a task leaves to the next: measured at the end of its last epoch, so that the last checkpoint holds it.

    def on_fit_start(self) -> None:
        """Prototypes of the new classes by the old network; a resumed run has them in its checkpoint."""
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        if data.task != self.task:
            raise ValueError(f"data.task={data.task}: the module is at task {self.task}")
        if self.task and bool(self.prototypes[ROTATIONS * self.old :].isnan().any()):
            self.measure_prototypes(self.teacher.networks[0].to(self.device))

    def on_train_epoch_end(self) -> None:
        if self.current_epoch + 1 == self.trainer.max_epochs:
            self.network.eval()
            self.measure_prototypes(self.network)
            self.test_now()
            self.network.train()
        super().on_train_epoch_end()

    @torch.no_grad()
    def measure_prototypes(self, network: nn.Module) -> None:
        """Mean features of the task's classes, each training image counted once over all processes."""
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        first = ROTATIONS * self.old
        classes, features = self.prototypes[first:].shape

        moments = FeatureMoments(classes, features, self.device)
        for batch in data.ordered_train_dataloader():
            x, y = rotate(*(column.to(self.device) for column in batch))
            with self.trainer.precision_plugin.forward_context():
                f = network(x)
            moments.update(f, y - first)

        mean, variance = moments.compute()
        self.prototypes[first:] = mean.to(self.prototypes)
        if not self.task:  # PASS's: the root of the mean variance over features and unrotated classes
            self.radius.copy_(variance[::ROTATIONS].mean().clamp(min=0).sqrt())

    @torch.no_grad()
    def test_now(self) -> None:
        """Enter the outcome of this task into the history that the next one gets."""
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        for batch in data.test_dataloader():
            x, y = (column.to(self.device) for column in batch)
            with self.trainer.precision_plugin.forward_context():
                self.count(x, y)
        self.close()

    # Validation, by the arm's inference: what rates are chosen by. Its history goes from task to task.

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.val_scores.update(self(batch[0]), batch[1])

    def on_validation_epoch_end(self) -> None:
        """`top1` on all classes seen, and the mean of it over this task and those before."""
        self.val_scores.close()
        seen = self.val_scores.history.seen(self.task)
        self.log_dict({"val/top1": seen[-1], "val/avg_incremental_acc": seen.mean()})

    # Testing, by both ways of inference.

    def predict_by_both(self, x: Tensor) -> dict[str, Tensor]:
        """Scores (B, C) by name. Minus the distance of unit vectors ranks as the cosine does, also in bf16."""
        f = self.network(x).float()  # (B, D)
        v = self.coding_vectors[::ROTATIONS]  # (C, D)
        return {"cosine": -distances(F.normalize(f), F.normalize(v)), "distance": -distances(f, v)}

    def forward(self, x: Tensor) -> Tensor:
        return self.predict_by_both(x)[self.inference]

    def count(self, x: Tensor, y: Tensor) -> None:
        for name, scores in self.predict_by_both(x).items():
            self.task_scores[name].update(scores, y)

    def close(self) -> None:
        for scores in self.task_scores.values():
            scores.close()

    @property
    def history(self) -> TaskHistory:
        """What was recognised after each task, by this arm's inference."""
        return self.task_scores[self.inference].history

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.count(*batch)

    def on_test_epoch_end(self) -> None:
        """`top1` on all classes seen (after the last task: last accuracy), and the metrics of TaskHistory.

        With `cosine_` and `distance_`: top1 and avg_incremental_acc by that inference. `joined`: the share of pairs of
        classes from different tasks that the graph joins, between rotations 0.
        """
        self.close()
        metrics = {"top1": self.history.seen(self.task)[-1], **self.history.metrics(self.task)}
        for name, scores in self.task_scores.items():
            seen = scores.history.seen(self.task)
            metrics[f"{name}_top1"] = seen[-1]
            metrics[f"{name}_avg_incremental_acc"] = seen.mean()
        if self.task and self.losses.na:
            across = pairs_across(self.tasks, self.classes).to(self.edges.device)
            metrics["joined"] = (self.edges[::ROTATIONS, ::ROTATIONS][across] > 0).float().mean()
        metrics["n"] = self.task_scores[self.inference].last_confusion.sum()
        self.log_dict({f"test/{name}": value.float() for name, value in metrics.items()})

    def pictures(self, data: Any) -> dict[str, Figure]:
        """After the last task: accuracy as tasks arrive, who is taken for whom, and the graph."""
        if self.task + 1 < len(self.tasks):
            return {}
        names = data.spec.classes
        seen = self.history.seen(self.task).cpu()
        by_task = self.history.by_task(self.task).cpu()
        confusion = self.task_scores[self.inference].last_confusion.cpu()
        figures = {
            "accuracy after each task": draw_accuracy(seen, by_task),
            "confusion after the last task": draw_confusion(confusion, self.tasks, names),
        }
        if self.losses.na:
            edges = self.edges.cpu()
            unrotated = edges[::ROTATIONS, ::ROTATIONS]
            figures["neighbours"] = draw_graph(edges, unrotated, self.tasks, names)
        return figures


def task_after(previous: NapaVQ | None, tasks: list[int]) -> int:
    """The number of the task that follows `previous`. Raises ValueError if none does, or it has other tasks."""
    if previous is None:
        return 0
    task = previous.task + 1
    if task >= len(tasks) or previous.tasks != tasks:
        raise ValueError(f"tasks={tasks}: nothing there follows task {previous.task} of {previous.tasks}")
    return task
