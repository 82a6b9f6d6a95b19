"""Small grey images pasted somewhere on an uneven grey canvas with clutter, and the boxes around them.

The canvas is neither black nor even: where a network's input is 0, Input x Gradient and Integrated Gradients are 0 by
construction and would point at the object whatever the network does.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from datamodules.common.arrays import ArrayData
from datamodules.common.base import DataError, Spec, generator, hashed
from datamodules.robust_explainability.boxes import BoxedImages

VISIBLE = 0.1  # a pixel of an image that is brighter than this covers the canvas
COARSE = 5  # sides of the grid that makes the canvas uneven


@dataclass(frozen=True)
class Scene:
    """What an image is pasted onto; grey levels in units of [0, 1].

    Args:
        side: of the canvas, pixels.
        image: side that images are scaled to before they are pasted, pixels.
        low, high: mean grey level of a canvas.
        uneven: largest slow deviation from it.
        noise: standard deviation of white noise.
        clutter: pieces of other images.
        piece: side of a piece, pixels.
        contrast: of pieces, relative to the image's.
    Raises:
        DataError: an image larger than its canvas or smaller than a piece, or a number below 0.
    """

    side: int = 36
    image: int = 20
    low: float = 0.4
    high: float = 0.6
    uneven: float = 0.06
    noise: float = 0.03
    clutter: int = 6
    piece: int = 6
    contrast: float = 1.0

    def __post_init__(self) -> None:
        nothing_negative = min(self.uneven, self.noise, self.clutter, self.contrast) >= 0
        if not (self.side >= self.image >= self.piece >= 1 and nothing_negative):
            raise DataError(f"{self}: expected side >= image >= piece >= 1 and nothing negative")


def paste(canvas: Tensor, patch: Tensor, cover: Tensor, top: Tensor, left: Tensor) -> None:
    """Puts each patch onto its canvas, in place, where `cover` is.

    Args:
        canvas: (N, S, S).
        patch, cover: (N, h, w); cover is bool.
        top, left: (N,) where the patch begins.
    """
    rows = top[:, None] + torch.arange(patch.shape[1])
    columns = left[:, None] + torch.arange(patch.shape[2])
    place = (torch.arange(len(canvas))[:, None, None], rows[:, :, None], columns[:, None, :])
    canvas[place] = torch.where(cover, patch, canvas[place])


def draw(images: Tensor, scene: Scene, source: torch.Generator) -> tuple[Tensor, Tensor]:
    """A canvas for each image.

    Args:
        images: (N, 1, h, w) uint8 on black.
        source: of places, clutter and noise.
    Returns:
        canvases (N, 1, S, S) uint8, and the tightest boxes (N, 4) around what covers: x1, y1, x2, y2 in pixels, ends
        exclusive; the whole patch where nothing covers.
    """
    pixels = F.interpolate(images.float() / 255, (scene.image, scene.image), mode="area")[:, 0]
    n, h, w = pixels.shape
    side = scene.side

    def whole(high: int, *shape: int) -> Tensor:
        return torch.randint(high, (n, *shape), generator=source)

    level = scene.low + (scene.high - scene.low) * torch.rand(n, 1, 1, 1, generator=source)
    waves = scene.uneven * (2 * torch.rand(n, 1, COARSE, COARSE, generator=source) - 1)
    canvas = (level + F.interpolate(waves, (side, side), mode="bilinear", align_corners=True))[:, 0]

    for _ in range(scene.clutter):
        other = whole(n)
        cut_top, cut_left = whole(h - scene.piece + 1), whole(w - scene.piece + 1)
        lines = torch.arange(scene.piece)
        piece = pixels[
            other[:, None, None], (cut_top[:, None] + lines)[:, :, None], (cut_left[:, None] + lines)[:, None]
        ]
        faint = 0.5 + scene.contrast * (piece - 0.5)
        paste(canvas, faint, piece > VISIBLE, whole(side - scene.piece + 1), whole(side - scene.piece + 1))

    top, left = whole(side - h + 1), whole(side - w + 1)
    cover = pixels > VISIBLE
    paste(canvas, pixels, cover, top, left)
    canvas = canvas + scene.noise * torch.randn(canvas.shape, generator=source)

    cover = cover | ~cover.flatten(1).any(1)[:, None, None]
    edges = []
    for axis, start in ((1, left), (2, top)):
        there = cover.any(axis).long()
        edges += [start + there.argmax(1), start + there.shape[1] - there.flip(1).argmax(1)]
    x1, x2, y1, y2 = edges
    boxes = torch.stack([x1, y1, x2, y2], 1).float()
    return (255 * canvas).round().clamp(0, 255).to(torch.uint8)[:, None], boxes


class Pasted(BoxedImages):
    """The source's images on canvases, drawn once from the seed. Clutter is of images of the same split.

    Args:
        source: grey images in memory; its splits and seed are used, its batch size is not.
        batch_size: the global batch, over all devices.
        scene: the canvas.
        tuning: see BoxedImages.
        generated: see DataModule.
    Raises:
        DataError: images that are not grey, or no validation images to tune on.
    """

    source: ArrayData

    def __init__(
        self,
        source: ArrayData,
        batch_size: int,
        scene: Scene | None = None,
        tuning: bool = False,
        generated: bool = False,
    ) -> None:
        super().__init__(source, batch_size, tuning, generated)
        self.scene = scene or Scene()
        if source.spec.shape[0] != 1:
            raise DataError(f"{source.spec.name} has {source.spec.shape[0]} channels: expected grey images")

    @property
    def spec(self) -> Spec:
        return self._spec or self.declared()

    def declared(self) -> Spec:
        there = self.source.spec
        return replace(
            there,
            name=f"{there.name} on cluttered canvases",
            shape=(1, self.scene.side, self.scene.side),
            sizes=self.sizes,
            mean=(0.5,),
            std=(0.25,),
            split=f"{there.split}; each image pasted on a canvas" + ("; tested on val and test" if self.tuning else ""),
        )

    def setup(self, stage: str | None = None) -> None:
        if self.splits:
            return
        self.source.setup(stage)
        for number, (name, (images, labels)) in enumerate(self.source.splits.items()):
            if not len(images):
                continue
            canvases, self.boxes[name] = draw(images, self.scene, generator("pasted", self.seed, number))
            self.splits[name] = (canvases, labels)
        self.clean_labels = self.source.clean_labels
        self._spec = replace(self.declared(), identity=hashed(*(t for s in self.splits.values() for t in s)))
