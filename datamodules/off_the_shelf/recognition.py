"""Benchmarks of image recognition of 2007 to 2011, each read from the folder as its authors distribute it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from datamodules.common.base import DataError
from datamodules.common.cub import read_listing
from datamodules.off_the_shelf.photos import Photo, PhotoCollection, lines


class VOC2007(PhotoCollection):
    """Pascal VOC 2007 classification: 20 labels, several a photo.

    Root holds JPEGImages and ImageSets/Main/<class>_{trainval,test}.txt: 1 there, -1 not, 0 difficult. The last become
    -1 in the targets, to be ignored, as in the official evaluation.
    """

    title = "Pascal VOC 2007"
    where = (
        "http://host.robots.ox.ac.uk/pascal/VOC/voc2007, trainval and test with annotations, unpacked to one VOC2007"
    )
    expected = (5011, 4952)
    marker = "ImageSets/Main/aeroplane_test.txt"
    names = (
        *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
        *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
    )

    def random_targets(self, count: int) -> Tensor:
        return (torch.arange(count)[:, None] + torch.arange(len(self.names))) % 2

    def listing(self) -> tuple[list[Photo], list[Photo], Tensor, Tensor]:
        def part(split: str) -> tuple[list[Photo], Tensor]:
            tables = [lines(self.root / f"ImageSets/Main/{name}_{split}.txt") for name in self.names]
            photos = [Photo(f"JPEGImages/{words[0]}.jpg") for words in tables[0]]
            signs = torch.tensor([[int(words[1]) for words in table] for table in tables]).T
            return photos, torch.where(signs == 0, -1, (signs > 0).long())

        (train, y_train), (test, y_test) = part("trainval"), part("test")
        return train, test, y_train, y_test


class MIT67(PhotoCollection):
    """Indoor scenes of 67 kinds, 80 + 20 photos each: Images/<scene>/, TrainImages.txt, TestImages.txt."""

    title = "MIT-67 indoor scenes"
    where = "https://web.mit.edu/torralba/www/indoor.html, Images, TrainImages.txt and TestImages.txt in one folder"
    expected = (5360, 1340)
    marker = "TrainImages.txt"
    names = tuple(str(number) for number in range(67))

    def listing(self) -> tuple[list[Photo], list[Photo], Tensor, Tensor]:
        listed = [(self.root / n).read_text(encoding="utf-8").split() for n in ("TrainImages.txt", "TestImages.txt")]
        scenes = {scene: n for n, scene in enumerate(sorted({f.split("/")[0] for part in listed for f in part}))}
        train, test = ([Photo(f"Images/{f}") for f in part] for part in listed)
        y_train, y_test = (torch.tensor([scenes[f.split("/")[0]] for f in part]) for part in listed)
        return train, test, y_train, y_test


class CUB200(PhotoCollection):
    """Caltech-UCSD Birds 200-2011 with bounding boxes, no parts."""

    title = "CUB 200-2011"
    where = "https://www.vision.caltech.edu/datasets/cub_200_2011, unpacked"
    expected = (5994, 5794)
    marker = "bounding_boxes.txt"
    names = tuple(str(number) for number in range(200))

    def listing(self) -> tuple[list[Photo], list[Photo], Tensor, Tensor]:
        birds = read_listing(self.root)
        train, test = ([Photo(f"images/{bird.file}", bird.box) for bird in birds[name]] for name in ("train", "test"))
        y_train, y_test = (torch.tensor([bird.label for bird in birds[name]]) for name in ("train", "test"))
        return train, test, y_train, y_test


class Flowers102(PhotoCollection):
    """Oxford 102 flowers without segmentation: jpg/, imagelabels.mat, setid.mat.

    Args:
        with_val: train on the official training and validation images together (2,040 instead of 1,020).
        others: see PhotoCollection.
    """

    title = "Oxford 102 flowers"
    where = (
        "https://www.robots.ox.ac.uk/~vgg/data/flowers/102: 102flowers.tgz, imagelabels.mat, setid.mat in one folder"
    )
    expected = (1020, 6149)
    marker = "setid.mat"
    names = tuple(str(number) for number in range(102))

    def __init__(self, root: str, batch_size: int, with_val: bool = False, **options: object) -> None:
        super().__init__(root, batch_size, **options)  # type: ignore[arg-type]
        self.with_val = with_val
        self.expected = (2040 if with_val else 1020, 6149)

    def listing(self) -> tuple[list[Photo], list[Photo], Tensor, Tensor]:
        from scipy.io import loadmat

        labels, sets = loadmat(self.root / "imagelabels.mat")["labels"][0], loadmat(self.root / "setid.mat")
        train = [*sets["trnid"][0], *(sets["valid"][0] if self.with_val else ())]
        listed = [[int(n) for n in part] for part in (train, sets["tstid"][0])]
        photos = [[Photo(f"jpg/image_{n:05d}.jpg") for n in part] for part in listed]
        y_train, y_test = (torch.tensor([int(labels[n - 1]) - 1 for n in part]) for part in listed)
        return photos[0], photos[1], y_train, y_test


@dataclass(frozen=True)
class Boxes:
    """A list of boxes in an attribute set's root.

    Args:
        file: its name.
        classes: keep boxes of these alone; None keeps all.
    """

    file: str
    classes: Sequence[str] | None = None


APASCAL = (Boxes("apascal_train.txt"), Boxes("apascal_test.txt"))


class Attributes(PhotoCollection):
    """Binary attributes of boxes, one line a box: file, class, x1, y1, x2, y2, then K values above 0 for present.

    UIUC's aPascal (Farhadi et al. 2009) is distributed so; other sets (H3D) can be written so.

    Args:
        title: what to call it.
        count: K.
        names: of the attributes; None numbers them.
        train, test: the two lists in the root.
        photos: folder of the photos, from the root.
        unspecified: value of an attribute nobody could judge; it becomes -1 in the targets, to be ignored.
        sizes: boxes expected, (train, test), for listings of what is needed.
        others: see PhotoCollection.
    """

    title = "attributes of boxes"
    where = (
        "https://vision.cs.uiuc.edu/attributes: attribute_data.tar.gz, and the photos of Pascal VOC 2008 in JPEGImages"
    )
    expected = (6340, 6355)

    def __init__(
        self,
        root: str,
        batch_size: int,
        title: str = "UIUC attributes (aPascal)",
        count: int = 64,
        names: Sequence[str] | None = None,
        train: Boxes = APASCAL[0],
        test: Boxes = APASCAL[1],
        photos: str = "JPEGImages",
        unspecified: float | None = None,
        sizes: Sequence[int] | None = None,
        **options: object,
    ) -> None:
        super().__init__(root, batch_size, **options)  # type: ignore[arg-type]
        self.title = title
        self.lists = (train, test)
        self.folder = photos
        self.marker = train.file
        self.unspecified = unspecified
        self.names = tuple(str(number) for number in range(count)) if names is None else tuple(names)
        if len(self.names) != count:
            raise DataError(f"names={list(self.names)}: expected {count}")
        if sizes is not None:
            self.expected = (sizes[0], sizes[1])

    def random_targets(self, count: int) -> Tensor:
        return (torch.arange(count)[:, None] + torch.arange(len(self.names))) % 2

    def listing(self) -> tuple[list[Photo], list[Photo], Tensor, Tensor]:
        listed: list[tuple[list[Photo], Tensor]] = []
        for part in self.lists:
            table = [w for w in lines(self.root / part.file) if part.classes is None or w[1] in part.classes]
            if wrong := [words for words in table if len(words) != 6 + len(self.names)]:
                raise ValueError(f"{part.file}: {len(wrong[0]) - 6} attributes where {len(self.names)} are expected")
            boxes = [Photo(f"{self.folder}/{w[0]}", tuple(map(float, w[2:6]))) for w in table]  # type: ignore[arg-type]
            values = torch.tensor([[float(value) for value in words[6:]] for words in table])
            y = (values > 0).long()
            listed.append((boxes, y if self.unspecified is None else y.masked_fill(values == self.unspecified, -1)))
        return listed[0][0], listed[1][0], listed[0][1], listed[1][1]
