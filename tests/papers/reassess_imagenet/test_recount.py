"""The two published label files, counted, and what a recount reports."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from timm.data import RealLabelsImagenet

from datamodules.common.base import DataError
from datamodules.common.label_files import padded
from datamodules.reassess_imagenet.labels import LabelFile, LabelSets
from experiments.config import claims, compose
from experiments.running.plan import Plan
from modules.reassess_imagenet.recount import LabelCensus, Recount, pairs_of
from modules.reassess_imagenet.scores import label_counts


def report(module: Recount, data: LabelSets) -> dict[str, float]:
    actual: dict[str, float] = {}
    module.log_dict = lambda values, **_: actual.update(values)  # type: ignore[method-assign, assignment]
    for number, loader in enumerate(data.test_dataloader()):
        for index, batch in enumerate(loader):
            module.test_step(batch, index, number)
    module.on_test_epoch_end()
    return {name.removeprefix("test/"): value for name, value in actual.items()}


def test_the_published_files_give_the_published_counts(
    label_files: dict[str, LabelFile], make_plan: Callable[..., Plan]
) -> None:
    data = LabelSets(label_files)
    data.setup()
    module = Recount()
    actual = report(module, data)
    rows = claims.published(make_plan("paper=reassess_imagenet", "scale=mini", "variant=labels").config)
    assert len(rows) == 32
    for row in rows:
        assert actual[row.metric.removeprefix("test/")] == pytest.approx(row.value, abs=row.tolerance + 1e-9), (
            row.metric
        )
    assert actual["v1_multi_share"] == pytest.approx(15.89, abs=0.005)
    assert actual["v2_multi_share"] == pytest.approx(48.51, abs=0.005)
    assert (actual["v1_mean_labels"], actual["v2_mean_labels"]) == (
        pytest.approx(1.229, abs=5e-4),
        pytest.approx(1.933, abs=5e-4),
    )
    assert data.spec.sizes["test"] == 60_000
    assert {name: len(figure.axes) for name, figure in module.pictures(data).items()} == {
        "valid labels of an image": 1,
        "classes valid together": 2,
    }


def test_entries_by_their_place_and_by_their_name(label_files: dict[str, LabelFile]) -> None:
    first, second = (label_files[name].read() for name in ("v1", "v2"))
    assert list(first.values())[:5] == [[], [970, 795], [230, 231], [809], [516, 850]]
    assert next(iter(first)) == "ILSVRC2012_val_00000001"
    assert list(first)[-1] == "ILSVRC2012_val_00050000"
    assert list(second.values())[:2] == [[370], [356, 359]]
    assert next(iter(second)) == "f4603db396353d99a52840da512a04c1f79b1fef"


def test_timm_ships_the_same_real_labels(label_files: dict[str, LabelFile]) -> None:
    ours = label_files["v1"].read()
    theirs = RealLabelsImagenet([""] * 50_000).real_labels
    assert {name.removesuffix(".JPEG"): sorted(labels) for name, labels in theirs.items()} == {
        name: sorted(labels) for name, labels in ours.items()
    }


def test_the_counts_of_the_canvases_are_those_of_the_files(label_files: dict[str, LabelFile]) -> None:
    said = compose.paper_file("reassess_imagenet")["counts"]
    shares = {"v1": [0.8411, 0.1155, 0.0282, 0.0153], "v2": [0.5149, 0.2416, 0.1323, 0.1111]}
    for name, file in label_files.items():
        counts = label_counts(padded(list(file.read().values()))).bincount()
        assert said[name] == [*counts[1:4].tolist(), int(counts[4:].sum())]
        assert [n / sum(said[name]) for n in said[name]] == pytest.approx(shares[name], abs=5e-5)


def test_missing_labels_thin_the_second_set_to_the_first_ones_share() -> None:
    """The share of canvases whose label is the only one left is that of ImageNet's images with one label."""
    said = compose.paper_file("reassess_imagenet")["counts"]
    recipe = compose.load(compose.CONF / "recipe" / "reassess_imagenet" / "mini.yaml")
    missed = recipe["stages"]["annotation"]["data"]["sets"]["v1"]["missed"]
    alone = sum(n * missed**further for further, n in enumerate(said["v2"])) / sum(said["v2"])
    assert alone == pytest.approx(said["v1"][0] / sum(said["v1"]), abs=5e-4)


def test_a_census_by_hand() -> None:
    census = LabelCensus()
    census.update(torch.tensor([[-1, -1], [3, -1], [-1, 3]]))
    census.update(torch.tensor([[1, 2]]))
    assert census.compute()[:4].tolist() == [1, 2, 1, 0]
    together = pairs_of(torch.tensor([[0, 2, -1], [2, 0, -1], [1, 2, 0]]), 3)
    assert together.tolist() == [[0, 1, 3], [0, 0, 1], [0, 0, 0]]


def test_files_of_both_forms_and_what_is_refused(tmp_path: Path) -> None:
    def written(content: object) -> LabelFile:
        (tmp_path / "x.json").write_text(json.dumps(content))
        return LabelFile(str(tmp_path), "x.json")

    assert written([[3], []]).read() == {"ILSVRC2012_val_00000001": [3], "ILSVRC2012_val_00000002": []}
    assert written({"ab.jpeg": ["10", "2"]}).read() == {"ab": [10, 2]}
    with pytest.raises(DataError, match=r"x.json, a: \[1000\] is no list of different classes"):
        written({"a.jpeg": [1000]}).read()
    with pytest.raises(DataError, match=r"\[3, 3\] is no list of different classes"):
        written([[3, 3]]).read()
    with pytest.raises(DataError, match=r"\[-1, 3\] is no list of different classes"):
        written([[-1, 3]]).read()
    with pytest.raises(DataError, match="expected lists of class numbers"):
        written({"a": ["tench"]}).read()
    with pytest.raises(DataError, match="expected lists of class numbers"):
        written(7).read()
    missing = LabelFile(str(tmp_path), "y.json")
    assert "reassessed-imagenet" in missing.available()
    with pytest.raises(DataError, match=r"y.json is missing; real.json: https"):
        missing.read()


def test_a_recount_of_two_sets_by_hand(tmp_path: Path) -> None:
    """Four images with 0, 1, 2 and 3 labels, and two with 1 and 2; each set reports its own."""
    for name, content in (("v1", [[], [5], [1, 2], [7, 8, 9]]), ("v2", [[3], [4, 6]])):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    data = LabelSets({name: LabelFile(str(tmp_path), f"{name}.json") for name in ("v1", "v2")}, batch_size=3)
    data.setup()
    first = {"n": 4, "empty": 1, "usable": 3, "multi": 2, "mean_labels": 2, "multi_share": 200 / 3}
    first |= {"multi_share_of_all": 50, "labels_1": 1, "labels_2": 1, "labels_3": 1}
    second = {"n": 2, "empty": 0, "usable": 2, "multi": 1, "mean_labels": 1.5, "multi_share": 50}
    second |= {"multi_share_of_all": 50, "labels_1": 1, "labels_2": 1, "labels_3": 0}
    module = Recount(largest=3)
    for _ in range(2):  # a second test starts anew
        actual = report(module, data)
        expected = {f"{name}_{key}": n for name, own in (("v1", first), ("v2", second)) for key, n in own.items()}
        assert actual == pytest.approx(expected)


def test_a_recount_names_labels_beyond_its_list() -> None:
    module = Recount(["v1"], largest=2)
    module.test_step(torch.tensor([[1, 2, 3]]), 0)
    with pytest.raises(ValueError, match="v1: an image has more labels than largest=2"):
        module.on_test_epoch_end()
    with pytest.raises(ValueError, match="largest=17"):
        Recount(largest=17)
    generated = LabelSets({"v1": LabelFile("nowhere", "x.json")}, generated=True)
    generated.setup()
    assert next(iter(generated.test_dataloader()[0])).shape == (8, *generated.spec.shape) == (8, 12)
