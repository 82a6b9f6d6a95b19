"""MEAL V2: Boosting Vanilla ResNet-50 to 80%+ Top-1 Accuracy on ImageNet without Tricks (Shen & Savvides).

arXiv 2009.08453. An already good student is fine-tuned on the averaged softmax of two larger teachers plus a small
discriminator on the final outputs; no hard labels, no weight decay.

    L = L_sim + L_D,    L_sim = -mean_b sum_c p_T(c) log softmax(z_S)(c),    p_T = 1/N sum_t softmax(z_t)

Where paper and released code differ, the code is followed, since the published weights were trained with it:
- the paper writes KL(p_T || p_S), the code cross-entropy with p_T. They differ by the teachers' entropy, which is
  constant for the student; both are logged (`train/sim`, `train/kl`).
- the paper calls the discriminator adversarial. The code minimises its loss jointly with the student's, one optimiser,
  nothing detached or reversed: the student is asked to stay distinguishable. `discriminator="grl"` gives MEAL V1's
  gradient reversal, "none" drops it.
- the discriminator sees raw logits (the mean of the teachers' logits), while L_sim uses averaged probabilities.
- D's own learning rate (1e-4 in the code's options) is overwritten by the student's at every epoch;
  `discriminator_lr` gives it back.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F

from modules.common.classifier import ClassificationModule
from modules.common.distillation import entropy, similarity_loss, soft_target
from modules.common.frozen import Frozen
from modules.common.module import OptimizerFactory
from modules.common.schedules import Schedule

log = logging.getLogger(__name__)
LN2 = math.log(2.0)


class Discriminator(nn.Sequential):
    """Student or teachers, from one row of C outputs: three linear layers C -> C/K -> C/K^2 -> 2 with ReLUs.

    The code writes them as 1x1 convolutions on a (B, C, 1, 1) map and puts a ReLU after the last as well.

    Args:
        classes: C.
        reduction: K; the paper's 8 needs C >= 64.
        final_relu: ReLU on the two outputs, as released. It bounds the loss below by ln 2 / 2.
    Raises:
        ValueError: C // K^2 is 0.
    """

    def __init__(self, classes: int, reduction: int = 8, final_relu: bool = True) -> None:
        hidden, narrow = classes // reduction, classes // reduction**2
        if narrow < 1:
            raise ValueError(
                f"reduction={reduction} leaves no channel for {classes} classes; take at most {math.isqrt(classes)}"
            )
        layers = [nn.Linear(classes, hidden), nn.ReLU(), nn.Linear(hidden, narrow), nn.ReLU(), nn.Linear(narrow, 2)]
        super().__init__(*layers, *([nn.ReLU()] if final_relu else []))


class _Reverse(torch.autograd.Function):
    """Identity forwards, minus the gradient backwards (Ganin & Lempitsky 2015)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return -gradient


def reverse_gradient(x: Tensor) -> Tensor:
    return _Reverse.apply(x)


def discriminator_loss(discriminator: nn.Module, student: Tensor, teacher: Tensor) -> Tensor:
    """L_D: binary cross-entropy on D's two outputs, student rows [1, 0], teacher rows [0, 1], mean over 2B x 2."""
    b = len(student)
    outputs = discriminator(torch.cat([student, teacher]))  # (2B, 2)
    labels = outputs.new_zeros(2 * b, 2)
    labels[:b, 0] = 1
    labels[b:, 1] = 1
    return F.binary_cross_entropy_with_logits(outputs, labels)


class Ensemble(ClassificationModule):
    """The average of several trained classifiers' softmax outputs, tested as one. Not trained.

    Args:
        members: classifiers with the same classes.
        classes: number of classes.
    """

    def __init__(self, members: list[ClassificationModule], classes: int) -> None:
        super().__init__(nn.ModuleList(member.network for member in members), classes)
        self.members = [member.network for member in members]

    def forward(self, x: Tensor) -> Tensor:
        """Log of the mean probability, (B, classes): logits of the averaged prediction."""
        log_probabilities = torch.stack([F.log_softmax(member(x), -1) for member in self.members])  # (T, B, classes)
        return log_probabilities.logsumexp(0) - math.log(len(self.members))


def cutmix(x: Tensor, beta: float) -> Tensor:
    """Paste one random box of a shuffled batch into every image (Yun et al. 2019); the teachers label the result."""
    b, _, height, width = x.shape
    keep = torch.distributions.Beta(beta, beta).sample()
    side = (1 - keep).sqrt()
    cy, cx = int(torch.randint(height, ())), int(torch.randint(width, ()))
    dy, dx = int(height * side) // 2, int(width * side) // 2
    rows, columns = slice(max(cy - dy, 0), cy + dy), slice(max(cx - dx, 0), cx + dx)
    mixed = x.clone()
    mixed[:, :, rows, columns] = x[torch.randperm(b).to(x.device)][:, :, rows, columns]
    return mixed


class MealV2(ClassificationModule):
    """The student's fine-tuning. All arms of the comparison are this module with other switches.

    Args:
        student: the classifier to start from; its network is trained further.
        classes: C.
        teachers: frozen classifiers; none are needed when only hard labels are used.
        soft_label_weight: weight of L_sim (1 in the paper).
        hard_label_weight: weight of cross-entropy with the labels (0 in the paper).
        discriminator: "joint" (released code), "grl" (MEAL V1) or "none".
        discriminator_weight: weight of L_D (1).
        discriminator_reduction: K (8; small class counts need less).
        discriminator_final_relu: ReLU on D's outputs (true).
        discriminator_input: "logits" (released) or "probs" (the later fast-distillation path).
        discriminator_lr: D's own learning rate; None shares the student's, as the released weights did.
        temperature: divides the logits of both sides in L_sim, which is then scaled by its square; 1 in the paper.
        teacher_reduce: "mean_prob" (MEAL V2) or "random_one" (MEAL V1: one teacher per batch).
        cutmix_beta: paste boxes with this Beta parameter before student and teachers see the batch; 0 is off.
        optimizer, schedule: see StageModule.
    Raises:
        ValueError: a switch has no such value, or soft labels are asked of no teachers.
    """

    def __init__(
        self,
        student: ClassificationModule,
        classes: int,
        teachers: Sequence[ClassificationModule] = (),
        soft_label_weight: float = 1.0,
        hard_label_weight: float = 0.0,
        discriminator: str = "joint",
        discriminator_weight: float = 1.0,
        discriminator_reduction: int = 8,
        discriminator_final_relu: bool = True,
        discriminator_input: str = "logits",
        discriminator_lr: float | None = None,
        temperature: float = 1.0,
        teacher_reduce: str = "mean_prob",
        cutmix_beta: float = 0.0,
        optimizer: OptimizerFactory | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        super().__init__(student.network, classes, optimizer, schedule)
        for name, value, valid in (
            ("discriminator", discriminator, ("joint", "grl", "none")),
            ("discriminator_input", discriminator_input, ("logits", "probs")),
            ("teacher_reduce", teacher_reduce, ("mean_prob", "random_one")),
        ):
            if value not in valid:
                raise ValueError(f"{name}={value!r}: expected one of {', '.join(valid)}")
        self.teachers = Frozen(teacher.network for teacher in teachers)
        if (soft_label_weight or discriminator != "none") and not self.teachers:
            raise ValueError("soft labels and the discriminator need teachers: needs: {teachers: [...]}")
        self.soft_label_weight, self.hard_label_weight = soft_label_weight, hard_label_weight
        self.mode, self.discriminator_weight = discriminator, discriminator_weight
        self.discriminator_input, self.discriminator_lr = discriminator_input, discriminator_lr
        self.temperature, self.teacher_reduce, self.cutmix_beta = temperature, teacher_reduce, cutmix_beta
        self.discriminator = (
            Discriminator(classes, discriminator_reduction, discriminator_final_relu)
            if discriminator != "none"
            else None
        )

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        if self.cutmix_beta:
            x = cutmix(x, self.cutmix_beta)
        z_s = self(x)  # (B, C)
        loss, terms = z_s.new_zeros(()), {}
        if self.hard_label_weight:
            terms["hard"] = F.cross_entropy(z_s, y)
            loss = loss + self.hard_label_weight * terms["hard"]
        if self.teachers:
            z_t = self.teacher_logits(x)  # (T, B, C)
            p_t = soft_target(z_t, self.temperature)
            terms["sim"] = similarity_loss(z_s / self.temperature, p_t)
            terms["kl"] = terms["sim"].detach() - entropy(p_t)
            loss = loss + self.soft_label_weight * self.temperature**2 * terms["sim"]
            if self.discriminator is not None:
                terms["disc"] = self.discriminator_loss(z_s, z_t, p_t)
                loss = loss + self.discriminator_weight * terms["disc"]
        self.track(len(y), loss=loss, top1=100 * (z_s.argmax(-1) == y).float().mean(), **terms)
        return loss

    def teacher_logits(self, x: Tensor) -> Tensor:
        """(T, B, C); T is 1 when one teacher is drawn per batch."""
        if self.teacher_reduce == "random_one":
            chosen = int(torch.randint(len(self.teachers), ()))
            return self.teachers.logits(x, [chosen])
        return self.teachers.logits(x)

    def discriminator_loss(self, z_s: Tensor, z_t: Tensor, p_t: Tensor) -> Tensor:
        assert self.discriminator is not None
        logits = self.discriminator_input == "logits"
        student, teacher = (z_s, z_t.mean(0)) if logits else (z_s.softmax(-1), p_t)
        return discriminator_loss(
            self.discriminator, reverse_gradient(student) if self.mode == "grl" else student, teacher
        )

    def pictures(self, data: Any) -> dict[str, Figure]:
        """Training images whose label was replaced, with the soft label that the teachers give instead."""
        images, given = data.relabelled(8)
        if not self.teachers or not len(images):
            return {}
        soft = soft_target(self.teachers.logits(data.normalised(images).to(self.device)), self.temperature).cpu()
        figure = Figure(figsize=(9, 3), layout="constrained")
        axes = figure.subplots(2, len(images), squeeze=False)
        for column, image in enumerate(images):
            axes[0, column].imshow(image.permute(1, 2, 0), cmap="gray")
            axes[0, column].set_title(f"labelled {data.spec.classes[given[column]]}", fontsize=8)
            axes[0, column].axis("off")
            axes[1, column].bar(range(self.classes), soft[column])
            axes[1, column].set(ylim=(0, 1), yticks=[], xticks=range(self.classes))
            axes[1, column].tick_params(labelsize=6)
        axes[1, 0].set_ylabel("soft label", fontsize=8)
        return {"soft labels where the label was replaced": figure}

    def trained(self) -> list[dict[str, Any]]:
        groups: list[dict[str, Any]] = [{"params": list(self.network.parameters())}]
        if self.discriminator is not None:
            own = {} if self.discriminator_lr is None else {"lr": self.discriminator_lr}
            groups.append({"params": list(self.discriminator.parameters()), **own})
        return groups

    def on_train_epoch_end(self) -> None:
        disc = self._sums.get("disc")
        if self.current_epoch == 0 and disc is not None and abs(float(disc) / self._count - LN2) < 1e-6:
            log.warning("the discriminator is dead: its loss is exactly ln 2 and its gradient 0 (final ReLU)")
        super().on_train_epoch_end()
