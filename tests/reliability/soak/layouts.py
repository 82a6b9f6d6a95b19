"""Every kind of folder that data is read from, with a handful of files that are as they should be."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytorch_lightning as pl
from PIL import Image
from scipy import io as matlab

from datamodules.aria.folders import CATEGORIES, SOURCES, Aria, Shown, TrainedOn
from datamodules.aria.headers import Headers
from datamodules.bagel.annotations import ImageNetMultiLabel, Mistakes
from datamodules.cifake.folders import CIFAKE
from datamodules.common.base import DataError
from datamodules.common.cub import Birds, Variation
from datamodules.common.folders import DeclaredFolder, ImageFolder, ImageNet
from datamodules.common.own import PhotoArrays, PhotoFolder, PhotoTable
from datamodules.common.photo_patches import PhotoPatches
from datamodules.common.timm_photos import AugmentedImageNet
from datamodules.common.torchvision_sets import CIFAR10, CIFAR100, MNIST, FashionMNIST
from datamodules.copyscope.original import Artwork, Original
from datamodules.csr.photos import FindingsFolder
from datamodules.diffroar.imagenet10 import ImageNet10
from datamodules.diffroar.svhn import SVHN
from datamodules.diffusion_features.photos import ImageNet256, Kinds256
from datamodules.explaining_prototypes.birds import ModifiedBirds
from datamodules.g_simclr.images import FolderInMemory
from datamodules.inception_v4 import InceptionImageNet
from datamodules.inception_v4 import WholeImageNet as UncutImageNet
from datamodules.lota.bits import FrontEnd
from datamodules.lota.genimage import GenImage
from datamodules.lota.subsets import Subsets
from datamodules.mee.photos import Collection, Portraits
from datamodules.mswal.nnunet import Dataset, NnUNetFolder, Split
from datamodules.mswal.preprocessing import Preprocessing
from datamodules.mswal.volumes import PatchSampling
from datamodules.napa_vq import PlainFolder
from datamodules.off_the_shelf.recognition import CUB200, MIT67, VOC2007, Attributes, Flowers102
from datamodules.off_the_shelf.retrieval import Holidays, Landmarks, UKBench
from datamodules.reassess_imagenet.labels import LabelFile, LabelSets
from datamodules.reassess_imagenet.photos import PhotoSet, PhotoSets
from datamodules.relabel.photos import CroppedImageNet, WholeImageNet
from datamodules.robust_explainability.boxed import BoxedImageNet
from datamodules.robust_explainability.shifted import ShiftedImageNet
from datamodules.robust_pbn.photos import FineGrained
from datamodules.simclr_v2.photos import Labels, SimCLRImageNet, Views
from datamodules.sparse.medmnist import MedMNIST
from datamodules.st_protopnet.photos import Kinds, MaskedBirds
from datamodules.transhp.hierarchies import WORDNET_FILE, WordNet
from datamodules.vit_vqgan import FFHQ, CelebAHQ
from datamodules.zpe.photos import Collection as ClipCollection
from datamodules.zpe.photos import PretrainingPhotos, ZeroShotPhotos
from datamodules.zpe.prompts import Released
from experiments.running.callbacks import check_data

SIDE = 24  # pixels of a photo
SMALL = {"image_size": 16, "num_workers": 0}
WNIDS = ("n01440764", "n01443537")
MODEL = "resnet18.a1_in1k"
VALIDATION = tuple(f"ILSVRC2012_val_{number:08}.JPEG" for number in (1, 2))


@dataclass(frozen=True)
class Layout:
    """A kind of folder.

    Attributes:
        lay: writes its files into an empty folder.
        read: reads all that is there, as a training and a test would.
        published: it is read only if its files are the published ones, by their checksums, which a few are not.
        headers: of pictures nothing but the header is read.
    """

    lay: Callable[[Path], Any]
    read: Callable[[Path], Any]
    published: bool = False
    headers: bool = False


def serve(data: Any) -> None:
    """Look for the data, set it up and go through everything that it serves."""
    if problem := data.available():
        raise DataError(problem)
    data.prepare_data()
    data.setup()
    check_data(data)
    for name in ("train_dataloader", "val_dataloader", "test_dataloader"):
        if getattr(type(data), name) is getattr(pl.LightningDataModule, name):
            continue
        loaders = getattr(data, name)()
        for loader in loaders if isinstance(loaders, list) else [loaders]:
            for _ in loader:
                pass


def photo(path: Path, side: int = SIDE, light: int = 200) -> None:
    """A light square on a dark ground."""
    pixels = np.full((side, side, 3), 20, np.uint8)
    pixels[side // 4 : side // 2, side // 4 : side // 2] = light
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, "jpeg" if path.suffix.lower() in (".jpg", ".jpeg") else None)


def photos(root: Path, folders: Iterable[str], names: Sequence[str] = ("0.png",), side: int = SIDE) -> None:
    for folder in folders:
        for name in names:
            photo(root / folder / name, side)


def sorted_photos(
    splits: Sequence[str], kinds: Sequence[str], names: Sequence[str] = ("0.png",), side: int = SIDE
) -> Callable[[Path], None]:
    """<root>/<split>/<kind>/<name> for each of all three."""
    return lambda root: photos(root, [f"{split}/{kind}" for split in splits for kind in kinds], names, side)


def listed(root: Path, tables: dict[str, Sequence[str]]) -> None:
    """Text files by name, from their lines."""
    for name, lines in tables.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def stored(root: Path, values: dict[str, Any]) -> None:
    """JSON files by name."""
    for name, value in values.items():
        (root / name).write_text(json.dumps(value), encoding="utf-8")


def birds(root: Path) -> None:
    """CUB-200-2011 with three photos, the first one to test on."""
    names = [f"a/{number}.png" for number in range(3)]
    photos(root, ["images/a"], [Path(name).name for name in names])
    listed(
        root,
        {
            "images.txt": [f"{n} {name}" for n, name in enumerate(names, 1)],
            "image_class_labels.txt": [f"{n} 1" for n in (1, 2, 3)],
            "train_test_split.txt": ["1 0", "2 1", "3 1"],
            "bounding_boxes.txt": [f"{n} 2.0 2.0 12.0 12.0" for n in (1, 2, 3)],
        },
    )


def masked_birds(root: Path) -> None:
    birds(root)
    photos(root, ["segmentations/a"], ["0.png"])


def findings(root: Path) -> None:
    """ISIC-2017 with a photo of each class in either split."""
    kinds = ("mole", "melanoma", "other")
    rows = [[f"{split}_{kind}.png", split, kind, "1", "0", "1", "0"] for split in ("train", "test") for kind in kinds]
    photos(root, ["images"], [row[0] for row in rows])
    tables = {
        "images.csv": [["file", "split", "class", "a", "b", "c", "d"], *rows],
        "boxes.csv": [["file", "concept", "x1", "y1", "x2", "y2"], [rows[0][0], "a", "1", "1", "9", "9"]],
    }
    for name, lines in tables.items():
        with (root / name).open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows(lines)


def boxed(root: Path) -> None:
    """ImageNet's validation photos with a box each."""
    sorted_photos(["val"], WNIDS[:1], VALIDATION)(root)
    for name in VALIDATION:
        size = f"<size><width>{SIDE}</width><height>{SIDE}</height></size>"
        box = "".join(f"<{edge}>{at}</{edge}>" for edge, at in (("xmin", 8), ("ymin", 8), ("xmax", 14), ("ymax", 14)))
        text = f"<annotation>{size}<object><bndbox>{box}</bndbox></object></annotation>"
        listed(root, {f"boxes/{Path(name).stem}.xml": [text]})


def judged(root: Path) -> None:
    """A validation photo with its multi-labels."""
    sorted_photos(["val"], WNIDS[:1], VALIDATION[:1])(root)
    marks = {VALIDATION[0]: {"correct": [WNIDS[0]]}}
    stored(root, {"labels.json": {"initial_annots": marks, "problematic_images": {}, "imagenet_m": []}})


def mistakes(root: Path) -> None:
    mistake = {"failure category": "Fine-grained error", "failure severity": "Minor", "top_prediction": 1}
    stored(root, {"m_mistakes.json": {VALIDATION[0]: mistake}, "class_confusion_wnids.json": [[*WNIDS, 1]]})


def aria(root: Path) -> None:
    """Twelve real pictures and what one generator made of them: enough for a hash to deal some to each split."""
    for folder in ("REAL", *SOURCES):
        for category in CATEGORIES:
            (root / folder / category).mkdir(parents=True)
    photos(root, ["REAL/art", "DALL-E/T2I/art"], [f"{number}.png" for number in range(12)])


def voc(root: Path) -> None:
    photos(root, ["JPEGImages"], ["1.jpg", "2.jpg"])
    for name in VOC2007.names:
        listed(root, {f"ImageSets/Main/{name}_{split}.txt": [f"{n} 1"] for n, split in ((1, "trainval"), (2, "test"))})


def indoor(root: Path) -> None:
    photos(root, ["Images/kitchen"], ["0.jpg", "1.jpg"])
    listed(root, {"TrainImages.txt": ["kitchen/0.jpg"], "TestImages.txt": ["kitchen/1.jpg"]})


def flowers(root: Path) -> None:
    photos(root, ["jpg"], [f"image_{number:05d}.jpg" for number in (1, 2, 3)])
    matlab.savemat(root / "imagelabels.mat", {"labels": [[1, 1, 1]]})
    matlab.savemat(root / "setid.mat", {"trnid": [[1]], "valid": [[2]], "tstid": [[3]]})


def attributes(root: Path) -> None:
    photos(root, ["JPEGImages"], ["0.jpg", "1.jpg"])
    lists = (("apascal_train.txt", 0), ("apascal_test.txt", 1))
    listed(root, {name: [f"{number}.jpg dog 1 1 12 12 1 0"] for name, number in lists})


def landmarks(root: Path) -> None:
    photos(root, ["images"], ["a_1.jpg", "a_2.jpg", "a_3.jpg"])
    tables = {"query": ["oxc1_a_1 1 1 12 12"], "good": ["a_1"], "ok": ["a_2"], "junk": ["a_3"]}
    listed(root, {f"gt/a_1_{kind}.txt": lines for kind, lines in tables.items()})


def medical(root: Path) -> None:
    images, labels = np.zeros((4, 28, 28), np.uint8), np.zeros((4, 1), np.uint8)
    parts = {f"{part}_{kind}": array for part in ("train", "val", "test") for kind, array in
             (("images", images), ("labels", labels))}  # fmt: skip
    np.savez(root / "breastmnist.npz", **parts)  # type: ignore[arg-type]


def tabled(root: Path) -> None:
    """Two photos of either class, in a table."""
    names = [f"{kind}{number}.png" for kind in "ab" for number in range(2)]
    photos(root, ["photos"], names)
    listed(root, {"labels.csv": ["file,label", *(f"photos/{name},{name[0]}" for name in names)]})


def arrays(root: Path) -> None:
    np.savez(root / "images.npz", images=np.zeros((4, 8, 8, 3), np.uint8), labels=np.array([0, 0, 1, 1]))


def volumes(root: Path) -> None:
    """Two scans with their labels, preprocessed when they are read first."""
    for number in range(2):
        label = np.zeros((12, 12, 12), np.uint8)
        label[2:8, 2:8, 2:8] = 1
        scan = (60.0 * label + np.random.default_rng(number).normal(0, 5, label.shape)).astype(np.float32)
        for kind, array, ending in (("images", scan, "_0000"), ("labels", label, "")):
            (root / f"{kind}Tr").mkdir(exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), root / f"{kind}Tr/case_{number}{ending}.nii.gz")  # type: ignore[no-untyped-call]
    stored(root, {"dataset.json": {"labels": {"background": 0, "liver": 1}}})


def read_volumes(root: Path) -> None:
    known = Dataset(["background", "liver"], 2)
    plan = Preprocessing([1.0, 1.0, 1.0], [-100, 200], 50.0, 25.0)
    serve(NnUNetFolder(str(root), 2, PatchSampling([8, 8, 8], iterations=1), known, plan, Split(folds=2), 0))


def idx(numbers: np.ndarray) -> bytes:
    """A file of the MNIST format."""
    sides = b"".join(side.to_bytes(4, "big") for side in numbers.shape)
    return bytes((0, 0, 8, numbers.ndim)) + sides + numbers.astype(np.uint8).tobytes()


def digits(name: str) -> Callable[[Path], None]:
    """The four files of MNIST and what is written like it, with 20 images to train and 10 to test on."""

    def lay(root: Path) -> None:
        raw = root / name / "raw"
        raw.mkdir(parents=True)
        for split, count in (("train", 20), ("t10k", 10)):
            (raw / f"{split}-images-idx3-ubyte").write_bytes(idx(np.zeros((count, 28, 28))))
            (raw / f"{split}-labels-idx1-ubyte").write_bytes(idx(np.arange(count) % 10))

    return lay


def placed(*names: str) -> Callable[[Path], None]:
    """Files at the places of published ones; what is in them is not."""
    return lambda root: listed(root, {name: ["not the published content"] for name in names})


def prompts(root: Path) -> None:
    lists = ['_ZEROSHOT_TEMPLATES = {"set": ["a {}"]}', '_ZEROSHOT_CLASS_NAMES = {"set": ["a", "b"]}']
    listed(root, {"multimodal_utils.py": lists})


def prompted(root: Path) -> None:
    photos(root, ["a", "b"])
    prompts(root)


def labelled(root: Path) -> None:
    """Validation photos, and a list of the labels of each."""
    sorted_photos(["val"], WNIDS)(root)
    stored(root, {"real.json": {"0.png": [0, 1]}})


def lists_of_labelled(root: Path) -> None:
    sorted_photos(["train", "val"], WNIDS)(root)
    listed(root, {"1percent.txt": ["0.png"]})


def _folder(
    kind: Any, splits: Sequence[str] = ("train", "val"), kinds: Sequence[str] = WNIDS, **options: Any
) -> Layout:
    """Photos in class folders, with options beside those of SMALL."""
    names = options.pop("names", ("0.png",))
    wanted = {"batch_size": 2, **SMALL, **options}
    return Layout(sorted_photos(splits, kinds, names), lambda root: serve(kind(str(root), **wanted)))


def layouts() -> dict[type, Layout]:
    """How each class that reads a folder has it, small."""
    two = {"classes": 2, "train": 2, "test": 2}
    tested = ("train", "test")
    plain: dict[str, Any] = {"batch_size": 2, "num_workers": 0}
    ten = list(ImageNet10.labels())
    pets = [f"kind {number}" for number in range(37)]
    generated = [f"one/{split}/{kind}" for split in ("train", "val") for kind in ("nature", "ai")]
    front = FrontEnd(patch=8, crops=2, size=16)
    one_of_several = TrainedOn(["dalle_t2i"], share=False)
    sets = {"crop_scale": (0.5, 1.0)}
    return {
        ImageFolder: _folder(ImageFolder),
        DeclaredFolder: _folder(DeclaredFolder, declared=two),
        ImageNet: _folder(ImageNet),
        AugmentedImageNet: _folder(AugmentedImageNet),
        ImageNet10: _folder(ImageNet10, kinds=ten),
        ImageNet256: _folder(ImageNet256),
        Kinds256: _folder(Kinds256, tested, declared=two),
        InceptionImageNet: _folder(InceptionImageNet),
        UncutImageNet: _folder(UncutImageNet, batch_size=1),
        CelebAHQ: _folder(CelebAHQ, kinds=("faces",)),
        FFHQ: _folder(FFHQ, kinds=("faces",)),
        Portraits: _folder(Portraits, ("train",), ("faces",), collection=Collection("faces", train=1, test=1)),
        PlainFolder: _folder(PlainFolder, declared=two),
        Kinds: _folder(Kinds, tested, declared=two),
        FineGrained: _folder(FineGrained, tested, pets, collection="pets"),
        CroppedImageNet: _folder(CroppedImageNet, names=VALIDATION[:1], **sets),
        WholeImageNet: _folder(WholeImageNet, ("train",)),
        ShiftedImageNet: _folder(ShiftedImageNet, ("drawn",), name="drawn", count=2),
        PretrainingPhotos: _folder(PretrainingPhotos, collection=ClipCollection(4)),
        SimCLRImageNet: Layout(
            lists_of_labelled,
            lambda root: serve(
                SimCLRImageNet(str(root), 2, 16, Views(2), Labels("1percent", lists=str(root)), num_workers=0)
            ),
        ),
        BoxedImageNet: Layout(
            boxed,
            lambda root: serve(BoxedImageNet(str(root), images=1, tuning_images=1, image_size=16, **plain)),
        ),
        PhotoSet: Layout(
            labelled,
            lambda root: serve(
                PhotoSets({"v1": PhotoSet(str(root), "val", labels=LabelFile(str(root), "real.json"))}, MODEL, 2, 0)
            ),
        ),
        LabelFile: Layout(
            lambda root: stored(root, {"real.json": [[0], [1, 2]]}),
            lambda root: serve(LabelSets({"v1": LabelFile(str(root), "real.json")})),
        ),
        ImageNetMultiLabel: Layout(
            judged,
            lambda root: serve(ImageNetMultiLabel(str(root), str(root / "labels.json"), [MODEL], **plain)),
        ),
        Mistakes: Layout(
            mistakes,
            lambda root: serve(Mistakes(str(root), ["m"], ["fine_grained"], ["minor"])),
        ),
        PhotoPatches: Layout(sorted_photos(["val"], WNIDS), lambda root: serve(PhotoPatches(str(root), side=16))),
        PhotoFolder: Layout(sorted_photos(tested, ("a", "b")), lambda root: serve(PhotoFolder(2, str(root), side=16))),
        PhotoTable: Layout(tabled, lambda root: serve(PhotoTable(2, str(root), side=16))),
        PhotoArrays: Layout(arrays, lambda root: serve(PhotoArrays(2, str(root), side=8))),
        ZeroShotPhotos: Layout(
            prompted,
            lambda root: serve(
                ZeroShotPhotos(
                    str(root),
                    2,
                    ClipCollection(2),
                    Released(str(root / "multimodal_utils.py"), "set"),
                    **SMALL,
                )
            ),
        ),
        Original: Layout(
            lambda root: photos(root, ["."], ["mona_lisa.png", "mona_lisa_depth.png"]),
            lambda root: serve(Original(str(root), 2, images=2, artwork=Artwork(height=16, width=16, copy=(32, 32)))),
        ),
        FindingsFolder: Layout(
            findings, lambda root: serve(FindingsFolder(str(root), everything=True, image_size=16, **plain))
        ),
        FolderInMemory: Layout(
            sorted_photos(tested, ("a", "b")), lambda root: serve(FolderInMemory(str(root), 2, two, 16))
        ),
        GenImage: Layout(
            lambda root: photos(root, generated, ["0.png", "1.png"]),
            lambda root: serve(GenImage(str(root), 2, Subsets(["one"], ["one"], 0.25), front, num_workers=0)),
        ),
        Aria: Layout(
            aria,
            lambda root: serve(Aria(str(root), trained_on=one_of_several, shown=Shown(16), **plain)),
        ),
        Headers: Layout(
            aria,
            lambda root: serve(Headers(str(root), trained_on=one_of_several, **plain)),
            headers=True,
        ),
        CIFAKE: Layout(
            sorted_photos(tested, ("REAL", "FAKE"), side=32), lambda root: serve(CIFAKE(str(root), 2, jpeg=90))
        ),
        Birds: Layout(birds, lambda root: serve(Birds(str(root), 2, 16, Variation(4), num_workers=0))),
        ModifiedBirds: Layout(birds, lambda root: serve(ModifiedBirds(str(root), **SMALL, batch_size=2))),
        MaskedBirds: Layout(masked_birds, lambda root: serve(MaskedBirds(str(root), **SMALL, batch_size=2))),
        CUB200: Layout(birds, lambda root: serve(CUB200(str(root), 2, 16))),
        VOC2007: Layout(voc, lambda root: serve(VOC2007(str(root), 2, 16))),
        MIT67: Layout(indoor, lambda root: serve(MIT67(str(root), 2, 16))),
        Flowers102: Layout(flowers, lambda root: serve(Flowers102(str(root), 2, side=16))),
        Attributes: Layout(attributes, lambda root: serve(Attributes(str(root), 2, count=2, side=16))),
        Landmarks: Layout(landmarks, lambda root: serve(Landmarks(str(root), 2, "Oxford", (3, 1), side=16))),
        Holidays: Layout(
            lambda root: photos(root, ["jpg"], ["100000.jpg", "100001.jpg"]),
            lambda root: serve(Holidays(str(root), 2, 16)),
        ),
        UKBench: Layout(
            lambda root: photos(root, ["full"], [f"ukbench{number:05}.jpg" for number in range(4)]),
            lambda root: serve(UKBench(str(root), 2, 16)),
        ),
        MedMNIST: Layout(medical, lambda root: serve(MedMNIST(2, "breastmnist", str(root)))),
        NnUNetFolder: Layout(volumes, read_volumes),
        MNIST: Layout(digits("MNIST"), lambda root: serve(MNIST(4, str(root), train_size=10, test_size=10))),
        FashionMNIST: Layout(
            digits("FashionMNIST"),
            lambda root: serve(FashionMNIST(4, "full", root=str(root), train_size=10, test_size=10)),
        ),
        CIFAR10: Layout(
            placed(*(f"cifar-10-batches-py/{name}" for name in ("data_batch_1", "test_batch", "batches.meta"))),
            lambda root: serve(CIFAR10(4, str(root))),
            published=True,
        ),
        CIFAR100: Layout(
            placed(*(f"cifar-100-python/{name}" for name in ("train", "test", "meta"))),
            lambda root: serve(CIFAR100(4, str(root))),
            published=True,
        ),
        SVHN: Layout(
            placed("train_32x32.mat", "test_32x32.mat"), lambda root: serve(SVHN(4, str(root))), published=True
        ),
        WordNet: Layout(placed(WORDNET_FILE), lambda root: WordNet().table(root), published=True),
        Released: Layout(
            prompts,
            lambda root: Released(str(root / "multimodal_utils.py"), "set").read(),
        ),
    }
