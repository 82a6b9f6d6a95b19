"""nnU-Net's preprocessing of CT scans: clipped, normalised and resampled, written to disk case by case."""

from __future__ import annotations

import hashlib
import inspect
import math
import os
import shutil
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from scipy import ndimage
from torch import Tensor

from datamodules.common.base import DataError
from datamodules.mswal.volumes import places

LIBRARIES = ("monai", "nibabel", "numpy", "scipy")  # whose results are kept
LARGEST = 8 * 2**30  # bytes of a scan in float32: a header may promise more than there is memory
KEPT = 10_000  # foreground voxels of each class that a patch may be centred on
UNREADABLE = (OSError, ValueError, RuntimeError, EOFError, zlib.error, ImageFileError, HeaderDataError)


@dataclass(frozen=True)
class Preprocessing:
    """See `resample`.

    Attributes:
        spacing: (z, y, x) in mm.
        clip, mean, std: HU. None takes, as nnU-Net does, the 0.5 and 99.5 percentile, mean and standard deviation of
            the foreground of all scans in imagesTr, the held-out fold's too, each scan with equal weight.
    Raises:
        DataError: some of clip, mean and std are None, others are not.
    """

    spacing: Sequence[float]
    clip: Sequence[float] | None = None
    mean: float | None = None
    std: float | None = None

    def __post_init__(self) -> None:
        if len({value is None for value in (self.clip, self.mean, self.std)}) > 1:
            raise DataError(f"clip={self.clip}, mean={self.mean}, std={self.std}: expected all three or none")


@cache
def maker() -> str:
    """A mark of what preprocesses: this file, that of the places it keeps, and the libraries' versions.

    What is kept on disk is that of one maker: after a change here it is made anew.
    """
    sources = [Path(str(inspect.getsourcefile(part))).read_bytes() for part in (resample, places)]
    versions = [f"{name}=={version(name)}" for name in LIBRARIES]
    return hashlib.sha256(b"\0".join([*sources, *map(str.encode, versions)])).hexdigest()[:12]


def load(path: Path) -> Any:
    """A NIfTI file as MONAI's (1, x, y, z) tensor with its affine, axes in the order and direction of RAS.

    Raises DataError naming a file that is missing, cannot be read, is too large or holds values that are no numbers.
    """
    import nibabel
    from monai.transforms import LoadImage, Orientation

    try:
        header: Any = nibabel.load(path)
        size = math.prod(header.shape) * 4
        if len(header.shape) != 3 or size > LARGEST:
            raise ValueError(f"its header says {header.shape}")
        scan = Orientation("RAS", labels=None)(LoadImage(ensure_channel_first=True)(path))
    except UNREADABLE as error:
        raise DataError(f"{path} cannot be read ({str(error).splitlines()[0]}); replace it") from error
    if not torch.isfinite(scan).all():
        raise DataError(f"{path} holds values that are no numbers; replace it")
    return scan


def depth_first(tensor: Any) -> np.ndarray:
    """(1, x, y, z) -> (z, y, x)."""
    return np.ascontiguousarray(np.asarray(tensor)[0].transpose(2, 1, 0))


def resample(
    image: Any,
    label: Any | None,
    spacing: Sequence[float],
    clip: Sequence[float],
    mean: float,
    std: float,
    classes: int,
) -> tuple[Tensor, Tensor | None]:
    """One scan as the network sees it: (1, D, H, W) float32 and (D, H, W) uint8.

    Grey values are clipped, shifted and scaled, then resampled with cubic splines; labels linearly, a class at a time.
    As in nnU-Net the outer faces of scan and result coincide (MONAI 1.6's Spacing would shift it by up to a voxel).

    Args:
        image, label: from `load`.
        spacing: (z, y, x) in mm.
        clip, mean, std: of the training set's foreground voxels, in HU.
        classes: C with background.
    """
    old = np.asarray(image.pixdim, dtype=float)[::-1]
    pixels = (depth_first(image).clip(clip[0], clip[1]) - np.float32(mean)) / np.float32(std)
    size = np.maximum(np.round(np.array(pixels.shape) * old / np.array(spacing)), 1)
    zoom = partial(ndimage.zoom, zoom=size / np.array(pixels.shape), mode="nearest", grid_mode=True)
    scan = torch.from_numpy(zoom(pixels, order=3))[None]
    if label is None:
        return scan, None

    drawn = depth_first(label)
    best = np.full(scan.shape[1:], -np.inf)
    labels = np.zeros(scan.shape[1:], np.uint8)
    for number in range(classes):
        share = zoom((drawn == number).astype(np.float32), order=1)
        better = share > best
        labels[better] = number
        best[better] = share[better]
    return scan, torch.from_numpy(labels)


def grey_values(image: Path, label: Path, count: int) -> np.ndarray:
    """`count` grey values (HU) spread evenly over the scan's foreground voxels; none if it has no foreground."""
    grey = depth_first(load(image))[depth_first(load(label)) > 0]
    return grey[np.linspace(0, len(grey) - 1, count).round().astype(int)] if len(grey) else grey


def preprocess(case: str, folder: Path, image: Path, label: Path | None, **plan: Any) -> None:
    """Write image.npy, label.npy and places.npz of one case below `folder`; a folder that exists is whole."""
    target = folder / case
    if target.is_dir():
        return
    scan = load(image)
    drawn = None if label is None else load(label)
    if drawn is not None and drawn.shape != scan.shape:
        raise DataError(f"{label} has shape {tuple(drawn.shape[1:])}, {image} {tuple(scan.shape[1:])}")
    if drawn is not None and not ((drawn >= 0) & (drawn < plan["classes"]) & (drawn == drawn.round())).all():
        low, high = float(drawn.min()), float(drawn.max())
        raise DataError(f"{label} has labels from {low:g} to {high:g}; expected 0 to {plan['classes'] - 1}, whole")
    pixels, labels = resample(scan, drawn, **plan)
    part = folder / f"{case}.part{os.getpid()}"
    part.mkdir(parents=True, exist_ok=True)
    np.save(part / "image.npy", pixels.numpy())
    if labels is not None:
        np.save(part / "label.npy", labels.numpy())
        voxels = places(labels, plan["classes"], KEPT)
        stored: dict[str, Any] = {str(number): at.numpy().astype(np.int16) for number, at in voxels.items()}
        np.savez(part / "places.npz", **stored)
    try:
        part.rename(target)
    except OSError:  # another run was faster
        if not target.is_dir():
            raise
        shutil.rmtree(part)
