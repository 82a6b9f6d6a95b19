"""Generated species, told apart by the attribute of one part: the box is around the part that decides."""

from __future__ import annotations

from dataclasses import replace

from datamodules.common.base import DataError, Spec
from datamodules.common.species import ATTRIBUTES, PARTS, Species, values_of
from datamodules.robust_explainability.boxes import BoxedImages


class Attributes(BoxedImages):
    """Pictures of species; the label is what one part shows. Every other part shows attributes too, drawn at random.

    Args:
        source: the pictures; its batch size is not used.
        batch_size: the global batch, over all devices.
        part: whose attribute is the label, and whose boxes are served.
        tuning: see BoxedImages.
        generated: see DataModule; the set is generated anyway.
    Raises:
        DataError: no such part, or no validation pictures to tune on.
    """

    source: Species

    def __init__(
        self, source: Species, batch_size: int, part: str = "hue", tuning: bool = False, generated: bool = False
    ) -> None:
        super().__init__(source, batch_size, tuning, generated)
        if part not in PARTS:
            raise DataError(f"part={part!r}: expected one of {', '.join(PARTS)}")
        self.part = PARTS.index(part)

    @property
    def spec(self) -> Spec:
        there = self.source.spec
        name = PARTS[self.part]
        return replace(there, classes=ATTRIBUTES[name], sizes=self.sizes, split=f"{there.split}; by {name}")

    def declared(self) -> Spec:
        return self.spec

    def setup(self, stage: str | None = None) -> None:
        if self.splits:
            return
        self.source.setup(stage)
        for name, (images, labels) in self.source.splits.items():
            self.splits[name] = (images, values_of(labels)[:, self.part])
            self.boxes[name] = self.source.known[name].boxes[:, self.part]
        self.clean_labels = self.splits["train"][1].clone()
