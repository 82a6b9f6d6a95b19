"""Benchmarks of image retrieval of 2006 to 2011, each read from the folder as its authors distribute it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from datamodules.off_the_shelf.photos import Photo, PhotoCollection, lines, square_around


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
