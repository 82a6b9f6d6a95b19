"""Deep Learning for Case-Based Reasoning through Prototypes (Li, Liu, Chen & Rudin, AAAI 2018).

arXiv 1710.04806. An autoencoder f, g and m vectors p_j in its code space; the classifier sees nothing but the squared
distances of a code to the p_j, and g(p_j) is the picture of what it compares with.

    D_ij = ||f(x_i) - p_j||^2,    logits = D W,    L = 20 E + R + R1 + R2
    E    = mean_i CE(softmax(D_i W), y_i)             R    = mean_i ||g(f(x_i)) - x_i||^2, a sum over pixels
    R1   = mean_j min_i D_ij  (a prototype is near some image of the batch)
    R2   = mean_i min_j D_ij  (an image is near some prototype)

W has no bias and is free: no prototype belongs to a class beforehand. Everything is trained together from the first
step, and nothing is moved onto a training image; the picture of a prototype comes from the decoder.

Where paper and released code differ, or ours differs from both:
- the paper speaks of logistic sigmoids throughout, the code has ReLU after every layer, the code's layer included, and
  a sigmoid at the decoder's output alone. The code is followed; `act="sigmoid"` is the paper's.
- TensorFlow's "SAME" pads an even side at the bottom and right only, torch's padding=1 is used at the top and left
  only: the same network, seen by an image turned by 180 degrees.
- under several processes R1's minimum runs over the global batch, as one process would see it.
- pixels are in [0, 1] here as there: what the datamodule normalised is undone first.
- the code computes D from |f|^2 + |p|^2 - 2 f p, which may come out below 0; here differences are squared.
"""

from __future__ import annotations

from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import SumMetric

from modules.case_based_prototypes.evaluation import CHUNK, compare_with_training_images
from modules.case_based_prototypes.losses import LossWeights, code_error, prototype_error, reconstruction_error
from modules.case_based_prototypes.networks import CaseBasedNetwork
from modules.case_based_prototypes.pictures import draw_prediction, draw_prototypes, draw_weights
from modules.common.classifier import ClassificationModule
from modules.common.frozen import Frozen
from modules.common.module import OptimizerFactory
from modules.common.schedules import Schedule


class CaseBased(ClassificationModule):
    """Training and test of the published model and of its comparisons.

    Beside the classification metrics, `test/` gets `reconstruction`, R over the test set, and what
    `compare_with_training_images` says of the training images, not augmented.

    Args:
        network: what is trained.
        classes: K.
        weights: of E, R, R1 and R2. The last three have no effect where the network lacks a decoder or prototypes.
        judge: a classifier trained on its own on the same data, asked what the decoded prototypes show.
        optimizer, schedule: see StageModule.
    """

    network: CaseBasedNetwork

    def __init__(
        self,
        network: CaseBasedNetwork,
        classes: int,
        weights: LossWeights,
        judge: ClassificationModule | None = None,
        optimizer: OptimizerFactory | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        super().__init__(network, classes, optimizer, schedule)
        self.weights = weights
        self.judge = Frozen([] if judge is None else [judge.network])
        self.squared_errors = SumMetric(nan_strategy="disable")

    def setup(self, stage: str) -> None:
        spec = self.trainer.datamodule.spec  # type: ignore[attr-defined]
        self.network.mean.copy_(torch.tensor(spec.mean).view(-1, 1, 1))
        self.network.std.copy_(torch.tensor(spec.std).view(-1, 1, 1))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        net = self.network
        x, y = net.pixels(batch[0]), batch[1]

        codes = net.encoder(x)  # (n, d)
        outputs, logits = net.classify(codes)  # D (n, m), (n, K)

        terms = {"e": F.cross_entropy(logits, y)}
        if net.decoder is not None:
            terms["r"] = reconstruction_error(net.decoder(codes), x)
        if net.prototypes is not None:
            terms["r1"] = prototype_error(outputs)
            terms["r2"] = code_error(outputs)
        loss = self.weights.total(terms)

        self.track(len(y), loss=loss, top1=100 * (logits.argmax(-1) == y).float().mean(), **terms)
        return loss

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        net = self.network
        x, y = net.pixels(batch[0]), batch[1]
        codes = net.encoder(x)
        _, logits = net.classify(codes)
        self.test_metrics.update(logits, y)
        if net.decoder is not None:
            self.squared_errors.update(len(x) * reconstruction_error(net.decoder(codes), x))

    def on_test_epoch_end(self) -> None:
        if self.network.decoder is not None:
            self.log("test/reconstruction", self.squared_errors.compute() / self.test_metrics.metrics["n"].compute())
            self.squared_errors.reset()
        super().on_test_epoch_end()

        data = self.trainer.datamodule  # type: ignore[attr-defined]
        images, labels = data.splits["train"]
        x = torch.cat([self.pixels_of(part, data) for part in images.split(CHUNK)])
        scores = compare_with_training_images(self.network, self.judge, x, labels.to(self.device))
        self.log_dict({f"test/{name}": value for name, value in scores.items()})

    def pixels_of(self, images: Tensor, data: Any) -> Tensor:
        """Stored images as the encoder sees them, (n, C, H, W) in [0, 1]."""
        return self.network.pixels(data.normalised(images.cpu()).to(self.device))

    @torch.inference_mode()
    def pictures(self, data: Any) -> dict[str, Figure]:
        net = self.network
        if net.prototypes is None or net.decoder is None:
            return {}
        names = data.spec.classes
        decoded = net.decoder(net.prototypes).cpu()
        classes = [names[c] for c in net.class_of_each_prototype().tolist()]

        images, labels = data.splits["test"]
        x = self.pixels_of(images[:1], data)
        codes = net.encoder(x)
        distances, logits = net.classify(codes)
        title = f"labelled {names[int(labels[0])]}\nseen as {names[int(logits[0].argmax())]}"
        reconstruction = net.decoder(codes)[0].cpu()
        return {
            "decoded prototypes": draw_prototypes(decoded, classes),
            "one prediction": draw_prediction(x[0].cpu(), title, reconstruction, decoded, classes, distances[0].cpu()),
            "weights": draw_weights(net.weight.cpu(), names),
        }
