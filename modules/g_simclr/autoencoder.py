"""The denoising autoencoder and the k-means clusters of its embedding: pseudo-labels (arXiv 2009.12007)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from sklearn.cluster import KMeans
from sklearn.metrics import normalized_mutual_info_score
from torch import Tensor, nn
from torch.nn import functional as F

from modules.common.module import OptimizerFactory, StageModule
from modules.common.schedules import Schedule
from modules.common.stopping import EarlyStopped
from modules.g_simclr.networks import Autoencoder
from modules.g_simclr.pictures import draw_clusters, draw_reconstructions

CHUNK = 500  # images embedded at a time


def training_images(data: Any) -> Tensor:
    """All training images (N, C, H, W) of a datamodule in memory, as the network sees them, in the order of rows."""
    return data.normalised(data.splits["train"][0])


def encode(network: nn.Module, images: Tensor, device: torch.device) -> Tensor:
    """(N, C, H, W) -> (N, D) on the CPU, in evaluation mode and without a gradient."""
    was_training = network.training
    network.eval()
    with torch.inference_mode():
        codes = [network(part.to(device)).float().cpu() for part in images.split(CHUNK)]
    network.train(was_training)
    return torch.cat(codes)


class DenoisingAutoencoder(EarlyStopped):
    """Reconstructs images in [0, 1] from noisy ones:  L = mean (f(x + n) - x)^2,  n ~ N(0, noise^2).

    Args:
        network: the autoencoder.
        noise: standard deviation, in training alone. 0.01 of the released code is nearly none.
        patience: epochs without a lower validation loss after which training ends; None trains to the last epoch.
        optimizer, schedule: see StageModule.
    """

    errors: Tensor

    def __init__(
        self,
        network: Autoencoder,
        noise: float = 0.01,
        patience: int | None = None,
        optimizer: OptimizerFactory | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        super().__init__(optimizer, schedule)
        self.network, self.noise = network, noise
        self.watch(patience, network=network)
        self.register_buffer("errors", torch.zeros(2, dtype=torch.double), persistent=False)  # sum over images, images

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        noise = torch.randn_like(batch.x) * self.noise
        loss = F.mse_loss(self(batch.x + noise), batch.x)
        self.track(len(batch.x), loss=loss)
        return loss

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        return self.network(x)

    def trained(self) -> Any:
        return self.network.parameters()

    def _measure(self, batch: Any) -> None:
        errors = (self(batch.x).float() - batch.x).square().flatten(1).mean(1)  # (B,)
        self.errors += torch.stack([errors.double().sum(), errors.new_tensor(len(errors)).double()])

    def _report(self, split: str) -> Tensor:
        total, count = self.trainer.strategy.reduce(self.errors.clone(), reduce_op="sum")
        self.errors.zero_()
        self.log_dict({f"{split}/mse": total / count, f"{split}/n": count})
        return total / count

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self._measure(batch)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self._measure(batch)

    def on_validation_epoch_end(self) -> None:
        self.observe(network=self._report("val"))

    def on_test_epoch_end(self) -> None:
        self._report("test")

    def pictures(self, data: Any) -> dict[str, Figure]:
        """Test images above their reconstructions."""
        x = next(iter(data.test_dataloader())).x[:10].to(self.device)
        return {"reconstructions": draw_reconstructions(data.shown(x), data.shown(self(x)))}


class PseudoLabels(StageModule):
    """k-means with Euclidean distance on the autoencoder's embedding of the training images. Nothing is trained.

    The artifact `clusters` (N,) holds the cluster of each training image, by row. True labels serve the metrics, and
    the clusters themselves only with `within_classes`.

    Metrics: `test/purity`, the share of training images whose class is their cluster's most frequent one, in percent;
    `test/nmi`, normalised mutual information with the classes; `test/smallest` and `test/largest` cluster, images;
    `test/assigned`, the share of test images whose class is that of the nearest centre's cluster, in percent.

    Args:
        autoencoder: finished.
        clusters: K, the batch size of the stages that are fed with them.
        classes: number of true classes.
        initialisations: of k-means, the best of which is kept.
        within_classes: clusters of each class apart, K in all, as equal in number as can be: an upper bound that looks
            at the labels, not the method.
    """

    hits: Tensor

    def __init__(
        self,
        autoencoder: DenoisingAutoencoder,
        clusters: int,
        classes: int,
        initialisations: int = 10,
        within_classes: bool = False,
    ) -> None:
        super().__init__()
        self.network = autoencoder.network.requires_grad_(False)
        self.clusters, self.classes = clusters, classes
        self.initialisations, self.within_classes = initialisations, within_classes
        self.assignment = np.empty(0, dtype=np.int64)  # (N,)
        self.centres = torch.empty(0, self.network.num_features)
        self.majority = torch.empty(0, dtype=torch.long)  # (K,) most frequent class
        self.register_buffer("hits", torch.zeros(2), persistent=False)  # test images assigned right, test images

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> embedding (B, D)."""
        return self.network.embed(x)

    def on_test_start(self) -> None:
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        embeddings = encode(self, training_images(data), self.device).numpy()
        labels = data.splits["train"][1].numpy()
        self.assignment, centres = self.cluster(embeddings, labels)
        counts = np.zeros((self.clusters, self.classes), dtype=np.int64)
        np.add.at(counts, (self.assignment, labels), 1)
        self.counts = counts
        self.centres = torch.from_numpy(centres).to(self.device)
        self.majority = torch.from_numpy(counts.argmax(1)).to(self.device)

    def cluster(self, embeddings: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(N, D), (N,) -> clusters (N,) int64 and centres (K, D) float32. Labels count with `within_classes` alone."""
        if not self.within_classes:
            fitted = KMeans(self.clusters, n_init=self.initialisations, random_state=0).fit(embeddings)
            return fitted.labels_.astype(np.int64), fitted.cluster_centers_.astype(np.float32)
        assignment = np.empty(len(labels), dtype=np.int64)
        centres: list[np.ndarray] = []
        for rows, k in zip(*share_clusters(labels, self.clusters), strict=True):
            fitted = KMeans(k, n_init=self.initialisations, random_state=0).fit(embeddings[rows])
            assignment[rows] = fitted.labels_ + sum(map(len, centres))
            centres.append(fitted.cluster_centers_.astype(np.float32))
        return assignment, np.concatenate(centres)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        nearest = torch.cdist(self(batch.x).float(), self.centres).argmin(1)  # (B,)
        right = (self.majority[nearest] == batch.y).sum()
        self.hits += torch.stack([right, right.new_tensor(len(batch.y))])

    def on_test_epoch_end(self) -> None:
        sizes = self.counts.sum(1)
        labels = self.trainer.datamodule.splits["train"][1].numpy()  # type: ignore[attr-defined]
        right, n = self.hits.tolist()
        self.hits.zero_()
        metrics = {
            "purity": 100 * self.counts.max(1).sum() / sizes.sum(),
            "nmi": normalized_mutual_info_score(labels, self.assignment),
            "smallest": sizes.min(),
            "largest": sizes.max(),
            "assigned": 100 * right / n,
            "n": n,
        }
        self.log_dict({f"test/{name}": float(value) for name, value in metrics.items()})

    def artifacts(self) -> dict[str, np.ndarray]:
        return {"clusters": self.assignment}

    def pictures(self, data: Any) -> dict[str, Figure]:
        """Training images of the largest clusters, a row each."""
        largest = self.counts.sum(1).argsort()[::-1][:6]
        rows = [torch.from_numpy(np.flatnonzero(self.assignment == cluster)[:12]) for cluster in largest]
        images = training_images(data)
        purities = 100 * self.counts.max(1) / self.counts.sum(1).clip(1)
        return {"clusters": draw_clusters([data.shown(images[r]) for r in rows], purities[largest])}


def share_clusters(labels: np.ndarray, clusters: int) -> tuple[list[np.ndarray], list[int]]:
    """The rows of each class present, and how many of the clusters it gets: as equal as can be.

    Raises ValueError where there are fewer clusters than classes.
    """
    present = np.unique(labels)
    whole, rest = divmod(clusters, len(present))
    if not whole:
        raise ValueError(f"clusters={clusters}: expected at least one for each of the {len(present)} classes")
    return [np.flatnonzero(labels == label) for label in present], [whole + (i < rest) for i in range(len(present))]
