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
from collections.abc import Callable, Sequence
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.classification import MulticlassConfusionMatrix

from modules.common.distributed import summed, world_size
from modules.common.frozen import Frozen
from modules.common.module import OptimizerFactory, StageModule
from modules.common.schedules import Position, Schedule
from modules.napa_vq.neighbours import (
    ROTATIONS,
    distances,
    frobenius,
    grown,
    mixed_prototypes,
    neighbour_loss,
    noisy_prototypes,
    rotated,
)
from modules.napa_vq.task_history import TaskHistory

INFERENCES = ("cosine", "distance")


class NapaVQ(StageModule):
    """One task of one arm; an arm is a chain of these, each taking over from the previous one.

    Args:
        tasks: number of classes of each task; this one is number 0, or the one after that of `previous`.
        features: D, the width of f(x).
        network: makes the network of task 0; later tasks go on with that of `previous`.
        previous: the module of the task before.
        seed: fixes the initial network and coding vectors: the same for all arms.
        na_weight: weight of L_NA, on images and on prototypes (1); 0 also keeps the graph out.
        kd_weight: weight of L_KD (10).
        prototypes: "neighbours" (NA-PA), "gaussian" (PASS) or "none".
        prototype_weight: weight of L_PA (10).
        prototype_batch: prototypes per step (64).
        neighbours: K (15).
        temperature: of L_DCE and L_PA (0.1).
        inference: "cosine" or "distance", see above; what the unprefixed metrics go by.
        optimizer, schedule: of the network, see StageModule.
        cv_optimizer, cv_schedule: of the new coding vectors.
    Raises:
        ValueError: more stages than tasks, a previous stage with other tasks, or a switch without such a value.
    """

    tasks: list[int]
    task: int
    old_vectors: Tensor  # (4 C_old, D) coding vectors of earlier tasks, never trained again
    edges: Tensor  # (4 C, 4 C)
    prototypes: Tensor  # (4 C, D), NaN where not known yet
    radius: Tensor  # () of PASS's noise, measured in task 0

    def __init__(
        self,
        tasks: Sequence[int],
        features: int,
        network: Callable[[], nn.Module] | None = None,
        previous: NapaVQ | None = None,
        seed: int = 0,
        na_weight: float = 1.0,
        kd_weight: float = 10.0,
        prototypes: str = "neighbours",
        prototype_weight: float = 10.0,
        prototype_batch: int = 64,
        neighbours: int = 15,
        temperature: float = 0.1,
        inference: str = "cosine",
        optimizer: OptimizerFactory | None = None,
        schedule: Schedule | None = None,
        cv_optimizer: OptimizerFactory | None = None,
        cv_schedule: Schedule | None = None,
    ) -> None:
        super().__init__(optimizer, schedule)
        self.automatic_optimization = False
        for name, value, valid in (
            ("prototypes", prototypes, ("neighbours", "gaussian", "none")),
            ("inference", inference, INFERENCES),
        ):
            if value not in valid:
                raise ValueError(f"{name}={value!r}: expected one of {', '.join(valid)}")
        task = 0 if previous is None else previous.task + 1
        if previous is not None and (task >= len(tasks) or previous.tasks != list(tasks)):
            raise ValueError(f"tasks={list(tasks)}: nothing there follows task {previous.task} of {previous.tasks}")
        self.tasks, self.task, self.augmentation, self.inference = list(tasks), task, prototypes, inference
        self.na_weight, self.kd_weight, self.prototype_weight = na_weight, kd_weight, prototype_weight
        self.prototype_batch, self.neighbours, self.temperature = prototype_batch, neighbours, temperature
        self.cv_optimizer, self.cv_schedule = cv_optimizer, cv_schedule
        self.old, self.classes = sum(tasks[:task]), sum(tasks[: task + 1])
        new, m = ROTATIONS * tasks[task], ROTATIONS * self.classes
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1009 * seed + task)
            self.new_vectors = nn.Parameter(torch.randn(new, features))
            if previous is None:
                if network is None:
                    raise ValueError("network=None: the first task needs one, later ones take over that of `previous`")
                self.network = network()
        self.register_buffer("old_vectors", torch.empty(0, features))
        self.register_buffer("edges", torch.eye(m))
        self.register_buffer("prototypes", torch.full((m, features), torch.nan))
        self.register_buffer("radius", torch.zeros(()))
        self.histories = {name: TaskHistory(tasks) for name in INFERENCES}
        self.confusions = {n: MulticlassConfusionMatrix(self.classes, validate_args=False) for n in INFERENCES}
        for name in INFERENCES:  # registered for moves and checkpoints; the dicts keep their type
            self.add_module(f"history_{name}", self.histories[name])
            self.add_module(f"confusion_{name}", self.confusions[name])
        self.outcome = torch.zeros(self.classes, self.classes)  # of the test, for the pictures
        self.teacher = Frozen([])
        if previous is not None:
            self.take_over(previous)

    def take_over(self, previous: NapaVQ) -> None:
        """Go on where the previous task ended; nothing of it is referred to afterwards but the trained network."""
        before = ROTATIONS * self.old
        self.network = previous.network
        self.teacher = Frozen([copy.deepcopy(previous.network)])
        self.old_vectors = previous.coding_vectors.detach().clone()
        self.edges[:before, :before] = previous.edges
        self.prototypes[:before] = previous.prototypes
        self.radius.copy_(previous.radius)
        for name, history in self.histories.items():
            history.load_state_dict(previous.histories[name].state_dict())

    @property
    def coding_vectors(self) -> Tensor:
        """V (4 C, D), in the order in which classes arrived."""
        return torch.cat([self.old_vectors, self.new_vectors])

    @property
    def history(self) -> TaskHistory:
        """What was known after each task, by this arm's inference."""
        return self.histories[self.inference]

    def scores(self, x: Tensor) -> dict[str, Tensor]:
        """By either inference, (B, C). Minus the distance of unit vectors ranks as the cosine does, also in bf16."""
        f, v = self.network(x).float(), self.coding_vectors[::ROTATIONS]
        return {"cosine": -distances(F.normalize(f), F.normalize(v)), "distance": -distances(f, v)}

    def forward(self, x: Tensor) -> Tensor:
        return self.scores(x)[self.inference]

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = rotated(*batch)  # (4 B, C, S, S), (4 B,)
        f, v = self.network(x).float(), self.coding_vectors
        d = distances(f, v)  # (4 B, 4 C)
        parts = {"dce": F.cross_entropy(-d / self.temperature, y)}
        loss = parts["dce"]
        if self.na_weight:
            parts["na"] = self.neighbour_loss(d, y)
            loss = loss + self.na_weight * parts["na"]
        if self.task and self.kd_weight:
            parts["kd"] = frobenius(f, self.teacher.logits(x)[0].float())
            loss = loss + self.kd_weight * parts["kd"]
        if self.task and self.augmentation != "none":
            p, c = self.drawn_prototypes()
            d_p = distances(p, v)
            if self.na_weight:
                parts["na_pa"] = self.neighbour_loss(d_p, c)
                loss = loss + self.na_weight * parts["na_pa"]
            parts["pa"] = F.cross_entropy(-d_p / self.temperature, c)
            loss = loss + self.prototype_weight * parts["pa"]
        self.descend(loss)
        self.track(len(batch[1]), loss=loss, top1=100 * (d.argmin(1) == y).float().mean(), **parts)
        return loss.detach()

    def neighbour_loss(self, d: Tensor, y: Tensor) -> Tensor:
        """L_NA with the graph as this batch changes it. The loss sees an edge from its own side first."""
        edges = grown(self.edges, d, self.neighbours)
        self.edges.copy_((edges + edges.T) / 2)
        return neighbour_loss(d, y, edges)

    def drawn_prototypes(self) -> tuple[Tensor, Tensor]:
        """This process's share of the old prototypes of a step: (b, D) and their labels (b,)."""
        if self.augmentation == "gaussian":
            p, c = noisy_prototypes(self.prototypes, self.radius, self.old, self.prototype_batch)
        else:
            p, c = mixed_prototypes(self.prototypes, self.edges, self.old, self.prototype_batch)
        low, high = (self.prototype_batch * r // world_size() for r in (self.global_rank, self.global_rank + 1))
        return p[low:high], c[low:high]

    def descend(self, loss: Tensor) -> None:
        """One step of both optimisers."""
        optimizers: Any = self.optimizers()
        for optimizer in optimizers:
            optimizer.zero_grad()
        self.manual_backward(loss)
        for optimizer in optimizers:
            optimizer.step()

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        if self.optimizer_factory is None or self.cv_optimizer is None:
            raise ValueError("NapaVQ is to be fitted but lacks optimizer or cv_optimizer in its configuration")
        made = self.optimizer_factory(self.network.parameters()), self.cv_optimizer([self.new_vectors])
        return [self.prepared(optimizer) for optimizer in made]

    def factors(self, position: Position) -> list[float]:
        assert self.schedule is not None
        return [self.schedule(position), (self.cv_schedule or self.schedule)(position)]

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
        first, features = ROTATIONS * self.old, self.prototypes.shape[1]
        new = len(self.prototypes) - first
        sums = torch.zeros(new, 2 * features + 1, dtype=torch.float64, device=self.device)  # f, f^2 and the count
        for batch in data.ordered_train_dataloader():
            x, y = rotated(*(part.to(self.device) for part in batch))
            with self.trainer.precision_plugin.forward_context():
                f = network(x)
            f = f.double()
            sums.index_add_(0, y - first, torch.cat([f, f.square(), torch.ones_like(f[:, :1])], 1))
        sums = summed(sums)
        count = sums[:, -1:].clamp(min=1)  # generated images may leave a class out
        mean = sums[:, :features] / count
        self.prototypes[first:] = mean.to(self.prototypes)
        if not self.task:  # PASS's: the root of the mean variance over features and unrotated classes
            variance = (sums[:, features:-1] - count * mean.square()) / (count - 1).clamp(min=1)
            self.radius.copy_(variance[::ROTATIONS].mean().clamp(min=0).sqrt())

    @torch.no_grad()
    def test_now(self) -> None:
        """Enter the outcome of this task into the history that the next one gets."""
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        for batch in data.test_dataloader():
            x, y = (part.to(self.device) for part in batch)
            with self.trainer.precision_plugin.forward_context():
                self.count(x, y)
        self.enter()

    def count(self, x: Tensor, y: Tensor) -> None:
        for name, scores in self.scores(x).items():
            self.confusions[name].update(scores, y)

    def enter(self) -> None:
        """From what was counted to the histories."""
        for name, confusion in self.confusions.items():
            found = confusion.compute()
            self.histories[name].record(self.task, found)
            if name == self.inference:
                self.outcome = found
            confusion.reset()

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.count(*batch)

    def on_test_epoch_end(self) -> None:
        """`top1` on all classes seen (after the last task: last accuracy), and the metrics of TaskHistory.

        With `cosine_` and `distance_`: top1 and avg_incremental_acc by that inference.
        """
        self.enter()
        found = {"top1": self.history.seen(self.task)[-1], **self.history.metrics(self.task)}
        for name, history in self.histories.items():
            seen = history.seen(self.task)
            found |= {f"{name}_top1": seen[-1], f"{name}_avg_incremental_acc": seen.mean()}
        self.log_dict({f"test/{name}": value.float() for name, value in found.items()})
        self.log("test/n", self.outcome.sum().float())

    def pictures(self, data: Any) -> dict[str, Figure]:
        """After the last task: accuracy as tasks arrive, who is taken for whom, and the graph."""
        if self.task + 1 < len(self.tasks):
            return {}
        names = data.spec.classes
        found = {"accuracy after each task": self.curves(), "confusion after the last task": self.mistakes(names)}
        return {**found, "neighbours": self.graph(names)} if self.na_weight else found

    def curves(self) -> Figure:
        figure = Figure(figsize=(9, 3), layout="constrained")
        left, right = figure.subplots(1, 2)
        by_task, seen = self.history.by_task(self.task).cpu(), self.history.seen(self.task).cpu()
        left.plot(range(len(seen)), seen, marker="o")
        left.set(title="all classes seen", xlabel="task", ylabel="top-1, %", ylim=(0, 100))
        for j in range(len(seen)):
            right.plot(range(j, len(seen)), by_task[j:, j], marker="o", label=f"task {j}")
        right.set(title="classes of each task", xlabel="task", ylim=(0, 100))
        if len(seen) <= 8:
            right.legend(fontsize=7)
        for axes in (left, right):
            axes.set_xticks(range(0, len(seen), 1 + len(seen) // 12))
        return figure

    def mistakes(self, names: Sequence[str]) -> Figure:
        figure = Figure(figsize=(9, 4), layout="constrained")
        axes = figure.subplots()
        shares = self.outcome / self.outcome.sum(1, keepdim=True).clamp(min=1)
        image = axes.imshow(shares.cpu(), vmin=0, vmax=1, cmap="magma_r")
        for border in torch.tensor(self.tasks).cumsum(0)[:-1].tolist():
            last = border == self.old  # between the last task and all earlier ones
            axes.axhline(border - 0.5, color="tab:blue", lw=2.0 if last else 0.7)
            axes.axvline(border - 0.5, color="tab:blue", lw=2.0 if last else 0.7)
        axes.set(xlabel="predicted", ylabel="true")
        if self.classes <= 20:
            axes.set_xticks(range(self.classes), names, rotation=60, fontsize=7)
            axes.set_yticks(range(self.classes), names, fontsize=7)
        figure.colorbar(image, label="share of the true class")
        return figure

    def graph(self, names: Sequence[str]) -> Figure:
        """Edges between coding vectors of rotation 0, as a ring of classes and as the matrix."""
        figure = Figure(figsize=(9, 4), layout="constrained")
        ring, matrix = figure.subplots(1, 2)
        edges = self.edges[::ROTATIONS, ::ROTATIONS].cpu()
        angle = 2 * torch.pi * torch.arange(self.classes) / self.classes
        x, y = angle.cos(), angle.sin()
        for i, j in edges.triu(1).nonzero().tolist():
            ring.plot(x[[i, j]], y[[i, j]], color="tab:blue", lw=1.5 * edges[i, j], alpha=max(0.15, float(edges[i, j])))
        task = torch.repeat_interleave(torch.arange(len(self.tasks)), torch.tensor(self.tasks))
        ring.scatter(x, y, c=task, cmap="viridis", s=1200 / (self.classes + 10), zorder=2)
        if self.classes <= 20:
            for i, name in enumerate(names):
                ring.annotate(name, (1.12 * x[i], 1.12 * y[i]), ha="center", va="center", fontsize=7)
        ring.set(xlim=(-1.5, 1.5), ylim=(-1.25, 1.25), title="colour: task of arrival")
        ring.axis("off")
        image = matrix.imshow(self.edges.cpu(), vmin=0, vmax=1, cmap="magma_r")
        matrix.set(title="all rotations, 4 rows per class")
        figure.colorbar(image, label="edge strength")
        return figure


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
    """

    joined: Tensor  # (C, C) bool
    across: Tensor  # (C, C) bool: each pair of classes from different tasks once
    tasks: Tensor  # (C, C) int64: which two tasks a pair comes from

    def __init__(self, confused: NapaVQ, graph: NapaVQ, pairs: int) -> None:
        super().__init__()
        if confused.tasks != graph.tasks or confused.task != graph.task:
            raise ValueError("confused and graph: expected the same tasks, and both after the same one")
        self.confused, self.pairs = confused, pairs
        self.register_buffer("joined", graph.edges[::ROTATIONS, ::ROTATIONS] > 0)
        self.confusion = MulticlassConfusionMatrix(confused.classes, validate_args=False)
        task = torch.repeat_interleave(torch.arange(len(confused.tasks)), torch.tensor(confused.tasks))
        task = task[: confused.classes]
        self.register_buffer("across", task[:, None] < task[None, :])
        self.register_buffer("tasks", task[:, None] * len(confused.tasks) + task[None, :])

    def forward(self, x: Tensor) -> Tensor:
        return self.confused(x)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.confusion.update(self(batch[0]), batch[1])

    def on_test_epoch_end(self) -> None:
        """Shares of pairs that are edges: the most confused ones, others of the same tasks (by chance), and all."""
        counts = self.confusion.compute()
        self.confusion.reset()
        mistaken, joined = (counts + counts.T)[self.across], self.joined[self.across].float()
        tasks = self.tasks[self.across]
        most = mistaken.argsort(descending=True, stable=True)[: self.pairs]
        alike = (tasks[most][:, None] == tasks[None, :]).float()  # (pairs, P): those of the same two tasks
        found = {
            "confused_joined": joined[most].mean(),
            "chance_joined": (alike @ joined / alike.sum(1)).mean(),
            "all_joined": joined.mean(),
            "n": counts.sum().float(),
        }
        self.log_dict({f"test/{name}": value for name, value in found.items()})
