"""Detectors that others trained: one function predict(pictures) -> P(generated), then one table (P5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modules.aria.matrix import Protocol
from modules.common.needs import user_file
from modules.common.weights import read_state_dict

PREFIX = "module."  # of networks saved on several devices


class ReleasedDetector(nn.Module):
    """A network with the weights of a file, and what its pictures and outputs mean.

    The file is read as tensors alone, which runs no code; every name and shape must fit the network.

    Args:
        network: pictures (B, 3, S, S) to (B, 1) or (B, 2).
        pretrained: the file; False leaves the weights as they are drawn.
        fake: what its output, or its second of two, means at 1: 1 for generated; 0 for real, as in some releases.
        mean, std: per channel, in units of [0, 1], that it was trained with.
        side: of its pictures, pixels; None takes them as they come.
    Raises:
        ValueError: `fake` is neither, or the file is missing, holds more than tensors, or is of another network.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: nn.Module,
        pretrained: str | bool,
        fake: int = 1,
        mean: Sequence[float] = (0.485, 0.456, 0.406),
        std: Sequence[float] = (0.229, 0.224, 0.225),
        side: int | None = None,
    ) -> None:
        super().__init__()
        if fake not in (0, 1):
            raise ValueError(f"fake={fake!r}: expected 1 or 0, the label of generated pictures")
        if pretrained is True:
            raise ValueError("pretrained=true: expected a file of weights, or false")
        if pretrained:
            load_weights(network, Path(pretrained))
        self.network = network
        self.fake = fake
        self.side = side
        self.register_buffer("mean", torch.tensor(tuple(mean)).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(tuple(std)).view(1, -1, 1, 1), persistent=False)

    def predict(self, pictures: Tensor) -> Tensor:
        """P(generated) of pictures (B, 3, H, W) in [0, 1]: (B,) in [0, 1].

        Raises:
            ValueError: the network has neither one nor two outputs.
        """
        if self.side is not None and pictures.shape[-2:] != (self.side, self.side):
            pictures = F.interpolate(pictures, (self.side, self.side), mode="bilinear", antialias=True)
        output = self.network((pictures - self.mean) / self.std).float()
        if output.dim() != 2 or output.shape[1] not in (1, 2):
            raise ValueError(f"a detector's output {tuple(output.shape)}: expected (B, 1) or (B, 2)")
        labelled_one = output[:, 0].sigmoid() if output.shape[1] == 1 else output.softmax(1)[:, 1]
        return labelled_one if self.fake else 1 - labelled_one

    def forward(self, pictures: Tensor) -> Tensor:
        return self.predict(pictures)


def load_weights(network: nn.Module, path: Path) -> None:
    """Fill a network from a file of tensors.

    Raises:
        ValueError: one line that names the file and what is wrong.
    """
    stored = read_state_dict(path)
    try:
        network.load_state_dict({name.removeprefix(PREFIX): value for name, value in stored.items()})
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise ValueError(f"pretrained={str(path)!r} does not fit {type(network).__name__}: {reason}") from error


class ExternalDetectors(Protocol):
    """The detector benchmark: each external detector, at P(generated) > 0.5, on every generator, mode and category.

    Args:
        detectors: by name.
        generators: see Protocol.
    Raises:
        ValueError: no detector.
    """

    def __init__(self, detectors: Mapping[str, ReleasedDetector], generators: Sequence[str] | None = None) -> None:
        if not detectors:
            raise ValueError("detectors: expected at least one")
        super().__init__(list(detectors.values()), list(detectors), "both", matrix=False, generators=generators)

    def scores(self, batch: Any) -> list[Tensor]:
        pictures = self.trainer.datamodule.shown(batch.x).to(self.device)  # type: ignore[attr-defined]
        return [network.predict(pictures) - 0.5 for network in self.frozen.on(self.device)]


NEEDS = {"ReleasedDetector": user_file("pretrained", "weights of a released detector, as tensors alone")}
