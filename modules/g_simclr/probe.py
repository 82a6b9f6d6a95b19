"""What G-SimCLR's features are worth: linear probes of frozen layers, and fine-tuning on few labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from modules.common import probe
from modules.common.classifier import Classifier
from modules.common.frozen import Frozen
from modules.common.module import OptimizerFactory
from modules.common.schedules import Schedule
from modules.common.stopping import EarlyStopped
from modules.g_simclr.autoencoder import CHUNK, training_images
from modules.g_simclr.module import GSimCLR
from modules.g_simclr.networks import PROBES


class Probe(EarlyStopped, probe.Probe):
    """Softmax regression on three frozen layers, side by side: P1 and P2 in the head, P3 the encoder's output.

    Adam treats each number apart, so that each ends as if trained alone. Training images are not augmented: their
    features are computed once, and a batch takes them by its rows.

    Args:
        source: the trained encoder and head, which stay as they are.
        classes: number of classes.
        standardise: bring each feature to mean 0 and standard deviation 1 over the training images first, so that
            layers of any scale are fitted with one learning rate; false is the paper's.
        patience: see EarlyStopped; of each probe apart.
        optimizer, schedule: see StageModule.
    """

    def __init__(
        self,
        source: GSimCLR,
        classes: int,
        standardise: bool = False,
        patience: int | None = None,
        optimizer: OptimizerFactory | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        heads = {name: nn.Linear(source.head.widths[name], classes) for name in PROBES}
        super().__init__(heads, classes, None, optimizer, schedule)
        self.frozen = Frozen([source])
        self.standardise = standardise
        for name in PROBES:
            self.register_buffer(f"{name}_mean", torch.zeros(source.head.widths[name]))
            self.register_buffer(f"{name}_std", torch.ones(source.head.widths[name]))
        self.watch(patience, **self.heads)
        self.stored: dict[str, Tensor] = {}  # features of all training images, by row

    def on_fit_start(self) -> None:
        images = training_images(self.trainer.datamodule)  # type: ignore[attr-defined]
        chunks = [self.layers(part.to(self.device)) for part in images.split(CHUNK)]
        self.stored = {name: torch.cat([part[name] for part in chunks]) for name in PROBES}
        if self.standardise:
            for name, features in self.stored.items():
                getattr(self, f"{name}_mean").copy_(features.mean(0))
                getattr(self, f"{name}_std").copy_(features.std(0).clamp(min=1e-6))

    def layers(self, x: Tensor) -> dict[str, Tensor]:
        """(B, C, H, W) -> probe: (B, D). No gradient flows."""
        (source,) = self.frozen.on(x.device)
        with torch.inference_mode():
            outputs = source.probed(x)
        return probe.keep_for_a_loss({name: output.float() for name, output in outputs.items()})

    def features(self, batch: Any) -> dict[str, Tensor]:
        if self.training:
            return {name: features.index_select(0, batch.row) for name, features in self.stored.items()}
        return self.layers(batch.x)

    def classify(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        standard = {n: (features[n] - getattr(self, f"{n}_mean")) / getattr(self, f"{n}_std") for n in self.heads}
        return super().classify(standard)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(B, C, H, W) -> probe: logits (B, classes)."""
        return self.classify(self.layers(x))

    def on_validation_epoch_end(self) -> None:
        self.observe(**self.report("val"))


class FineTuned(EarlyStopped, Classifier):
    """A linear classifier on the encoder's output, alone or with the encoder, by cross-entropy.

    The paper's fine-tuning is two stages of this: the classifier alone, then everything from there at a small rate,
    both with batch norm in inference mode. From an untrained encoder, with batch statistics, it is the supervised
    network.

    Args:
        source: a GSimCLR, whose encoder gets a new classifier, or a FineTuned to go on from.
        classes: number of classes.
        tuned: train the encoder too.
        batch_statistics: batch norm in training mode.
        encoder: another one, untrained, instead of the source's; it has `num_features`.
        patience: see EarlyStopped.
        optimizer, schedule: see StageModule.
    """

    def __init__(
        self,
        source: GSimCLR | FineTuned,
        classes: int,
        tuned: bool = True,
        batch_statistics: bool = False,
        encoder: nn.Module | None = None,
        patience: int | None = None,
        optimizer: OptimizerFactory | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        if encoder is not None:
            classifier: nn.Module = nn.Linear(int(encoder.num_features), classes)  # type: ignore[arg-type]
        elif isinstance(source, FineTuned):
            encoder, classifier = source.network.children()
        else:
            encoder, classifier = source.encoder, nn.Linear(source.head.widths["p3"], classes)
        network = nn.Sequential(encoder.requires_grad_(tuned), classifier.requires_grad_(True))
        super().__init__(network, classes, 0.0, optimizer, schedule)
        self.batch_statistics = batch_statistics
        self.watch(patience, network=self.network)
        self.train()  # Lightning trains in the mode it finds

    def train(self, mode: bool = True) -> FineTuned:
        super().train(mode)
        if not self.batch_statistics:
            for layer in self.network.modules():
                if isinstance(layer, _BatchNorm):
                    layer.eval()
        return self

    def trained(self) -> Any:
        return [p for p in self.network.parameters() if p.requires_grad]

    def on_validation_epoch_end(self) -> None:
        loss = self.val_metrics.compute()["nll"]
        super().on_validation_epoch_end()
        self.observe(network=loss)
