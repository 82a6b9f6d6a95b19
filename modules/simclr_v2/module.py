"""SimCLR v2: Big Self-Supervised Models are Strong Semi-Supervised Learners (Chen, Kornblith, Swersky, Norouzi et al.).

arXiv 2006.10029, NeurIPS 2020. Three phases:

1. Pretraining without labels (`Pretraining`): two views of N images, z = g(f(x)),

    l(i, j) = -log [ exp(z_i . z_j / tau) / sum_{k != i} exp(z_i . z_k / tau) ],    |z| = 1

   over the other 2N - 1 views of all devices and, with a memory, the past outputs of a moving average of f and g.

2. Fine-tuning on few labels (`FineTuning`): f and the first m layers of the head g are kept, a linear classifier that
   starts at 0 is put on top, everything is trained. m = 1 is "from the middle of the head", m = 0 is SimCLR v1's way.

3. Distillation on all images (`Distillation`): the fine-tuned network teaches a smaller one or one of its own kind,

    L = -sum_x sum_y P_T(y|x; tau) log P_S(y|x; tau),    P(y|x; tau) = softmax(logits / tau)

   and with labels (1 - alpha) sum_labelled -log P_S(y|x) + alpha times the sum above.

What deviates, and where paper and released code differ:
- the code adds the means over first and over second views, twice the paper's loss; followed here, since the rates are
  stated for it.
- the released code lacks the memory that the published table used. Here the average's outputs for second views go
  into the queue, as in MoCo; which view the paper takes is not known.
- the code's notebook multiplies the distillation loss by tau^2, the paper does not; the paper is followed.
- sums of the distillation loss are divided by the images of a batch, so that a label weighs as much as a teacher's
  answer to one image.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from modules.common.classifier import ClassificationModule, Classifier
from modules.common.contrastive import nt_xent
from modules.common.distillation import entropy, similarity_loss, soft_target
from modules.common.distributed import gather, place_in_batch
from modules.common.frozen import Frozen
from modules.common.module import OptimizerFactory
from modules.common.schedules import Schedule
from modules.simclr_v2.memory import Memory
from modules.simclr_v2.networks import ProjectionHead, ResNet
from modules.simclr_v2.pictures import draw_neighbours, draw_views

UNLABELLED = -1


class Phase(ClassificationModule):
    """What the phases share: which parameters LARS adapts, the classifier's weight decay, and rates that grow with the
    root of the batch.

    Args:
        network, classes, optimizer, schedule: see ClassificationModule.
    """

    classifier: nn.Linear

    def trained(self) -> list[dict[str, Any]]:
        """Weights of convolutions and linear layers; batch norm, biases and classifier, without decay or adaptation."""
        own = {id(p) for p in self.classifier.parameters()}
        parameters = [p for p in self.parameters() if p.requires_grad]
        weights = [p for p in parameters if p.ndim > 1 and id(p) not in own]
        others = [p for p in parameters if p.ndim == 1 or id(p) in own]
        return [{"params": weights}, {"params": others, "weight_decay": 0.0, "adapt": False}]

    def prepared(self, optimizer: Optimizer) -> Optimizer:
        """Rates are stated as c sqrt(batch): another batch than the recipe's changes them by the root of the factor."""
        for group in optimizer.param_groups:
            group["lr"] = group["lr"] * math.sqrt(self.lr_scale)
            group["initial_lr"] = group["lr"]
        return optimizer

    def decay_of_classifier(self) -> Tensor:
        """The classifier's weight decay, which LARS leaves out and the code adds to every loss: wd / 2 |W|^2.

        Source: `add_weight_decay` of the released model_util.py, called in each training step of each mode.
        """
        options: dict[str, Any] = getattr(self.optimizer_factory, "keywords", {})
        return 0.5 * options.get("weight_decay", 0.0) * self.classifier.weight.square().sum()


def contrast_accuracy(first: Tensor, second: Tensor) -> Tensor:
    """Percent of first views whose most similar second view, of all processes, is their own. (n, D) each."""
    candidates = F.normalize(gather(second.detach()), dim=1)  # (N, D)
    _, start = place_in_batch(first)
    nearest = (F.normalize(first.detach(), dim=1) @ candidates.T).argmax(1)
    own = torch.arange(start, start + len(first), device=first.device)
    return 100 * (nearest == own).float().mean()


class Pretraining(Phase):
    """Phase 1: f and g learn from pairs of views. Labels reach a linear probe on h alone, which is cut off from f.

    Args:
        network: f.
        classes: of the probe.
        head: layers and width of g, see ProjectionHead.
        temperature: tau.
        memory: size and decay of the queue of past outputs, see Memory; None trains without.
        optimizer, schedule: see StageModule.
    """

    network: ResNet

    def __init__(
        self,
        network: ResNet,
        classes: int,
        head: dict[str, int],
        temperature: float = 0.1,
        memory: dict[str, Any] | None = None,
        optimizer: OptimizerFactory | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        super().__init__(network, classes, optimizer, schedule)
        self.temperature = temperature
        self.head = ProjectionHead(network.features, **head)
        self.classifier = zero_classifier(network.features, classes)
        self.memory = None if memory is None else Memory(self.projector, outputs=self.head.outputs, **memory)

    @property
    def projector(self) -> Projector:
        """g(f(x)) as one network, of the parts that are registered here."""
        return Projector(self.network, self.head)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        h = self.network(torch.cat([batch.x, batch.x2]))  # (2B, d)
        first, second = self.head(h)[-1].chunk(2)  # (B, outputs) each

        past = None if self.memory is None else self.memory.negatives()
        contrast = 2 * nt_xent(first, second, self.temperature, extra=past)
        if self.memory is not None:
            self.memory.remember(self.projector, batch.x2)

        logits = self.classifier(h.detach())  # (2B, classes)
        labels = batch.y.repeat(2)
        probe = F.cross_entropy(logits, labels) + self.decay_of_classifier()

        top1 = 100 * (logits.argmax(-1) == labels).float().mean()
        self.track(len(batch.y), loss=contrast, contrast_top1=contrast_accuracy(first, second), top1=top1)
        return contrast + probe

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.memory is not None:
            self.memory.follow(self.projector)

    def forward(self, x: Tensor) -> Tensor:
        """The probe's logits (B, classes)."""
        return self.classifier(self.network(x))

    def pictures(self, data: Any) -> dict[str, Figure]:
        """Pairs of views; some test images, each with the test images that are nearest to it in h."""
        views, test = next(iter(data.train_dataloader())), next(iter(data.test_dataloader()))
        h = F.normalize(self.network(test.x.to(self.device)).float(), dim=1).cpu()
        return {
            "two views": draw_views(data.shown(views.x), data.shown(views.x2)),
            "nearest images": draw_neighbours(data.shown(test.x), h, test.y.cpu(), data.spec.classes),
        }


class Projector(nn.Module):
    """g(f(x)): images to the head's last output, (B, outputs)."""

    def __init__(self, network: ResNet, head: ProjectionHead) -> None:
        super().__init__()
        self.network, self.head = network, head

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.network(x))[-1]


def zero_classifier(inputs: int, classes: int) -> nn.Linear:
    """A linear layer whose logits are all 0 at first."""
    layer = nn.Linear(inputs, classes)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class FineTuning(Phase):
    """Phase 2: cross-entropy on labels, from pretrained weights. Everything below the classifier is trained too.

    From an untrained `network` it is the supervised baseline.

    Args:
        classes: number of classes.
        pretrained: the stage to start from.
        network: f at random initialisation instead.
        layer: m, layers of the head that are kept: 0 is h itself.
        optimizer, schedule: see StageModule.
    Raises:
        ValueError: neither or both of pretrained and network, or a layer that the head does not have.
    """

    def __init__(
        self,
        classes: int,
        pretrained: Pretraining | None = None,
        network: ResNet | None = None,
        layer: int = 0,
        optimizer: OptimizerFactory | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        if (pretrained is None) == (network is None) or (network is not None and layer):
            raise ValueError("expected either pretrained from needs: {pretrained: <stage>}, or network and layer=0")
        if pretrained is not None:
            backbone = nn.Sequential(pretrained.network, *pretrained.head.first(layer))
            features = pretrained.network.features  # as wide as every layer of the head but the last
        else:
            assert network is not None
            backbone, features = nn.Sequential(network), network.features
        super().__init__(backbone, classes, optimizer, schedule)
        self.classifier = zero_classifier(features, classes)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        logits = self(batch.x)  # (B, classes)
        loss = F.cross_entropy(logits, batch.y)
        self.track(len(batch.y), loss=loss, top1=100 * (logits.argmax(-1) == batch.y).float().mean())
        return loss + self.decay_of_classifier()

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.network(x))


class LinearEvaluation(Classifier):
    """Softmax regression on h of the frozen f, in evaluation mode; its rate is proportional to the batch.

    Args:
        pretrained: the stage whose f is used.
        classes, optimizer, schedule: see Classifier.
    """

    def __init__(
        self,
        pretrained: Pretraining,
        classes: int,
        optimizer: OptimizerFactory | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        classifier = zero_classifier(pretrained.network.features, classes)
        super().__init__(classifier, classes, optimizer=optimizer, schedule=schedule)
        self.pretrained = Frozen([pretrained.network])

    def forward(self, x: Tensor) -> Tensor:
        return self.network(self.pretrained.logits(x)[0])


def distillation_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """-sum_y P_T(y; tau) log P_S(y; tau), mean over the batch. (B, C) each."""
    return similarity_loss(student_logits / temperature, soft_target(teacher_logits[None], temperature))


def labelled_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Sum of -log P(y) over the images that have a label, over the number of all images. (B, C), (B,): -1 is none."""
    return F.cross_entropy(logits, labels, ignore_index=UNLABELLED, reduction="sum") / len(labels)


class Distillation(Phase):
    """Phase 3: a student from random weights learns the answers of a frozen, fine-tuned teacher.

    A student of the teacher's own architecture is self-distillation. Labels are used with alpha below 1 alone.

    Args:
        network: the student's f.
        classes: number of classes.
        teacher: the fine-tuned stage.
        temperature: tau.
        alpha: weight of the teacher; 1 - alpha weighs the labels.
        optimizer, schedule: see StageModule.
    Raises:
        ValueError: alpha is not in [0, 1] or the temperature not above 0.
    """

    def __init__(
        self,
        network: ResNet,
        classes: int,
        teacher: ClassificationModule,
        temperature: float = 1.0,
        alpha: float = 1.0,
        optimizer: OptimizerFactory | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        if not 0 <= alpha <= 1 or temperature <= 0:
            raise ValueError(f"alpha={alpha}, temperature={temperature}: expected a number in [0, 1], and one above 0")
        super().__init__(network, classes, optimizer, schedule)
        self.teacher = Frozen([teacher])
        self.temperature, self.alpha = temperature, alpha
        self.classifier = zero_classifier(network.features, classes)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        z_s = self(batch.x)  # (B, classes)
        z_t = self.teacher.logits(batch.x)[0]

        distilled = distillation_loss(z_s, z_t, self.temperature)
        loss = self.alpha * distilled
        if self.alpha < 1:
            loss = loss + (1 - self.alpha) * labelled_loss(z_s, batch.y)

        kl = distilled.detach() - entropy(soft_target(z_t[None], self.temperature))
        agreement = 100 * (z_s.argmax(-1) == z_t.argmax(-1)).float().mean()
        self.track(len(batch.x), loss=loss, kl=kl, agreement=agreement)
        return loss + self.decay_of_classifier()

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.network(x))
