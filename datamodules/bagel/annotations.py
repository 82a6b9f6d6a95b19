"""What people said about ImageNet's validation photos: multi-labels for models, and reviewed mistakes of two models."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import Tensor

from datamodules.common.base import DataError, DataModule, Spec, generator, hashed
from datamodules.common.folders import Generated, Photos, Source
from datamodules.common.imagenet_classes import imagenet_classes
from datamodules.common.label_files import padded, read_json
from datamodules.common.loader import Loader, WorkerLoader, batch_type
from datamodules.common.timm_photos import input_of

PREFIX = "ILSVRC2012_val_"
MULTI_LABELS = "https://storage.googleapis.com/brain-car-datasets/imagenet-mistakes/human_accuracy_v3.0.0.json"
MISTAKES = "https://github.com/google-research/imagenet-mistakes, folder metadata"


@dataclass(frozen=True)
class Annotation:
    """One photo: WordNet ids that count as right, whether it is left out, whether it is in ImageNet-M."""

    valid: frozenset[str]
    problematic: bool
    major: bool


def read_annotations(path: Path) -> dict[str, Annotation]:
    """imagenet2012_multilabel 3.0.0 by file name, from the file `human_accuracy_v3.0.0.json`.

    `initial_annots` holds for each file lists of WordNet ids `correct`, `wrong` and `unclear` (a missing list is
    empty), also for photos that are not from the validation set, which are dropped; `problematic_images` and
    `imagenet_m` name files. Labels marked unclear count as right, as the paper has it.

    Raises:
        DataError: the file is missing, damaged, or has another structure.
    """
    where = (
        f"it was published at {MULTI_LABELS}, which has answered HTTP 403 since 2025: put a copy there, or name one "
        "with data.labels=...; without it nothing is evaluated, since no other label set stands in for this one"
    )
    stored = read_json(path, where)
    try:
        problematic, major = set(stored["problematic_images"]), set(stored["imagenet_m"])
        return {
            name: Annotation(
                frozenset([*marks.get("correct", ()), *marks.get("unclear", ())]), name in problematic, name in major
            )
            for name, marks in stored["initial_annots"].items()
            if name.startswith(PREFIX)
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is no human_accuracy_v3.0.0.json: {type(error).__name__} {error}") from error


class ImageNetMultiLabel(DataModule):
    """ImageNet's validation photos with the reviewed multi-labels, preprocessed as given timm models want it.

    Serves (images, label (B,), valid (B, L) padded with -1, skip (B,), major (B,)): `skip` marks photos that are
    problematic or were never annotated, `major` those of ImageNet-M. Images are (B, 3, S, S), or a list of that, one
    for each of several models. Class number = rank of the WordNet id.

    Args:
        root: folder `<root>/val/<wnid>/ILSVRC2012_val_*.JPEG`, or a zip with the same layout.
        labels: human_accuracy_v3.0.0.json, see read_annotations.
        models: timm names with their tags; each brings its own size, crop, interpolation, mean and std. Where timm
            names a size for testing, it is taken.
        batch_size: over all devices.
        num_workers: decoding processes.
        seed, generated: see DataModule; nothing here is random.
    Raises:
        DataError: photos or labels are missing or damaged, or do not belong together.
    """

    def __init__(
        self,
        root: str,
        labels: str,
        models: Sequence[str],
        batch_size: int,
        num_workers: int = 8,
        seed: int = 0,
        generated: bool = False,
    ) -> None:
        super().__init__(batch_size, seed, generated)
        self.root, self.labels, self.num_workers = Path(root), Path(labels), num_workers
        self.inputs = [input_of(name) for name in models]
        self.items: list[tuple[str, int]] = []  # (file, row of the tables below)
        self.original = self.valid = self.skip = self.major = torch.empty(0, dtype=torch.long)
        self._spec: Spec | None = None
        self._source: Source | None = None

    @property
    def spec(self) -> Spec:
        first = self.inputs[0]
        return self._spec or Spec(
            name="ImageNet-1k val, multi-labels 3.0.0",
            shape=tuple(first["input_size"]),
            classes=imagenet_classes()[1],
            sizes={"train": 0, "val": 0, "test": 50_000},
            mean=tuple(first["mean"]),
            std=tuple(first["std"]),
            split="all validation photos; multi-labels for 20,000 of them, of which 18,692 are not problematic",
            where="photos: https://image-net.org/download.php; labels: from somebody who has a copy",
        )

    def available(self) -> str:
        problems = []
        try:
            if not Source(self.root).files.get("val"):
                problems.append(f"{self.root} has no val folder")
        except DataError as error:
            problems.append(str(error))
        if problems:
            problems.append(f"photos: https://image-net.org/download.php, sorted into {self.root}/val/<wnid>/")
        try:
            read_annotations(self.labels)
        except DataError as error:
            problems.append(str(error))
        return ". ".join(problems)

    def setup(self, stage: str | None = None) -> None:
        if self._spec is not None:
            return
        spec = self.spec
        if self.generated:
            self._random(spec)
            return
        self._source = Source(self.root)
        annotated = read_annotations(self.labels)
        number, _ = imagenet_classes()
        original, rows = [], []
        for wnid, names in self._source.files.get("val", {}).items():
            if wnid not in number:
                raise DataError(f"{self.root}/val has a class folder {wnid!r} that ImageNet does not know")
            for name in names:
                annotation = annotated.get(PurePosixPath(name).with_suffix(".JPEG").name)
                if annotation is not None and not annotation.problematic and wnid not in annotation.valid:
                    raise DataError(
                        f"{self.root / name} lies in class folder {wnid}, which {self.labels} does not count as right "
                        "for it, though every photo that is not problematic has its own label among the right ones"
                    )
                self.items.append((name, len(self.items)))
                original.append(number[wnid])
                rows.append(annotation)
        if not self.items:
            raise DataError(f"{self.root}/val holds no image")
        if unknown := {w for row in rows if row is not None for w in row.valid} - set(number):
            raise DataError(f"{self.labels} has a label {min(unknown)!r} that ImageNet does not know")
        self.original = torch.tensor(original)
        self.valid = padded([sorted(number[w] for w in row.valid) if row is not None else [] for row in rows])
        self.skip = torch.tensor([row is None or row.problematic for row in rows])
        self.major = torch.tensor([row is not None and row.major for row in rows])
        listing = hashlib.sha256("\n".join(name for name, _ in self.items).encode()).hexdigest()[:6]
        identity = listing + hashed(self.original, self.valid, self.skip, self.major)[:6]
        self._spec = replace(spec, sizes={**spec.sizes, "test": len(self.items)}, identity=identity)

    def _random(self, spec: Spec) -> None:
        """Tables of a dry run: the label itself and one more class count as right."""
        count = 2 * self.batch_size
        draw = generator("stand-in", self.seed)
        self.original = torch.randint(len(spec.classes), (count,), generator=draw)
        self.valid = torch.stack([self.original, (self.original + 1) % len(spec.classes)], 1)
        self.skip, self.major = torch.zeros(count, dtype=torch.bool), torch.arange(count) == 0
        self._spec = replace(spec, source="generated")

    def test_dataloader(self) -> WorkerLoader:
        """Batches (x, y, valid, skip, major); x is a list where the models take photos of several kinds."""
        if self.generated:
            rows = len(self.original)
            views: Any = GeneratedViews([tuple(i["input_size"]) for i in self.inputs], rows)
            return self._labelled(views, rows, 0)
        from timm.data import create_transform

        assert self._source is not None
        photos = Photos(self._source, self.items, Views([create_transform(**i) for i in self.inputs]), self.seed)
        return self._labelled(photos, len(self.items), self.num_workers)

    def _labelled(self, photos: Any, count: int, workers: int) -> WorkerLoader:
        batches = self.batches(count, shuffle=False)
        columns = ("x", "row")
        return WorkerLoader(photos, batches, columns=columns, num_workers=workers, finish=self._add_labels)

    def _add_labels(self, batch: Any) -> Any:
        tables = [table[batch.row] for table in (self.original, self.valid, self.skip, self.major)]
        x = batch.x[0] if len(batch.x) == 1 else batch.x
        return batch_type(("x", "y", "valid", "skip", "major"))(x, *tables)


class Views:
    """One photo as each of several transforms makes it."""

    def __init__(self, transforms: Sequence[Any]) -> None:
        self.transforms = transforms

    def __call__(self, image: Any) -> list[Tensor]:
        return [transform(image) for transform in self.transforms]


class GeneratedViews(Generated):
    """Random images, one of each shape, and their own number."""

    def __init__(self, shapes: Sequence[tuple[int, ...]], length: int) -> None:
        super().__init__(shapes[0], 1, length)
        self.shapes = shapes

    def __getitem__(self, key: tuple[int, int]) -> Any:
        source = generator("stand-in photo", *key)
        return [torch.randn(shape, generator=source) for shape in self.shapes], key[1]


# The files write one category in two ways; a single mistake is "Fine-grained with Multilabel Options".
WRITTEN = {
    "Fine-grained error": "fine_grained",
    "Fine-grained error with OOV": "fine_grained_oov",
    "Fine-grained with OOV": "fine_grained_oov",
    "Spurious Correlation": "spurious",
    "Non-prototypical": "non_prototypical",
    "Fine-grained with Multilabel Options": "other",
}


class Mistakes(DataModule):
    """The mistakes that review left to two models, ViT-3B and Greedy Soups, and the pairs of classes they confuse.

    Test data is two sets: photos, (B, M, 3) whole numbers: for each of `models` its prediction, category and severity
    (places in `categories` and `severities`), or three times -1 where this model is not wrong; and confused pairs,
    (B, 3): two classes and how often.

    Args:
        root: folder with <model>_mistakes.json for each model and class_confusion_wnids.json.
        models: whose files.
        categories: values of WRITTEN, in the order that numbers them.
        severities: lower case, in the order that numbers them.
        batch_size, seed, generated: see DataModule; nothing here is random.
    Raises:
        DataError: a file is missing or damaged, or has a category or severity that is not listed.
    """

    def __init__(
        self,
        root: str,
        models: Sequence[str],
        categories: Sequence[str],
        severities: Sequence[str],
        batch_size: int = 256,
        seed: int = 0,
        generated: bool = False,
    ) -> None:
        super().__init__(batch_size, seed, generated)
        self.root, self.models = Path(root), list(models)
        self.categories, self.severities = list(categories), list(severities)
        self.photos = torch.empty(0, len(models), 3, dtype=torch.long)
        self.pairs = torch.empty(0, 3, dtype=torch.long)
        self._identity = ""

    @property
    def spec(self) -> Spec:
        return Spec(
            name=f"reviewed mistakes of {' and '.join(self.models)}",
            shape=(len(self.models), 3),
            classes=imagenet_classes()[1],
            sizes={"train": 0, "val": 0, "test": len(self.photos) or 463},
            mean=(),
            std=(),
            split="all photos of which at least one of the models was wrong after review",
            source="generated" if self.generated else "real",
            where=f"{MISTAKES}; copied into {self.root}",
            identity=self._identity,
        )

    def available(self) -> str:
        names = [*(f"{model}_mistakes.json" for model in self.models), "class_confusion_wnids.json"]
        missing = [name for name in names if not (self.root / name).is_file()]
        return f"{self.root} has no {', no '.join(missing)}. {self.spec.where}" if missing else ""

    def setup(self, stage: str | None = None) -> None:
        if len(self.photos):
            return
        if self.generated:
            draw = generator("stand-in", self.seed)
            highs = (1000, len(self.categories), len(self.severities))
            self.photos = torch.stack([torch.randint(high, (8, len(self.models)), generator=draw) for high in highs], 2)
            self.pairs = torch.randint(1, 5, (8, 3), generator=draw)
            return
        if problem := self.available():
            raise DataError(problem)
        read = [read_json(self.root / f"{model}_mistakes.json", self.spec.where) for model in self.models]
        names = sorted({name for mistakes in read for name in mistakes})
        self.photos = torch.tensor(
            [[self._row(mistakes.get(name), name) for mistakes in read] for name in names], dtype=torch.long
        )
        number, _ = imagenet_classes()
        path = self.root / "class_confusion_wnids.json"
        try:
            pairs = [[number[a], number[b], count] for a, b, count in read_json(path, self.spec.where)]
        except (KeyError, ValueError, TypeError) as error:
            raise DataError(f"{path}: expected [wnid, wnid, count], got {error}") from error
        self.pairs = torch.tensor(pairs, dtype=torch.long)
        self._identity = hashed(self.photos, self.pairs)

    def _row(self, mistake: dict[str, Any] | None, name: str) -> list[int]:
        if mistake is None:
            return [-1, -1, -1]
        try:
            category = self.categories.index(WRITTEN[mistake["failure category"]])
            severity = self.severities.index(mistake["failure severity"].lower())
        except (KeyError, ValueError) as error:
            raise DataError(f"{self.root}, {name}: a category or severity that is not known: {error}") from error
        return [int(mistake["top_prediction"]), category, severity]

    def test_dataloader(self) -> list[Loader]:
        return [self._rows(rows) for rows in (self.photos, self.pairs)]

    def _rows(self, rows: Tensor) -> Loader:
        return Loader(self.batches(len(rows), shuffle=False), lambda share: rows[share.indices])


COUNTS = {"ImageNetMultiLabel": lambda data: {"val": 50_000}}
