"""Other bytes in a dataset's files are another dataset, wherever they lie and however they are named."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from experiments.common import files
from experiments.identity import content
from experiments.running.manifest import finished
from experiments.running.plan import Plan, only


@pytest.fixture(autouse=True)
def _remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(content, "REMEMBERED", tmp_path / "content.json")
    content.forget()
    yield
    content.forget()


def mnist(root: Path) -> str:
    content.forget()
    return content.digest({"_target_": "datamodules.common.torchvision_sets.MNIST", "root": str(root), "batch_size": 2})


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_content_counts_and_neither_place_nor_neighbours(tmp_path: Path) -> None:
    one = write(tmp_path / "a/MNIST/raw/train-images-idx3-ubyte", "x")
    write(tmp_path / "b/MNIST/raw/train-images-idx3-ubyte", "x")
    assert mnist(tmp_path / "a") == mnist(tmp_path / "b") != ""
    write(tmp_path / "a/FashionMNIST/raw/other", "y")  # shares the root, is another dataset
    assert mnist(tmp_path / "a") == mnist(tmp_path / "b")
    before = one.stat()
    one.write_text("y")
    os.utime(one, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert mnist(tmp_path / "a") != mnist(tmp_path / "b")
    assert mnist(tmp_path / "nowhere") == ""


def test_a_file_of_the_same_size_and_time_is_looked_at(tmp_path: Path) -> None:
    """As `cp --preserve` and archives bring along."""
    file = write(tmp_path / "MNIST/raw/train", "x")
    first, before = mnist(tmp_path), file.stat()
    file.write_text("y")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.stat().st_mtime_ns == before.st_mtime_ns
    assert mnist(tmp_path) != first


def test_a_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "MNIST/raw/train", "x")
    first = mnist(tmp_path)
    monkeypatch.setattr(files, "sha256", lambda path: pytest.fail("read again"))
    assert mnist(tmp_path) == first


def test_a_folder_counts_whole_and_our_own_caches_do_not(tmp_path: Path) -> None:
    data = {"_target_": "datamodules.common.folders.ImageFolder", "root": str(tmp_path / "photos")}
    write(tmp_path / "photos/train/a/1.jpg", "x")
    first = content.digest(data)
    write(tmp_path / "photos/preprocessed/cache.npy", "z")
    content.forget()
    assert content.digest(data) == first
    write(tmp_path / "photos/train/a/2.jpg", "x")
    content.forget()
    assert content.digest(data) != first


def test_the_shipped_subset_is_the_same_with_and_without_the_whole_set_at_hand(tmp_path: Path) -> None:
    data = {"_target_": "datamodules.common.torchvision_sets.FashionMNIST", "subset": "embedded"}
    alone = content.digest({**data, "root": str(tmp_path)})
    write(tmp_path / "FashionMNIST/raw/train", "x")
    content.forget()
    assert content.digest({**data, "root": str(tmp_path)}) == alone != ""
    whole = {**data, "subset": "full"}
    assert content.digest({**whole, "root": str(tmp_path)}) not in (alone, "")
    elsewhere = {**whole, "root": str(tmp_path / "nowhere")}
    assert content.digest(elsewhere) == ""  # what ships is not mistaken for it
    assert not content.differs(elsewhere, content.digest({**whole, "root": str(tmp_path)}))


def test_a_stage_trained_on_other_files_is_not_finished(
    make_plan: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    from experiments.running import engine

    plan = only(make_plan("data@stages.init.data=fashion_mnist", "stages.init.data.train_size=64"), ["init"])
    stage = plan.stages["init"]
    monkeypatch.setattr(engine, "_train", lambda plan, stage, report: _fake(stage))
    engine.run(plan)
    assert finished(stage) is not None
    monkeypatch.setattr(content, "digest", lambda data: "another")
    assert finished(stage) is None


def _fake(stage: object) -> dict[str, object]:
    from experiments.running.manifest import hash_metrics
    from experiments.running.plan import Stage

    assert isinstance(stage, Stage)
    manifest = {"fingerprint": stage.fingerprint, "metrics_hash": hash_metrics({}), "seconds": 0.0}
    files.write_json(stage.directory / "metrics.json", {})
    files.write_json(stage.directory / "manifest.json", {**manifest, "content": content.digest(stage.data)})
    return {**manifest, "metrics": {}}
