"""What every datamodule declares and how it counts, shuffles and draws."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn


class DataError(Exception):
    """Data that is missing or damaged: one line that names the path and says what to do."""


@dataclass(frozen=True)
class Spec:
    """What a datamodule serves, known before anything is read.

    Attributes:
        name: the dataset.
        shape: (channels, height, width) of one input as the network sees it; (channels, depth, height, width) of a
            volume.
        classes: class names; their order is the label.
        sizes: images per split.
        mean, std: per channel, in units of [0, 1] inputs.
        split: how train, val and test were made, in words.
        source: "real" or "generated".
        where: where to get it, for people who lack it.
        identity: short hash of the images and labels, once they are read.
    """

    name: str
    shape: tuple[int, ...]
    classes: tuple[str, ...]
    sizes: Mapping[str, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    split: str
    source: str = "real"
    where: str = ""
    identity: str = ""


def stream(purpose: str, *numbers: int) -> int:
    """A 63-bit seed for one purpose: no two purposes, and no two lists of numbers, share their random numbers."""
    text = purpose.encode() + b"\0" + b"".join(n.to_bytes(8, "little", signed=True) for n in numbers)
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1


def generator(purpose: str, *numbers: int) -> torch.Generator:
    """A generator of its own for one purpose."""
    return torch.Generator().manual_seed(stream(purpose, *numbers))


def seed_torch(value: int) -> None:
    """As torch.manual_seed, which spends a millisecond on devices that are not there."""
    torch.default_generator.manual_seed(value)
    if torch.cuda.is_available():
        torch.cuda.manual_seed_all(value)


def hashed(*tensors: Tensor) -> str:
    """Twelve hex digits for the content of tensors."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(str((tuple(tensor.shape), str(tensor.dtype))).encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]


@dataclass(frozen=True)
class Share:
    """This process's part of one global batch.

    `draw` is the randomness of the whole batch, cut to this part: an augmentation sees the same numbers for an image
    whether one process or several share the batch, and after a resume.
    """

    indices: Tensor  # (b,) of this process
    total: int  # B, the global batch
    start: int  # where this part begins in it
    seed: int

    def generator(self) -> Draws:
        return Draws(torch.Generator().manual_seed(self.seed), self.total, self.start, len(self.indices))


@dataclass(frozen=True)
class Draws:
    """Random numbers for one batch, per image."""

    source: torch.Generator
    total: int
    start: int
    count: int

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """(b, *shape) in [low, high)."""
        values = torch.rand((self.total, *shape), generator=self.source)
        return values[self.start : self.start + self.count] * (high - low) + low

    def integers(self, high: int, *shape: int) -> Tensor:
        """(b, *shape) whole numbers in [0, high)."""
        values = torch.randint(high, (self.total, *shape), generator=self.source)
        return values[self.start : self.start + self.count]


class Batches:
    """The order in which a split is served: a function of (seed, epoch), shared out over processes, resumable.

    Training batches are global: process r of w takes its share of each, so that w processes see what one would see
    (a last batch of fewer than w images is dropped when w > 1). Evaluation deals every image to exactly one process,
    without padding.
    """

    def __init__(
        self, size: int, batch_size: int, *, shuffle: bool, seed: int = 0, rank: int = 0, world: int = 1
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.size, self.batch_size, self.shuffle, self.seed = size, batch_size, shuffle, seed
        self.rank, self.world, self.epoch = rank, world, 0
        self.position = 0  # batches handed out in this epoch
        self._skip = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        if not self.shuffle:
            mine = len(range(self.rank, self.size, self.world))
            return -(-mine // -(-self.batch_size // self.world))
        whole, rest = divmod(self.size, self.batch_size)
        return whole + (1 if rest >= self.world else 0)

    def __iter__(self) -> Iterator[Share]:
        skip, self._skip = self._skip, 0
        if not self.shuffle:
            mine = torch.arange(self.rank, self.size, self.world)
            for part in mine.split(-(-self.batch_size // self.world)):
                yield Share(part, len(part), 0, 0)
            return
        order = torch.randperm(self.size, generator=generator("order", self.seed, self.epoch))
        for number in range(skip, len(self)):
            chunk = order[number * self.batch_size : (number + 1) * self.batch_size]
            bounds = [len(chunk) * r // self.world for r in (self.rank, self.rank + 1)]
            self.position = number + 1
            part = chunk[bounds[0] : bounds[1]]
            yield Share(part, len(chunk), bounds[0], stream("augmentation", self.seed, self.epoch, number))

    def state_dict(self) -> dict[str, int]:
        return {"position": self.position % max(1, len(self))}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self._skip = state["position"]


class InOrder(Batches):
    """Training batches of 0, 1, 2, ... that are global and resumable like shuffled ones."""

    def __iter__(self) -> Iterator[Share]:
        for share in super().__iter__():
            first = (self.position - 1) * self.batch_size + share.start
            yield replace(share, indices=torch.arange(first, first + len(share.indices)))


@dataclass(frozen=True)
class Fed:
    """A finished stage that feeds a datamodule: its module with its weights, and the arrays it made."""

    module: nn.Module
    arrays: Mapping[str, np.ndarray]


class DataModule(pl.LightningDataModule):
    """A LightningDataModule that knows its `Spec` and can stand in generated data of that shape.

    Args:
        batch_size: the global batch, over all devices.
        seed: fixes splits, label noise, order and augmentation.
        generated: serve random images of the declared shape instead (dry runs); the spec then says so.
    """

    def __init__(self, batch_size: int, seed: int = 0, generated: bool = False) -> None:
        super().__init__()
        self.batch_size, self.seed, self.generated = batch_size, seed, generated

    @property
    def spec(self) -> Spec:
        raise NotImplementedError(f"{type(self).__name__} declares no spec")

    def available(self) -> str:
        """Empty when the data is at hand, else one line that says what is missing and where to get it."""
        return ""

    def relabelled(self, count: int) -> tuple[Tensor, Tensor]:
        """Up to `count` training images (B, C, H, W) whose label was replaced by label noise, and the label given."""
        return torch.empty(0, *self.spec.shape), torch.empty(0, dtype=torch.long)

    def shown(self, x: Tensor) -> Tensor:
        """Images as the network sees them, (..., C, H, W), as a picture shows them: on the CPU and in [0, 1]."""
        mean = torch.tensor(self.spec.mean).view(-1, 1, 1)
        std = torch.tensor(self.spec.std).view(-1, 1, 1)
        return (x.detach().float().cpu() * std + mean).clamp(0, 1)

    @property
    def device(self) -> torch.device:
        """Where batches are made: the device of this process's trainer."""
        return self.trainer.strategy.root_device if self.trainer is not None else torch.device("cpu")

    @property
    def rank_and_world(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer is not None else (0, 1)

    def batches(self, size: int, *, shuffle: bool) -> Batches:
        rank, world = self.rank_and_world
        return Batches(size, self.batch_size, shuffle=shuffle, seed=self.seed, rank=rank, world=world)

    def training_in_order(self, size: int) -> InOrder:
        rank, world = self.rank_and_world
        return InOrder(size, self.batch_size, shuffle=True, seed=self.seed, rank=rank, world=world)
