"""LOTA: Bit-Planes Guided AI-Generated Image Detection (ICCV 2025), arXiv 2510.14230.

Three steps before the network, in datamodules/lota/bits.py: the low bit planes of the decoded picture as a noise image
("bit-planes guided noise image generation"), the patch with the largest gradient in four directions ("maximum gradient
patch selection"), and its enlargement. Two classifiers:

- noise-based: a ResNet-50 with one output on the enlarged patch. This is common's Detector with such a network.
- noise-guided: a ResNet-50 on the RGB picture, whose last map attends to itself with a bias that the patch gives:
      U = softmax(Q K^T / sqrt(d) + E) V,   E = a linear map of the 32 x 32 x 3 patch.

The released code (hongsong-wang/LOTA) has no noise-guided classifier; what its branch "thresholding" returns is the RGB
picture. Real pictures are 1 there; here generated ones are, in all papers.
"""

from __future__ import annotations

from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MeanMetric

from modules.common.detection import Detector, score_of
from modules.common.generators import draw_rows

SHOWN = 8


class GuidedAttention(nn.Module):
    """Attention among the places of a map, with a bias for each pair of places that comes of a patch.

    Args:
        channels: of the map.
        places: N, of the map.
        patch: entries of the flattened patch.
        heads: of the attention; each has a bias of its own.
        width: of all heads together.
    Raises:
        ValueError: heads that do not divide the width.
    """

    def __init__(self, channels: int, places: int, patch: int, heads: int = 8, width: int = 256) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width={width}: expected a multiple of heads={heads}")
        self.heads, self.places = heads, places
        self.qkv = nn.Linear(channels, 3 * width)
        self.bias = nn.Linear(patch, heads * places * places)
        self.out = nn.Linear(width, channels)

    def attend(self, tokens: Tensor, bias: Tensor) -> Tensor:
        """(B, N, C), (B, heads, N, N) -> (B, N, C)."""
        qkv = self.qkv(tokens).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (3, B, heads, N, d)
        q, k, v = qkv.unbind(0)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)  # (B, heads, N, d)
        return self.out(mixed.transpose(1, 2).flatten(2))

    def forward(self, tokens: Tensor, patch: Tensor) -> Tensor:
        """(B, N, C), (B, 3, p, p) -> (B, N, C)."""
        bias = self.bias(patch.flatten(1)).unflatten(1, (self.heads, self.places, self.places))
        return self.attend(tokens, bias.to(tokens.dtype))


class NoiseGuided(nn.Module):
    """The noise-guided classifier: pictures (B, 3, S, S) and patches (B, 3, p, p) to (B, 1).

    Args:
        backbone: pictures to maps (B, C, h, w), e.g. timm's with `num_classes: 0` and no pooling.
        channels: C.
        grid: side that maps are pooled to; N = grid^2.
        patch: side of the patch, p.
        heads, width: see GuidedAttention.
    """

    def __init__(
        self, backbone: nn.Module, channels: int, grid: int = 4, patch: int = 32, heads: int = 8, width: int = 256
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.pool = nn.AdaptiveAvgPool2d(grid)
        self.attention = GuidedAttention(channels, grid**2, 3 * patch**2, heads, width)
        self.head = nn.Linear(channels, 1)

    def forward(self, x: Tensor, patch: Tensor) -> Tensor:
        tokens = self.pool(self.backbone(x)).flatten(2).transpose(1, 2)  # (B, N, C)
        return self.head((tokens + self.attention(tokens, patch)).mean(1))


class PatchDetector(Detector):
    """A detector on patches, with pictures of what it sees.

    Metrics: Detector's, and `val/acc`, percent of the validation pictures that it is right about.

    Args:
        network: see Detector.
        guided: the network takes the patch beside x.
        stage: optimizer and schedule, see StageModule.
    """

    def __init__(self, network: nn.Module, guided: bool = False, **stage: Any) -> None:
        super().__init__(network, **stage)
        self.guided = guided
        self.right = MeanMetric(nan_strategy="error")
        self.shown: dict[int, list[Tensor]] = {}

    def logits(self, batch: Any) -> Tensor:
        return self.network(batch.x, batch.patch) if self.guided else self.network(batch.x)

    def forward(self, x: Tensor) -> Tensor:
        if not self.guided:
            return self.network(x)
        assert isinstance(self.network, NoiseGuided)
        side = round((self.network.attention.bias.in_features / 3) ** 0.5)
        return self.network(x, x.new_zeros(len(x), 3, side, side))

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        said = score_of(self.logits(batch)) > 0
        self.right.update((said == (batch.y > 0)).float())

    def on_validation_epoch_end(self) -> None:
        self.log("val/acc", 100 * self.right.compute())
        self.right.reset()

    def on_test_epoch_start(self) -> None:
        super().on_test_epoch_start()
        self.shown = {}

    def test_step(self, batch: Any, batch_idx: int) -> None:
        super().test_step(batch, batch_idx)
        for subset, label, patch in zip(batch.subset.tolist(), batch.y.tolist(), batch.patch, strict=True):
            rows = self.shown.setdefault(subset if label else -1, [])
            if len(rows) < SHOWN:
                rows.append(patch.float().cpu())

    def pictures(self, data: Any) -> dict[str, Figure]:
        """Patches of real pictures and of each generator's."""
        rows = {n: torch.stack(found) for n, found in sorted(self.shown.items()) if len(found) == SHOWN}
        if not rows:
            return {}
        names = ["real" if number < 0 else data.names[number] for number in rows]
        return {"patches": draw_rows(list(rows.values()), names)}
