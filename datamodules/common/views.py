"""Datamodules that serve another one's data in their own way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from datamodules.common.base import DataModule


class View(DataModule):
    """What a datamodule on top of another one, its `source`, leaves as it is there; a subclass says what it changes.

    It stands before the class that loads: `class Subset(View, ArrayData)`.

    Args:
        source: the data underneath. It is generated where this one is.
        batch_size: the global batch, over all devices.
        seed: see DataModule; None takes the source's.
        generated: see DataModule.
        options: of the class that loads.
    """

    def __init__(
        self, source: Any, batch_size: int, seed: int | None = None, generated: bool = False, **options: Any
    ) -> None:
        self.source = source  # first: `generated` is kept there
        super().__init__(batch_size, seed=source.seed if seed is None else seed, generated=generated, **options)

    @property
    def generated(self) -> bool:
        return self.source.generated

    @generated.setter
    def generated(self, value: bool) -> None:
        self.source.generated = self.source.generated or value

    @property
    def root(self) -> Path | None:
        """The source's folder, if it is read from one."""
        return getattr(self.source, "root", None)

    def available(self) -> str:
        return self.source.available()

    def prepare_data(self) -> None:
        self.source.prepare_data()
