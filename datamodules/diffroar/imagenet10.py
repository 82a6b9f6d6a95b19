"""ImageNet-10: ten groups of ImageNet classes."""

from __future__ import annotations

from typing import Any

from datamodules.common.base import DataError
from datamodules.common.folders import ImageFolder, Source

# ImageNet classes by number, the six lowest of each group. They follow WordNet; `boat` has six classes.
GROUPS: dict[str, tuple[int, ...]] = {
    "dog": (151, 152, 153, 154, 155, 156),
    "bird": (7, 8, 9, 10, 11, 12),
    "insect": (300, 301, 302, 303, 304, 305),
    "monkey": (370, 371, 372, 373, 374, 375),
    "car": (407, 436, 468, 511, 609, 627),
    "feline": (286, 287, 288, 289, 290, 291),
    "truck": (555, 569, 675, 717, 734, 864),
    "fruit": (984, 987, 988, 989, 990, 998),
    "fungus": (991, 992, 993, 994, 995, 996),
    "boat": (472, 554, 576, 625, 814, 914),
}


class ImageNet10(ImageFolder):
    """ImageNet's photos of 60 classes, six to each of ten labels: the robustness library's group `mixed_10`, balanced.

    It reads root/{train,val}/<wnid>/ and leaves other class folders aside. About 1,300 training and 50 test photos of
    each of the 60 classes.

    Args:
        jitter: of brightness, contrast and saturation in training.
        options: see ImageFolder.
    """

    title = "ImageNet-10"
    where = "60 classes of ImageNet-1k: https://image-net.org/download.php, sorted into <root>/{train,val}/<wnid>/"

    def __init__(self, root: str, batch_size: int, jitter: float = 0.1, **options: Any) -> None:
        super().__init__(root, batch_size, **options)
        self.jitter = jitter

    @staticmethod
    def labels() -> dict[str, int]:
        """WordNet id -> label, of the 60 classes."""
        from timm.data import ImageNetInfo

        wnids = ImageNetInfo().label_names()
        return {wnids[number]: label for label, group in enumerate(GROUPS.values()) for number in group}

    def classes(self) -> tuple[str, ...]:
        return tuple(GROUPS)

    def expected_sizes(self) -> dict[str, int]:
        return {"train": 78_000, "test": 3_000}

    def _list(self) -> None:
        if self.source is None:
            self.source = Source(self.root)
        labels = self.labels()
        for split, stored in (("train", "train"), ("test", self.test_split)):
            files = self.source.files.get(stored, {})
            if missing := next((wnid for wnid in labels if wnid not in files), None):
                raise DataError(f"{self.root}/{stored} has no folder {missing}; {self.title} needs it")
            self.items[split] = [(name, label) for wnid, label in sorted(labels.items()) for name in files[wnid]]

    def transform(self, *, train: bool) -> Any:
        from torchvision.transforms import v2

        made = super().transform(train=train)
        if not train:
            return made
        crop, flip, *tail = made.transforms
        jitter = v2.ColorJitter(self.jitter, self.jitter, self.jitter)
        return v2.Compose([v2.Resize(self.resize), crop, flip, jitter, *tail])
