"""The stage that writes label maps: what a strong classifier sees where, once for each whole image."""

from __future__ import annotations

import tempfile
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.classification import MulticlassAccuracy

from modules.common.classifier import ClassificationModule
from modules.common.frozen import Frozen
from modules.common.module import StageModule
from modules.relabel.pictures import draw_maps
from modules.relabel.pooling import keep_best, pool_labels


def split_at_pooling(network: nn.Module) -> tuple[Any, nn.Linear]:
    """A classifier's features before global average pooling, as a function, and its last layer.

    Args:
        network: a timm network, or a Sequential with one AdaptiveAvgPool2d(1) and a linear layer at its end.
    Raises:
        ValueError: neither of these.
    """
    features: Any
    head: Any
    if hasattr(network, "forward_features") and hasattr(network, "get_classifier"):
        timm_network: Any = network
        features, head = timm_network.forward_features, timm_network.get_classifier()
    else:
        layers = list(network.children())
        pools = [i for i, layer in enumerate(layers) if isinstance(layer, nn.AdaptiveAvgPool2d)]
        if not isinstance(network, nn.Sequential) or len(pools) != 1 or layers[pools[0]].output_size not in (1, (1, 1)):
            raise ValueError(f"{type(network).__name__}: expected a network with one global average pooling")
        features, head = nn.Sequential(*layers[: pools[0]]), layers[-1]
    if not isinstance(head, nn.Linear):
        raise ValueError(f"{type(network).__name__}: expected a linear layer at the end, got {type(head).__name__}")
    return features, head


def label_map(network: nn.Module, x: Tensor) -> Tensor:
    """Logits at every place: the last layer as a 1x1 convolution with its weights. (B, C, S, S) -> (B, C, H, W)."""
    features, head = split_at_pooling(network)
    local = features(x)  # (B, D, H, W)
    with torch.autocast(x.device.type, enabled=False):  # scores are kept for good: not in half precision
        return F.conv2d(local.float(), head.weight[:, :, None, None], head.bias)


class LabelMaps(StageModule):
    """Label maps of all images that are tested on; nothing is learnt.

    Students are fed with the artifacts `maps` (N, 2, K, H, W) float32, see keep_best, and `labels` (N,). Maps of
    ImageNet are 12 GB: they are written to a file while they are made and never held in memory. One process makes them.

    Test metrics are those of the annotator's label for the whole image: top1 against the single label, and the mean
    share of the label's mass that the largest class has (`confidence`, in percent).

    Args:
        annotator: the stage with the classifier; its network pools globally and then has one linear layer.
        kept: K, classes kept of each cell.
    """

    def __init__(self, annotator: ClassificationModule, kept: int = 5) -> None:
        super().__init__()
        split_at_pooling(annotator.network)  # for its errors: before anything is read
        self.frozen, self.classes, self.kept = Frozen([annotator.network]), annotator.classes, kept
        self.accuracy = MulticlassAccuracy(annotator.classes, average="micro", validate_args=False)
        self.confidence: list[Tensor] = []
        self.maps: np.ndarray | None = None
        self.labels: np.ndarray | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, S, S) -> (B, 2, K, H, W)."""
        (network,) = self.frozen.on(x.device)
        return keep_best(label_map(network, x), self.kept)

    def on_test_start(self) -> None:
        if self.trainer.world_size > 1:
            raise ValueError("label maps are made in one process: stages.<name>.trainer: {devices: 1, strategy: auto}")

    def test_step(self, batch: Any, batch_idx: int) -> None:
        maps = self(batch.x)  # (B, 2, K, H, W)
        self._write(batch, maps)

        whole = maps.new_tensor([0.0, 0.0, 1.0, 1.0]).expand(len(maps), 4)
        label = pool_labels(maps, whole, self.classes).softmax(-1)
        self.accuracy.update(label, batch.y)
        self.confidence.append(label.amax(-1))

    def on_test_epoch_end(self) -> None:
        confidence = torch.cat(self.confidence)
        self.log_dict(
            {
                "test/top1": 100 * self.accuracy.compute(),
                "test/confidence": 100 * confidence.mean(),
                "test/n": torch.tensor(float(len(confidence))),
            }
        )
        self.accuracy.reset()
        self.confidence = []

    def _write(self, batch: Any, maps: Tensor) -> None:
        """Into a file without a name, which goes when it is no longer needed or this process ends."""
        if self.maps is None:
            loader: Any = self.trainer.test_dataloaders
            count = loader.batches.size
            unnamed = tempfile.TemporaryFile(dir=self.trainer.default_root_dir)  # noqa: SIM115 - as long as the maps
            self.maps = np.memmap(unnamed, np.float32, "w+", shape=(count, *maps.shape[1:]))  # type: ignore[call-overload]
            self.labels = np.full(count, -1, np.int64)
        assert self.labels is not None
        rows = batch.row.cpu().numpy()
        self.maps[rows] = maps.float().cpu().numpy()
        self.labels[rows] = batch.y.cpu().numpy()

    def artifacts(self) -> dict[str, np.ndarray]:
        assert self.maps is not None
        assert self.labels is not None
        return {"maps": self.maps, "labels": self.labels}

    def pictures(self, data: Any) -> dict[str, Figure]:
        """Whole images, what the annotator sees in each cell, and the label of the whole."""
        batch = next(iter(data.test_dataloader()))
        x = batch.x[:6].to(self.device)
        maps = self(x)  # (6, 2, K, H, W)
        names = data.spec.classes
        return {"label maps": draw_maps(data.shown(x), maps.cpu(), [names[y] for y in batch.y[:6].tolist()], names)}
