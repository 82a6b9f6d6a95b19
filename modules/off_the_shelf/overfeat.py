"""OverFeat (Sermanet et al. 2014, arXiv 1312.6229), the network whose features `off_the_shelf` takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modules.common.needs import user_file

# size: first convolution (kernel, stride, pool), kernel and pool of the second, widths of the padded 3x3 convolutions,
# last pool, side of its map, widths of the two hidden fully connected layers, input side in pixels
OVERFEAT: dict[str, Any] = {
    "small": ((11, 4, 2), (5, 2), (512, 1024, 1024), 2, 6, (3072, 4096), 231),
    "large": ((7, 2, 3), (7, 2), (512, 512, 1024, 1024), 3, 5, (4096, 4096), 221),
}


class Dense(nn.Conv2d):
    """A fully connected layer that slides over maps larger than its kernel; on maps of its size it is a matrix product,
    which on CPUs takes an eighth of the convolution's time.
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-2:] != self.kernel_size:
            return super().forward(x)
        return F.linear(x.flatten(1), self.weight.flatten(1), self.bias)[..., None, None]  # (B, out, 1, 1)


class OverFeat(nn.Module):
    """Images in 0..255, standardised inside. Larger images give maps of outputs.

    (B, 3, 221, 221) -> logits (B, 1000); (B, 3, H, W) -> (B, 1000, h, w), for "large" h = ((H - 7) / 2 + 1) / 18 - 5.

    Args:
        size: "large" (its authors' accurate network, the paper's) or "small" (their fast one).
        pretrained: file of released weights (net_weight_1 for large, net_weight_0 for small), see `load_released`.
        width: factor on all numbers of channels but input and output.
        classes: outputs.
    Raises:
        ValueError: another size.
    """

    def __init__(
        self, size: str = "large", pretrained: str | bool = False, width: float = 1.0, classes: int = 1000
    ) -> None:
        super().__init__()
        if size not in OVERFEAT:
            raise ValueError(f"size={size!r}: expected one of {', '.join(OVERFEAT)}")
        (k1, stride, pool1), (k2, pool2), widths, pool5, side, hidden, self.side = OVERFEAT[size]

        def w(channels: int) -> int:
            return max(1, round(channels * width))

        maps: list[nn.Module] = [nn.Conv2d(3, w(96), k1, stride), nn.ReLU(), nn.MaxPool2d(pool1)]  # large: 108, 36
        maps += [nn.Conv2d(w(96), w(256), k2), nn.ReLU(), nn.MaxPool2d(pool2)]  # 30, 15
        for before, after in zip((256, *widths), widths, strict=False):
            maps += [nn.Conv2d(w(before), w(after), 3, padding=1), nn.ReLU()]  # 15
        self.maps = nn.Sequential(*maps, nn.MaxPool2d(pool5))  # (B, 1024, 5, 5)
        self.fc1 = Dense(w(widths[-1]), w(hidden[0]), side)  # (B, 4096, 1, 1)
        self.fc2 = Dense(w(hidden[0]), w(hidden[1]), 1)
        self.fc3 = Dense(w(hidden[1]), classes, 1)
        if pretrained:
            load_released(self, Path(str(pretrained)))

    def forward(self, x: Tensor) -> Tensor:
        x = self.maps((x - 118.380948) / 61.896913)
        x = self.fc3(F.relu(self.fc2(F.relu(self.fc1(x)))))
        return x.flatten(1) if x.shape[-2:] == (1, 1) else x


def load_released(network: OverFeat, path: Path) -> None:
    """Fill a network from OverFeat's weight file: float32, layer by layer, filters (out, in, row, column), then biases.

    Raises ValueError if the file's length is not the network's.
    """
    layers = [part for part in network.modules() if isinstance(part, nn.Conv2d)]
    needed = sum(p.numel() for layer in layers for p in layer.parameters())
    stored = np.memmap(path, dtype="<f4", mode="r")
    if len(stored) != needed:
        raise ValueError(f"pretrained={str(path)!r} holds {len(stored):,} numbers; this network has {needed:,}")
    place = 0
    with torch.no_grad():
        for layer in layers:
            for tensor in (layer.weight, cast(Tensor, layer.bias)):
                tensor.copy_(torch.from_numpy(np.array(stored[place : place + tensor.numel()])).view_as(tensor))
                place += tensor.numel()


NEEDS = {"OverFeat": user_file("pretrained", "OverFeat's release: https://github.com/sermanet/OverFeat")}
