"""A Robust Prototype-Based Network with Interpretable RBF Classifier Foundations (Saralajew et al., AAAI 2025).

arXiv 2412.15499. Components w_k are detected in an image with probability d_k; a class agrees with what is there and
with what is not:

    d_k(x) = exp( -D(x, w_k) / sigma_k ),    p_c(x) = sum_k [ d_k r+_kc + (1 - d_k) r-_kc ],    sum_k (r+ + r-) = 1

With r- = 0 this is an RBF network with normalised weights. Dropping the third, indefinite state of the original
Classification-by-Components makes explanations unique, and gives a certified L2 radius in closed form (certificates.py)
that can be trained for:

    L_margin = relu( max_wrong p - max_right p + m ),    L_robust = relu( rho - eps(x) )

This module is the shallow network of MNIST; deep.py is the one on features of a convolutional network. Heads and losses
can be combined freely.

Where paper and released code differ, or ours differs from both:
- the released script of the MNIST table starts every sigma at 58 for distances and squared distances, its documentation
  recommends 7.61 for distances. The full recipe follows the script for squared distances and the documentation
  for distances.
- the smallest sigma counts in the certificate, not each component's own, as in the theorem.
- attacks within every image's own certified radius are part of the test (`broken_certificates`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from modules.common.classifier import ClassificationModule
from modules.common.metrics import Classification, Means, compute_and_reset
from modules.common.module import OptimizerFactory
from modules.common.schedules import Schedule
from modules.robust_pbn.evaluation import Robustness
from modules.robust_pbn.networks import DetectionNetwork, PixelNetwork, rank
from modules.robust_pbn.pictures import draw_components, draw_reasoning

Loss = Callable[..., Tensor]  # (evidence, right (B, P), labels (B,)) -> (B,)


class Shallow(ClassificationModule):
    """A prototype network on pixels. All arms of the comparison are this module with other parts.

    Test metrics beside accuracy: see Robustness, and of networks that reason
    - negative_share: how much of the reasoning is negative, sum_k r-, mean over concepts, in [0, 1];
    - smallest_sigma: what the certificate is made with;
    - mean_radius: the mean of the certified radii, 0 for images that are classified wrongly.

    Validation has accuracy and robust_acc under attacks of the first length: what margins and radii are chosen by.

    Args:
        network: what is trained.
        classes: number of classes.
        loss: see losses.
        robustness: what is measured under attack; None leaves it out.
        optimizer, schedule: see StageModule.
    """

    network: PixelNetwork

    def __init__(
        self,
        network: PixelNetwork,
        classes: int,
        loss: Loss,
        robustness: Robustness | None = None,
        optimizer: OptimizerFactory | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        super().__init__(network, classes, optimizer, schedule)
        self.val_metrics, self.test_metrics = Classification(classes, ("top1",)), Classification(classes, ("top1",))
        self.loss, self.robustness = loss, robustness
        self.shares = None if robustness is None else Means(robustness.names(network.certified))
        self.val_shares = None if robustness is None else Means([robustness.first_name])
        self.radii = Means(["mean_radius"]) if network.certified else None

    def setup(self, stage: str) -> None:
        spec = self.trainer.datamodule.spec  # type: ignore[attr-defined]
        self.network.mean.copy_(torch.tensor(spec.mean).view(-1, 1, 1))
        self.network.std.copy_(torch.tensor(spec.std).view(-1, 1, 1))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = self.network.pixels(batch[0]), batch[1]  # (B, D), (B,)

        evidence = self.network.read(x)
        loss = self.loss(evidence, self.network.right(y), y).mean()

        self.track(len(y), loss=loss, top1=100 * (evidence.class_scores().argmax(1) == y).float().mean())
        return loss

    def on_train_batch_end(self, *_: Any) -> None:
        self.network.constrain()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.val_metrics.update(rank(self(batch[0])), batch[1])
        if self.val_shares is not None and self.robustness is not None:
            x = self.network.pixels(batch[0])
            self.val_shares.update(self.robustness.measure_first(self.network, x, batch[1]))

    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        if self.val_shares is not None:
            values = compute_and_reset(self.val_shares)
            self.log_dict({f"val/{name}": 100 * values[name] for name in self.val_shares.names})

    def test_step(self, batch: Any, batch_idx: int) -> None:
        x, y = self.network.pixels(batch[0]), batch[1]
        self.test_metrics.update(rank(self.network.read(x).class_scores()), y)
        if self.radii is not None:
            self.radii.update({"mean_radius": self.network.certify(x, y)})
        if self.shares is not None and self.robustness is not None:
            self.shares.update(self.robustness.measure(self.network, x, y))

    def on_test_epoch_end(self) -> None:
        super().on_test_epoch_end()
        for means, scale in ((self.radii, 1), (self.shares, 100)):
            if means is not None:
                values = compute_and_reset(means)
                self.log_dict({f"test/{name}": scale * values[name] for name in means.names})
        if isinstance(self.network, DetectionNetwork):
            self.log("test/smallest_sigma", self.network.sigma.min())
            reasoning = self.network.head.reasoning()
            if reasoning is not None:
                self.log("test/negative_share", reasoning[1].sum(0).mean())

    @torch.no_grad()
    def pictures(self, data: Any) -> dict[str, Figure]:
        """The components as images; of networks that reason also what each class wants to be there and not there."""
        shape = data.spec.shape
        points = self.network.components.points.cpu().unflatten(1, shape)
        figures = {"components": draw_components(points.clamp(0, 1))}
        if isinstance(self.network, DetectionNetwork) and (reasoning := self.network.head.reasoning()) is not None:
            positive, negative = (r.cpu() for r in reasoning)
            names = [data.spec.classes[c] for c in range(self.classes) for _ in range(self.network.per_class)]
            figures["reasoning"] = draw_reasoning(positive, negative, names)
        return figures
