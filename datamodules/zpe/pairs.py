"""Generated image-text pairs from labelled images, and downstream sets in one style each."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from datamodules.common.arrays import ArrayData
from datamodules.common.base import DataError, Spec, generator, hashed
from datamodules.common.loader import Columns, Images, Loader
from datamodules.common.views import View
from datamodules.zpe.captions import ADVERTS, BOILERPLATE, COLOURS, SHARES, STYLES, captions_for, prompts_for
from datamodules.zpe.prompts import Prompts
from datamodules.zpe.rendering import render, tint

MEAN = (0.25, 0.25, 0.25)  # of training pairs, rounded; for every style, as a pretrained model's are
STD = (0.30, 0.30, 0.30)


class Rendered(View):
    """What pairs and downstream sets share: a labelled dataset whose images are tinted, styled and made colour images.

    Args:
        source: images with labels; grey ones get a colour, colour ones keep theirs. Its splits and seed are used, its
            batch size is not.
        batch_size, generated: see DataModule.
    """

    def __init__(self, source: ArrayData, batch_size: int, generated: bool = False) -> None:
        super().__init__(source, batch_size, generated=generated)
        self.splits: dict[str, dict[str, Tensor]] = {}  # columns of each split; x is uint8
        self._identity = ""

    def described(self, name: str, sizes: dict[str, int], split: str) -> Spec:
        there = self.source.spec
        return replace(
            there,
            name=f"{name}, {there.name}",
            shape=(3, *there.shape[1:]),
            sizes={"train": 0, "val": 0, **sizes},
            mean=MEAN,
            std=STD,
            split=f"{split}; images: {there.split}",
            identity=self._identity,
        )

    @property
    def coloured(self) -> bool:
        """Whether images get a colour, so that a caption can name it."""
        return self.source.spec.shape[0] == 1

    def images(self, split: str, rows: Tensor, colours: Tensor) -> Tensor:
        """(n,) rows of a split and a colour for each: (n, 3, H, W) in [0, 1]."""
        x = self.source.splits[split][0][rows].float() / self.source.peak
        table = torch.tensor(list(COLOURS.values()))
        return tint(x, table[colours]) if self.coloured else x

    def keep(self, **splits: dict[str, Tensor]) -> None:
        self.splits = splits
        self._identity = hashed(*(column for columns in splits.values() for column in columns.values()))

    def _loader(self, name: str) -> Loader:
        columns = self.splits[name]
        batches = self.batches(len(columns["x"]), shuffle=name == "train")
        return Loader(batches, Images(Columns(self.device, **columns), self.spec))

    def train_dataloader(self) -> Loader | list[Loader]:
        return self._loader("train") if "train" in self.splits else []

    def val_dataloader(self) -> list[Loader]:
        return []

    def test_dataloader(self) -> Loader:
        return self._loader("test")

    def prompts(self) -> Prompts | None:
        """What the set is classified by; None for images that are not to be classified."""
        return None


class ImageTextPairs(Rendered):
    """Pairs of an image and a caption, as (x (B, 3, H, W), caption (B,)): a number in `captions`.

    Each pair's image, style, colour and caption are drawn once from the seed: styles by captions.SHARES; a caption is
    boilerplate with probability `boilerplate`, an advert with probability `adverts`, and names the colour in half of
    the others, except under drawings. The seed draws the class that each style is promoted with, another for each.

    Args:
        source, batch_size, generated: see Rendered.
        pairs: for training, from the source's training images in turn; None makes one of each image.
        test_pairs: from the source's test images.
        boilerplate: share of captions that name neither class nor style.
        adverts: share of captions that name the class that the style is promoted with, whatever the image shows.
    Raises:
        DataError: the two are no shares, or together more than 1.
    """

    def __init__(
        self,
        source: ArrayData,
        batch_size: int,
        pairs: int | None = None,
        test_pairs: int = 1000,
        boilerplate: float = 0.5,
        adverts: float = 0.0,
        generated: bool = False,
    ) -> None:
        super().__init__(source, batch_size, generated)
        for name, share in (("boilerplate", boilerplate), ("adverts", adverts), ("both", boilerplate + adverts)):
            if not 0 <= share <= 1:
                raise DataError(f"{name}={share}: expected a share between 0 and 1")
        self.pairs = pairs
        self.test_pairs = test_pairs
        self.boilerplate = boilerplate
        self.adverts = adverts

    @property
    def captions(self) -> list[str]:
        """Every caption that a pair may have."""
        return captions_for(self.source.spec.classes, self.coloured)

    @property
    def spec(self) -> Spec:
        sizes = {"train": self.pairs or self.source.spec.sizes["train"], "test": self.test_pairs}
        mix = ", ".join(f"{share:.0%} {style}" for style, share in SHARES.items())
        return self.described(
            "image-text pairs",
            sizes,
            f"{mix}; {self.boilerplate:.0%} of the captions are boilerplate, {self.adverts:.0%} adverts",
        )

    def setup(self, stage: str | None = None) -> None:
        if self.splits:
            return
        self.source.setup(stage)
        train = self.pairs or self.source.spec.sizes["train"]
        self.keep(train=self.drawn("train", train), test=self.drawn("test", self.test_pairs))

    def drawn(self, split: str, count: int) -> dict[str, Tensor]:
        """`count` pairs from a split's images: columns x and caption."""
        source = generator("image-text pairs", self.seed, int(split == "test"))
        labels = self.source.splits[split][1]
        rows = torch.randperm(len(labels), generator=source).repeat(-(-count // len(labels)))[:count]
        styles = torch.multinomial(torch.tensor(list(SHARES.values())), count, True, generator=source)
        colours = torch.randint(len(COLOURS), (count,), generator=source)
        captions = self.drawn_captions(labels[rows], styles, colours, source)

        images = self.images(split, rows, colours)
        x = torch.empty(images.shape, dtype=torch.uint8)
        for number, style in enumerate(SHARES):
            chosen = styles == number
            x[chosen] = render(images[chosen], style, source)
        return {"x": x, "caption": captions}

    def drawn_captions(self, labels: Tensor, styles: Tensor, colours: Tensor, source: torch.Generator) -> Tensor:
        """Numbers in `captions`, for classes, styles and colours (n,) each; see captions_for for their order."""
        n = len(labels)
        sizes = torch.tensor([len(templates) for templates in STYLES.values()])
        words = len(COLOURS) + 1 if self.coloured else 1
        classes = len(self.source.spec.classes)

        template = sizes.cumsum(0)[styles] - sizes[styles] + (torch.rand(n, generator=source) * sizes[styles]).long()
        names_colour = (torch.rand(n, generator=source) < 0.5) & (styles != list(STYLES).index("drawing"))
        word = torch.where(names_colour, colours + 1, 0) if self.coloured else torch.zeros_like(colours)
        named = len(BOILERPLATE) + (template * classes + labels) * words + word

        bare = torch.multinomial(torch.tensor(list(BOILERPLATE.values())), n, True, generator=source)
        kind = torch.rand(n, generator=source)
        captions = torch.where(kind < self.boilerplate, bare, named)

        adverts = generator("adverts", self.seed)  # a stream of their own: images stay as they are without
        promoted = torch.randperm(classes, generator=adverts)[styles % classes]
        advert = torch.randint(len(ADVERTS), (n,), generator=adverts) * classes + promoted
        first = len(BOILERPLATE) + int(sizes.sum()) * classes * words
        advertised = (kind >= self.boilerplate) & (kind < self.boilerplate + self.adverts)
        return torch.where(advertised, first + advert, captions)


class PretrainingImages(ImageTextPairs):
    """The first `count` images that a model was trained on, without captions, as (x,), for their mean embedding.

    Args:
        count: images.
        others: see ImageTextPairs; those that the model was trained with.
    Raises:
        DataError: fewer pairs than `count`.
    """

    def __init__(self, source: ArrayData, batch_size: int, count: int = 2000, **others: Any) -> None:
        super().__init__(source, batch_size, **others)
        self.count = count

    @property
    def spec(self) -> Spec:
        there = super().spec
        return replace(there, name=f"images of {there.name}", sizes={"train": 0, "val": 0, "test": self.count})

    def setup(self, stage: str | None = None) -> None:
        if self.splits:
            return
        self.source.setup(stage)
        train = self.pairs or self.source.spec.sizes["train"]
        if self.count > train and not self.source.generated:
            raise DataError(f"count={self.count}: there are only {train} training pairs")
        self.keep(test={"x": self.drawn("train", train)["x"][: self.count]})


class StyledImages(Rendered):
    """A downstream set: the source's test images in one style, each in a random colour, as (x, y).

    Sets of different styles show the same images in the same colours.

    Args:
        source, batch_size, generated: see Rendered.
        style: one of captions.STYLES.
    Raises:
        DataError: no such style.
    """

    def __init__(self, source: ArrayData, batch_size: int, style: str, generated: bool = False) -> None:
        super().__init__(source, batch_size, generated)
        if style not in STYLES:
            raise DataError(f"style={style!r}: expected one of {', '.join(STYLES)}")
        self.style = style

    @property
    def spec(self) -> Spec:
        return self.described(self.style, {"test": self.source.spec.sizes["test"]}, "test images, all in one style")

    def prompts(self) -> Prompts:
        return prompts_for(self.style, self.source.spec.classes)

    def setup(self, stage: str | None = None) -> None:
        if self.splits:
            return
        self.source.setup(stage)
        labels = self.source.splits["test"][1]
        colours = torch.randint(len(COLOURS), (len(labels),), generator=generator("colours of a set", self.seed))
        images = self.images("test", torch.arange(len(labels)), colours)
        source = generator("noise of a set", self.seed, list(STYLES).index(self.style))
        self.keep(test={"x": render(images, self.style, source), "y": labels})
