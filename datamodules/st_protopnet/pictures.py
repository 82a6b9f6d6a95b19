"""Species that many stages share: drawn once, and served to the others from what that stage kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from datamodules.common.arrays import ArrayData
from datamodules.common.augment import Augmentation
from datamodules.common.base import DataError, Fed, Spec, stream
from datamodules.common.loader import Columns, Images
from datamodules.common.species import Species
from datamodules.common.views import View

TESTED = ("train", "test")


class Drawn(Species):
    """Species whose pictures a stage keeps for others, with their masks."""

    def arrays(self) -> dict[str, np.ndarray]:
        """`<split>_images`, `<split>_labels` and `<split>_mask` of every split that there is."""
        kept: dict[str, np.ndarray] = {}
        for name, (images, labels) in self.splits.items():
            kept |= {f"{name}_images": images.numpy(), f"{name}_labels": labels.numpy()}
            kept[f"{name}_mask"] = self.known[name].mask.numpy()
        return kept


class OtherSpecies(Species):
    """Pictures of the same species that no other stage of the seed sees."""

    def __init__(self, batch_size: int, seed: int = 0, **options: object) -> None:
        super().__init__(batch_size, seed=stream("pictures of a judge", seed) % 2**31, **options)  # type: ignore[arg-type]


class Pictures(View, ArrayData):
    """The pictures of a stage on Drawn. Batches are (x, y), and where they are asked for row and mask (B, S, S).

    Args:
        source: the species, which are not drawn again.
        batch_size: the global batch, over all devices.
        kept: the stage that kept them.
        masks: a column `mask`: 0 background, 1 to 4 the parts, 5 the rest of the body.
        tested: which split is tested on, "test" or "train"; neither is augmented there.
        augment, rows, generated: see ArrayData.
    Raises:
        DataError: another `tested`, or a stage that kept no pictures.
    """

    source: Species

    def __init__(
        self,
        source: Species,
        batch_size: int,
        kept: Fed | None = None,
        masks: bool = False,
        tested: str = "test",
        augment: Sequence[Augmentation] = (),
        rows: bool = False,
        generated: bool = False,
    ) -> None:
        super().__init__(source, batch_size, generated=generated, augment=augment, rows=rows)
        if tested not in TESTED:
            raise DataError(f"tested={tested!r}: expected one of {', '.join(TESTED)}")
        self.kept, self.masks, self.tested = kept, masks, tested
        self.known: dict[str, Tensor] = {}

    def declared(self) -> Spec:
        there = self.source.declared()
        sizes = {**there.sizes, "test": there.sizes[self.tested]}
        words = there.split if self.tested == "test" else f"{there.split}; tested on the training pictures"
        return replace(there, sizes=sizes, split=words)

    @property
    def spec(self) -> Spec:
        return self._spec or self.declared()

    def setup(self, stage: str | None = None) -> None:
        if self.splits:
            return
        arrays = self.kept.arrays if self.kept is not None else {}
        validation = {"val": "val"} if self.source.declared().sizes["val"] else {}
        for name, split in {"train": "train", **validation, "test": self.tested}.items():
            self.splits[name], self.known[name] = self._read(arrays, split)
        self._settle(self.declared())

    def _read(self, arrays: Mapping[str, np.ndarray], split: str) -> tuple[tuple[Tensor, Tensor], Tensor]:
        if self.generated:
            images, labels = self._random(self.declared(), 4 * self.batch_size)
            return (images, labels), torch.ones(len(images), *images.shape[2:], dtype=torch.uint8)
        try:
            images, labels, mask = (torch.tensor(arrays[f"{split}_{n}"]) for n in ("images", "labels", "mask"))
        except KeyError as error:
            raise DataError(f"kept: expected a stage on datamodules.st_protopnet.pictures.Drawn, no {error}") from error
        return (images, labels), mask

    def fetch(self, name: str, *, augment: bool) -> Images:
        images, labels = self.splits[name]
        columns: dict[str, Tensor | None] = {"x": images, "y": labels}
        if self.rows:
            columns["row"] = None
        if self.masks:
            columns["mask"] = self.known[name]
        return Images(Columns(self.device, **columns), self.spec, self.peak, self.augment if augment else ())
