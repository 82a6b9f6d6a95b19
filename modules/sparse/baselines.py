"""SGAN, the baseline whose losses are common knowledge (Salimans et al. 2016, arXiv 1606.03498, Section 5).

The classifier has K logits l and, for generated images, a class K + 1 whose logit is 0: with Z = sum_k exp l_k an image
is real with probability Z / (Z + 1).

    labelled:    -log p(y | x, y <= K)
    unlabelled:  -log Z(u) / (Z(u) + 1) - log 1 / (Z(fake) + 1),    half of each
    generator:   |E f(u) - E f(fake)|^2,    f the inputs of the last layer
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modules.common.distributed import gather, shared_draw
from modules.common.module import OptimizerFactory
from modules.common.players import Players, held
from modules.common.precision import at_least_single
from modules.common.schedules import Schedule
from modules.sparse.evaluation import Accuracies


class NoiseGenerator(nn.Sequential):
    """Noise (B, code) -> images (B, C, S, S) in [0, 1]: a linear layer to 4x4, then doubled sides and convolutions.

    Args:
        code: entries of the noise.
        widths: channels at 4x4 and after each doubling; S is 4 times 2 for each width but the first.
        channels: of the images.
    """

    def __init__(self, code: int, widths: Sequence[int], channels: int = 3) -> None:
        self.code = code
        layers: list[nn.Module] = [nn.Linear(code, widths[0] * 16), nn.Unflatten(1, (widths[0], 4, 4))]
        layers += [nn.BatchNorm2d(widths[0]), nn.ReLU()]
        for inputs, outputs in pairwise(widths):
            layers += [nn.Upsample(scale_factor=2), nn.Conv2d(inputs, outputs, 3, padding=1)]
            layers += [nn.BatchNorm2d(outputs), nn.ReLU()]
        super().__init__(*layers, nn.Conv2d(widths[-1], channels, 3, padding=1), nn.Sigmoid())


def real_loss(logits: Tensor) -> Tensor:
    """-log Z / (Z + 1), mean over the batch. (B, K)."""
    return F.softplus(-at_least_single(logits).logsumexp(1)).mean()


def fake_loss(logits: Tensor) -> Tensor:
    """-log 1 / (Z + 1), mean over the batch. (B, K)."""
    return F.softplus(at_least_single(logits).logsumexp(1)).mean()


class SGAN(Players):
    """A classifier that also tells real from generated images, and a generator that matches its features.

    Batches are those of SPARSE: labelled throughout, or unlabelled throughout (labels -1). Test metrics: `top1`,
    `balanced` and `f1`.

    Args:
        classifier: images -> K logits; its last layer is a Linear.
        generator: noise -> images.
        classes: K.
        optimizer, schedule: see StageModule.
    Raises:
        ValueError: another last layer.
    """

    def __init__(
        self,
        classifier: nn.Module,
        generator: NoiseGenerator,
        classes: int,
        optimizer: OptimizerFactory | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        super().__init__(optimizer, schedule)
        *_, last = classifier.modules()
        if not isinstance(last, nn.Linear):
            raise ValueError(
                f"classifier ends in {type(last).__name__}; expected a Linear, whose inputs are the features"
            )
        self.classifier = classifier
        self.generator = generator
        self.val_metrics = Accuracies(classes, ("",))
        self.test_metrics = Accuracies(classes, ("",))
        self._last = [last]  # in a list: it is a part of the classifier already

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        classifier_optimizer, generator_optimizer = self.steppers()
        if bool(batch.y[0] >= 0):
            loss = F.cross_entropy(self.classifier(batch.x), batch.y)
            self.minimise(loss, classifier_optimizer)
            self.track(len(batch.x), loss=loss)
            return loss.detach()

        noise = shared_draw(batch.x, lambda count: torch.randn(count, self.generator.code))  # (b, code)
        fake = self.generator(noise)
        loss = 0.5 * (real_loss(self.classifier(batch.x)) + fake_loss(self.classifier(fake.detach())))
        self.minimise(loss, classifier_optimizer)

        with held(self.classifier):
            with torch.no_grad():
                real = gather(self.features(batch.x)).mean(0)  # (d,)
            distance = (real - gather(self.features(fake)).mean(0)).square().sum()
            self.minimise(distance, generator_optimizer)
        return loss.detach()

    def features(self, x: Tensor) -> Tensor:
        """What enters the last layer, (b, d)."""
        entered: list[Tensor] = []
        handle = self._last[0].register_forward_pre_hook(lambda _, inputs: entered.append(inputs[0]))
        try:
            self.classifier(x)
        finally:
            handle.remove()
        return at_least_single(entered[0])

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        return self.classifier(x)

    def players(self) -> list[list[nn.Module]]:
        return [[self.classifier], [self.generator]]

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.val_metrics.update(batch.y, plain=self(batch.x).float().softmax(1))

    def on_validation_epoch_end(self) -> None:
        self.log_dict({f"val/{name}": value for name, value in self.val_metrics.compute().items()})

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.test_metrics.update(batch.y, plain=self(batch.x).float().softmax(1))

    def on_test_epoch_end(self) -> None:
        self.log_dict({f"test/{name}": value for name, value in self.test_metrics.compute().items()})
