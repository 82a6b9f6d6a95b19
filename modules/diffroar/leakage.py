"""Feature leakage: how much of a gradient lies in the block of an image that holds its signal; nothing is trained."""

from __future__ import annotations

from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from modules.common.adversarial import AdversarialClassifier
from modules.common.frozen import Frozen
from modules.common.metrics import Means
from modules.common.module import StageModule
from modules.diffroar.pictures import draw_gradients
from modules.diffroar.ranking import KINDS, places

NAMES = ("signal_share", "signal_first", "signal_last", "cosine", "own_ratio", "evenness", "irrelevant_share", "top1")


def measure_blocks(
    gradient: Tensor, signal: Tensor, blocks: int, relevant: int, share: float, source: torch.Generator
) -> dict[str, Tensor]:
    """Where a gradient's size lies, image by image.

    Args:
        gradient: (B, d); d consists of consecutive blocks of one length.
        signal: (B,), which block holds the image's signal.
        blocks: how many.
        relevant: the first so many blocks hold the signal in some images, the others in none.
        share: of the coordinates, that count as the largest or the smallest; one at least.
        source: of the order of ties.
    Returns:
        by name (B,):
        - signal_share: sum of |gradient| in the signal block over the sum in all, percent.
        - signal_first, signal_last: how many of the largest, and of the smallest, coordinates are in it, percent.
        - own_ratio: norm of the signal block over the mean norm of the relevant blocks; 1 in the paper's theorem.
        - evenness: the smallest norm of a relevant block over the largest; 1 in the theorem.
        - irrelevant_share: sum of the other blocks' norms over the sum of all norms, percent; 0 in the theorem.
    """
    size = gradient.abs()
    inside = torch.zeros(len(size), blocks, dtype=torch.bool, device=size.device).scatter_(1, signal[:, None], True)
    own = inside.repeat_interleave(size.shape[1] // blocks, dim=1)  # (B, d)

    place = places(size, source)
    count = max(1, round(share * size.shape[1]))
    first = place < count
    last = place >= size.shape[1] - count

    norms = gradient.unflatten(1, (blocks, -1)).norm(dim=2)  # (B, blocks)
    tiny = torch.finfo(size.dtype).tiny
    return {
        "signal_share": 100 * (size * own).sum(1) / size.sum(1).clamp(min=tiny),
        "signal_first": 100 * (first & own).sum(1) / count,
        "signal_last": 100 * (last & own).sum(1) / count,
        "own_ratio": norms.gather(1, signal[:, None])[:, 0] / norms[:, :relevant].mean(1).clamp(min=tiny),
        "evenness": norms[:, :relevant].amin(1) / norms[:, :relevant].amax(1).clamp(min=tiny),
        "irrelevant_share": 100 * norms[:, relevant:].sum(1) / norms.sum(1).clamp(min=tiny),
    }


class Leakage(StageModule):
    """Where the input gradients of a trained network lie in test images of blocks.

    Test metrics, in the mean over images: those of measure_blocks; cosine, |cos| of gradient and input; top1, percent;
    n. Batches have the column `signal`, and the data says `blocks` and `relevant`.

    Args:
        model: the stage whose network is asked.
        kind: "logit" or "loss"; of two classes, the gradient of the loss is that of the difference of their logits.
        share: see measure_blocks.
    Raises:
        ValueError: another kind.
    """

    def __init__(self, model: AdversarialClassifier, kind: str = "logit", share: float = 0.05) -> None:
        if kind not in KINDS:
            raise ValueError(f"kind={kind!r}: expected one of {', '.join(KINDS)}")
        super().__init__()
        self.frozen = Frozen([model.network])
        self.kind = kind
        self.share = share
        self.source = torch.Generator()
        self.means = Means(NAMES)

    def forward(self, x: Tensor) -> Tensor:
        (network,) = self.frozen.on(x.device)
        return network(x)

    def gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs (B, C, H, W) -> gradients at the predicted class, of the same shape, and that class (B,)."""
        (network,) = self.frozen.on(x.device)
        predicted = self(x).argmax(1)
        return KINDS[self.kind](network, x, predicted), predicted

    def on_test_epoch_start(self) -> None:
        self.source.manual_seed(torch.initial_seed() % 2**63)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        gradient, predicted = self.gradient(batch.x)
        gradient = gradient.flatten(1)  # (B, d)

        # Every measure is of its direction. Of a confident network the gradient of the loss is so small that its
        # square, or the floor of a cosine's denominator, would hide it.
        largest = gradient.abs().amax(dim=1, keepdim=True)
        gradient = gradient / largest.clamp(min=torch.finfo(gradient.dtype).tiny)

        values = measure_blocks(gradient, batch.signal, data.blocks, data.relevant, self.share, self.source)
        values["cosine"] = torch.cosine_similarity(gradient, batch.x.flatten(1).float(), dim=1).abs()
        values["top1"] = 100.0 * (predicted == batch.y)
        self.means.update(values)

    def on_test_epoch_end(self) -> None:
        self.log_dict({f"test/{name}": value for name, value in self.means.compute().items()})
        self.means.reset()

    def pictures(self, data: Any) -> dict[str, Figure]:
        """Some test images above the sizes of their gradients."""
        batch = next(iter(data.test_dataloader()))
        x = batch.x[:8]
        if x.shape[2] < 2:
            return {}  # vectors
        gradient, _ = self.gradient(x)
        return {"gradients of test images": draw_gradients(data.shown(x), gradient.abs().cpu())}
