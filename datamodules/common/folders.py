"""Photos in class folders, decoded by workers: any folder, a zip of one, or ImageNet."""

from __future__ import annotations

import hashlib
import io
import os
import time
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from PIL import Image
from PIL.Image import DecompressionBombError
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.common.base import DataError, DataModule, Spec, generator, seed_torch, stream
from datamodules.common.loader import WorkerLoader

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}
LARGEST = 256 * 2**20  # bytes of a photo in a zip, which may promise more than there is memory
# What Pillow and zipfile raise for files that are damaged, encrypted, or made to exhaust the memory.
UNREADABLE = (OSError, SyntaxError, RuntimeError, ValueError, zlib.error, zipfile.BadZipFile, DecompressionBombError)


@dataclass(frozen=True)
class Listing:
    """Image files below a folder, and when each of its folders last changed."""

    names: tuple[str, ...]
    changed: Mapping[str, int]  # nanoseconds

    def holds(self) -> bool:
        """Whether nothing was added, removed or renamed since."""
        try:
            return all(os.stat(folder).st_mtime_ns == then for folder, then in self.changed.items())
        except OSError:
            return False


_listings: dict[Path, Listing] = {}


def image_files(root: Path) -> tuple[str, ...]:
    """Image files below a folder, relative to it and sorted; links to folders are followed.

    Listed once in a process: a list of millions of files is made again only if one of the folders changed.
    """
    known = _listings.get(root)
    if known is None or not known.holds():
        known = _list(root)
        # Of two changes within a tick of the file system's clock, the second cannot be seen: such a list is not kept.
        if time.time_ns() - max(known.changed.values()) > 10**9:
            _listings[root] = known
    return known.names


def _list(root: Path) -> Listing:
    names: list[str] = []
    changed: dict[str, int] = {}
    seen: set[tuple[int, int]] = set()  # links may lead back
    waiting = [(str(root), "")]
    while waiting:
        folder, prefix = waiting.pop()
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        changed[folder] = status.st_mtime_ns
        with os.scandir(folder) as entries:
            for entry in entries:
                if os.path.splitext(entry.name)[1].lower() in SUFFIXES:
                    names.append(prefix + entry.name)
                elif entry.is_dir():
                    waiting.append((entry.path, f"{prefix}{entry.name}/"))
    return Listing(tuple(sorted(names)), changed)


class Source:
    """Image files by split and class in a folder or a zip: `<root>/<split>/<class>/<file>`.

    A zip may have one more folder around everything. Raises DataError if nothing is there or a zip holds a name that
    points outside it.
    """

    def __init__(self, root: Path) -> None:
        self.archive: Path | None = root if root.suffix == ".zip" else root.with_name(root.name + ".zip")
        names: Sequence[str]
        if root.suffix != ".zip" and root.is_dir():
            self.archive = None
            names = image_files(root)
        elif self.archive is not None and self.archive.is_file():
            try:
                with zipfile.ZipFile(self.archive) as opened:
                    names = sorted(n for n in opened.namelist() if PurePosixPath(n).suffix.lower() in SUFFIXES)
            except zipfile.BadZipFile as error:
                raise DataError(f"{self.archive} is damaged: {error}") from error
            if outside := next((n for n in names if n.startswith("/") or ".." in PurePosixPath(n).parts), None):
                raise DataError(f"{self.archive} holds {outside!r}, a name that points outside it; refused")
        else:
            raise DataError(f"{root} does not exist (nor {self.archive}): set data_dir=... or the data's root")
        self.root = root
        self._open: zipfile.ZipFile | None = None
        self.files: dict[str, dict[str, list[str]]] = {}
        for name in names:
            *_, split, label, _ = ("", "", *name.rsplit("/", 3))
            self.files.setdefault(split, {}).setdefault(label, []).append(name)

    def read(self, name: str) -> bytes:
        if self.archive is None:
            return (self.root / name).read_bytes()
        if self._open is None:  # one handle per worker process
            self._open = zipfile.ZipFile(self.archive)
        size = self._open.getinfo(name).file_size
        if size > LARGEST:
            raise DataError(f"{self.archive}: {name} unpacks to {size / 2**20:.0f} MiB, more than any photo; refused")
        return self._open.read(name)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": None}


def decode_by_pillow(data: bytes) -> Image.Image:
    with Image.open(io.BytesIO(data)) as picture:
        if picture.mode != "RGB":
            return picture.convert("RGB")
        picture.load()  # convert would copy it
        return picture


def decode_by_torchvision(data: bytes) -> Tensor:
    """(3, H, W) uint8. Pillow reads the header first, which refuses a picture that would exhaust the memory."""
    from torchvision.io import ImageReadMode, decode_image

    with Image.open(io.BytesIO(data)):
        return decode_image(torch.frombuffer(bytearray(data), dtype=torch.uint8), mode=ImageReadMode.RGB)


DECODERS: dict[str, Callable[[bytes], Any]] = {"pillow": decode_by_pillow, "torchvision": decode_by_torchvision}


def to_planes(photo: Any) -> Tensor:
    """A photo as (C, H, W) uint8, as PILToTensor gives it in three times the time: Pillow parts colours quicker."""
    if isinstance(photo, Tensor):
        return photo
    planes = bytearray(b"".join(plane.tobytes() for plane in photo.split()))
    return torch.frombuffer(planes, dtype=torch.uint8).view(-1, photo.height, photo.width)


class Photos(Dataset):
    """One split: decodes, crops and flips the photo of an (epoch, index) pair; the pair fixes the randomness.

    Gives what `transform` makes of the decoded photo, and the label. Raises DataError naming a file that cannot be
    decoded.
    """

    def __init__(
        self,
        source: Source,
        items: Sequence[tuple[str, int]],
        transform: Any,
        seed: int,
        decode: Callable[[bytes], Any] = decode_by_pillow,
    ) -> None:
        self.source, self.items, self.transform, self.seed, self.decode = source, items, transform, seed, decode

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, int]:
        epoch, index = key
        name, label = self.items[index]
        try:
            image = self.decode(self.source.read(name))
        except UNREADABLE as error:
            raise DataError(f"{self.source.root / name} cannot be decoded ({error}); replace or remove it") from error
        with torch.random.fork_rng(devices=[]):
            seed_torch(stream("augmentation of a photo", self.seed, epoch, index))
            return self.transform(image), label


class Normalise:
    """Photos that workers gave as whole numbers, on the device, scaled to [0, 1] and normalised; others stay.

    Workers hand over a quarter of the bytes, and a batch is normalised in one go.

    Args:
        spec: mean and std.
        device: where the batch is wanted.
    """

    def __init__(self, spec: Spec, device: torch.device) -> None:
        self.device = device
        mean, std = (torch.tensor(values, device=device).view(-1, 1, 1) for values in (spec.mean, spec.std))
        self.scale, self.shift = 1 / (255 * std), -mean / std

    def __call__(self, batch: Any) -> Any:
        if batch.x.dtype != torch.uint8:
            return batch
        whole = batch.x.to(self.device, non_blocking=True)
        if self.device.type == "cpu":
            # NumPy asks for huge pages: getting 40 MB page by page takes longer than to decode five photos.
            x = torch.from_numpy(np.empty(whole.shape, np.float32))
            portion = 2  # photos that are scaled while they are in the cache
        else:
            x = torch.empty(whole.shape, device=self.device)
            portion = len(x)
        for stored, scaled in zip(whole.split(portion), x.split(portion), strict=True):
            scaled.copy_(stored).mul_(self.scale).add_(self.shift)  # addcmul on bytes would take twice as long
        return batch._replace(x=x)


class Generated(Dataset):
    """Random images of the declared shape; `length` of them."""

    def __init__(self, shape: tuple[int, ...], classes: int, length: int) -> None:
        self.shape, self.classes, self.length = shape, classes, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, int]:
        source = generator("stand-in photo", *key)
        return torch.randn(self.shape, generator=source), int(torch.randint(self.classes, (), generator=source))


class ImageFolder(DataModule):
    """Photos under `root/{train,val}/<class>/`; the val folder is watched
    while training and tested on, as is usual for ImageNet.

    Training: random resized crop and mirror. Testing: shorter side to `resize`, centre crop. Bilinear, PIL.

    Args:
        root: folder, or zip with the same layout.
        batch_size: the global batch, over all devices.
        image_size: side of the crop, pixels.
        resize: shorter side before the centre crop; None takes int(256 / 224 * image_size).
        crop_scale: area range of the random crop, as fractions.
        mean, std: per channel, in units of [0, 1].
        num_workers: decoding processes; does not change what is served.
        decoder: "pillow", or "torchvision", which is faster; resized pixels differ by rounding.
        seed, generated: see DataModule.
    Raises:
        DataError: folder, split or class missing, a photo that cannot be decoded, or no such decoder.
    """

    title = "image folder"
    where = "your own photos"
    test_split = "val"

    def __init__(
        self,
        root: str,
        batch_size: int,
        image_size: int = 224,
        resize: int | None = None,
        crop_scale: Sequence[float] = (0.08, 1.0),
        mean: Sequence[float] = (0.485, 0.456, 0.406),
        std: Sequence[float] = (0.229, 0.224, 0.225),
        num_workers: int = 4,
        seed: int = 0,
        generated: bool = False,
        decoder: str = "pillow",
    ) -> None:
        super().__init__(batch_size, seed, generated)
        usable = list(DECODERS) if type(self).transform is ImageFolder.transform else ["pillow"]
        if decoder not in usable:
            raise DataError(f"decoder={decoder!r}: expected {' or '.join(usable)}")
        self.decode = DECODERS[decoder]
        self.root, self.image_size, self.crop_scale = Path(root), image_size, tuple(crop_scale)
        self.resize = resize or int(256 / 224 * image_size)
        self.mean, self.std, self.num_workers = tuple(mean), tuple(std), num_workers
        self.items: dict[str, list[tuple[str, int]]] = {}
        self.source: Source | None = None
        self._spec: Spec | None = None

    def classes(self) -> tuple[str, ...]:
        """Class folders in label order."""
        if self.source is None:
            self.source = Source(self.root)
        folders = self.source.files.get("train") or self.source.files.get(self.test_split) or {}
        return tuple(sorted(folders))

    def expected_sizes(self) -> dict[str, int]:
        self._list()
        return {name: len(items) for name, items in self.items.items()}

    @property
    def spec(self) -> Spec:
        return self._spec or Spec(
            name=self.title,
            shape=(3, self.image_size, self.image_size),
            classes=self.classes(),
            sizes=self.expected_sizes(),
            mean=self.mean,
            std=self.std,
            split="train and val folders; the val folder is also the test set",
            where=self.where,
        )

    def available(self) -> str:
        try:
            source = Source(self.root)
        except DataError as error:
            return f"{error}. {self.title}: {self.where}"
        missing = [split for split in ("train", self.test_split) if split not in source.files]
        return f"{self.root} has no {' and no '.join(missing)} folder. {self.title}: {self.where}" if missing else ""

    def _list(self) -> None:
        classes = {name: label for label, name in enumerate(self.classes())}
        assert self.source is not None
        for split, stored in (("train", "train"), ("test", self.test_split)):
            files = self.source.files.get(stored, {})
            if unknown := set(files) - set(classes):
                raise DataError(
                    f"{self.root}/{stored} has a class folder {min(unknown)!r} that {self.title} does not know"
                )
            self.items[split] = [(name, classes[label]) for label in sorted(files) for name in files[label]]

    def setup(self, stage: str | None = None) -> None:
        if self._spec is not None:
            return
        if self.generated:
            self._spec = replace(self.spec, source="generated")
            return
        self._list()
        if not self.items["test"]:
            raise DataError(self.available() or f"{self.root}/{self.test_split} holds no image")
        listing = "\n".join(f"{label} {name}" for items in self.items.values() for name, label in items)
        identity = hashlib.sha256(listing.encode()).hexdigest()[:12]
        sizes = {name: len(items) for name, items in self.items.items()}
        self._spec = replace(self.spec, sizes=sizes, identity=identity)

    def transform(self, *, train: bool) -> Any:
        """The torchvision pipeline of a split: decoded photo -> (3, S, S) uint8, or what a subclass makes of it.

        Both of torchvision's pipelines draw the same. The first takes less around Pillow's calls, the second resizes
        tensors of whole numbers as they are.
        """
        from torchvision import transforms
        from torchvision.transforms import v2

        made: Any = v2 if self.decode is decode_by_torchvision else transforms
        bilinear = transforms.InterpolationMode.BILINEAR
        head = (
            [
                made.RandomResizedCrop(self.image_size, self.crop_scale, interpolation=bilinear),
                made.RandomHorizontalFlip(),
            ]
            if train
            else [made.Resize(self.resize, interpolation=bilinear), made.CenterCrop(self.image_size)]
        )
        return made.Compose([*head, to_planes])

    def fixed(self, split: str, rows: Sequence[int] | None = None) -> Tensor:
        """Photos of a split (or these rows of it), not augmented: (N, 3, S, S) uint8, all in memory.

        The shorter side is resized and the centre cut out, as Inception's and ResNet's tests have it.
        """
        from torchvision.transforms import v2

        assert self.source is not None
        bilinear = v2.InterpolationMode.BILINEAR
        centre = [v2.Resize(self.resize, interpolation=bilinear), v2.CenterCrop(self.image_size), to_planes]
        photos = Photos(self.source, self.items[split], v2.Compose(centre), self.seed, self.decode)
        chosen = range(len(photos)) if rows is None else rows
        pixels = torch.empty(len(chosen), 3, self.image_size, self.image_size, dtype=torch.uint8)
        for place, row in enumerate(chosen):  # filled in place: twice may not fit
            pixels[place] = photos[(0, row)][0]
        return pixels

    def _loader(self, split: str) -> WorkerLoader:
        train = split == "train"
        if self.generated:
            length = min(self.spec.sizes[split], 2 * self.batch_size)
            dataset: Dataset = Generated(self.spec.shape, len(self.spec.classes), length)
        else:
            assert self.source is not None
            length = len(self.items[split])
            dataset = Photos(self.source, self.items[split], self.transform(train=train), self.seed, self.decode)
        workers = 0 if self.generated else self.num_workers
        batches = self.batches(length, shuffle=train)
        return WorkerLoader(dataset, batches, num_workers=workers, finish=Normalise(self.spec, self.device))

    def train_dataloader(self) -> WorkerLoader:
        return self._loader("train")

    def val_dataloader(self) -> WorkerLoader:
        return self._loader("test")

    def test_dataloader(self) -> WorkerLoader:
        return self._loader("test")


class DeclaredFolder(ImageFolder):
    """Photos in class folders whose number is known before they are there, which is what a dry run goes by.

    Args:
        declared: `classes`, and `train` and `test` images in all.
        where: where to get the data, for people who lack it.
        options: see ImageFolder.
    """

    def __init__(
        self, root: str, batch_size: int, declared: Mapping[str, int], where: str = "", **options: Any
    ) -> None:
        super().__init__(root, batch_size, **options)
        self.declared = dict(declared)
        self.title = self.root.name
        self.where = where

    def classes(self) -> tuple[str, ...]:
        return tuple(map(str, range(self.declared["classes"]))) if self.generated else super().classes()

    def expected_sizes(self) -> dict[str, int]:
        if not self.generated:
            return super().expected_sizes()
        return {name: self.declared[name] for name in ("train", "test")}


class ImageNet(ImageFolder):
    """ImageNet-1k by WordNet id: 1,281,167 training and 50,000 validation photos; label = rank of the wnid.

    A class folder that is no ImageNet wnid is an error. A sample can be served, but commands refuse it: see COUNTS.
    """

    title = "ImageNet-1k"
    where = "https://image-net.org/download.php, sorted into <root>/{train,val}/<wnid>/"

    def classes(self) -> tuple[str, ...]:
        from timm.data import ImageNetInfo

        if self.source is None and not self.generated:
            self.source = Source(self.root)
        return tuple(ImageNetInfo().label_names())

    def expected_sizes(self) -> dict[str, int]:
        return {"train": 1_281_167, "test": 50_000}


COUNTS = {
    "ImageNet": lambda data: {"train": 1_281_167, "val": 50_000},
    "DeclaredFolder": lambda data: {"train": data.declared["train"], data.test_split: data.declared["test"]},
}
