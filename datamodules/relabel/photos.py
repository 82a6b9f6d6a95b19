"""ImageNet for students of label maps, and the whole photos that the maps are made of."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.common.base import Fed, generator
from datamodules.common.folders import Generated, ImageNet, Normalise, Photos
from datamodules.common.loader import WorkerLoader
from datamodules.relabel.maps import MapFile, maps_of, random_maps

# Of ImageNet's colours (Krizhevsky et al. 2012): eigenvalues, and eigenvectors in columns.
EIGENVALUES = (0.2175, 0.0188, 0.0045)
EIGENVECTORS = ((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203))


class Lighting:
    """AlexNet's colour noise: adds a random multiple of each principal component of ImageNet's colours.

    Args:
        std: of the multiples, in units of the eigenvalues.
    """

    def __init__(self, std: float) -> None:
        self.std = std

    def __call__(self, image: Tensor) -> Tensor:
        """(3, H, W) in [0, 1] -> the same, a little out of range."""
        amounts = self.std * torch.randn(3) * torch.tensor(EIGENVALUES)
        return image + (torch.tensor(EIGENVECTORS) @ amounts).view(3, 1, 1)


class BoxedCrop:
    """A random resized crop and what follows it, as a photo's transform that tells the crop's box.

    Args:
        side: of the crop after resizing, pixels.
        scale: range of its area, as fractions of the photo's.
        further: transform of the crop.
    """

    def __init__(self, side: int, scale: Sequence[float], further: Any) -> None:
        self.side, self.scale, self.further = side, list(scale), further

    def __call__(self, image: Any) -> tuple[Tensor, Tensor]:
        """PIL image -> what `further` makes of the crop, and (4,): x1, y1, x2, y2 as fractions of the photo."""
        from torchvision.transforms import InterpolationMode, RandomResizedCrop
        from torchvision.transforms import functional as V

        width, height = image.size
        top, left, rows, columns = RandomResizedCrop.get_params(image, self.scale, [3 / 4, 4 / 3])
        box = torch.tensor([left / width, top / height, (left + columns) / width, (top + rows) / height])
        bilinear = InterpolationMode.BILINEAR
        crop = V.resized_crop(image, top, left, rows, columns, [self.side, self.side], bilinear)
        return self.further(crop), box


class CroppedPhotos(Photos):
    """(x, y, box), with label maps (x, y, box, map), of the photo of an (epoch, row) pair."""

    maps: MapFile | None = None

    def __getitem__(self, key: tuple[int, int]) -> Any:
        (x, box), label = super().__getitem__(key)
        return (x, label, box) if self.maps is None else (x, label, box, self.maps[key[1]])


class JudgedPhotos(Photos):
    """(x, y, valid (L,)): with all labels that count as right, padded with -1."""

    valid: Tensor

    def __getitem__(self, key: tuple[int, int]) -> Any:
        return (*super().__getitem__(key), self.valid[key[1]])


class NumberedPhotos(Photos):
    """(x, y, row)."""

    def __getitem__(self, key: tuple[int, int]) -> Any:
        return (*super().__getitem__(key), key[1])


class StandIns(Generated):
    """Generated photos with further columns.

    Args:
        shape, classes, length: see Generated.
        further: columns by row, (length, ...).
    """

    def __init__(self, shape: tuple[int, ...], classes: int, length: int, *further: Tensor) -> None:
        super().__init__(shape, classes, length)
        self.further = further

    def __getitem__(self, key: tuple[int, int]) -> Any:
        return (*super().__getitem__(key), *(column[key[1]] for column in self.further))


class CroppedImageNet(ImageNet):
    """ImageNet-1k for students: crops with their boxes and label maps in training, ReaL's labels in the test.

    Training batches are (x, y, box (B, 4)), x1, y1, x2, y2 as fractions of the photo; fed with label maps also map
    (B, 2, K, H, W). Crop and mirror, then jittered colours and colour noise. Test batches are (x, y, valid (B, L)):
    the reassessed labels (Beyer et al. 2020, from timm) padded with -1; a photo without any has none but -1.

    Args:
        maps: a finished stage that made label maps of the training photos, see WholeImageNet.
        jitter: strength of brightness, contrast and saturation.
        lighting: see Lighting.
        map_shape: (K, H, W) of generated label maps.
        others: see ImageFolder.
    Raises:
        DataError: maps of other photos; others see ImageFolder.
    """

    def __init__(
        self,
        root: str,
        batch_size: int,
        maps: Fed | None = None,
        jitter: float = 0.4,
        lighting: float = 0.1,
        map_shape: tuple[int, int, int] = (5, 15, 15),
        **options: Any,
    ) -> None:
        super().__init__(root, batch_size, **options)
        self.jitter, self.lighting = jitter, lighting
        self.map_shape = map_shape
        self.with_maps = maps is not None
        self.fed = maps
        self.maps: MapFile | None = None

    def setup(self, stage: str | None = None) -> None:
        super().setup(stage)
        if self.fed is not None and not self.generated:
            self.maps = MapFile(maps_of(self.fed, torch.tensor([label for _, label in self.items["train"]])))
        self.fed = None  # it holds the annotator

    def transform(self, *, train: bool) -> Any:
        if not train:
            return super().transform(train=False)
        from torchvision.transforms import v2

        colours = v2.ColorJitter(self.jitter, self.jitter, self.jitter)
        pixels = [v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)]
        tail = [Lighting(self.lighting), v2.Normalize(self.mean, self.std)]
        further = v2.Compose([v2.RandomHorizontalFlip(), colours, *pixels, *tail])
        return BoxedCrop(self.image_size, self.crop_scale, further)

    @cached_property
    def valid(self) -> Tensor:
        """(N, L) reassessed labels of the test photos, by file name."""
        from timm.data import RealLabelsImagenet

        names = [f"ILSVRC2012_val_{number:08d}.JPEG" for number in range(1, 50_001)]
        labels = RealLabelsImagenet(names).real_labels
        rows = [torch.tensor(labels.get(PurePosixPath(name).name, [])) for name, _ in self.items["test"]]
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-1).long()

    def _loader(self, split: str) -> WorkerLoader:
        train = split == "train"
        columns = ("x", "y", "box", *(["map"] if self.with_maps else [])) if train else ("x", "y", "valid")
        dataset = self._stand_ins(train) if self.generated else self._photos(split)
        batches = self.batches(len(dataset), shuffle=train)  # type: ignore[arg-type]
        workers = 0 if self.generated else self.num_workers
        finish = Normalise(self.spec, self.device)
        return WorkerLoader(dataset, batches, columns=columns, num_workers=workers, finish=finish)

    def _photos(self, split: str) -> Photos:
        assert self.source is not None
        train = split == "train"
        make = CroppedPhotos if train else JudgedPhotos
        photos = make(self.source, self.items[split], self.transform(train=train), self.seed)
        if isinstance(photos, CroppedPhotos):
            photos.maps = self.maps
        else:
            photos.valid = self.valid
        return photos

    def _stand_ins(self, train: bool) -> Dataset:
        length, classes = 2 * self.batch_size, len(self.spec.classes)
        source = generator("stand-in columns", self.seed)
        corner = torch.rand(length, 2, generator=source) / 2
        box = torch.cat([corner, corner + 0.5], 1)
        maps = [random_maps(length, self.map_shape, classes, source)] if self.with_maps else []
        valid = torch.randint(classes, (length, 2), generator=source)
        return StandIns(self.spec.shape, classes, length, *([box, *maps] if train else [valid]))


class WholeImageNet(ImageNet):
    """ImageNet-1k's training photos, whole and in order, as what is tested on: (x, y, row). Maps are made of them.

    Each photo is squashed to a square: cells of its map are fractions of the photo.
    """

    test_split = "train"

    def expected_sizes(self) -> dict[str, int]:
        return {"train": 0, "test": super().expected_sizes()["train"]}

    def transform(self, *, train: bool) -> Any:
        from torchvision.transforms import v2

        squash = v2.Resize((self.image_size, self.image_size), interpolation=v2.InterpolationMode.BILINEAR)
        return v2.Compose([squash, v2.PILToTensor()])

    def _loader(self, split: str) -> WorkerLoader:
        if self.generated:
            rows = torch.arange(2 * self.batch_size)
            dataset: Any = StandIns(self.spec.shape, len(self.spec.classes), len(rows), rows)
        else:
            assert self.source is not None
            dataset = NumberedPhotos(self.source, self.items["test"], self.transform(train=False), self.seed)
        batches = self.batches(len(dataset), shuffle=False)
        workers = 0 if self.generated else self.num_workers
        finish = Normalise(self.spec, self.device)
        return WorkerLoader(dataset, batches, columns=("x", "y", "row"), num_workers=workers, finish=finish)
