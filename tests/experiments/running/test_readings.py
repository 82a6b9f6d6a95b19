"""A dataset's files are read once for the stages that follow, and anew once they are others."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.common.resized import Resized
from datamodules.common.torchvision_sets import CIFAR10
from experiments.running import readings

SIZES = {"train_size": 6, "val_size": 0, "test_size": 4}


def write_zip(root: Path, seed: int) -> None:
    random = np.random.default_rng(seed)
    with zipfile.ZipFile(root / "cifar10.zip", "w") as archive:
        for part in ("train", "test"):
            for number in range(8):
                drawn = io.BytesIO()
                Image.fromarray(random.integers(256, size=(32, 32, 3), dtype=np.uint8)).save(drawn, "PNG")
                archive.writestr(f"cifar10/{part}/{('cat', 'dog')[number % 2]}/{number}.png", drawn.getvalue())


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The parts that were decoded, in order."""
    monkeypatch.setattr(readings, "_kept", {})
    parts: list[str] = []
    unzip = CIFAR10._unzip

    def counted(self: CIFAR10, part: str) -> tuple[torch.Tensor, torch.Tensor]:
        parts.append(part)
        return unzip(self, part)

    monkeypatch.setattr(CIFAR10, "_unzip", counted)
    return parts


def images(root: Path, seed: int, *, shared: bool = True, side: int | None = None) -> torch.Tensor:
    """The training images that a stage gets of a seed."""
    data = CIFAR10(2, root=str(root), seed=seed, **SIZES)
    served = Resized(data, 2, side) if side else data
    if shared:
        readings.share(served)
    served.setup("fit")
    return served.splits["train"][0]


def test_stages_on_the_same_files_share_one_reading(tmp_path: Path, decoded: list[str]) -> None:
    write_zip(tmp_path, 0)
    first = images(tmp_path, 0)
    first.zero_()  # a stage's own images: nothing that others get
    assert torch.equal(images(tmp_path, 0), images(tmp_path, 0, shared=False))
    assert torch.equal(images(tmp_path, 1, side=8), images(tmp_path, 1, side=8, shared=False))
    assert decoded == ["train", "test"] * 3  # once shared, and each time that it is not


def test_other_files_are_read_anew(tmp_path: Path, decoded: list[str]) -> None:
    write_zip(tmp_path, 0)
    before = images(tmp_path, 0)
    write_zip(tmp_path, 1)
    assert not torch.equal(images(tmp_path, 0), before)
    assert decoded == ["train", "test"] * 2


def test_the_dataset_not_asked_for_the_longest_goes(tmp_path: Path, decoded: list[str]) -> None:
    folders = [tmp_path / name for name in "abc"]
    for folder in folders:
        folder.mkdir()
        write_zip(folder, 0)
        images(folder, 0)
    assert len(readings._kept) == readings.MOST
    decoded.clear()
    images(folders[2], 0)
    images(folders[1], 0)
    assert decoded == []
    images(folders[0], 0)
    assert decoded == ["train", "test"]
