"""Real and generated scenes for detectors, and generated ones with real pixels put in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from datamodules.cifake.scenes import Scenes
from datamodules.common.base import DataError, Fed, Share, Spec, generator, hashed
from datamodules.common.generated_pictures import RealOrGenerated, finish, to_bytes
from datamodules.common.loader import Columns, Images, Loader, batch_type

FAKES = ("generated", "reencoded")


def add_noise(images: Tensor, deviation: float, source: torch.Generator) -> Tensor:
    """What a sensor adds: independent N(0, deviation^2) on every value, in grey levels.

    Args:
        images: (N, 3, H, W), uint8 or in [0, 1].
        deviation: grey levels of 256; 0 leaves the pictures as they are.
        source: of the noise.
    Returns:
        (N, 3, H, W) uint8.
    """
    pictures = to_bytes(images)
    if not deviation:
        return pictures
    noise = deviation * torch.randn(pictures.shape, generator=source)
    return (pictures + noise).round().clamp(0, 255).to(torch.uint8)


class RealOrFakeScenes(RealOrGenerated):
    """Scenes (label 0) and what one generator made of them (label 1): to train on, to choose by, to test on.

    Batches are x (in [0, 1]), y, subset and category as in RealOrGenerated; of the test also mask (B, S, S) bool, the
    object. Train, val and test share no pixel of a photo.

    Args:
        source: the scenes.
        batch_size: the global batch, over all devices.
        generators: the stage that made the pictures, in a list.
        jpeg: quality of the JPEG file that every picture was last; None for none.
        fakes: "generated", or "reencoded": half of the real pictures, through all that generated ones go through after
            they were made, against the rest: nothing can be learnt from them.
        shuffled: training labels in random order, from which nothing can be learnt either.
        noise: see add_noise; of real and generated pictures alike, before the file. What is lost of fine detail in a
            generated picture is hidden by it.
        generated: see DataModule.
    Raises:
        DataError: unknown `fakes`, noise below 0, or what RealOrGenerated raises.
    """

    source: Scenes

    def __init__(
        self,
        source: Scenes,
        batch_size: int,
        generators: Sequence[Fed] = (),
        jpeg: int | None = None,
        fakes: str = "generated",
        shuffled: bool = False,
        noise: float = 0.0,
        generated: bool = False,
    ) -> None:
        super().__init__(source, batch_size, ["generator"], ["generator"], generators, jpeg, generated=generated)
        if fakes not in FAKES:
            raise DataError(f"fakes={fakes!r}: expected one of {', '.join(FAKES)}")
        if noise < 0:
            raise DataError(f"noise={noise}: expected 0 or more grey levels")
        self.fakes = fakes
        self.shuffled = shuffled
        self.noise = noise
        self._drawn = 0  # how often noise was: each time from a stream of its own

    @property
    def spec(self) -> Spec:
        there = super().spec
        source = self.source
        chosen_by = source.choice_size
        seen = source.spec.sizes["val"] - chosen_by
        share = 1 if self.fakes == "reencoded" else 2  # of the real pictures' number
        sizes = {"train": share * seen, "val": share * chosen_by, "test": share * source.spec.sizes["test"]}
        words = there.split.split(";")[0]
        if self.fakes == "reencoded":
            words += "; real pictures stand in for generated ones"
        if self.noise:
            words += f"; noise of {self.noise:g} grey levels on every picture"
        if self.shuffled:
            words += "; training labels shuffled"
        return replace(there, classes=("real", "generated"), sizes=sizes, mean=(0.0,) * 3, std=(1.0,) * 3, split=words)

    def setup(self, stage: str | None = None) -> None:
        if self.columns:
            return
        self.source.setup(stage)
        real = {name: self.source.splits[name] for name in ("val", "test")}
        seen = len(real["val"][0]) - self.source.choice_size
        made = self._pictures(0, sum(len(images) for images, _ in real.values()))
        bounds = {"train": (0, seen), "val": (seen, len(real["val"][0])), "test": (0, len(real["test"][0]))}
        for name, (first, last) in bounds.items():
            split = "test" if name == "test" else "val"
            images, labels = real[split][0][first:last], real[split][1][first:last]
            mask = self.source.masks[split][0, first:last]
            offset = len(real["val"][0]) if name == "test" else 0
            self.columns[name] = self._side_by_side(images, made[offset + first : offset + last], labels, mask)
        if self.shuffled:
            labels = self.columns["train"]["y"]
            order = torch.randperm(len(labels), generator=generator("shuffled labels", self.seed))
            self.columns["train"]["y"] = labels[order]
        self.identity = hashed(*(column for split in self.columns.values() for column in split.values()))

    def history(self, pictures: Tensor, *, real: bool) -> Tensor:
        """Pictures as a detector gets them: with noise of their own, then as files."""
        source = generator("pixel noise", self.seed, self._drawn)
        self._drawn += 1
        return finish(add_noise(pictures, self.noise, source), self.jpeg)

    def _side_by_side(self, images: Tensor, made: Tensor, labels: Tensor, mask: Tensor) -> dict[str, Tensor]:
        if self.fakes == "generated":
            return {**self._joined([(images, 0, -1), (made, 1, 0)], labels), "mask": mask.repeat(2, 1, 1)}
        # In random order: neighbours in the source are of different blocks of a photo.
        both = torch.randperm(len(images), generator=generator("halves", self.seed, len(images)))
        real, others = both[: (len(both) + 1) // 2], both[(len(both) + 1) // 2 :]
        as_made = images[others].float() / 255  # values in [0, 1], as a generator gives them
        columns = self._joined([(images[real], 0, -1), (as_made, 1, 0)], labels[:0])
        return {**columns, "category": labels[both], "mask": mask[both]}

    def fetch(self, name: str) -> Callable[[Share], Any]:
        columns = {key: column for key, column in self.columns[name].items() if key != "mask" or name == "test"}
        return Images(Columns(self.device, **columns), self.spec)

    def val_dataloader(self) -> list[Loader]:
        return [self._loader("val")]


class SwappedScenes(RealOrFakeScenes):
    """The test's generated scenes, and the same with real pixels in the object or in a place of the background.

    Pixels are put in before the last steps of the pictures' history, which are those of all pictures; the noise is the
    same on all versions of a picture. Test batches are
    x (generated), object and background (with real pixels there), real, all (B, 3, S, S) in [0, 1]; mask and place,
    (B, S, S) bool.

    Args:
        see RealOrFakeScenes.
    """

    @property
    def spec(self) -> Spec:
        there = super().spec
        return replace(there, sizes={**there.sizes, "test": self.source.spec.sizes["test"]})

    def setup(self, stage: str | None = None) -> None:
        if self.columns:
            return
        super().setup(stage)
        real, _ = self.source.splits["test"]
        made = self._pictures(0, len(self.source.splits["val"][0]) + len(real))[-len(real) :]
        mask, place = self.source.masks["test"]
        pictures = {
            "x": made,
            "object": torch.where(mask[:, None], real, made),
            "background": torch.where(place[:, None], real, made),
            "real": real,
        }
        sources = {name: generator("noise of swapped pictures", self.seed) for name in pictures}  # one noise for all
        noisy = {name: add_noise(images, self.noise, sources[name]) for name, images in pictures.items()}
        finished = {name: finish(images, self.jpeg) for name, images in noisy.items()}
        self.columns["test"] = {**finished, "mask": mask, "place": place}
        self.identity = hashed(*self.columns["test"].values())

    def fetch(self, name: str) -> Callable[[Share], Any]:
        if name != "test":
            return super().fetch(name)
        columns = Columns(self.device, **self.columns[name])

        def fetch(share: Share) -> Any:
            batch = columns(share)
            scaled = [getattr(batch, key).float() / 255 for key in ("x", "object", "background", "real")]
            return make(*scaled, batch.mask, batch.place)

        make = batch_type(("x", "object", "background", "real", "mask", "place"))
        return fetch

    def _loader(self, name: str) -> Loader:
        return Loader(self.batches(len(self.columns[name]["x"]), shuffle=name == "train"), self.fetch(name))
