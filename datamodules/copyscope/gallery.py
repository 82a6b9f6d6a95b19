"""A gallery: grey images of another dataset, each coloured by somebody, dealt out so that no image has two uses."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from datamodules.common.arrays import ArrayData
from datamodules.common.base import DataError, Spec, generator
from datamodules.common.loader import Columns, Images, Loader
from datamodules.common.views import View
from datamodules.copyscope.hands import ARTIST, NAMES, OTHER_ARTIST, SCHOOLS, colour

PURPOSES = ("public", "judge", "fine_tuning", "originals")
ARTISTS = {"artist": ARTIST, "other_artist": OTHER_ARTIST}


@dataclass(frozen=True)
class Deal:
    """How many training images of the source go where; the rest is public.

    Attributes:
        judge: for the judge, and as the real images that features are reduced on; of all classes.
        studies: of each artist and of the schools, for fine-tuning; of the artist's subjects.
        originals: of each artist, held out; of the artist's subjects.
        subjects: classes that the artists paint.
    """

    judge: int = 1500
    studies: int = 240
    originals: int = 128
    subjects: tuple[int, ...] = (1, 7, 8)

    def parts(self, labels: Tensor) -> dict[str, Tensor]:
        """Rows of each use: judge, artist, other_artist, filler, originals, other_originals, public.

        Raises:
            DataError: too few images.
        """
        rows = torch.arange(len(labels))
        judge, rest = rows[: self.judge], rows[self.judge :]
        painted = torch.isin(labels[rest], torch.tensor(self.subjects))
        subjects = rest[painted]
        sizes = {
            "artist": self.studies,
            "other_artist": self.studies,
            "filler": self.studies,
            "originals": self.originals,
            "other_originals": self.originals,
        }
        needed = sum(sizes.values())
        if needed >= len(subjects):
            raise DataError(
                f"deal: {needed} images of classes {list(self.subjects)} are needed, there are {len(subjects)}"
            )
        *parts, left = subjects.split([*sizes.values(), len(subjects) - needed])
        public = torch.cat([rest[~painted], left]).sort().values
        return {"judge": judge, **dict(zip(sizes, parts, strict=True)), "public": public}


class Gallery(View, ArrayData):
    """Images of `source` at side x side pixels, coloured, in [-1, 1], for one purpose:

    - `public`: (x, y, style) in the schools' colours, with class y and the school's number as style. Trains the base
      model and the control branch; tests on the source's test images.
    - `judge`: (x, y) by everybody, y says who it was. Tests on the source's test images.
    - `fine_tuning`: (x, y, style), a share of it an artist's studies and the rest schools' images of the same
      subjects. Nothing tells them apart: the style is always "none", the number of schools.
    - `originals`: the artist's held-out images for the test, (x, y, style); `others` are another artist's, `reference`
      the judge's training images, on which features are reduced.

    Args:
        source: a grey dataset; its splits and seed are used, its batch size is not.
        batch_size: the global batch, over all devices.
        purpose: see above.
        side: of the square images served.
        deal: who gets how many images.
        artist: whose studies are in fine-tuning: artist or other_artist.
        dose: their share in it, percent.
        generated: see DataModule.
    Raises:
        DataError: an argument that makes no sense; too few images.
    """

    def __init__(
        self,
        source: ArrayData,
        batch_size: int,
        purpose: str = "public",
        side: int = 16,
        deal: Deal | None = None,
        artist: str = "artist",
        dose: float = 100.0,
        generated: bool = False,
    ) -> None:
        super().__init__(source, batch_size, generated=generated)
        if purpose not in PURPOSES:
            raise DataError(f"purpose={purpose!r}: expected one of {', '.join(PURPOSES)}")
        if artist not in ARTISTS:
            raise DataError(f"artist={artist!r}: expected one of {', '.join(ARTISTS)}")
        if not 0 <= dose <= 100:
            raise DataError(f"dose={dose}: expected percent, from 0 to 100")
        self.purpose, self.side, self.artist, self.dose = purpose, side, artist, dose
        self.deal = deal or Deal()
        self.styles: dict[str, Tensor] = {}
        self.others = torch.empty(0)  # another artist's originals (N, 3, S, S) uint8
        self.reference = torch.empty(0)  # real images by everybody (M, 3, S, S) uint8

    def declared(self) -> Spec:
        there = self.source.spec
        train, test = there.sizes["train"], there.sizes["test"]
        deal = self.deal
        public = train - deal.judge - 3 * deal.studies - 2 * deal.originals
        sizes = {
            "public": (public, test),
            "judge": (deal.judge, test),
            "fine_tuning": (deal.studies, 0),
            "originals": (0, deal.originals),
        }[self.purpose]
        words = f"{there.split}; at {self.side} pixels, coloured; {self.purpose.replace('_', '-')}"
        if self.purpose == "fine_tuning":
            words += f", {self.dose:g}% by {self.artist.replace('_', ' ')}"
        return replace(
            there,
            name=f"{there.name}, gallery",
            shape=(3, self.side, self.side),
            classes=NAMES if self.purpose == "judge" else there.classes,
            sizes={"train": sizes[0], "val": 0, "test": sizes[1]},
            mean=(0.5,) * 3,
            std=(0.5,) * 3,
            split=words,
        )

    @property
    def spec(self) -> Spec:
        return self._spec or self.declared()

    def setup(self, stage: str | None = None) -> None:
        if self.splits:
            return
        self.source.setup(stage)
        images, labels = self.source.splits["train"]
        parts = self.deal.parts(labels)
        schools = torch.randint(SCHOOLS, (len(images),), generator=generator("schools", self.seed))
        everybody = torch.randint(len(NAMES), (len(images),), generator=generator("everybody", self.seed))

        def painted(rows: Tensor, hands: Tensor) -> Tensor:
            return self._paint("train", images[rows], rows, hands)

        empty = torch.empty(0, 3, self.side, self.side, dtype=torch.uint8)
        train, hands = (empty, labels[:0]), labels[:0]
        if self.purpose == "public":
            rows, hands = parts["public"], schools[parts["public"]]
            train = (painted(rows, hands), labels[rows])
        elif self.purpose == "judge":
            rows = parts["judge"]
            train = (painted(rows, everybody[rows]), everybody[rows])
        elif self.purpose == "fine_tuning":
            own = round(self.dose / 100 * self.deal.studies)
            rows = torch.cat([parts[self.artist][:own], parts["filler"][own:]])
            hands = torch.cat([torch.full((own,), ARTISTS[self.artist]), schools[parts["filler"][own:]]])
            train = (painted(rows, hands), labels[rows])
            hands = torch.full_like(rows, SCHOOLS)  # what the captions say
        self.splits = {"train": train, "val": (empty, labels[:0]), "test": (empty, labels[:0])}
        self.styles = {"train": hands, "test": labels[:0]}

        if self.purpose == "originals":
            rows = parts["originals"]
            self.splits["test"] = (painted(rows, torch.full_like(rows, ARTIST)), labels[rows])
            self.styles["test"] = torch.full_like(rows, SCHOOLS)
            rows = parts["other_originals"]
            self.others = painted(rows, torch.full_like(rows, OTHER_ARTIST))
            rows = parts["judge"]
            self.reference = painted(rows, everybody[rows])
        elif self.purpose in ("public", "judge"):
            self._set_test()
        spec = replace(self.declared(), sizes=self._sizes(), source=self.source.spec.source)
        self._settle(spec, *self.styles.values())

    def _set_test(self) -> None:
        """The source's test images, by everybody for the judge and else in the schools' colours."""
        images, labels = self.source.splits["test"]
        known = len(NAMES) if self.purpose == "judge" else SCHOOLS
        hands = torch.randint(known, (len(images),), generator=generator("hands of tests", self.seed))
        painted = self._paint("test", images, torch.arange(len(images)), hands)
        self.splits["test"] = (painted, hands if self.purpose == "judge" else labels)
        self.styles["test"] = hands

    def _paint(self, split: str, images: Tensor, rows: Tensor, hands: Tensor) -> Tensor:
        """Images (n, 1, H, W), these rows of a split, as (n, 3, side, side) uint8; a row has its own jitter."""
        total = len(self.source.splits[split][0])
        source = generator("jitter", self.seed, ("train", "test").index(split))
        jitter = 2 * torch.rand(total, 2, 3, generator=source) - 1
        size = (self.side, self.side)
        grey = images.float().mean(1, keepdim=True) / self.source.peak
        if len(grey):
            grey = F.interpolate(grey, size, mode="bilinear", antialias=True, align_corners=False)
        return colour(grey.clamp(0, 1), hands, jitter[rows])

    def fetch(self, name: str, *, augment: bool) -> Images:
        images, labels = self.splits[name]
        if self.purpose == "judge":
            return Images(Columns(self.device, x=images, y=labels), self.spec, self.peak)
        return Images(Columns(self.device, x=images, y=labels, style=self.styles[name]), self.spec, self.peak)

    def train_dataloader(self) -> Loader | list[Loader]:  # type: ignore[override]
        return self._loader("train") if len(self.splits["train"][0]) else []

    def test_dataloader(self) -> Loader | list[Loader]:  # type: ignore[override]
        return self._loader("test") if len(self.splits["test"][0]) else []
