"""The tables of photos.py from the files that ISIC-2017, TBX11K and VinDr-CXR are released as.

    python -m datamodules.csr.tables isic2017 <root>

reads what lies below <root>/images and <root>/labels and writes <root>/images.csv and <root>/boxes.csv. Where the
released labels leave something open, the rule is said at the function.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from datamodules.common.base import DataError

Box = tuple[float, float, float, float]  # x1, y1, x2, y2 in pixels of the file, ends exclusive


@dataclass(frozen=True)
class Row:
    """An image: its file below images/, split, class, the concepts it shows, and boxes with their concept."""

    file: str
    split: str
    label: str
    concepts: frozenset[str]
    boxes: tuple[tuple[str, Box], ...]


DERMOSCOPIC = ("pigment_network", "negative_network", "milia_like_cyst", "streaks")
TUBERCULOSES = {  # category of a box in TBX11K's JSON
    1: "ActiveTuberculosis",
    2: "ObsoletePulmonaryTuberculosis",
    3: "PulmonaryTuberculosis",
}
DISEASES = ("COPD", "Lung tumor", "Pneumonia", "Tuberculosis", "Other disease")
READERS = 2  # of VinDr-CXR's three who must agree
OVERLAP = 0.4  # IoU from which two readers' boxes are the same


def isic2017(root: Path) -> tuple[Sequence[str], list[Row]]:
    """Classes of Part 3, concepts of Part 2: there if any superpixel has it, with a box around each group of them.

    Training and Test_v2 images that have a picture, a superpixel map and a features file; the 150 of validation are
    left out. A class is melanoma, seborrheic_keratosis, or nevus where both are 0.
    """
    pictures = by_name(root / "images", ".jpg")
    maps = by_name(root, "_superpixels.png")
    features = by_name(root / "labels", "_features.json")
    rows = []
    for part, split in (("Training", "train"), ("Test_v2", "test")):
        for line in read_csv(only(root / "labels", f"ISIC-2017_{part}_Part3_GroundTruth.csv")):
            name = line["image_id"]
            if name not in pictures or name not in maps or name not in features:
                continue
            label = next((kind for kind in ("melanoma", "seborrheic_keratosis") if float(line[kind]) > 0), "nevus")
            flags = json.loads(features[name].read_text())
            superpixels = read_superpixels(maps[name])
            boxes = [
                (concept, box)
                for concept in DERMOSCOPIC
                for box in boxes_of(np.isin(superpixels, np.flatnonzero(flags[concept])))
            ]
            shown = frozenset(concept for concept in DERMOSCOPIC if any(flags[concept]))
            rows.append(Row(below(root, pictures[name]), split, label, shown, tuple(boxes)))
    return DERMOSCOPIC, rows


def tbx11k(root: Path) -> tuple[Sequence[str], list[Row]]:
    """Classes by folder (health, sick, tb), concepts and boxes from the JSON's three kinds of tuberculosis.

    The release's val list is the test split: the labels of its own test images are not public. No file has the 14
    concepts of the paper.
    """
    rows = []
    for name, split in (("train", "train"), ("val", "test")):
        content = json.loads(only(root / "labels", f"TBX11K_{name}.json").read_text())
        files = {item["id"]: item["file_name"] for item in content["images"]}
        boxes: dict[str, list[tuple[str, Box]]] = defaultdict(list)
        for item in content["annotations"]:
            x, y, width, height = item["bbox"]
            boxes[files[item["image_id"]]].append((TUBERCULOSES[item["category_id"]], (x, y, x + width, y + height)))
        for file in only(root / "labels", f"TBX11K_{name}.txt").read_text().split():
            own = tuple(boxes[file])
            rows.append(Row(file, split, Path(file).parts[0], frozenset(concept for concept, _ in own), own))
    return [*TUBERCULOSES.values()], rows


def vindr_cxr(root: Path) -> tuple[Sequence[str], list[Row]]:
    """Radiographs saved as images/{train,test}/<image_id>.png at their DICOM's size; the 14 findings that most have.

    Of training images, which three radiologists read, a finding or disease is there if two or more say so. Of boxes of
    a finding that overlap by an IoU of 0.4, the mean of those by different readers stays if there are two or more;
    test images have one box of all. A class is the disease that most readers name, the first of equal ones in the order
    of DISEASES, or No finding.
    """
    rows = []
    for split in ("train", "test"):
        needed = READERS if split == "train" else 1
        votes: dict[str, Counter[str]] = defaultdict(Counter)
        for line in read_csv(only(root / "labels", f"image_labels_{split}.csv")):
            given = {name.replace("diseases", "disease"): value for name, value in line.items()}
            votes[line["image_id"]].update(
                name for name, value in given.items() if name not in ("image_id", "rad_id") and float(value) > 0
            )
        drawn: dict[tuple[str, str], list[tuple[str, Box]]] = defaultdict(list)
        for line in read_csv(only(root / "labels", f"annotations_{split}.csv")):
            if line["x_min"]:
                box = (float(line["x_min"]), float(line["y_min"]), float(line["x_max"]), float(line["y_max"]))
                drawn[line["image_id"], line["class_name"]].append((line.get("rad_id") or "", box))
        for image, counts in votes.items():
            said = {name: count for name, count in counts.items() if count >= needed}
            label = max((name for name in DISEASES if name in said), key=lambda name: said[name], default="No finding")
            findings = frozenset(said) - {*DISEASES, "No finding"}
            boxes = [(name, box) for name in sorted(findings) for box in agreed(drawn[image, name], needed)]
            rows.append(Row(f"{split}/{image}.png", split, label, findings, tuple(boxes)))
    frequent = Counter(name for row in rows if row.split == "train" for name in row.concepts).most_common(14)
    names = sorted(name for name, _ in frequent)
    kept = set(names)
    rows = [
        Row(r.file, r.split, r.label, r.concepts & kept, tuple(box for box in r.boxes if box[0] in kept)) for r in rows
    ]
    return names, rows


CONVERTERS = {"isic2017": isic2017, "tbx11k": tbx11k, "vindr_cxr": vindr_cxr}


def read_superpixels(path: Path) -> np.ndarray:
    """(H, W) of whole numbers: red + 256 green + 65536 blue."""
    red, green, blue = np.moveaxis(np.asarray(Image.open(path).convert("RGB"), dtype=np.int64), 2, 0)
    return red + 256 * green + 65536 * blue


def boxes_of(mask: np.ndarray) -> list[Box]:
    """A box around each connected group of pixels, corners included: (H, W) bool."""
    from scipy import ndimage

    groups, _ = ndimage.label(mask, structure=np.ones((3, 3)))
    return [(float(x.start), float(y.start), float(x.stop), float(y.stop)) for y, x in ndimage.find_objects(groups)]


def agreed(boxes: Sequence[tuple[str, Box]], readers: int) -> list[Box]:
    """The mean of boxes that overlap with the first of their group, where enough different readers drew one."""
    groups: list[list[tuple[str, Box]]] = []
    for reader, box in boxes:
        group = next((g for g in groups if iou(g[0][1], box) >= OVERLAP), None)
        if group is None:
            groups.append([(reader, box)])
        else:
            group.append((reader, box))
    kept = [group for group in groups if len({reader for reader, _ in group}) >= readers]
    means = [np.mean([box for _, box in group], axis=0).tolist() for group in kept]
    return [(x1, y1, x2, y2) for x1, y1, x2, y2 in means]


def iou(a: Box, b: Box) -> float:
    """Intersection over union of two boxes."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    inside = max(0.0, width) * max(0.0, height)
    whole = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)) - inside
    return inside / whole if whole > 0 else 0.0


def by_name(folder: Path, ending: str) -> dict[str, Path]:
    """Files below a folder by their name without this ending."""
    return {path.name.removesuffix(ending): path for path in sorted(folder.rglob(f"*{ending}"))}


def only(folder: Path, name: str) -> Path:
    """The file of this name below a folder. Raises DataError if there is none."""
    paths = sorted(folder.rglob(name))
    if not paths:
        raise DataError(f"{folder}: {name} is missing below it; expected it as released")
    return paths[0]


def below(root: Path, path: Path) -> str:
    return path.relative_to(root / "images").as_posix()


def read_csv(path: Path) -> Iterable[Mapping[str, Any]]:
    with path.open(encoding="utf-8", newline="") as text:
        yield from csv.DictReader(text)


def write_tables(collection: str, root: Path) -> tuple[int, int]:
    """Write both tables; how many images and boxes they hold.

    Raises:
        DataError: a released file is missing, or no image is left.
    """
    concepts, rows = CONVERTERS[collection](root)
    if not rows:
        raise DataError(f"{root}: no image of {collection} has all its files; see datamodules/csr/tables.py")
    with (root / "images.csv").open("w", encoding="utf-8", newline="") as text:
        table = csv.writer(text)
        table.writerow(["file", "split", "class", *concepts])
        for row in rows:
            table.writerow([row.file, row.split, row.label, *(int(name in row.concepts) for name in concepts)])
    with (root / "boxes.csv").open("w", encoding="utf-8", newline="") as text:
        table = csv.writer(text)
        table.writerow(["file", "concept", "x1", "y1", "x2", "y2"])
        for row in rows:
            table.writerows([row.file, concept, *box] for concept, box in row.boxes)
    return len(rows), sum(len(row.boxes) for row in rows)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m datamodules.csr.tables", description=__doc__.split("\n")[0])
    parser.add_argument("collection", choices=CONVERTERS)
    parser.add_argument("root", type=Path)
    asked = parser.parse_args(arguments)
    try:
        images, boxes = write_tables(asked.collection, asked.root)
    except DataError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{asked.root}: images.csv with {images} images, boxes.csv with {boxes} boxes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
