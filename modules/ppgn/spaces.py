"""What a chain moves in, and the prior there: codes with a generator, or pixels.

A space turns states into images, which the condition sees, and says where its auto-encoder R would move them. A prior's
direction is R(s) - s: towards more probable states.

    PPGN-x           PixelSpace(R_x)                R_x(x) - x
    DGN-AM           CodeSpace                      no prior (the sampler's e1 = 0)
    PPGN-h           CodeSpace with a denoiser      R_h(h) - h
    Joint PPGN-h     CodeSpace                      E(G(h)) - h
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from modules.common.precision import at_least_single
from modules.ppgn.networks import Encoder, encode


class Space(Protocol):
    """See CodeSpace."""

    shape: tuple[int, ...]

    def decode(self, state: Tensor) -> Tensor: ...

    def reconstruct(self, state: Tensor, x: Tensor) -> Tensor: ...

    def context(self, state: Tensor) -> Tensor | None: ...


class CodeSpace:
    """Codes h (B, code), seen through a generator.

    Args:
        encoder: E.
        generate: codes -> images (B, C, S, S), cropped to what E sees.
        denoiser: R_h; None takes E(G(h)).
    """

    def __init__(
        self, encoder: Encoder, generate: Callable[[Tensor], Tensor], denoiser: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        self.encoder = encoder
        self.generate = generate
        self.denoiser = denoiser
        self.shape: tuple[int, ...] = (encoder.code,)

    def decode(self, state: Tensor) -> Tensor:
        """States -> images."""
        return self.generate(state)

    @torch.no_grad()
    def reconstruct(self, state: Tensor, x: Tensor) -> Tensor:
        """R(state), where x are the images of the state; no gradient."""
        if self.denoiser is not None:
            return at_least_single(self.denoiser(state))
        return at_least_single(encode(self.encoder, x)[1])

    def context(self, state: Tensor) -> Tensor | None:
        """A further number (B,) whose gradient pulls the state, the sampler's e4; None where there is none."""
        return None


class PixelSpace:
    """Pixels themselves (B, C, S, S).

    Args:
        denoiser: R_x.
        shape: (C, S, S).
    """

    def __init__(self, denoiser: Callable[[Tensor], Tensor], shape: tuple[int, ...]) -> None:
        self.denoiser = denoiser
        self.shape = shape

    def decode(self, state: Tensor) -> Tensor:
        return state

    @torch.no_grad()
    def reconstruct(self, state: Tensor, x: Tensor) -> Tensor:
        return at_least_single(self.denoiser(state))

    def context(self, state: Tensor) -> Tensor | None:
        return None


class Inpainting:
    """Codes whose images are known outside a hole.

    E and C see the generated pixels inside the hole and the true ones outside, so that the class pulls through the hole
    alone. Outside, the code is pulled towards the true pixels: J_G^T (x - G(h)) over the pixels outside the hole.

    Args:
        space: the codes.
        image: (B, C, S, S), the true pixels; those in the hole are not looked at.
        hole: (B, 1, S, S) of bool, true where pixels are missing.
    """

    def __init__(self, space: Any, image: Tensor, hole: Tensor) -> None:
        self.space = space
        self.hole = hole
        self.known = image.masked_fill(hole, 0.0)
        self.shape = space.shape

    def compose(self, generated: Tensor) -> Tensor:
        """The generated pixels in the hole, the very pixels of the image outside."""
        return torch.where(self.hole, generated, self.known.to(generated))

    def decode(self, state: Tensor) -> Tensor:
        return self.compose(self.space.decode(state))

    def reconstruct(self, state: Tensor, x: Tensor) -> Tensor:
        return self.space.reconstruct(state, x)

    def context(self, state: Tensor) -> Tensor | None:
        """-1/2 |x - G(h)|^2 over the pixels outside the hole, (B,)."""
        difference = (self.known - self.space.decode(state)).masked_fill(self.hole, 0.0)
        return -0.5 * difference.square().flatten(1).sum(1)


def square_holes(corners: Tensor, size: int, side: int) -> Tensor:
    """Holes (B, 1, side, side) of bool: squares of `size` pixels.

    Args:
        corners: (B, 2) in [0, 1), where each hole lies: 0 is at the top (left), 1 at the bottom (right).
        size: of the holes, at most `side`.
        side: of the images, pixels.
    """
    first = (corners * (side - size + 1)).long()  # (B, 2)
    pixels = torch.arange(side, device=corners.device)
    inside = (pixels >= first[:, :, None]) & (pixels < first[:, :, None] + size)  # (B, 2, side)
    return (inside[:, 0, :, None] & inside[:, 1, None, :])[:, None]
