"""Image and text embeddings that other stages made, as data: what ensembles of prompts are built and tested on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from datamodules.common.base import DataError, DataModule, Fed, Spec, hashed
from datamodules.common.loader import Columns, Loader


def arrays_of(export: Fed) -> Any:
    """What a stage made; in a dry run the module alone has it."""
    return export.arrays or export.module.artifacts()  # type: ignore[operator]


class EmbeddedSets(DataModule):
    """One or more downstream sets as embeddings (x (B, D), y (B,), row (B,)), a test loader for each.

    Every set has `images` (N, D), `labels` (N,), `texts` (P, C, D), `templates`, `classes`, `own` and `planted` (P,);
    all embeddings have length 1, and logits are `scale` times their products.

    Args:
        batch_size: the global batch, over all devices.
        sets: stages that embedded a downstream set's images and prompts.
        pretraining: the stage that embedded pre-training images.
        names: of the sets, for their metrics.
        seed, generated: see DataModule.
    Raises:
        DataError: another number of names than sets.
    """

    def __init__(
        self,
        batch_size: int,
        sets: Fed | Sequence[Fed],
        pretraining: Fed,
        names: Sequence[str],
        seed: int = 0,
        generated: bool = False,
    ) -> None:
        super().__init__(batch_size, seed, generated)
        exports = [sets] if isinstance(sets, Fed) else list(sets)
        if len(names) != len(exports):
            raise DataError(f"{len(exports)} sets, but names={list(names)}")
        self.exports = dict(zip(names, exports, strict=True))
        self.pretraining_export = pretraining
        self._identity = ""

    @property
    def names(self) -> list[str]:
        return list(self.exports)

    @property
    def spec(self) -> Spec:
        sets = [arrays_of(export) for export in self.exports.values()]
        count = sum(len(arrays["images"]) for arrays in sets)
        return Spec(
            name=f"embeddings of {', '.join(self.exports)}",
            shape=tuple(sets[0]["images"].shape[1:]),
            classes=tuple(str(name) for name in sets[0]["classes"]),
            sizes={"train": 0, "val": 0, "test": count},
            mean=(0.0,),
            std=(1.0,),
            split="all images of each set",
            source="generated" if self.generated else "real",
            where="stages of this suite",
            identity=self._identity,
        )

    def setup(self, stage: str | None = None) -> None:
        if not self._identity:
            every = [*self.exports.values(), self.pretraining_export]
            self._identity = hashed(*(torch.tensor(arrays_of(export)["images"]) for export in every))

    def tensor(self, name: str, array: str) -> Tensor:
        """One of a set's arrays of numbers, on the device."""
        return torch.tensor(arrays_of(self.exports[name])[array]).to(self.device)

    def words(self, name: str, array: str) -> list[str]:
        """A set's `templates` or `classes`."""
        return [str(word) for word in arrays_of(self.exports[name])[array]]

    def pretraining_images(self) -> Tensor:
        """Embeddings (M, D) of pre-training images."""
        return torch.tensor(arrays_of(self.pretraining_export)["images"]).to(self.device)

    def train_dataloader(self) -> list[Loader]:
        return []

    def val_dataloader(self) -> list[Loader]:
        return []

    def test_dataloader(self) -> list[Loader]:
        loaders = []
        for name in self.exports:
            x = self.tensor(name, "images")
            columns = Columns(self.device, x=x, y=self.tensor(name, "labels"), row=None)
            loaders.append(Loader(self.batches(len(x), shuffle=False), columns))
        return loaders
