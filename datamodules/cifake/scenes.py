"""Objects with known masks on photos, each with a place of the same shape in the background."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from datamodules.common.arrays import ArrayData
from datamodules.common.base import DataError, Spec, generator
from datamodules.common.photo_regions import PhotoRegions, deal, read_photos, shrink
from datamodules.common.species import boxes_around
from datamodules.common.views import View

TRIES = 50  # pairs of places drawn for a picture, of which the first that fits is taken
BACKGROUNDS = {"photos": "patches of three photos", "fields": "random fields with a photo's spectrum"}
FALL = 1.4  # exponent of fields' spectrum; 1 to 1.2 in photos, more once they are reduced or a little out of focus
VISIBLE = 0.1  # a pixel of an object's picture that is brighter than this covers the photo


@dataclass(frozen=True)
class Objects:
    """N objects cut out of their pictures, in squares of `size` pixels."""

    colour: Tensor  # (N, 3, size, size) float32, 0 to 255, where they cover
    cover: Tensor  # (N, size, size) float32 in [0, 1]: how much of a pixel they cover
    boxes: Tensor  # (N, 4) int64: x1, y1, x2, y2 around all that they cover, ends exclusive


def cut_out(images: Tensor, size: int, source: torch.Generator) -> Objects:
    """Grey objects on black (N, 1, h, w) uint8, tinted at random and reduced to `size` pixels by areas.

    An object of which nothing is visible covers its whole square.
    """
    n = len(images)
    grey = images.float()
    there = (grey > 255 * VISIBLE).float()
    there = torch.where(there.flatten(1).any(1).view(n, 1, 1, 1), there, torch.ones_like(there))
    cover = F.interpolate(there, (size, size), mode="area")  # (N, 1, size, size)
    shade = F.interpolate(grey * there, (size, size), mode="area") / cover.clamp(min=1e-6)
    tint = 1 - 0.6 * torch.rand(n, 3, 1, 1, generator=source)
    tint = tint / tint.amax(1, keepdim=True)  # as bright as before in one channel
    return Objects(shade * tint, cover[:, 0], boxes_around(cover[:, 0] > 0).long())


def draw_places(boxes: Tensor, side: int, source: torch.Generator) -> tuple[Tensor, Tensor]:
    """Two places for each box that do not touch each other's pixels; either is as likely to be the first.

    Args:
        boxes: (N, 4) x1, y1, x2, y2; only their width and height count.
        side: of the picture, pixels.
    Returns:
        top left corners (N, 2) of x, y, twice.
    Raises:
        DataError: a box wider or higher than half the picture.
    """
    extent = boxes[:, 2:] - boxes[:, :2]  # (N, 2) of width, height
    if int(extent.max()) > side // 2:
        raise DataError(f"an object of {int(extent.max())} pixels: expected at most half the picture's {side}")
    free = (side - extent + 1)[:, None, None]  # corners along either axis
    corners = (torch.rand(len(boxes), TRIES, 2, 2, generator=source) * free).long()  # (N, TRIES, which, axis)
    corners[:, -1, 0] = 0  # opposite ends of the picture always fit
    corners[:, -1, 1] = side - extent
    apart = ((corners[:, :, 0] - corners[:, :, 1]).abs() >= extent[:, None]).any(2)  # (N, TRIES)
    first = apart.long().argmax(1)
    chosen = corners[torch.arange(len(boxes)), first]  # (N, 2, 2)
    return chosen[:, 0], chosen[:, 1]


def draw_fields(count: int, side: int, source: torch.Generator) -> Tensor:
    """Coloured random fields whose amplitudes fall as a power of frequency, as those of photos do: (N, 3, S, S) uint8.

    Mean, contrast and colour differ from field to field; no two share a pixel.
    """
    large = 2 * side  # of which a part is taken, so that opposite edges differ
    rows, columns = torch.fft.fftfreq(large)[:, None], torch.fft.rfftfreq(large)[None]
    frequency = (rows.square() + columns.square()).sqrt()
    amplitude = torch.where(frequency > 0, frequency.clamp(min=1 / large) ** -FALL, torch.zeros_like(frequency))
    phases = torch.randn(2, count, 4, *frequency.shape, generator=source)
    drawn = torch.fft.irfft2(torch.complex(phases[0], phases[1]) * amplitude, s=(large, large))
    drawn = drawn[..., :side, :side]
    drawn = (drawn - drawn.mean((2, 3), keepdim=True)) / drawn.std((2, 3), keepdim=True)
    grey, chroma = drawn[:, :1], drawn[:, 1:]

    mean, contrast, colour = torch.rand(3, count, 1, 1, 1, generator=source)
    tint = torch.randn(count, 3, 1, 1, generator=source)
    field = (80 + 90 * mean + 12 * tint) + (15 + 40 * contrast) * (grey + (0.1 + 0.3 * colour) * chroma)
    return field.round().clamp(0, 255).to(torch.uint8)


def compose(background: Tensor, objects: Objects, contrast: float, source: torch.Generator) -> tuple[Tensor, Tensor]:
    """Puts an object onto each picture.

    Args:
        background: (N, 3, S, S) uint8.
        objects: N of them.
        contrast: of the object: its colours are those of the photo below it, in the mean, and leave that mean by so
            much of what they left their own.
    Returns:
        pictures (N, 3, S, S) uint8; and (2, N, S, S) bool: which pixels the object covers by more than half, and the
        same shape at its other place.
    """
    pictures = background.float()
    masks = torch.zeros(2, *background[:, 0].shape, dtype=torch.bool)
    places = draw_places(objects.boxes, background.shape[3], source)
    for row, (x1, y1, x2, y2) in enumerate(objects.boxes.tolist()):
        cover = objects.cover[row, y1:y2, x1:x2]
        colour = objects.colour[row, :, y1:y2, x1:x2]
        own = (colour * cover).sum((1, 2)) / cover.sum()  # (3,)
        for number, corner in enumerate(places):
            left, top = corner[row].tolist()
            window = (slice(top, top + y2 - y1), slice(left, left + x2 - x1))
            masks[number, row][window] = cover > 0.5
            if number == 0:
                under = pictures[row][:, window[0], window[1]]
                level = (under * cover).sum((1, 2)) / cover.sum()
                painted = (level[:, None, None] + contrast * (colour - own[:, None, None])).clamp(0, 255)
                under.copy_(under.lerp(painted, cover.expand_as(colour)))
    return pictures.round().clamp(0, 255).to(torch.uint8), masks


class Scenes(View, PhotoRegions):
    """Patches of photos, or fields like them, with an object on each, in four parts that share no pixel and no object.

    The splits are train (for a generator), val (for detectors: pictures to train on, then `choice_size` to choose by)
    and test; each has as many pictures as the source has objects. In `masks` there are, split -> (2, N, S, S) bool,
    where the object is and where it might as well have been: a place of the same shape in the background.

    Args:
        source: grey objects on black, in memory; its splits and seed are used, its batch size is not.
        batch_size: the global batch, over all devices.
        choice_size: pictures to choose by, of the source's validation images.
        object_size: side that an object's picture is reduced to, pixels; at most half a patch's.
        contrast: of objects, see compose.
        background: "photos" (patches of three, each block in one part) or "fields" (see draw_fields; all differ).
        options: of PhotoRegions; pictures are made whether `generated` or not.
    Raises:
        DataError: objects that are not grey, nothing to train on or to choose by, or an unknown background.
    """

    source: ArrayData

    def __init__(
        self,
        source: ArrayData,
        batch_size: int,
        choice_size: int = 300,
        object_size: int = 14,
        contrast: float = 1.0,
        background: str = "photos",
        generated: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(source, batch_size, generated=generated, **options)
        there = source.spec
        if there.shape[0] != 1:
            raise DataError(f"{there.name} has {there.shape[0]} channels: expected grey images")
        if not 1 <= choice_size < there.sizes["val"]:
            raise DataError(f"choice_size={choice_size}: expected from 1 to below the {there.sizes['val']} of val")
        if background not in BACKGROUNDS:
            raise DataError(f"background={background!r}: expected one of {', '.join(BACKGROUNDS)}")
        self.choice_size = choice_size
        self.object_size = object_size
        self.contrast = contrast
        self.background = background
        self.masks: dict[str, Tensor] = {}

    def declared(self) -> Spec:
        there = super().declared()
        return replace(
            there,
            name=f"{self.source.spec.name} on {BACKGROUNDS[self.background]}",
            sizes=self.source.spec.sizes,
            split=f"{there.split}, four parts, each with objects of its own",
        )

    @property
    def spec(self) -> Spec:
        return self._spec or self.declared()

    def setup(self, stage: str | None = None) -> None:
        if self.splits:
            return
        self.source.setup(stage)
        objects = {name: images for name, (images, _) in self.source.splits.items()}
        seen = len(objects["val"]) - self.choice_size
        parts = [objects["train"], objects["val"][:seen], objects["val"][seen:], objects["test"]]

        source = generator("scenes", self.seed)
        made = []
        for part, (backgrounds, labels) in zip(parts, self._backgrounds([len(p) for p in parts], source), strict=True):
            pictures, masks = compose(backgrounds, cut_out(part, self.object_size, source), self.contrast, source)
            made.append((pictures, labels, masks))
        val = [
            torch.cat([first, second], axis) for first, second, axis in zip(made[1], made[2], (0, 0, 1), strict=True)
        ]
        for name, (pictures, labels, masks) in zip(("train", "val", "test"), (made[0], val, made[3]), strict=True):
            self.splits[name] = (pictures, labels)
            self.masks[name] = masks
        self._settle(self.declared(), *self.masks.values())

    def _backgrounds(self, sizes: list[int], source: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """Backgrounds of each part, with the number of the photo that each is of; 0 for fields."""
        if self.background == "fields":
            for size in sizes:
                yield draw_fields(size, self.side, source), torch.zeros(size, dtype=torch.long)
            return
        blocks: list[list[tuple[int, Tensor]]] = [[] for _ in sizes]
        for label, photo in enumerate(read_photos()):
            cells = self._cells(shrink(photo, self.reduction))
            for number, own in enumerate(deal(len(cells), sizes, source)):
                blocks[number] += [(label, cells[index]) for index in own]
        for cut, size in zip(blocks, sizes, strict=True):
            yield self._draw(cut, size, source)
