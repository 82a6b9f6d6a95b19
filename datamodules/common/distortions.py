"""Distorted copies of a photo, as Augmentor writes them to a disc: turned, skewed, sheared or bent, mirrored or not."""

from __future__ import annotations

import math

import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as V

KINDS = ("rotate", "skew", "shear", "bend")
GRID = 10  # cells along each side of what is bent
BEND = 5  # pixels that a corner of a cell moves at most, along each axis


def inscribed(width: float, height: float, angle: float) -> tuple[float, float]:
    """Sides of the largest upright rectangle of the same proportions inside a turned one; angle in degrees."""
    sin, cos = abs(math.sin(math.radians(angle))), abs(math.cos(math.radians(angle)))
    scale = min(width / (width * cos + height * sin), height / (width * sin + height * cos))
    return scale * width, scale * height


def distort(image: Image.Image, kind: str) -> Image.Image:
    """One of the offline copies: distorted at random, without empty corners, mirrored or not.

    rotate: by up to 15 degrees, the largest inscribed rectangle of the result. skew: one side, or one corner, pulled in
    by up to 20% of the longer side. shear: by up to 10 degrees along one axis, without what gets empty. bend: the inner
    corners of 10 x 10 cells moved by up to 5 pixels along each axis. All at the image's own size in the end.
    """
    width, height = image.size
    bicubic = InterpolationMode.BICUBIC
    u = torch.rand(5).tolist()
    if kind == "rotate":
        angle = 30 * u[0] - 15
        inner = inscribed(width, height, angle)
        turned = V.rotate(image, angle, bicubic)
        image = V.center_crop(turned, [max(1, int(inner[1])), max(1, int(inner[0]))])
    elif kind == "skew":
        amount = 0.2 * max(width, height) * u[0]
        corners = [[0, 0], [width, 0], [width, height], [0, height]]
        moved = _skewed(width, height, amount, int(8 * u[1]))
        image = V.perspective(image, moved, corners, bicubic)
    elif kind == "shear":
        angle = 20 * u[0] - 10
        sheared = [angle, 0.0] if u[1] < 0.5 else [0.0, angle]
        image = V.affine(image, 0.0, [0, 0], 1.0, sheared, bicubic)
        lost = math.tan(math.radians(abs(angle)))
        size = [height, width - lost * height] if u[1] < 0.5 else [height - lost * width, width]
        image = V.center_crop(image, [max(1, int(side)) for side in size])
    else:
        image = _bent(image)
    if u[2] < 0.5:
        image = V.hflip(image)
    return image.resize((width, height), Image.Resampling.BICUBIC)


def _skewed(width: int, height: int, amount: float, way: int) -> list[list[int]]:
    """The quadrilateral that becomes the whole image: 0 to 3 a side that is shortened, 4 to 7 a corner pulled in."""
    corners: list[list[float]] = [[0.0, 0.0], [width, 0.0], [width, height], [0.0, height]]
    inward = [(1, 1), (-1, 1), (-1, -1), (1, -1)]
    a = amount / 2
    if way < 4:  # the side from corner `way` to the next: both ends move along it
        along = way % 2  # 0: a horizontal side
        for corner in (way, (way + 1) % 4):
            corners[corner][along] += a * inward[corner][along]
    else:
        corner = way - 4
        corners[corner] = [c + a * s for c, s in zip(corners[corner], inward[corner], strict=True)]
    return [[round(c) for c in corner] for corner in corners]


def _bent(image: Image.Image) -> Image.Image:
    """Every cell of a grid filled from a quadrilateral whose corners have moved; the image's edge stays."""
    width, height = image.size
    moved = torch.randint(-BEND, BEND + 1, (GRID + 1, GRID + 1, 2))  # row, column, (x, y)
    edge = [number in (0, GRID) for number in range(GRID + 1)]

    def corner(row: int, column: int) -> tuple[int, int]:
        return column * width // GRID, row * height // GRID

    def moved_corner(row: int, column: int) -> tuple[int, int]:
        x, y = corner(row, column)
        if edge[row] or edge[column]:
            return x, y
        across, down = moved[row, column].tolist()
        return min(max(x + across, 0), width - 1), min(max(y + down, 0), height - 1)

    mesh = []
    for row in range(GRID):
        for column in range(GRID):
            target = (*corner(row, column), *corner(row + 1, column + 1))
            around = ((0, 0), (1, 0), (1, 1), (0, 1))  # upper left, lower left, lower right, upper right
            source = tuple(c for down, right in around for c in moved_corner(row + down, column + right))
            mesh.append((target, source))
    return image.transform(image.size, Image.Transform.MESH, mesh, Image.Resampling.BICUBIC)
