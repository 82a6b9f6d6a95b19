"""Procedural abdominal phantoms: an organ with stones, cysts and tumours whose voxels are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from datamodules.common.base import DataError, Spec, hashed, stream
from datamodules.mswal.volumes import PatchSampling, Volume, VolumeData, places

LESIONS = ("stone", "cyst", "tumour")
SPLITS = ("train", "test", "val")  # a split's place is part of its seeds
RADII = ((1.0, 2.0), (3.0, 6.0), (3.0, 7.0))  # voxels
OUTSIDE, ORGAN, STONE, CYST, TUMOUR = 0.3, 1.0, 1.6, 0.75, 0.85  # grey values before noise and bias field
MOST = 5  # lesions in a volume
REACH = 10  # voxels from a lesion's centre beyond which it changes nothing
BOX = 2 * REACH + 1


def phantoms(
    seeds: Sequence[int],
    size: int,
    noise: float,
    stones: Sequence[float] = RADII[0],
    tumour: float = TUMOUR,
    cyst: float = CYST,
    every_kind: bool = False,
) -> tuple[Tensor, Tensor]:
    """One volume per seed: images (N, S, S, S) float32 and labels uint8 (0 background, then LESIONS in order).

    An ellipsoid organ with smooth texture holds 0 to 5 lesions, each kind equally likely: bright stones, dark cysts,
    and tumours a little darker than the organ with a soft edge and a finer, stronger texture. White noise and a smooth
    multiplicative bias field lie over everything. A voxel belongs to the first lesion that claims it.

    Args:
        size: S, voxels.
        noise: standard deviation of the white noise; the organ's grey value is 1.
        stones: smallest and largest radius, voxels.
        tumour, cyst: grey values inside, before texture and noise.
        every_kind: 3 to 5 lesions, one of each kind first, in the order of LESIONS.
    """
    n = len(seeds)
    sources = [torch.Generator().manual_seed(seed) for seed in seeds]
    u = torch.stack([torch.rand(16 + 8 * MOST, generator=g) for g in sources])  # (N, parameters)
    white = torch.stack([torch.randn(size, size, size, generator=g) for g in sources])
    line = torch.arange(size, dtype=torch.float32)

    centre = (size - 1) / 2 + (u[:, 0:3] - 0.5) * size / 12
    axes = size * (0.29 + 0.11 * u[:, 3:6])
    organ = _distance(line.expand(n, 3, size), centre, axes) < 1
    image = torch.where(organ, ORGAN + 0.1 * _texture(sources, size, 4), OUTSIDE).flatten(1)  # (N, S^3)
    label = torch.zeros(n, size**3, dtype=torch.uint8)
    organ = organ.flatten(1)
    rough = _texture(sources, size, 2).flatten(1)

    fewest = len(LESIONS) if every_kind else 0
    count = fewest + (u[:, 6] * (MOST + 1 - fewest)).long()
    radii = torch.tensor([tuple(stones), *RADII[1:]])
    for slot in range(MOST):
        v = u[:, 16 + 8 * slot : 24 + 8 * slot]
        kind = (v[:, 0] * len(LESIONS)).long() if slot >= fewest else torch.full((n,), slot)  # (N,)
        low, high = radii[kind].unbind(1)
        own = (low + (high - low) * v[:, 1])[:, None] * (0.8 + 0.4 * v[:, 2:5])  # (N, 3) half axes
        at = (centre + (2 * v[:, 5:8] - 1) * 0.55 * axes).round()  # on a voxel: the smallest stone has one

        corner = (at.long() - REACH).clamp(0, size - BOX)
        span = corner[..., None] + torch.arange(BOX)  # (N, 3, BOX)
        box = (span[:, 0, :, None, None] * size + span[:, 1, None, :, None]) * size + span[:, 2, None, None, :]
        box = box.flatten(1)  # (N, BOX^3) voxels near the lesion
        d = _distance(span.float(), at, own).flatten(1)
        grey = image.gather(1, box)
        before = label.gather(1, box)
        lesion = kind[:, None]
        free = organ.gather(1, box) & (before == 0) & (slot < count)[:, None]
        inside = free & (d < 1)

        grey = torch.where(inside & (lesion == 0), STONE, grey)
        grey = torch.where(inside & (lesion == 1), cyst, grey)
        soft = torch.sigmoid(8 * (1 - d)) * (free & (lesion == 2))  # half way at the surface
        grey = grey + soft * (tumour - ORGAN + 0.15 * rough.gather(1, box))
        image.scatter_(1, box, grey)
        label.scatter_(1, box, torch.where(inside, (lesion + 1).to(torch.uint8), before))

    z, y, x = torch.meshgrid(*[2 * line / (size - 1) - 1] * 3, indexing="ij")
    shapes = torch.stack([z, y, x, z * y, y * x, x * z, z * z, y * y, x * x]).flatten(1)  # (9, S^3)
    image = image * (0.2 * (2 * u[:, 7:16] - 1) @ shapes).exp()
    return image.view_as(white) + noise * white, label.view_as(white)


def _distance(at: Tensor, centre: Tensor, axes: Tensor) -> Tensor:
    """(N, L, L, L): 1 on the surface of each ellipsoid. at (N, 3, L) are the voxels, centre and axes are (N, 3)."""
    scaled = ((at - centre[..., None]) / axes[..., None]).square()
    return (scaled[:, 0, :, None, None] + scaled[:, 1, None, :, None] + scaled[:, 2, None, None, :]).sqrt()


def _texture(sources: Sequence[torch.Generator], size: int, grain: int) -> Tensor:
    """(N, S, S, S): white noise of every `grain`th voxel, linear in between."""
    side = size // grain
    noise = torch.stack([torch.randn(1, side, side, side, generator=g) for g in sources])
    return F.interpolate(noise, size=[size] * 3, mode="trilinear")[:, 0]


@dataclass(frozen=True)
class Volumes:
    """How many phantoms there are, and how large.

    Attributes:
        size: side of a volume, voxels.
        train, val, test: volumes; the first of each are the same whatever the number.
        stream: another number gives another, disjoint dataset of the same kind.
    Raises:
        DataError: a side too small for a lesion, or no volumes to train on or to test.
    """

    size: int = 48
    train: int = 60
    val: int = 0
    test: int = 20
    stream: int = 0

    def __post_init__(self) -> None:
        if self.size < BOX or self.train < 1 or self.test < 1 or self.val < 0:
            sizes = f"size={self.size}, train={self.train}, val={self.val}, test={self.test}"
            raise DataError(f"{sizes}: expected at least {BOX}, 1, 0 and 1")


@dataclass(frozen=True)
class Anatomy:
    """What volumes look like: noise, stones, tumour, cyst, every_kind of `phantoms`."""

    noise: float = 0.1
    stones: Sequence[float] = RADII[0]
    tumour: float = TUMOUR
    cyst: float = CYST
    every_kind: bool = False


class Phantoms(VolumeData):
    """Phantoms normalised as nnU-Net does CT: clipped to percentiles of the training lesions, minus their mean, over
    their standard deviation.

    Args:
        volumes: how many, and how large.
        anatomy: what they look like.
        labelled: which of LESIONS carry a label, in the order of the labels; others are there but count as background.
        others: see VolumeData.
    """

    def __init__(
        self,
        batch_size: int,
        patches: PatchSampling,
        volumes: Volumes | None = None,
        anatomy: Anatomy | None = None,
        labelled: Sequence[str] = LESIONS,
        num_workers: int = 0,
        seed: int = 0,
        generated: bool = False,
    ) -> None:
        super().__init__(batch_size, patches, num_workers, seed, generated)
        if unknown := [name for name in labelled if name not in LESIONS]:
            raise DataError(f"labelled={unknown[0]!r}: expected some of {', '.join(LESIONS)}")
        self.volumes = volumes or Volumes()
        self.anatomy = anatomy or Anatomy()
        self.labelled = list(labelled)
        self.scans: dict[str, list[tuple[Tensor, Tensor]]] = {}

    @property
    def sizes(self) -> dict[str, int]:
        return {"train": self.volumes.train, "val": self.volumes.val, "test": self.volumes.test}

    def draw(self, name: str) -> tuple[Tensor, Tensor]:
        """A split's images and labels, see `phantoms`; (0, S, S, S) where it has none."""
        side, number = self.volumes.size, SPLITS.index(name)
        seeds = [stream("phantom", self.seed, self.volumes.stream, number, index) for index in range(self.sizes[name])]
        if not seeds:
            return torch.zeros(0, side, side, side), torch.zeros(0, side, side, side, dtype=torch.uint8)
        look = self.anatomy
        return phantoms(seeds, side, look.noise, look.stones, look.tumour, look.cyst, look.every_kind)

    def declared(self) -> Spec:
        rest = [name for name in LESIONS if name not in self.labelled]
        return Spec(
            name="abdominal phantoms",
            shape=(1, *self.patch),
            classes=("background", *self.labelled),
            sizes=self.sizes,
            mean=(0.0,),  # the grey values of training lesions, once they are read
            std=(1.0,),
            split=f"procedurally generated {self.volumes.size}^3 volumes with known truth; splits from disjoint seeds"
            + (f"; {' and '.join(rest)} are there but not labelled" if rest else ""),
            source="generated",
            where="made by the suite",
        )

    def read(self) -> Spec:
        drawn = {name: self.draw(name) for name in SPLITS}
        images, lesions = drawn["train"]
        grey = images[lesions > 0]  # labelled or not, so that a dataset of one lesion is normalised like one of three
        low, high = torch.quantile(grey, torch.tensor([0.005, 0.995])) if len(grey) else (images.min(), images.max())
        grey = grey.clamp(low, high) if len(grey) else images
        mean = grey.mean()
        std = grey.std()

        renamed = torch.zeros(len(LESIONS) + 1, dtype=torch.uint8)
        for label, name in enumerate(self.labelled):
            renamed[1 + LESIONS.index(name)] = label + 1
        splits = {
            name: ((image.clamp(low, high) - mean).div(std)[:, None], renamed[label.long()])
            for name, (image, label) in drawn.items()
        }

        classes = len(self.labelled) + 1
        self.train = [
            Volume(image, label, places(label, classes)) for image, label in zip(*splits["train"], strict=True)
        ]
        self.scans = {name: list(zip(*splits[name], strict=True)) for name in ("val", "test")}
        identity = hashed(*(tensor for split in splits.values() for tensor in split))
        return replace(self.declared(), mean=(float(mean),), std=(float(std),), identity=identity)

    def pair(self, index: int) -> tuple[Tensor, Tensor]:
        return self.scans["test"][index]

    def chosen_by(self, index: int) -> tuple[Tensor, Tensor]:
        return self.scans["val"][index]
