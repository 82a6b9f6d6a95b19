"""Interactive Medical Image Analysis with Concept-based Similarity Reasoning (CVPR 2025).

arXiv 2503.06873. A class is decided by how similar an image's patches are to prototypes that each belong to a named
concept. Four steps, each of them a stage here:

    1  ConceptModel      cam^k = W_k f, the maps' means are the logits of the concepts; BCE on concept labels
    2  Encode            v^k = sum softmax(cam^k) f for every concept that is present (Eq. 2); from here F is frozen
    3  Prototypes        projector P and M prototypes for each concept, multi-prototype contrastive loss (Eq. 6 to 9)
    4  TaskHead          s_{k,m} = max_{h,w} <p_{k,m}, P(f(h, w))> (Eq. 10), one linear layer on them, cross-entropy

and the atlas (Eq. 11), which shows each prototype as the training image that it is most similar to, so that a doctor
can discard prototypes before the head is trained again. Steps 1 to 3 are in this file, step 4 in task.py, the atlas in
atlas.py, and what a doctor does to single predictions in interaction.py.

What deviates: P's norm (see networks.ResidualBlock), and steps 3 and 4 see vectors and maps that step 2 made once, of
images that are not augmented.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import SumMetric
from torchmetrics.classification import MultilabelAveragePrecision

from modules.common.frozen import Frozen
from modules.common.module import OptimizerFactory, StageModule
from modules.common.schedules import Schedule
from modules.csr.losses import ContrastiveLoss, local_vectors
from modules.csr.networks import ConceptNetwork, ConceptPrototypes


class ConceptModel(StageModule):
    """Step 1: features and concept maps from concept labels.

    Test metrics: `map`, mean average precision over concepts, percent; `n`, images.

    Args:
        network: the concept model.
        label_smoothing: of concept labels, in [0, 1).
        optimizer, schedule: see StageModule.
    """

    def __init__(
        self,
        network: ConceptNetwork,
        label_smoothing: float = 0.0,
        optimizer: OptimizerFactory | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        super().__init__(optimizer, schedule)
        self.network = network
        self.label_smoothing = label_smoothing
        self.precision = MultilabelAveragePrecision(network.head.out_channels, thresholds=200, validate_args=False)
        self.count = SumMetric(nan_strategy="disable")

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        logits = self(batch.x)  # (B, K)
        smooth = self.label_smoothing
        target = batch.concepts * (1 - smooth) + smooth / 2
        loss = F.binary_cross_entropy_with_logits(logits.float(), target)

        self.track(len(batch.y), loss=loss, right=100 * ((logits > 0) == (batch.concepts > 0)).float().mean())
        return loss

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.precision.update(self(batch.x).float().sigmoid(), batch.concepts.long())
        self.count.update(float(len(batch.y)))

    def on_test_epoch_end(self) -> None:
        precision = self.precision.compute().nan_to_num()  # a concept that no test image shows
        self.log_dict({"test/map": 100 * precision, "test/n": self.count.compute()})
        self.precision.reset()
        self.count.reset()


class Encode(StageModule):
    """Step 2: feature maps of all images and the local vectors of the concepts that are present in them.

    The data's test goes through training and test images (`everything: true`); the stage has `fit: false`. Metrics:
    `n`, images, and `vectors`.

    Args:
        model: the stage that trained the concept model.
    """

    def __init__(self, model: ConceptModel) -> None:
        super().__init__()
        self.frozen = Frozen([model.network])
        self.made: dict[str, list[Tensor]] = {}

    def forward(self, x: Tensor) -> Tensor:
        """Images -> features (B, c, H, W)."""
        (network,) = self.frozen.on(x.device)
        return network.encoder(x)

    def on_test_epoch_start(self) -> None:
        self.made = {}

    def test_step(self, batch: Any, batch_idx: int) -> None:
        (network,) = self.frozen.on(self.device)
        features = self(batch.x)  # (B, c, H, W)
        vectors = local_vectors(features, network.maps(features)).float()  # (B, K, c); arrays hold no bf16

        image, concept = batch.concepts.nonzero(as_tuple=True)  # of the concepts that are present
        before = sum(len(part) for part in self.made.get("y", []))
        self._keep(
            maps=features.float(),
            y=batch.y,
            concepts=batch.concepts,
            boxes=batch.boxes,
            shows=batch.shows,
            in_test=batch.in_test,
            vectors=vectors[image, concept],
            vector_concept=concept,
            vector_image=before + image,
            vector_in_test=batch.in_test[image],
        )

    def _keep(self, **arrays: Tensor) -> None:
        for name, value in arrays.items():
            self.made.setdefault(name, []).append(value.cpu())

    def on_test_epoch_end(self) -> None:
        counts = {name: float(sum(map(len, self.made[array]))) for name, array in (("n", "y"), ("vectors", "vectors"))}
        self.log_dict({f"test/{name}": count for name, count in counts.items()})

    def artifacts(self) -> dict[str, np.ndarray]:
        return {name: torch.cat(chunks).numpy() for name, chunks in self.made.items()}


class Prototypes(StageModule):
    """Step 3: projector and prototypes, trained on local concept vectors alone.

    Test metrics: `concept_top1`, percent of the test images' vectors that are most similar to their own concept; `n`,
    vectors.

    Args:
        prototypes: projector and prototypes.
        loss: Eq. 9.
        seeded: begin with projected vectors of each concept, drawn at random, instead of random directions.
        weight_decay: of the projector; prototypes have none.
        optimizer, schedule: see StageModule.
    """

    def __init__(
        self,
        prototypes: ConceptPrototypes,
        loss: ContrastiveLoss | None = None,
        seeded: bool = False,
        weight_decay: float = 1e-4,
        optimizer: OptimizerFactory | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        super().__init__(optimizer, schedule)
        self.prototypes = prototypes
        self.loss = loss or ContrastiveLoss()
        self.seeded = seeded
        self.weight_decay = weight_decay
        self.right = SumMetric(nan_strategy="disable")
        self.count = SumMetric(nan_strategy="disable")

    def trained(self) -> list[dict[str, Any]]:
        return [
            {"params": list(self.prototypes.projector.parameters()), "weight_decay": self.weight_decay},
            {"params": [self.prototypes.vectors], "weight_decay": 0.0},
        ]

    def forward(self, vectors: Tensor) -> Tensor:
        """(V, c) -> cosines (V, K, M)."""
        return self.prototypes.cosines(vectors)

    def on_train_start(self) -> None:
        if self.seeded and self.trainer.global_step == 0:  # not where a run is continued
            data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
            vectors = data.some_vectors(self.prototypes.vectors.shape[1]).to(self.device)  # (K, M, c)
            self.prototypes.place(vectors)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        cosines = self(batch.x)  # (V, K, M)
        loss = self.loss(cosines, batch.y)

        nearest = cosines.detach().amax(2).argmax(1)
        self.track(len(batch.y), loss=loss, concept_top1=100 * (nearest == batch.y).float().mean())
        return loss

    def test_step(self, batch: Any, batch_idx: int) -> None:
        nearest = self(batch.x).amax(2).argmax(1)
        self.right.update((nearest == batch.y).float().sum())
        self.count.update(float(len(batch.y)))

    def on_test_epoch_end(self) -> None:
        count = self.count.compute()
        self.log_dict({"test/concept_top1": 100 * self.right.compute() / count, "test/n": count})
        self.right.reset()
        self.count.reset()
