"""Benchmarks of image recognition and retrieval of 2006 to 2014: collections of photos, read in their own layouts.

Every class reads the folder as its authors distribute it. A photo, or the box in it, is resized to a square (bicubic,
antialiased): the networks these sets are used with take squares.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from datamodules.common.base import DataError, Fed, Spec, hashed
from datamodules.common.folders import UNREADABLE
from datamodules.off_the_shelf.collection import Collection

Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels


@dataclass(frozen=True)
class Photo:
    """A file below the root, the part of it that is looked at (None: all), and a key where targets refer to it."""

    file: str
    box: Box | None = None
    key: str = ""


def enlarged(box: Box, factor: float) -> Box:
    """The box with both sides times `factor`, about its centre."""
    left, top, right, bottom = box
    dx, dy = (right - left) * (factor - 1) / 2, (bottom - top) * (factor - 1) / 2
    return left - dx, top - dy, right + dx, bottom + dy


def square_around(box: Box) -> Box:
    """The smallest square that contains the box, about its centre."""
    left, top, right, bottom = box
    half, x, y = max(right - left, bottom - top) / 2, (left + right) / 2, (top + bottom) / 2
    return x - half, y - half, x + half, y + half


def inside(box: Box, width: int, height: int, square: bool) -> Box:
    """The box cut at the picture's edge; a square one is first moved inside, and shrunk if it is too large."""
    left, top, right, bottom = box
    if square:
        side = min(right - left, width, height)
        left = min(max((left + right - side) / 2, 0), width - side)
        top = min(max((top + bottom - side) / 2, 0), height - side)
        return left, top, left + side, top + side
    return max(left, 0), max(top, 0), min(right, width), min(bottom, height)


class PhotoCollection(Collection):
    """Photos read when they are served.

    Args:
        root: the dataset's folder.
        batch_size: the global batch, over all devices.
        side: of the squares served, pixels.
        context: both sides of a box are multiplied by this before it is cut out.
        others: see Collection.
    """

    title: str
    where: str
    expected: tuple[int, int]  # training and test images
    names: tuple[str, ...] = ()
    marker: str  # a file or folder that is there when the dataset is
    square = False  # boxes are squares and stay so

    def __init__(
        self,
        root: str,
        batch_size: int,
        side: int = 221,
        context: float = 1.0,
        features: Fed | Sequence[Fed] = (),
        seed: int = 0,
        generated: bool = False,
    ) -> None:
        super().__init__(batch_size, features, None, seed, generated)
        self.root = Path(root)
        self.side = side
        self.context = context
        self.photos: list[Photo] = []

    def listing(self) -> tuple[list[Photo], list[Photo], Tensor, Tensor]:
        """(training photos, test photos, their targets)."""
        raise NotImplementedError

    def available(self) -> str:
        exists = (self.root / self.marker).exists()
        return "" if exists else f"{self.root / self.marker} does not exist. {self.title}: {self.where}"

    def declared(self) -> Spec:
        return Spec(
            name=self.title,
            shape=(3, self.side, self.side),
            classes=self.names,
            sizes={"train": self.expected[0], "val": 0, "test": self.expected[1]},
            mean=(0.0, 0.0, 0.0),
            std=(1.0, 1.0, 1.0),
            split="the official training and test images",
            where=self.where,
        )

    def read(self) -> str:
        try:
            train, test, y_train, y_test = self.listing()
        except (*UNREADABLE, LookupError) as error:
            raise DataError(f"{self.root} is no {self.title}: {error}") from error
        if not train or not test:
            raise DataError(f"{self.root} lists {len(train)} training and {len(test)} test photos. {self.where}")
        place: dict[Photo, int] = {}
        for photo in (*train, *test):
            place.setdefault(photo, len(place))
        self.photos = list(place)
        self.rows = {n: torch.tensor([place[p] for p in part]) for n, part in (("train", train), ("test", test))}
        self.targets = {"train": y_train, "test": y_test}
        return hashed(*self.targets.values(), *self.rows.values())

    def images(self, rows: Tensor) -> Tensor:
        return torch.stack([self.decoded(self.photos[row]) for row in rows.tolist()])

    def decoded(self, photo: Photo) -> Tensor:
        from torchvision.transforms.v2 import functional as V

        path = self.root / photo.file
        try:
            with Image.open(path) as picture:
                image = picture.convert("RGB")
        except UNREADABLE as error:
            raise DataError(f"{path} cannot be decoded ({error}); replace or remove it") from error
        box = (0.0, 0.0, float(image.width), float(image.height))
        if photo.box is not None:
            box = inside(enlarged(photo.box, self.context), image.width, image.height, self.square)
        size = (self.side, self.side)
        return V.pil_to_tensor(image.resize(size, Image.Resampling.BICUBIC, box=box)).float() / 255


def lines(path: Path) -> list[list[str]]:
    """Words of each line that has any."""
    return [words for line in path.read_text(encoding="utf-8").splitlines() if (words := line.split())]


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
        parts = [(self.root / n).read_text(encoding="utf-8").split() for n in ("TrainImages.txt", "TestImages.txt")]
        scenes = {scene: n for n, scene in enumerate(sorted({f.split("/")[0] for part in parts for f in part}))}
        train, test = ([Photo(f"Images/{f}") for f in part] for part in parts)
        y_train, y_test = (torch.tensor([scenes[f.split("/")[0]] for f in part]) for part in parts)
        return train, test, y_train, y_test


class CUB200(PhotoCollection):
    """Caltech-UCSD Birds 200-2011 with bounding boxes, no parts."""

    title = "CUB 200-2011"
    where = "https://www.vision.caltech.edu/datasets/cub_200_2011, unpacked"
    expected = (5994, 5794)
    marker = "bounding_boxes.txt"
    names = tuple(str(number) for number in range(200))

    def listing(self) -> tuple[list[Photo], list[Photo], Tensor, Tensor]:
        files, labels, split, boxes = (
            lines(self.root / f"{n}.txt")
            for n in ("images", "image_class_labels", "train_test_split", "bounding_boxes")
        )
        parts: dict[str, tuple[list[Photo], list[int]]] = {"1": ([], []), "0": ([], [])}  # training and test birds
        for (_, file), (_, label), (_, train), (_, *numbers) in zip(files, labels, split, boxes, strict=True):
            x, y, w, h = map(float, numbers)
            parts[train][0].append(Photo(f"images/{file}", (x, y, x + w, y + h)))
            parts[train][1].append(int(label) - 1)
        return parts["1"][0], parts["0"][0], torch.tensor(parts["1"][1]), torch.tensor(parts["0"][1])


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
        parts = [[int(n) for n in part] for part in (train, sets["tstid"][0])]
        photos = [[Photo(f"jpg/image_{n:05d}.jpg") for n in part] for part in parts]
        y_train, y_test = (torch.tensor([int(labels[n - 1]) - 1 for n in part]) for part in parts)
        return photos[0], photos[1], y_train, y_test


class Attributes(PhotoCollection):
    """Binary attributes of boxes, one line a box: file, class, x1, y1, x2, y2, then K values above 0 for present.

    UIUC's aPascal (Farhadi et al. 2009) is distributed so; other sets (H3D) can be written so.

    Args:
        title: what to call it.
        count: K.
        names: of the attributes; None numbers them.
        train, test: names of the two lists in the root.
        photos: folder of the photos, from the root.
        train_classes, test_classes: keep boxes of these classes alone; None keeps all.
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
        train: str = "apascal_train.txt",
        test: str = "apascal_test.txt",
        photos: str = "JPEGImages",
        train_classes: Sequence[str] | None = None,
        test_classes: Sequence[str] | None = None,
        unspecified: float | None = None,
        sizes: Sequence[int] | None = None,
        **options: object,
    ) -> None:
        super().__init__(root, batch_size, **options)  # type: ignore[arg-type]
        self.title = title
        self.lists = (train, test)
        self.folder = photos
        self.marker = train
        self.kept = (train_classes, test_classes)
        self.unspecified = unspecified
        self.names = tuple(str(number) for number in range(count)) if names is None else tuple(names)
        if len(self.names) != count:
            raise DataError(f"names={list(self.names)}: expected {count}")
        if sizes is not None:
            self.expected = (sizes[0], sizes[1])

    def random_targets(self, count: int) -> Tensor:
        return (torch.arange(count)[:, None] + torch.arange(len(self.names))) % 2

    def listing(self) -> tuple[list[Photo], list[Photo], Tensor, Tensor]:
        parts: list[tuple[list[Photo], Tensor]] = []
        for name, kept in zip(self.lists, self.kept, strict=True):
            table = [words for words in lines(self.root / name) if kept is None or words[1] in kept]
            if wrong := [words for words in table if len(words) != 6 + len(self.names)]:
                raise ValueError(f"{name}: {len(wrong[0]) - 6} attributes where {len(self.names)} are expected")
            boxes = [Photo(f"{self.folder}/{w[0]}", tuple(map(float, w[2:6]))) for w in table]  # type: ignore[arg-type]
            values = torch.tensor([[float(value) for value in words[6:]] for words in table])
            y = (values > 0).long()
            parts.append((boxes, y if self.unspecified is None else y.masked_fill(values == self.unspecified, -1)))
        return parts[0][0], parts[1][0], parts[0][1], parts[1][1]


class Retrieval(PhotoCollection):
    """References and queries. The target of a query is its row of relevance: 1 relevant, 0 not, -1 to be ignored."""

    square = True
    tested = ("train", "test")  # references, then queries

    def random_targets(self, count: int) -> Tensor:
        return torch.eye(count, dtype=torch.long)


class Landmarks(Retrieval):
    """Oxford5k and Paris6k: photos anywhere below `photos`, ground truth gt/<query>_{query,good,ok,junk}.txt.

    good and ok are relevant, junk is ignored. A query is the smallest square around its region of interest.

    Args:
        title: what to call it.
        sizes: references and queries expected, for listings of what is needed.
        others: see PhotoCollection.
    """

    where = "https://www.robots.ox.ac.uk/~vgg/data: the photos below <root>/images, the ground truth files in <root>/gt"
    marker = "gt"

    def __init__(self, root: str, batch_size: int, title: str, sizes: Sequence[int], **options: object) -> None:
        super().__init__(root, batch_size, **options)  # type: ignore[arg-type]
        self.title = title
        self.expected = (sizes[0], sizes[1])

    def listing(self) -> tuple[list[Photo], list[Photo], Tensor, Tensor]:
        files = sorted((self.root / "images").rglob("*.jpg"))
        number = {file.stem: n for n, file in enumerate(files)}
        references = [Photo(file.relative_to(self.root).as_posix()) for file in files]
        queries, rows = [], []
        for stated in sorted((self.root / "gt").glob("*_query.txt")):
            (name, *box), *_ = lines(stated)
            file = references[number[name.removeprefix("oxc1_")]].file
            left, top, right, bottom = map(float, box)
            queries.append(Photo(file, square_around((left, top, right, bottom)), stated.stem))
            row = torch.zeros(len(files), dtype=torch.long)
            for kind, value in (("good", 1), ("ok", 1), ("junk", -1)):
                listed = lines(stated.with_name(stated.name.replace("_query", f"_{kind}")))
                row[[number[words[0]] for words in listed]] = value
            rows.append(row)
        return references, queries, torch.zeros(len(files), dtype=torch.long), torch.stack(rows)


class Holidays(Retrieval):
    """INRIA Holidays: <root>/jpg/1xxxyy.jpg, xxx the group, yy = 00 its query, which is left out of its own ranking."""

    title = "INRIA Holidays"
    where = "https://lear.inrialpes.fr/~jegou/data.php, jpg1.tar.gz and jpg2.tar.gz unpacked to <root>/jpg"
    expected = (1491, 500)
    marker = "jpg"

    def listing(self) -> tuple[list[Photo], list[Photo], Tensor, Tensor]:
        names = sorted(int(file.stem) for file in (self.root / "jpg").glob("*.jpg"))
        photos = [Photo(f"jpg/{n}.jpg") for n in names]
        queries = [i for i, n in enumerate(names) if n % 100 == 0]
        group = torch.tensor(names) // 100
        relevance = (group[queries, None] == group).long()
        relevance[torch.arange(len(queries)), torch.tensor(queries)] = -1
        return photos, [photos[i] for i in queries], torch.zeros(len(names), dtype=torch.long), relevance


class UKBench(Retrieval):
    """UKBench: <root>/full/ukbench00000.jpg and on, four photos of each object in a row; every photo is a query, and is
    itself among its four relevant ones.
    """

    title = "UKBench"
    where = "https://archive.org/details/ukbench, unpacked to <root>/full"
    expected = (10200, 10200)
    marker = "full"

    def listing(self) -> tuple[list[Photo], list[Photo], Tensor, Tensor]:
        names = sorted((self.root / "full").glob("ukbench*.jpg"))
        photos = [Photo(f"full/{file.name}") for file in names]
        thing = torch.tensor([int(file.stem.removeprefix("ukbench")) // 4 for file in names])
        return photos, photos, torch.zeros(len(names), dtype=torch.long), (thing[:, None] == thing).to(torch.int8)
