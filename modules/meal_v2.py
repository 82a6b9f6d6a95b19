"""MEAL V2: Boosting Vanilla ResNet-50 to 80%+ Top-1 Accuracy on ImageNet without Tricks (Shen & Savvides).

arXiv 2009.08453. An already good student is fine-tuned on the averaged softmax of two larger teachers plus a small
discriminator on the final outputs; no hard labels, no weight decay.

    L = L_sim + L_D,    L_sim = -mean_b sum_c p_T(c) log softmax(z_S)(c),    p_T = 1/N sum_t softmax(z_t)

Where paper and released code differ, the code is followed, since the published weights were trained with it:
- the paper writes KL(p_T || p_S), the code cross-entropy with p_T. They differ by the teachers' entropy, which is
  constant for the student; both are logged (`train/sim`, `train/kl`).
- the paper calls the discriminator adversarial. The code minimises its loss jointly with the student's, one optimiser,
  nothing detached or reversed: the student is asked to stay distinguishable. `reverse` gives MEAL V1's game.
- the discriminator sees raw logits (the mean of the teachers' logits), while L_sim uses averaged probabilities.
- D's own learning rate (1e-4 in the code's options) is overwritten by the student's at every epoch; `lr` gives it back.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
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


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raises ValueError unless the value is one of the choices."""
    if value not in choices:
        raise ValueError(f"{name}={value!r}: expected one of {', '.join(choices)}")


@dataclass(frozen=True)
class Labels:
    """What the student is taught.

    Args:
        soft: weight of L_sim, the teachers' labels (1 in the paper).
        hard: weight of cross-entropy with the data set's labels (0 in the paper).
        smoothing: of the hard labels, in [0, 1).
        temperature: divides the logits of both sides in L_sim, which is then scaled by its square; 1 in the paper.
        teachers: "mean_prob" averages their probabilities (MEAL V2), "random_one" takes one per batch (MEAL V1).
    Raises:
        ValueError: `teachers` is neither.
    """

    soft: float = 1.0
    hard: float = 0.0
    smoothing: float = 0.0
    temperature: float = 1.0
    teachers: str = "mean_prob"

    def __post_init__(self) -> None:
        check_choice("teachers", self.teachers, ("mean_prob", "random_one"))


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


class Discriminator(nn.Sequential):
    """Student or teachers, from one row of C outputs: three linear layers C -> C/K -> C/K^2 -> 2 with ReLUs.

    The code writes them as 1x1 convolutions on a (B, C, 1, 1) map and puts a ReLU after the last as well.

    Args:
        classes: C.
        reduction: K; the paper's 8 needs C >= 64.
        final_relu: ReLU on the two outputs, as released. It bounds the loss below by ln 2 / 2.
        weight: of L_D in the student's loss (1).
        input: "logits" (released) or "probs" (the later fast-distillation path).
        reverse: turn the gradient that reaches the student, as MEAL V1 did; released: false, both minimise L_D.
        lr: a learning rate of its own; None shares the student's, as the released weights did.
    Raises:
        ValueError: C // K^2 is 0, or `input` is neither.
    """

    def __init__(
        self,
        classes: int,
        reduction: int = 8,
        final_relu: bool = True,
        weight: float = 1.0,
        input: str = "logits",
        reverse: bool = False,
        lr: float | None = None,
    ) -> None:
        check_choice("input", input, ("logits", "probs"))
        hidden = classes // reduction
        narrow = classes // reduction**2
        if narrow < 1:
            raise ValueError(
                f"reduction={reduction} leaves no channel for {classes} classes; take at most {math.isqrt(classes)}"
            )
        layers = [nn.Linear(classes, hidden), nn.ReLU(), nn.Linear(hidden, narrow), nn.ReLU(), nn.Linear(narrow, 2)]
        super().__init__(*layers, *([nn.ReLU()] if final_relu else []))
        self.weight = weight
        self.input = input
        self.reverse = reverse
        self.lr = lr

    def loss(self, z_s: Tensor, z_t: Tensor, p_t: Tensor) -> Tensor:
        """L_D of the student's logits (B, C) against the teachers' logits (T, B, C) or soft label (B, C)."""
        logits = self.input == "logits"
        student = z_s if logits else z_s.softmax(-1)
        teacher = z_t.mean(0) if logits else p_t
        return discriminator_loss(self, reverse_gradient(student) if self.reverse else student, teacher)


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
    """The student's fine-tuning. All arms of the comparison are this module with other labels or no discriminator.

    Args:
        student: the classifier to start from; its network is trained further.
        classes: C.
        teachers: frozen classifiers; none are needed when only hard labels are used.
        labels: what the student is taught; None is the paper's, soft labels alone.
        discriminator: of student and teachers; None leaves L_D out.
        cutmix_beta: paste boxes with this Beta parameter before student and teachers see the batch; 0 is off.
        optimizer, schedule: see StageModule.
    Raises:
        ValueError: soft labels or the discriminator are asked of no teachers.
    """

    def __init__(
        self,
        student: ClassificationModule,
        classes: int,
        teachers: Sequence[ClassificationModule] = (),
        labels: Labels | None = None,
        discriminator: Discriminator | None = None,
        cutmix_beta: float = 0.0,
        optimizer: OptimizerFactory | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        super().__init__(student.network, classes, optimizer, schedule)
        self.teachers = Frozen(teacher.network for teacher in teachers)
        self.labels = labels or Labels()
        self.discriminator = discriminator
        self.cutmix_beta = cutmix_beta
        if (self.labels.soft or discriminator is not None) and not self.teachers:
            raise ValueError("soft labels and the discriminator need teachers: needs: {teachers: [...]}")

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        if self.cutmix_beta:
            x = cutmix(x, self.cutmix_beta)

        z_s = self(x)  # (B, C)
        loss = z_s.new_zeros(())
        terms: dict[str, Tensor] = {}

        if self.labels.hard:
            terms["hard"] = F.cross_entropy(z_s, y, label_smoothing=self.labels.smoothing)
            loss = loss + self.labels.hard * terms["hard"]

        if self.teachers:
            temperature = self.labels.temperature
            z_t = self.teacher_logits(x)  # (T, B, C), of the very images that the student sees
            p_t = soft_target(z_t, temperature)  # (B, C)
            terms["sim"] = similarity_loss(z_s / temperature, p_t)
            terms["kl"] = terms["sim"].detach() - entropy(p_t)
            loss = loss + self.labels.soft * temperature**2 * terms["sim"]

            if self.discriminator is not None:
                terms["disc"] = self.discriminator.loss(z_s, z_t, p_t)
                loss = loss + self.discriminator.weight * terms["disc"]

        self.track(len(y), loss=loss, top1=100 * (z_s.argmax(-1) == y).float().mean(), **terms)
        return loss

    def teacher_logits(self, x: Tensor) -> Tensor:
        """(T, B, C); T is 1 when one teacher is drawn per batch."""
        if self.labels.teachers == "random_one":
            chosen = int(torch.randint(len(self.teachers), ()))
            return self.teachers.logits(x, [chosen])
        return self.teachers.logits(x)

    def trained(self) -> list[dict[str, Any]]:
        groups: list[dict[str, Any]] = [{"params": list(self.network.parameters())}]
        if self.discriminator is not None:
            own = {} if self.discriminator.lr is None else {"lr": self.discriminator.lr}
            groups.append({"params": list(self.discriminator.parameters()), **own})
        return groups

    def on_train_epoch_end(self) -> None:
        disc = self._sums.get("disc")
        if self.current_epoch == 0 and disc is not None and abs(float(disc) / self._count - LN2) < 1e-6:
            log.warning("the discriminator is dead: its loss is exactly ln 2 and its gradient 0 (final ReLU)")
        super().on_train_epoch_end()

    def pictures(self, data: Any) -> dict[str, Figure]:
        """Training images as the student sees them, where the teachers' soft label contradicts the hard one most."""
        if not self.teachers:
            return {}
        x, y = next(iter(data.train_dataloader()))
        x, y = x.to(self.device), y.to(self.device)
        p_t = soft_target(self.teachers.logits(x), self.labels.temperature)  # (B, C)
        contradicted = p_t.gather(1, y[:, None]).flatten().argsort()[:8]

        figure = Figure(figsize=(9, 3), layout="constrained")
        axes = figure.subplots(2, len(contradicted), squeeze=False)
        for column, row in enumerate(contradicted.tolist()):
            axes[0, column].imshow(data.shown(x[row]).permute(1, 2, 0), cmap="gray")
            axes[0, column].set_title(f"labelled {data.spec.classes[y[row]]}", fontsize=7)
            axes[0, column].axis("off")
            axes[1, column].bar(range(self.classes), p_t[row].cpu())
            axes[1, column].set(ylim=(0, 1), yticks=[], xticks=range(0, self.classes, max(1, self.classes // 10)))
            axes[1, column].tick_params(labelsize=6)
        axes[1, 0].set_ylabel("soft label", fontsize=8)
        return {"soft labels of training crops": figure}
