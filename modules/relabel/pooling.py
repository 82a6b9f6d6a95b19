"""LabelPooling: from the label map of an image to the label of a crop."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import roi_align

COORDINATES = ("xyxy", "yxyx")


def keep_best(label_map: Tensor, kept: int) -> Tensor:
    """The `kept` largest scores of each cell, in falling order, and whose they are.

    Args:
        label_map: (B, C, H, W) logits.
    Returns:
        (B, 2, kept, H, W): scores, then class numbers, as the released files hold them.
    """
    scores, classes = label_map.topk(kept, dim=1)
    return torch.stack([scores, classes.to(scores.dtype)], 1)


def cell_weights(boxes: Tensor, height: int, width: int) -> Tensor:
    """What each cell of a label map counts in RoIAlign with a single output: (B, H, W), summing to 1.

    RoIAlign is linear in the map, so it is asked what it makes of maps with a 1 in one cell. Cell centres lie half a
    cell inside, hence the 0.5; boxes narrower than a cell are widened to one (`aligned=False`, as released).

    Args:
        boxes: (B, 4) of x1, y1, x2, y2 as fractions of the image.
    """
    cells = torch.eye(height * width, device=boxes.device).view(1, -1, height, width)
    region = boxes.float() * boxes.new_tensor([width, height, width, height]) - 0.5
    first = region.new_zeros(len(region), 1)  # all of the one stack of maps
    return roi_align(cells, torch.cat([first, region], 1), output_size=1, aligned=False).view(-1, height, width)


def pool_labels(maps: Tensor, boxes: Tensor, classes: int, coordinates: str = "xyxy") -> Tensor:
    """RoIAlign of label maps over boxes; classes that a cell did not keep have the logit 0 there.

    Args:
        maps: (B, 2, K, H, W), see keep_best.
        boxes: (B, 4) of x1, y1, x2, y2 as fractions of the image.
        classes: C.
        coordinates: "yxyx" mirrors the box at the diagonal, as the released code does.
    Returns:
        (B, C) logits; their softmax is the label.
    """
    if coordinates == "yxyx":
        boxes = boxes[:, [1, 0, 3, 2]]
    scores, numbers = maps.unbind(1)  # (B, K, H, W) each
    weights = cell_weights(boxes, *maps.shape[-2:])  # (B, H, W)
    weighted = (scores * weights[:, None]).flatten(1)  # (B, K H W)
    return weighted.new_zeros(len(maps), classes).scatter_add(1, numbers.long().flatten(1), weighted)
