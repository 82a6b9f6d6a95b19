"""What real codes look like: their spread, the unit of noise, and how high they reach, where chains are clipped."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from modules.common.frozen import Frozen
from modules.common.module import StageModule
from modules.ppgn.networks import encode


class Codes(StageModule):
    """One pass over training images. Nothing is trained.

    The stage's configuration says `trainer: {max_epochs: 1, devices: 1, strategy: auto}`.

    Args:
        encoder: the stage whose network is E.
        quantile: of each entry of h, where it is clipped; None clips at `ceiling`.
        ceiling: the clip where there is no quantile; 30 as released.
        images: how many are looked at; None is all.
    Raises:
        ValueError: a quantile outside (0, 1].
    """

    top: Tensor
    spread: Tensor

    def __init__(
        self, encoder: Any, quantile: float | None = None, ceiling: float = 30.0, images: int | None = None
    ) -> None:
        super().__init__()
        if quantile is not None and not 0 < quantile <= 1:
            raise ValueError(f"quantile={quantile}: expected a number above 0, up to 1")
        self.automatic_optimization = False
        self.encoder = Frozen([encoder.network])
        self.quantile = quantile
        self.images = images
        self.register_buffer("top", torch.full((encoder.network.code,), float(ceiling)))
        self.register_buffer("spread", torch.ones(3))  # standard deviations of x, h1 and h
        self._seen = 0
        self._codes: list[Tensor] = []
        self._moments = torch.zeros(3, 3, dtype=torch.float64)  # of x, h1, h: entries, sum, sum of squares

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        return []

    def training_step(self, batch: Any, batch_idx: int) -> None:
        if self.images is not None and self._seen >= self.images:
            return
        with torch.no_grad():
            (encoder,) = self.encoder.on(batch.x.device)
            h1, h = encode(encoder, batch.x)

        self._seen += len(h)
        for row, values in enumerate((batch.x, h1, h)):
            v = values.double()
            self._moments[row] += torch.stack([v.new_tensor(v.numel()), v.sum(), v.square().sum()]).cpu()
        if self.quantile is not None:
            self._codes.append(h.float().cpu())

    def on_train_epoch_end(self) -> None:
        n, total, squares = self._moments.T
        deviation = (squares / n - (total / n).square()).clamp(min=0).sqrt()
        self.spread.copy_(deviation)
        if self.quantile is not None:
            self.top.copy_(torch.cat(self._codes).quantile(self.quantile, dim=0))
        self.log_dict(
            {f"train/std_{name}": float(value) for name, value in zip(("x", "h1", "h"), deviation, strict=True)}
        )
        self.log("train/top", self.top.mean())
        self._seen, self._codes = 0, []  # they are in the buffers now
        self._moments = torch.zeros(3, 3, dtype=torch.float64)
        super().on_train_epoch_end()

    # What was seen of an epoch that is interrupted

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["codes"] = {"seen": self._seen, "moments": self._moments, "codes": list(self._codes)}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        stored = checkpoint["codes"]
        self._seen, self._moments, self._codes = stored["seen"], stored["moments"], list(stored["codes"])

    def forward(self, x: Tensor) -> Tensor:
        """Images -> codes (B, code)."""
        (encoder,) = self.encoder.on(x.device)
        return encode(encoder, x)[1]
