"""Prototypes that are compared with every patch of a feature map, as in ProtoPNet (arXiv 1806.10574).

A prototype p_j belongs to a class. With d_j(z) its squared distance to a patch z, its similarity is

    log:         g_j = ln((d_j + 1) / (d_j + 1e-4)),    d_j = ||z - p_j||^2      (ProtoPNet; 9.21 at d = 0, above 0)
    cosine:      <z, p_j> / (|z| |p_j|)
    projection:  <z, p_j> / |p_j|

and its score for an image is the largest one of all positions. From time to time each prototype is replaced by the
nearest patch of the training images of its class ("push"), and so becomes part of an image that can be shown.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor, nn
from torch.nn import functional as F

EPSILON = 1e-4
SIMILARITIES = ("log", "cosine", "projection")


def distance_map(z: Tensor, prototypes: Tensor) -> Tensor:
    """Squared distances of all patches to all prototypes, never below 0.

    By convolution: |z|^2 - 2 <z, p> + |p|^2. Rounding makes this about 1e-5 where it should be 0.

    Args:
        z: (B, D, H, W).
        prototypes: (P, D, h, w).
    Returns:
        (B, P, H - h + 1, W - w + 1).
    """
    length = F.conv2d(z.square(), torch.ones_like(prototypes[:1]))  # (B, 1, H', W')
    own = prototypes.square().sum((1, 2, 3)).view(1, -1, 1, 1)
    return F.relu(length - 2 * F.conv2d(z, prototypes) + own)


def log_similarity(distances: Tensor) -> Tensor:
    """ln((d + 1) / (d + 1e-4)) of squared distances of any shape."""
    return ((distances + 1) / (distances + EPSILON)).log()


def projection_map(z: Tensor, prototypes: Tensor) -> Tensor:
    """<z, p> / |p|; shapes as of distance_map."""
    return F.conv2d(z, F.normalize(prototypes.flatten(1), dim=1).view_as(prototypes))


def cosine_map(z: Tensor, prototypes: Tensor) -> Tensor:
    """Cosine of all patches and all prototypes; shapes as of distance_map."""
    length = F.conv2d(z.square(), torch.ones_like(prototypes[:1])).sqrt()
    return projection_map(z, prototypes) / length.clamp(min=1e-12)


def strongest(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Each map's largest value and where it is, the first one of several.

    Args:
        maps: (B, P, H, W).
    Returns:
        values (B, P) and places (B, P, 2) as row and column.
    """
    value, index = maps.flatten(2).max(2)
    width = maps.shape[3]
    return value, torch.stack([index // width, index % width], -1)


def own_and_other(scores: Tensor, owner: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The largest score of a prototype of an image's own class, and of any other class.

    Args:
        scores: (B, P); of distances hand in their negative.
        owner: (P,) class of each prototype.
        y: (B,) class of each image.
    Returns:
        (B,), (B,).
    """
    own = owner == y[:, None]  # (B, P)
    return scores.masked_fill(~own, -torch.inf).amax(1), scores.masked_fill(own, -torch.inf).amax(1)


def class_weights(owner: Tensor, classes: int, own: float = 1.0, other: float = -0.5) -> Tensor:
    """How the last layer starts: (classes, P), `own` where a prototype is of the class and `other` elsewhere."""
    return torch.where(owner == torch.arange(classes, device=owner.device)[:, None], own, other)


def wrong_class_l1(weight: Tensor, owner: Tensor) -> Tensor:
    """The sum of |W| where a prototype speaks for another class than its own: (classes, P), (P,) -> ()."""
    own = owner == torch.arange(len(weight), device=owner.device)[:, None]  # (classes, P)
    return weight.abs().masked_fill(own, 0).sum()


class PrototypeLayer(nn.Module):
    """P = classes x per_class prototypes, `per_class` for each class in a row. Feature maps to similarity maps.

    Args:
        classes, per_class: how many.
        channels: D.
        similarity: "log", "cosine" or "projection", see above.
        patch: side of a prototype, in cells of the feature map.

    After a push, `row` (P,) says which training image each prototype is a patch of and `place` (P, 2) at which row and
    column of its map; -1 before.
    """

    owner: Tensor
    row: Tensor
    place: Tensor

    def __init__(self, classes: int, per_class: int, channels: int, similarity: str = "log", patch: int = 1) -> None:
        super().__init__()
        if similarity not in SIMILARITIES:
            raise ValueError(f"similarity={similarity!r}: expected one of {', '.join(SIMILARITIES)}")
        count = classes * per_class
        self.similarity = similarity
        self.vectors = nn.Parameter(torch.rand(count, channels, patch, patch))  # U[0, 1), as released
        self.register_buffer("owner", torch.arange(classes).repeat_interleave(per_class))
        self.register_buffer("row", torch.full((count,), -1))
        self.register_buffer("place", torch.full((count, 2), -1))

    def __len__(self) -> int:
        return len(self.vectors)

    def distances(self, z: Tensor) -> Tensor:
        """Squared distances (B, P, H', W'), in fp32 whatever the precision of the rest."""
        with torch.autocast(z.device.type, enabled=False):
            return distance_map(z.float(), self.vectors.float())

    def forward(self, z: Tensor) -> Tensor:
        """(B, D, H, W) -> similarities (B, P, H', W')."""
        if self.similarity == "log":
            return log_similarity(self.distances(z))
        compare = cosine_map if self.similarity == "cosine" else projection_map
        with torch.autocast(z.device.type, enabled=False):
            return compare(z.float(), self.vectors.float())

    @torch.no_grad()
    def normalise(self) -> None:
        """Bring every prototype to length 1, in place: after each step where directions alone count."""
        self.vectors.copy_(F.normalize(self.vectors.flatten(1), dim=1).view_as(self.vectors))


class NearestPatches(nn.Module):
    """A push in progress: for every prototype the most similar patch so far of an image of its class.

    What was found is part of the state, so that a search can be resumed. Of equally similar patches the first is kept.
    """

    score: Tensor
    patch: Tensor
    row: Tensor
    place: Tensor

    def __init__(self, layer: PrototypeLayer) -> None:
        super().__init__()
        self.register_buffer("score", torch.full((len(layer),), -torch.inf))
        self.register_buffer("patch", layer.vectors.detach().clone())
        self.register_buffer("row", torch.full((len(layer),), -1))
        self.register_buffer("place", torch.full((len(layer), 2), -1))

    @torch.no_grad()
    def update(self, layer: PrototypeLayer, z: Tensor, y: Tensor, row: Tensor) -> None:
        """Look at some images.

        Args:
            z: feature maps (B, D, H, W).
            y: classes (B,).
            row: number of each image in the training set (B,).
        """
        maps = layer(z)  # (B, P, H', W')
        own = (layer.owner == y[:, None])[:, :, None, None]
        maps = maps.masked_fill(~own, -torch.inf)
        score, index = maps.transpose(0, 1).flatten(1).max(1)  # (P,)
        height, width = maps.shape[2:]
        image = index // (height * width)
        place = torch.stack([index // width % height, index % width], 1)  # (P, 2)

        side = self.patch.shape[2]
        windows = z.unfold(2, side, 1).unfold(3, side, 1)  # (B, D, H', W', h, w)
        patch = windows[image, :, place[:, 0], place[:, 1]]  # (P, D, h, w)

        better = score > self.score
        self.score.copy_(torch.where(better, score, self.score))
        self.row.copy_(torch.where(better, row[image], self.row))
        self.place.copy_(torch.where(better[:, None], place, self.place))
        self.patch.copy_(torch.where(better.view(-1, 1, 1, 1), patch.to(self.patch), self.patch))

    @torch.no_grad()
    def push(self, layer: PrototypeLayer) -> None:
        """Put the patches in place of the prototypes; those of classes without any image stay as they are.

        Where directions alone count, a patch is brought to length 1.
        """
        matched = self.row >= 0
        layer.vectors[matched] = self.patch[matched].to(layer.vectors)
        layer.row.copy_(self.row)
        layer.place.copy_(self.place)
        if layer.similarity != "log":
            layer.normalise()


def activation_boxes(maps: Tensor, side: int, percentile: float = 95.0) -> Tensor:
    """The smallest box around an image's pixels above a percentile of a similarity map, enlarged to its size (bicubic).

    Args:
        maps: (P, H, W).
        side: of the square image, pixels.
    Returns:
        (P, 4): x1, y1, x2, y2 in pixels, ends exclusive.
    """
    large = F.interpolate(maps[:, None].float(), (side, side), mode="bicubic", align_corners=False)[:, 0]
    bound = torch.quantile(large.flatten(1), percentile / 100, dim=1)
    above = large >= bound[:, None, None]  # (P, S, S)
    edges = []
    for axis in (1, 2):  # along x, then along y
        there = above.any(axis).float()
        edges.append((there.argmax(1), side - there.flip(1).argmax(1)))
    (x1, x2), (y1, y2) = edges
    return torch.stack([x1, y1, x2, y2], 1)


def draw_prototypes(images: Tensor, boxes: Tensor, titles: Sequence[str], columns: int = 8) -> Figure:
    """Training images with a box around the patch that each prototype is.

    Args:
        images: (P, 3, H, W) or (P, 1, H, W) in [0, 1].
        boxes: (P, 4), see activation_boxes.
        titles: one for each.
    """
    rows = -(-len(images) // columns)
    figure = Figure(figsize=(9, 1.5 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for number, axis in enumerate(axes.flat):
        axis.axis("off")
        if number >= len(images):
            continue
        axis.imshow(images[number].permute(1, 2, 0).squeeze(-1), cmap="gray", vmin=0, vmax=1)
        x1, y1, x2, y2 = boxes[number].tolist()
        axis.add_patch(Rectangle((x1 - 0.5, y1 - 0.5), x2 - x1, y2 - y1, fill=False, edgecolor="yellow", linewidth=1.5))
        axis.set_title(titles[number], fontsize=6)
    return figure
