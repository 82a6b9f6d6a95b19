"""Eq. 11: which training image each prototype looks like, for a doctor to see."""

from __future__ import annotations

from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F

from modules.common.frozen import Frozen
from modules.common.module import StageModule
from modules.csr.interaction import importance, pixels_of
from modules.csr.module import Prototypes
from modules.csr.networks import ConceptPrototypes
from modules.csr.pictures import draw_atlas


class Atlas(StageModule):
    """Eq. 11: for each prototype the training image whose vector of its concept is most similar, in one pass.

    Metrics: `train/alive`, prototypes that are the most similar one of their concept for at least one vector;
    `train/on_shortcut`, those among them whose map of their own atlas image peaks in a negative box.

    The stage has `trainer: {max_epochs: 1, devices: 1, strategy: auto}`.

    Args:
        start: the stage that trained the prototypes.
    """

    similarity: Tensor
    image: Tensor
    wins: Tensor
    shortcut: Tensor

    def __init__(self, start: Prototypes) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.frozen = Frozen([start.prototypes])
        shape = start.prototypes.vectors.shape[:2]
        self.register_buffer("similarity", torch.full(shape, -torch.inf))
        self.register_buffer("image", torch.full(shape, -1))  # row of the training image; -1: the concept is in none
        self.register_buffer("wins", torch.zeros(shape, dtype=torch.long))
        self.register_buffer("shortcut", torch.zeros(shape, dtype=torch.bool))

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        return []

    def prototypes(self) -> ConceptPrototypes:
        (prototypes,) = self.frozen.on(self.device)
        return prototypes

    def forward(self, x: Tensor) -> Tensor:
        """(V, c) -> cosines (V, K, M)."""
        return self.prototypes().cosines(x)

    def training_step(self, batch: Any, batch_idx: int) -> None:  # type: ignore[override]
        with torch.no_grad():
            cosines = self(batch.x)  # (V, K, M)
            own = F.one_hot(batch.y, cosines.shape[1]).bool()[:, :, None]
            best, vector = cosines.masked_fill(~own, -torch.inf).max(0)  # (K, M)

            # Of equal similarities the lower row is kept, so that the order of batches plays no part.
            rows = batch.row[vector]
            better = (best > self.similarity) | ((best == self.similarity) & (rows < self.image) & best.isfinite())
            self.similarity.copy_(torch.where(better, best, self.similarity))
            self.image.copy_(torch.where(better, rows, self.image))

            winner = cosines[own[..., 0]].argmax(1)  # (V,)
            self.wins.index_put_((batch.y, winner), torch.ones_like(winner), accumulate=True)

    def on_train_epoch_end(self) -> None:
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        self.shortcut.copy_(self.peaks_in_negative_box(data))
        alive = self.wins > 0
        self.log("train/alive", alive.float().sum())
        self.log("train/on_shortcut", (alive & self.shortcut).float().sum())
        super().on_train_epoch_end()

    @torch.no_grad()
    def peaks_in_negative_box(self, data: Any) -> Tensor:
        """Whether a doctor who looks at the atlas sees the prototype's map peak in a negative box: (K, M) bool."""
        concepts, per_concept = self.image.shape
        on_shortcut = torch.zeros_like(self.shortcut)
        for k in range(concepts):
            rows = self.image[k].clamp(min=0)
            maps, boxes, shows = (part.to(self.device) for part in data.training_maps(rows))
            similarity = self.prototypes()(maps)[torch.arange(per_concept), k, torch.arange(per_concept)]  # (M, h, w)
            _, negative = pixels_of(boxes, shows, concepts, data.image_side)
            away = 1 - importance(negative, negative, 1.0, data.grid)  # 1 in cells that a negative box touches
            peak = similarity.flatten(1).argmax(1)
            on_shortcut[k] = away.flatten(1)[torch.arange(per_concept), peak] > 0
        return on_shortcut & (self.image >= 0)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """There is nothing to test: an atlas is of training images."""

    def pictures(self, data: Any) -> dict[str, Figure]:
        """The prototypes that win most, with their similarity map over their atlas image."""
        shown = self.wins.topk(min(4, self.wins.shape[1]), dim=1).indices.cpu()  # (K, 4)
        rows = self.image.cpu().gather(1, shown).clamp(min=0)
        maps, _, _ = data.training_maps(rows.flatten())
        similarity = self.prototypes()(maps.to(self.device)).cpu()  # (K * 4, K, M, h, w)
        number = torch.arange(len(similarity))
        own = similarity[number, number // shown.shape[1], shown.flatten()]
        images = data.training_images(rows.flatten().tolist())
        names = [f"{data.concepts[k]} #{m}" for k, row in enumerate(shown.tolist()) for m in row]
        marked = self.shortcut.cpu().gather(1, shown).flatten().tolist()
        return {"atlas": draw_atlas(images, own, names, marked, shown.shape[1])}
