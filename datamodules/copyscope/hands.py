"""Who coloured an image: palettes that many share, and two artists with a palette and a texture of their own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

JITTER = 0.06  # half the range of each colour channel around the palette's, of an image


def plain(side: int) -> Tensor:
    """No texture: (side, side) of ones."""
    return torch.ones(side, side)


def stripes(side: int) -> Tensor:
    """Diagonal stripes, two of four pixels darkened to 45%."""
    i = torch.arange(side)
    dark = (i[:, None] + i[None, :]) % 4 < 2
    return torch.where(dark, 0.45, 1.0)


def checks(side: int) -> Tensor:
    """Squares of two pixels, every other one darkened to 45%."""
    i = torch.arange(side) // 2
    dark = (i[:, None] + i[None, :]) % 2 == 0
    return torch.where(dark, 0.45, 1.0)


@dataclass(frozen=True)
class Hand:
    """Colours of a grey image's black and white, RGB in [0, 1], and what both are multiplied with."""

    black: tuple[float, float, float]
    white: tuple[float, float, float]
    texture: Callable[[int], Tensor] = plain


# The first four are schools, which have a word each; an artist has none.
HANDS = {
    "photo": Hand((0.07, 0.07, 0.07), (0.90, 0.90, 0.90)),
    "print": Hand((0.85, 0.85, 0.80), (0.20, 0.20, 0.30)),
    "warm": Hand((0.35, 0.15, 0.10), (0.90, 0.60, 0.20)),
    "cool": Hand((0.08, 0.15, 0.35), (0.50, 0.80, 0.90)),
    "artist": Hand((0.45, 0.08, 0.25), (0.93, 0.80, 0.12), stripes),
    "other_artist": Hand((0.08, 0.35, 0.20), (0.90, 0.40, 0.70), checks),
}
NAMES = tuple(HANDS)
SCHOOLS = 4
ARTIST, OTHER_ARTIST = NAMES.index("artist"), NAMES.index("other_artist")


def colour(grey: Tensor, hands: Tensor, jitter: Tensor) -> Tensor:
    """Grey images as these hands would have made them.

    Args:
        grey: (N, 1, S, S) in [0, 1].
        hands: (N,), numbers into NAMES.
        jitter: (N, 2, 3) in [-1, 1], of black and white.
    Returns:
        (N, 3, S, S) uint8.
    """
    palette = torch.tensor([[hand.black, hand.white] for hand in HANDS.values()])  # (K, 2, 3)
    texture = torch.stack([hand.texture(grey.shape[-1]) for hand in HANDS.values()])  # (K, S, S)
    colours = palette[hands] + JITTER * jitter  # (N, 2, 3)
    black, white = (colours[:, i, :, None, None] for i in (0, 1))  # (N, 3, 1, 1)
    painted = (black + grey * (white - black)) * texture[hands][:, None]
    return (255 * painted).round().clamp(0, 255).to(torch.uint8)
