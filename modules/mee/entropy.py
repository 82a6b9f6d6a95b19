"""RB-MaEM: the entropy of codes, estimated from distances to nearest neighbours in a buffer of earlier codes.

Kozachenko and Leonenko's estimate of an entropy grows with the mean logarithm of distances to nearest neighbours. Here
the logarithm stands outside the mean, and the loss is

    L_ent = -w log( mean_i min_b (1/K) |z_i - b|^2 ),     b of the buffer, w = lambda min(1, epoch / ramp)
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from modules.common.distributed import gather, place_in_batch, summed
from modules.mee.losses import squared_distances


class PaperBuffer(nn.Module):
    """The last M codes of all batches, as the paper describes it: first in, first out.

    Args:
        size: M.
        outcomes: K.
    """

    codes: Tensor

    def __init__(self, size: int, outcomes: int) -> None:
        super().__init__()
        self.register_buffer("codes", torch.empty(size, outcomes).uniform_(-1, 1))

    def distances(self, codes: Tensor) -> Tensor:
        """(1/K) |z_i - b|^2 to the nearest neighbour b: (B, K) -> (B,). Codes are never compared with themselves."""
        return squared_distances(codes, self.codes)[0]

    @torch.no_grad()
    def append(self, codes: Tensor) -> None:
        """Put a batch's codes (B, K) in, all processes', in place of the oldest."""
        new = gather(codes.detach())
        self.codes.copy_(torch.cat([self.codes, new.to(self.codes)])[-len(self.codes) :])


class ReleasedBuffer(nn.Module):
    """The buffer as released, (L, N, K): N slots for the places in a batch, each with codes of its own.

    A step drops N of the L rows and appends one, so that from the 17th on (M = 1024, N = 64) a single row is left, the
    batch before: the "nearest neighbour" of code i is code i of the batch before, and the loss a variance's.

    Args:
        size: M, rows at the beginning.
        outcomes: K.
        batch: N.
    """

    codes: Tensor
    length: Tensor

    def __init__(self, size: int, outcomes: int, batch: int) -> None:
        super().__init__()
        rows = torch.empty(size, 1, outcomes).uniform_(-1, 1)
        self.register_buffer("codes", rows.repeat(1, batch, 1))
        self.register_buffer("length", torch.tensor(size))

    def distances(self, codes: Tensor) -> Tensor:
        """(1/K) |z_i - b|^2 to the nearest b of code i's own slot: (B, K) -> (B,)."""
        start = place_in_batch(codes)[1]
        slots = self.codes[: int(self.length), start : start + len(codes)].clone()  # (L, B, K)
        return (slots - codes).square().mean(2).amin(0)

    @torch.no_grad()
    def append(self, codes: Tensor) -> None:
        """Drop as many rows as a batch has codes, append one row of this batch's codes (B, K), all processes'.

        Slots that an incomplete batch does not fill keep what they held last.
        """
        new = gather(codes.detach()).to(self.codes)
        length, batch = int(self.length), self.codes.shape[1]
        row = self.codes[length - 1].clone()
        row[: len(new)] = new
        kept = self.codes[batch:length].clone()
        self.codes[: len(kept)] = kept
        self.codes[len(kept)] = row
        self.length.fill_(len(kept) + 1)


BUFFERS = ("paper", "released")


class Entropy(nn.Module):
    """L_ent of real codes for the discriminator and of generated codes for the generator, each with its own buffer.

    Args:
        outcomes: K.
        weight: lambda.
        ramp: epochs over which the weight grows from 0, a step an epoch; 0 begins with the whole weight.
        size: M, codes in a buffer.
        estimator: "paper" or "released", see the two buffers.
        batch: N, codes in a batch; only "released" needs it.
    Raises:
        ValueError: an unknown estimator, or "released" without `batch`.
    """

    def __init__(
        self,
        outcomes: int,
        weight: float = 5e-4,
        ramp: int = 100,
        size: int = 1024,
        estimator: str = "paper",
        batch: int | None = None,
    ) -> None:
        super().__init__()
        if estimator not in BUFFERS:
            raise ValueError(f"estimator={estimator!r}: expected one of {', '.join(BUFFERS)}")
        if estimator == "released" and batch is None:
            raise ValueError("batch=None: expected the number of images in a batch where estimator=released")
        self.weight = weight
        self.ramp = ramp
        made = [
            PaperBuffer(size, outcomes) if batch is None or estimator == "paper"
            else ReleasedBuffer(size, outcomes, batch)
            for _ in range(2)
        ]  # fmt: skip
        self.real, self.fake = made

    def weight_at(self, epoch: int) -> float:
        """w in that epoch."""
        return self.weight * (min(1.0, epoch / self.ramp) if self.ramp else 1.0)

    def loss(self, codes: Tensor, buffer: PaperBuffer | ReleasedBuffer, epoch: int) -> tuple[Tensor, Tensor]:
        """w times the loss of codes (B, K), and the loss without w; the buffer then takes the codes in.

        The mean is that of all processes' codes, since the logarithm is taken of it.
        """
        nearest = summed(buffer.distances(codes).sum()) / place_in_batch(codes)[0]
        buffer.append(codes)
        loss = -nearest.log()
        return self.weight_at(epoch) * loss, loss.detach()
