"""The one loader: batches of named columns, from memory, from what a stage made, or through worker processes.

A batch is a named tuple: `x, y`, and where they are asked for `row`, further views, `mask`, `boxes`, soft labels.
Order, augmentation and place in the epoch follow from (seed, epoch, row) alone (see base.Batches), so that a resumed
run and several processes serve what one unbroken process would.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from datamodules.common.augment import Augmentation
from datamodules.common.base import Batches, Share, Spec


@lru_cache
def batch_type(columns: tuple[str, ...]) -> Any:
    """The named tuple of these columns."""
    return namedtuple("Batch", columns)


class Columns:
    """Tensors with a row per sample. Called with a share of a batch it gives these rows, by name, on the device.

    Args:
        device: where the tensors live.
        columns: name -> (N, ...). A column that is None is the row's own number.
    """

    def __init__(self, device: torch.device, **columns: Tensor | None) -> None:
        self.device = device
        self.columns = {name: None if column is None else column.to(device) for name, column in columns.items()}
        self.type = batch_type(tuple(columns))

    def __call__(self, share: Share) -> Any:
        rows = share.indices.to(self.device)
        # Many times faster than [rows].
        return self.type(*(rows if c is None else c.index_select(0, rows) for c in self.columns.values()))


class Images:
    """Columns whose `x` holds whole numbers: scaled, augmented and normalised, a batch at a time.

    Args:
        columns: with `x` (N, C, H, W), uint8, or whatever `make` turns into images.
        spec: mean and std.
        peak: the value that stands for white.
        augment: operations on training batches, in order.
        views: how often each image is augmented anew; further views are the columns x2, x3, ...
        make: makes the images (B, C, H, W) of a batch, where they are not a column.
    """

    def __init__(
        self,
        columns: Columns,
        spec: Spec,
        peak: int = 255,
        augment: Sequence[Augmentation] = (),
        views: int = 1,
        make: Callable[[Any], Any] | None = None,
    ) -> None:
        self.columns, self.peak, self.augment, self.views, self.make = columns, float(peak), augment, views, make
        self.mean = torch.tensor(spec.mean, device=columns.device).view(1, -1, 1, 1)
        self.std = torch.tensor(spec.std, device=columns.device).view(1, -1, 1, 1)

    def __call__(self, share: Share) -> Any:
        batch = self.columns(share)
        if self.make is not None:
            batch = self.make(batch)
        draws = share.generator()
        views = [self._view(batch.x, draws) for _ in range(self.views)]
        if self.views == 1:
            return batch._replace(x=views[0])
        further = {f"x{number}": view for number, view in enumerate(views[1:], start=2)}
        named = {**batch._replace(x=views[0])._asdict(), **further}
        return batch_type(tuple(named))(*named.values())

    def _view(self, images: Tensor, draws: Any) -> Tensor:
        x = images / self.peak  # a copy: the next view starts from the same images
        for operation in self.augment:
            x = operation(x, draws)
        return x.sub_(self.mean).div_(self.std)


class Loader:
    """Batches in the order of `batches`, each made by `fetch`.

    Args:
        batches: order, size and place in the epoch.
        fetch: makes a share of a batch: Columns, Images, or any other function of it.
        finish: is called with each batch before it is served, e.g. to add a column.
    """

    def __init__(
        self, batches: Batches, fetch: Callable[[Share], Any], finish: Callable[[Any], Any] | None = None
    ) -> None:
        self.batches, self.fetch, self.finish = batches, fetch, finish

    @property
    def sampler(self) -> Batches:
        """Where Lightning looks for set_epoch."""
        return self.batches

    batch_sampler = None

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        for share in self.batches:
            yield self._finished(self.fetch(share))

    def _finished(self, batch: Any) -> Any:
        return batch if self.finish is None else self.finish(batch)

    def state_dict(self) -> dict[str, int]:
        return self.batches.state_dict()

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        self.batches.load_state_dict(dict(state))


class WorkerLoader(Loader):
    """Batches that worker processes read and decode, by key; the keys of a batch follow from its share alone.

    Args:
        dataset: gives a sample for a key.
        batches: order, size and place in the epoch.
        keys: the keys of a share; (epoch, row) pairs unless given.
        columns: names of what a sample holds.
        num_workers: processes; 0 reads in this one. Does not change what is served.
        finish: see Loader.
    """

    def __init__(
        self,
        dataset: Dataset,
        batches: Batches,
        keys: Callable[[Share], list[Any]] | None = None,
        columns: tuple[str, ...] = ("x", "y"),
        num_workers: int = 0,
        finish: Callable[[Any], Any] | None = None,
    ) -> None:
        super().__init__(batches, self._keys, finish)
        self.keys, self.columns, self.consumed = keys, columns, 0
        options: dict[str, Any] = {"num_workers": num_workers, "persistent_workers": num_workers > 0}
        options["pin_memory"] = torch.cuda.is_available()
        self.loader = DataLoader(dataset, batch_sampler=_Keys(self), **options)

    def _keys(self, share: Share) -> list[Any]:
        if self.keys is not None:
            return self.keys(share)
        return [(self.batches.epoch, row) for row in share.indices.tolist()]

    def __iter__(self) -> Iterator[Any]:
        self.consumed = self.batches._skip
        make = batch_type(self.columns)
        for batch in self.loader:
            self.consumed += 1
            yield self._finished(make(*batch))

    def state_dict(self) -> dict[str, int]:
        """Workers run ahead: what counts is what was served."""
        return {"position": self.consumed % max(1, len(self))}


class _Keys:
    """Batches as lists of keys, for a DataLoader."""

    def __init__(self, loader: WorkerLoader) -> None:
        self.loader = loader

    def __len__(self) -> int:
        return len(self.loader.batches)

    def __iter__(self) -> Iterator[list[Any]]:
        for share in self.loader.batches:
            yield self.loader.fetch(share)
