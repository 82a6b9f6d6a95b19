"""What a doctor may do to a prediction: draw boxes, reject concepts (Eq. 12 and 13).

Boxes make an importance map A, the same for all prototypes:

    A(h, w) = 0 in negative boxes, 1 in positive ones, alpha elsewhere,     S^ = A S,     s = max_{h,w} S^

and a rejected concept's scores are 0. What is below 0 in S stays as it is, so that no doctor can raise a score.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from modules.common.localisation import box_masks


@dataclass(frozen=True)
class Doctor:
    """Who interacts, and when.

    Args:
        alpha: importance of what no box covers, in [0, 1).
        gate: an image is looked at if its two largest class probabilities differ by less than this.
    Raises:
        ValueError: outside these ranges.
    """

    alpha: float = 0.2
    gate: float = 0.3

    def __post_init__(self) -> None:
        if not 0 <= self.alpha < 1 or not 0 <= self.gate <= 1:
            raise ValueError(f"alpha={self.alpha}, gate={self.gate}: expected [0, 1) and [0, 1]")

    def looks_at(self, logits: Tensor) -> Tensor:
        """Which images the model is not sure of: (B, C) -> (B,) bool."""
        top = logits.float().softmax(-1).topk(2, dim=-1).values
        return top[:, 0] - top[:, 1] < self.gate


def importance(positive: Tensor, negative: Tensor, alpha: float, grid: tuple[int, int]) -> Tensor:
    """A at the size of the maps; a cell belongs to a box that touches it, and to a negative one first.

    Args:
        positive, negative: (B, H, W) bool, pixels in boxes.
        alpha: of the rest.
        grid: height and width of the maps.
    Returns:
        (B, h, w) in [0, 1].
    """
    touched = [
        torch.nn.functional.adaptive_max_pool2d(mask[:, None].float(), grid)[:, 0] > 0 for mask in (positive, negative)
    ]
    weights = torch.where(touched[0], 1.0, alpha)
    return weights.masked_fill(touched[1], 0.0)


def weigh(maps: Tensor, weights: Tensor) -> Tensor:
    """S^ = A S where S is above 0. maps (B, K, M, h, w), weights (B, h, w)."""
    return torch.where(maps > 0, maps * weights[:, None, None], maps)


def strongest(maps: Tensor) -> Tensor:
    """Eq. 10: scores (B, K, M), the largest value of each map (B, K, M, h, w)."""
    return maps.flatten(3).amax(3)


def reject(scores: Tensor, rejected: Tensor) -> Tensor:
    """Scores (B, K, M) with those of rejected concepts (B, K) set to 0."""
    return scores.masked_fill(rejected[:, :, None], 0.0)


def pixels_of(boxes: Tensor, concept: Tensor, concepts: int, side: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The pixels of positive and of negative boxes.

    Args:
        boxes: (B, R, 4) in pixels.
        concept: (B, R) what each box shows: a concept from 0; `concepts` for what should not count; -1 for no box.
        concepts: K.
        side: height and width of the image.
    Returns:
        of each concept (B, K, H, W) and negative (B, H, W), bool.
    """
    numbers = torch.arange(concepts + 1, device=concept.device)
    masks = box_masks(boxes, concept[:, None] == numbers[:, None], side)  # (B, K + 1, H, W)
    return masks[:, :concepts], masks[:, concepts]
