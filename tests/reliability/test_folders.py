"""Folders of data in which one file means harm, a slice of what `make soak` tries of every class that reads one."""

from __future__ import annotations

import importlib
import inspect
import pickle
import pkgutil
import random
from pathlib import Path
from typing import Any

import pytest

import datamodules
from datamodules.common.base import DataModule
from datamodules.common.torchvision_sets import CIFAR10, TorchvisionSet
from datamodules.csr.photos import FindingsFolder
from datamodules.off_the_shelf.photos import PhotoCollection
from datamodules.off_the_shelf.retrieval import Retrieval
from datamodules.reassess_imagenet.labels import LabelSets
from datamodules.reassess_imagenet.photos import PhotoSets
from datamodules.robust_explainability.boxed import BoxedImageNet
from datamodules.robust_explainability.shifted import TestedImageNet
from datamodules.sparse.medmnist import MedMNIST
from datamodules.transhp.hierarchies import Hierarchical
from datamodules.vit_vqgan import Faces
from datamodules.zpe.photos import ClipPhotos
from tests.reliability.soak import data, layouts

# Classes that others make usable; nothing is read by them alone.
UNFINISHED = {TorchvisionSet, PhotoCollection, Retrieval, Faces, TestedImageNet, ClipPhotos}


def test_every_class_that_reads_a_folder_is_given_hostile_ones() -> None:
    for found in pkgutil.walk_packages(datamodules.__path__, "datamodules."):
        importlib.import_module(found.name)
    waiting, reading = [DataModule], set()
    while waiting:
        waiting += (kind := waiting.pop()).__subclasses__()
        if kind.__module__.startswith("datamodules.") and "root" in inspect.signature(kind).parameters:
            reading.add(kind)
    wrapped = {Hierarchical, PhotoSets, LabelSets}  # tried by what they read through: WordNet, PhotoSet, LabelFile
    missing = reading - UNFINISHED - wrapped - set(layouts.layouts())
    assert not missing, "tests/reliability/soak/layouts.py has no folder for them"


@pytest.mark.parametrize("kind", [FindingsFolder, MedMNIST, BoxedImageNet, CIFAR10], ids=lambda kind: kind.__name__)
def test_a_folder_with_one_hostile_file_is_refused(kind: type, tmp_path: Path) -> None:
    tried = list(data.poisoned_layout(kind, layouts.layouts()[kind], tmp_path, tmp_path / "owned"))
    assert len(tried) > 5
    assert [pair for pair in tried if pair[1]] == []


class Careless:
    """Reads whatever it is given."""


def unpickle(root: Path) -> Any:
    return pickle.loads((root / "labels.mat").read_bytes())


@pytest.mark.parametrize(("read", "told"), [(unpickle, "it was executed"), (Path.exists, "accepted")])
def test_a_hostile_file_that_is_taken_is_told(read: Any, told: str, tmp_path: Path) -> None:
    layout = layouts.Layout(lambda root: layouts.listed(root, {"labels.mat": ["1"]}), read, published=True)
    tried = dict(data.poisoned_layout(Careless, layout, tmp_path, tmp_path / "owned"))
    assert tried["Careless, labels.mat is a pickle"] == told


def test_pictures_with_fallen_bits_are_served_or_refused(tmp_path: Path) -> None:
    tried = list(data.damaged_pictures(tmp_path, random.Random(0), 5))
    assert len(tried) == 5 * len(data.FORMATS)
    assert [pair for pair in tried if pair[1]] == []
