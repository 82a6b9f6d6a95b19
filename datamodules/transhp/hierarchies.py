"""Coarse classes above the classes of a dataset, and a datamodule that serves them with every image.

A hierarchy has levels, coarsest first. At each level a class has one coarse class, or none: "no ancestor at this level"
is then a coarse class of its own, the last one.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from datamodules.common.base import DataError, DataModule, Spec, generator
from datamodules.common.loader import Loader, batch_type
from datamodules.common.torchvision_sets import CIFAR10 as CIFAR10Set
from datamodules.common.torchvision_sets import FashionMNIST
from datamodules.common.views import View
from datamodules.transhp.emblems import CLASSES as EMBLEMS
from datamodules.transhp.emblems import FINE
from datamodules.transhp.shapes import SHAPES

Groups = Mapping[str, Sequence[str]]  # coarse class -> its classes
CIFAR100: Groups = {  # Krizhevsky 2009; both kinds of names in alphabetical order are the dataset's labels
    "aquatic_mammals": ("beaver", "dolphin", "otter", "seal", "whale"),
    "fish": ("aquarium_fish", "flatfish", "ray", "shark", "trout"),
    "flowers": ("orchid", "poppy", "rose", "sunflower", "tulip"),
    "food_containers": ("bottle", "bowl", "can", "cup", "plate"),
    "fruit_and_vegetables": ("apple", "mushroom", "orange", "pear", "sweet_pepper"),
    "household_electrical_devices": ("clock", "keyboard", "lamp", "telephone", "television"),
    "household_furniture": ("bed", "chair", "couch", "table", "wardrobe"),
    "insects": ("bee", "beetle", "butterfly", "caterpillar", "cockroach"),
    "large_carnivores": ("bear", "leopard", "lion", "tiger", "wolf"),
    "large_man-made_outdoor_things": ("bridge", "castle", "house", "road", "skyscraper"),
    "large_natural_outdoor_scenes": ("cloud", "forest", "mountain", "plain", "sea"),
    "large_omnivores_and_herbivores": ("camel", "cattle", "chimpanzee", "elephant", "kangaroo"),
    "medium_mammals": ("fox", "porcupine", "possum", "raccoon", "skunk"),
    "non-insect_invertebrates": ("crab", "lobster", "snail", "spider", "worm"),
    "people": ("baby", "boy", "girl", "man", "woman"),
    "reptiles": ("crocodile", "dinosaur", "lizard", "snake", "turtle"),
    "small_mammals": ("hamster", "mouse", "rabbit", "shrew", "squirrel"),
    "trees": ("maple_tree", "oak_tree", "palm_tree", "pine_tree", "willow_tree"),
    "vehicles_1": ("bicycle", "bus", "motorcycle", "pickup_truck", "train"),
    "vehicles_2": ("lawn_mower", "rocket", "streetcar", "tank", "tractor"),
}
FASHION: Groups = {  # ours
    "tops": ("T-shirt", "pullover", "coat", "shirt"),
    "trousers": ("trouser",),
    "dresses": ("dress",),
    "footwear": ("sandal", "sneaker", "ankle boot"),
    "bags": ("bag",),
}
CIFAR10: Groups = {  # ours
    "fliers and ships": ("airplane", "ship"),
    "road vehicles": ("automobile", "truck"),
    "birds": ("bird",),
    "pets": ("cat", "dog"),
    "other animals": ("deer", "frog", "horse"),
}
WORDNET = (2, 2, 2, 4, 9, 16, 25, 49, 90, 170, 406)  # coarse classes at each depth, as the released networks have them
WORDNET_FILE = "hi_label_idx.csv"
WORDNET_SHA256 = "523c14ee8cbf9d35209e4987f3368f53d527eb9f136638ceb2544b1324fcfcd6"
WORDNET_WHERE = "github.com/WangWenhao0716/TransHP, file hi_label_idx.csv"


class Hierarchy:
    """Levels of coarse classes above K classes.

    Attributes:
        classes: K.
        prompts: coarse classes at each level, coarsest first, "no ancestor" included.
        names: of the coarse classes of each level.
    """

    def __init__(self, classes: int, prompts: Sequence[int], names: Sequence[Sequence[str]]) -> None:
        self.classes = classes
        self.prompts = list(prompts)
        self.names = [list(level) for level in names]

    def available(self, root: Path) -> str:
        """Empty when the levels can be read, from the folder `root` if they are in a file; else what is missing."""
        return ""

    def table(self, root: Path) -> Tensor:
        """(K, L) coarse class of each class at each level. Raises DataError if it cannot be read."""
        raise NotImplementedError(f"{type(self).__name__} has no table")

    def random(self, seed: int) -> Tensor:
        """A table of the same shape for dry runs."""
        source = generator("random hierarchy", seed)
        columns = [torch.randint(m, (self.classes,), generator=source) for m in self.prompts]
        return torch.stack(columns, 1)


class Written(Hierarchy):
    """One level of named groups.

    Args:
        groups: coarse class -> classes; their order is the coarse label.
        names: of the classes, in label order.
    Raises:
        DataError: a class is in no group, or in several.
    """

    def __init__(self, groups: Groups, names: Sequence[str]) -> None:
        super().__init__(len(names), [len(groups)], [list(groups)])
        members = [name for group in groups.values() for name in group]
        if sorted(members) != sorted(names):
            wrong = sorted(set(members) ^ set(names)) or sorted({m for m in members if members.count(m) > 1})
            raise DataError(f"{wrong[0]!r} is not in exactly one of the groups {', '.join(groups)}")
        number = {name: label for label, group in enumerate(groups.values()) for name in group}
        self._table = torch.tensor([[number[name]] for name in names])

    def table(self, root: Path) -> Tensor:
        return self._table


def fashion_mnist() -> Written:
    """Five kinds of articles, written down before any run; two of them hold one class alone."""
    return Written(FASHION, FashionMNIST.described.classes)


def cifar10() -> Written:
    """Five made-up groups, written down before any run."""
    return Written(CIFAR10, CIFAR10Set.described.classes)


def cifar100() -> Written:
    """The dataset's own 20 superclasses."""
    return Written(CIFAR100, sorted(name for group in CIFAR100.values() for name in group))


def shapes() -> Written:
    """The five shapes of the generated pictures."""
    values = {shape: [f"{shape}, {value}" for value in values] for shape, values in SHAPES.items()}
    return Written(values, [name for group in values.values() for name in group])


def emblems() -> Written:
    """The twenty emblems of the generated pictures, five symbols each."""
    names = [EMBLEMS[start : start + FINE] for start in range(0, len(EMBLEMS), FINE)]
    return Written({group[0].partition(",")[0]: group for group in names}, EMBLEMS)


class WordNet(Hierarchy):
    """Ancestors of ImageNet-1k's classes in WordNet at eleven depths, from the table released with the paper.

    The file, hi_label_idx.csv, has a row for each class, in any order: its number (rank of the wnid), then its
    ancestors, finest level first, -1 where it has none. The networks have room for a few more coarse classes than
    occur.
    """

    def __init__(self) -> None:
        names = [[*map(str, range(m)), "no ancestor"] for m in WORDNET]
        super().__init__(1000, [m + 1 for m in WORDNET], names)

    def available(self, root: Path) -> str:
        path = root / WORDNET_FILE
        return "" if path.is_file() else f"{path} is missing; get it from {WORDNET_WHERE}"

    def table(self, root: Path) -> Tensor:
        if problem := self.available(root):
            raise DataError(problem)
        content = (root / WORDNET_FILE).read_bytes().replace(b"\r\n", b"\n")
        digest = hashlib.sha256(content).hexdigest()
        if digest != WORDNET_SHA256:
            raise DataError(
                f"{root / WORDNET_FILE} is damaged or another version: sha256 {digest}, expected {WORDNET_SHA256}"
            )
        rows = list(csv.reader(content.decode().splitlines()))[1:]
        return levels({int(row[0]): [int(value) for value in row[1:]] for row in rows}, WORDNET)


def levels(rows: Mapping[int, Sequence[int]], sizes: Sequence[int]) -> Tensor:
    """(K, L), coarsest level first, from ancestors with the finest first and -1 for none, which becomes class M.

    Args:
        rows: class -> its L ancestors.
        sizes: M of each level, coarsest first.
    """
    table = torch.tensor([list(rows[label]) for label in range(len(rows))]).flip(1)
    return torch.where(table < 0, torch.tensor(sizes), table)


class Hierarchical(View):
    """Another dataset whose batches also hold coarse classes: (images, class (B,), coarse classes (B, L)).

    Args:
        source: the dataset; its seed and augmentation are used, its batch size is not.
        hierarchy: above its classes.
        batch_size: the global batch, over all devices.
        root: folder with label files, for hierarchies that are read from one.
        skip: coarsest levels to leave out.
        generated: see DataModule.
    Raises:
        DataError: another number of classes, no level left, or what the source or the hierarchy says.
    """

    def __init__(
        self,
        source: DataModule,
        hierarchy: Hierarchy,
        batch_size: int,
        root: str = "data/labels",
        skip: int = 0,
        generated: bool = False,
    ) -> None:
        super().__init__(source, batch_size, generated=generated)
        if not 0 <= skip < len(hierarchy.prompts):
            raise DataError(f"skip={skip}: the hierarchy has {len(hierarchy.prompts)} levels, and one has to stay")
        self.hierarchy = hierarchy
        self.labels = Path(root)
        self.skip = skip
        self.prompts = hierarchy.prompts[skip:]
        self.names = hierarchy.names[skip:]
        self.table: Tensor | None = None

    @property
    def inner(self) -> DataModule:
        """The source, with the batch size and the trainer that its loaders go by."""
        self.source.batch_size = self.batch_size
        self.source.trainer = self.trainer
        return self.source

    @property
    def spec(self) -> Spec:
        return self.source.spec

    def available(self) -> str:
        return ". ".join(filter(None, (self.source.available(), self.hierarchy.available(self.labels))))

    def setup(self, stage: str | None = None) -> None:
        self.inner.setup(stage or "")
        if self.table is not None:
            return
        if (k := len(self.spec.classes)) != self.hierarchy.classes:
            raise DataError(f"{self.spec.name} has {k} classes, the hierarchy {self.hierarchy.classes}")
        whole = self.hierarchy.random(self.seed) if self.generated else self.hierarchy.table(self.labels)
        self.table = whole[:, self.skip :]

    def train_dataloader(self) -> Loader:
        return self._with_table(self.inner.train_dataloader())

    def val_dataloader(self) -> Loader | list[Any]:
        loader = self.inner.val_dataloader()
        return loader if isinstance(loader, list) else self._with_table(loader)

    def test_dataloader(self) -> Loader:
        return self._with_table(self.inner.test_dataloader())

    def _with_table(self, loader: Loader) -> Loader:
        """The same batches with a column `coarse`: each label's row of the table."""
        loader.finish = self._add_coarse
        return loader

    def _add_coarse(self, batch: Any) -> Any:
        assert self.table is not None
        self.table = self.table.to(batch.y.device)
        return batch_type((*batch._fields, "coarse"))(*batch, self.table[batch.y])
