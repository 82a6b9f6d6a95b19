"""The independent checks of multi-label accuracy, of the selection of a hard slice, and of the released annotations."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torchmetrics
from torch import Tensor, nn
from torch.utils.data import DataLoader

from datamodules.bagel.annotations import Mistakes
from datamodules.common.imagenet_classes import imagenet_classes
from experiments.config import claims
from experiments.running import training
from experiments.running.plan import Plan
from modules.bagel import COLLAPSED, MistakeCounts, MistakeTables, MultiLabelEvaluation, SelectedSlice, collapsed_table
from modules.common.multilabel import MultiLabelAccuracy, among, class_average
from tests.schedules import half

ROOT = Path(os.environ.get("REPRISE_DATA", "data"))
NAMES = {
    "models": ["vit3b", "greedy_soups"],
    "categories": ["fine_grained", "fine_grained_oov", "spurious", "non_prototypical", "other"],
    "severities": ["major", "minor", "borderline"],
}
WEASELS = ("weasel", "mink", "polecat", "black-footed ferret")
# original label, valid set, problematic, prediction
TOY = [(0, [0], 0, 0), (0, [0, 1], 0, 1), (0, [0], 0, 2), (1, [1], 0, 1), (2, [2], 1, 0), (2, [2], 0, 2)]


class Given(nn.Module):
    """A network whose logits are its input."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return x


def table(rows: list[tuple[int, list[int], int, int]]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """prediction, original, valid, skip."""
    width = max(len(row[1]) for row in rows)
    valid = torch.tensor([[*row[1], *[-1] * (width - len(row[1]))] for row in rows])
    prediction, original = (torch.tensor([row[i] for row in rows]) for i in (3, 0))
    return prediction, original, valid, torch.tensor([bool(row[2]) for row in rows])


def scores_of(rows: list[tuple[int, list[int], int, int]], classes: int = 3, parts: int = 1) -> dict[str, Tensor]:
    measure = MultiLabelAccuracy(classes)
    for part in zip(*(column.chunk(parts) for column in table(rows)), strict=True):
        measure.update(*part)
    return measure.compute()


def random_rows(count: int = 400, classes: int = 7, seed: int = 0) -> list[tuple[int, list[int], int, int]]:
    draw = torch.Generator().manual_seed(seed)
    numbers = torch.randint(classes, (count, 4), generator=draw).tolist()
    return [(a, sorted({a, b}), int(c == 0), d) for a, b, c, d in numbers]


def report_of(module: pl.LightningModule, batches: list[Any]) -> dict[str, float]:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = pl.Trainer(accelerator="cpu", devices=1, enable_checkpointing=False, **quiet)
    (actual,) = trainer.test(module, DataLoader(batches, batch_size=None), verbose=False)
    return dict(actual)


@pytest.mark.parametrize("parts", [1, 2, 3])
def test_toy_example_by_hand(parts: int) -> None:
    """Per class 2/3, 1, 1; the problematic image counts for top-1 over all images alone."""
    actual = scores_of(TOY, parts=parts)
    assert float(actual["mla"]) == pytest.approx(88.89, abs=0.01)
    assert float(actual["ml_acc"]) == pytest.approx(80.0)
    assert float(actual["macro_top1"]) == pytest.approx(100 * (1 / 3 + 1 + 1) / 3)
    assert float(100 - 100 * actual["mistakes"] / actual["counted"]) == pytest.approx(60.0)
    assert float(actual["top1"]) == pytest.approx(50.0)  # 3 of all 6
    assert {n: int(actual[n]) for n in ("n", "counted", "mistakes", "remaining", "classes", "pairs")} == {
        "n": 6,
        "counted": 5,
        "mistakes": 2,
        "remaining": 1,
        "classes": 3,
        "pairs": 1,
    }
    assert float(actual["valid_share"]) == pytest.approx(50.0)
    assert int(actual["confused"][0, 2]) == int(actual["confused"].sum()) == 1


def test_plain_python_agrees() -> None:
    rows = random_rows()
    kept = [row for row in rows if not row[2]]
    per_class = {k: [p in s for o, s, _, p in kept if o == k] for k in range(7)}
    wrong = [row for row in kept if row[3] != row[0]]
    actual = scores_of(rows, 7, parts=5)
    assert float(actual["mla"]) == pytest.approx(100 * sum(sum(v) / len(v) for v in per_class.values()) / 7, abs=1e-4)
    assert float(actual["valid_share"]) == pytest.approx(
        100 * sum(p in s for _, s, _, p in wrong) / len(wrong), abs=1e-4
    )
    assert int(actual["remaining"]) == sum(p not in s for _, s, _, p in kept)


def test_doubling_a_class_changes_the_plain_mean_alone() -> None:
    twice = [*TOY, *(row for row in TOY if row[0] == 0)]
    assert float(scores_of(twice)["mla"]) == pytest.approx(float(scores_of(TOY)["mla"]))
    assert float(scores_of(twice)["ml_acc"]) == pytest.approx(75.0)


def test_a_label_taken_out_of_the_valid_set_can_only_lower_mla() -> None:
    for seed in range(5):
        rows = random_rows(seed=seed)
        fewer = [(o, [o] if i % 3 else s, f, p) for i, (o, s, f, p) in enumerate(rows)]
        assert float(scores_of(fewer, 7)["mla"]) <= float(scores_of(rows, 7)["mla"])


def test_with_the_original_label_alone_mla_is_top1_by_class_and_never_below_it_otherwise() -> None:
    rows = random_rows()
    single = [(o, [o], f, p) for o, _, f, p in rows]
    actual = scores_of(single, 7)
    assert float(actual["mla"]) == pytest.approx(float(actual["macro_top1"]))
    assert float(actual["valid_share"]) == 0
    assert float(scores_of(rows, 7)["mla"]) >= float(actual["mla"])


def test_classes_that_do_not_occur_are_not_in_the_mean() -> None:
    actual = scores_of([row for row in TOY if row[0] != 2])
    assert int(actual["classes"]) == 2
    assert float(actual["mla"]) == pytest.approx(100 * (2 / 3 + 1) / 2)
    assert torch.isnan(class_average(torch.zeros(3), torch.zeros(3)))


def test_padding_is_no_label() -> None:
    assert among(torch.tensor([0, 1]), torch.tensor([[0, -1], [-1, -1]])).tolist() == [True, False]


def batch(rows: list[tuple[int, list[int], int, int]], classes: int, major: list[int] | None = None) -> tuple[Any, ...]:
    prediction, original, valid, skip = table(rows)
    chosen = torch.zeros(len(rows), dtype=torch.bool)
    chosen[major or []] = True
    return 3.0 * nn.functional.one_hot(prediction, classes), original, valid, skip, chosen


def test_a_stage_reports_the_same_whatever_the_temperature_or_a_common_shift() -> None:
    x, *rest = batch(TOY, 3)
    reported = [
        report_of(MultiLabelEvaluation(Given(), 3), [(made, *rest)]) for made in (x, 0.1 * x, x + 5, x.softmax(-1))
    ]
    assert all(one == reported[0] for one in reported)
    assert reported[0]["test/mla"] == pytest.approx(88.89, abs=0.01)
    assert reported[0]["test/n"] == 6
    assert "test/m_correct" not in reported[0]


def test_collapsed_classes_count_one_way_or_both_and_not_in_imagenet_m() -> None:
    pairs = collapsed_table()
    assert sorted(pairs[356].tolist()) == [357, 358, 359]
    assert pairs[435].tolist() == [876, -1, -1]
    assert pairs[876].tolist() == [-1, -1, -1]
    assert sum(map(len, COLLAPSED.values())) == int((pairs >= 0).sum()) == 29
    rows = [
        (836, [836], 0, 837),
        (249, [249], 0, 248),
        (248, [248], 0, 249),
        (435, [435], 0, 876),
        (876, [876], 0, 435),
    ]
    plain = report_of(MultiLabelEvaluation(Given(), 1000), [batch(rows, 1000, [0, 2])])
    collapsed = report_of(MultiLabelEvaluation(Given(), 1000, collapse=True), [batch(rows, 1000, [0, 2])])
    assert plain["test/mla"] == 0
    assert collapsed["test/mla"] == pytest.approx(60.0)
    assert collapsed["test/m_correct"] == plain["test/m_correct"] == 0
    with pytest.raises(ValueError, match="classes=10"):
        MultiLabelEvaluation(Given(), 10, collapse=True)


def test_collapsed_classes_by_name() -> None:
    """Numbers mean what the comments say; two maillots share their first name."""
    _, names = imagenet_classes()
    assert {(names[label], names[other]) for label, also in COLLAPSED.items() for other in also} == {
        ("malamute", "Eskimo dog"),
        ("Siberian husky", "Eskimo dog"),
        *((a, b) for a in WEASELS for b in WEASELS if a != b),
        ("Indian elephant", "tusker"),
        ("African elephant", "tusker"),
        ("bathtub", "tub"),
        ("cassette player", "tape player"),
        ("coffee mug", "cup"),
        ("laptop", "notebook"),
        ("notebook", "laptop"),
        ("maillot", "maillot"),
        ("missile", "projectile"),
        ("projectile", "missile"),
        ("monitor", "screen"),
        ("screen", "monitor"),
        ("sunglass", "sunglasses"),
        ("sunglasses", "sunglass"),
    }


def test_imagenet_m_is_a_count_of_valid_predictions() -> None:
    """A constant prediction of class k scores the number of images with k in the valid set."""
    rows = [(o, s, 0, 1) for o, s, _, _ in random_rows(68)]
    actual = report_of(MultiLabelEvaluation(Given(), 7), [batch(rows, 7, list(range(68)))])
    assert actual["test/m_correct"] == sum(1 in s for _, s, _, _ in rows)
    assert actual["test/m_correct"] + actual["test/m_errors"] == actual["test/m_images"] == 68


def test_a_slice_is_what_every_judge_gets_wrong() -> None:
    """Judges score 0 by construction; the third network is counted there and nowhere else."""
    said = [[0, 1, 1, 1, 0], [0, 0, 1, 1, 1], [1, 1, 0, 1, 0]]  # two judges, the network; class 0 is right
    valid, skip = torch.zeros(5, 1, dtype=torch.long), torch.tensor([False] * 4 + [True])
    views = [nn.functional.one_hot(torch.tensor(row), 2).float() for row in said]
    evaluated = [MultiLabelEvaluation(Given(), 2) for _ in range(3)]
    module = SelectedSlice(evaluated[:2], evaluated[2], 2)
    actual = report_of(module, [(views, torch.zeros(5, dtype=torch.long), valid, skip, skip)])
    assert actual["test/slice_n"] == 2  # images 2 and 3
    assert actual["test/slice_right"] == 1
    assert actual["test/slice_acc"] == 50
    assert actual["test/mla"] == 25
    assert actual["test/n"] == 5
    x = torch.randn(4, 2)
    assert torch.equal(module(x), torch.stack([x, x, x]))


def test_a_stage_keeps_its_optimiser_and_schedule() -> None:
    sgd = partial(torch.optim.SGD, lr=0.1)
    module = MultiLabelEvaluation(Given(), 3, optimizer=sgd, schedule=half)
    assert (module.optimizer_factory, module.schedule) == (sgd, half)


def test_pictures(make_plan: Callable[..., Plan]) -> None:
    this = make_plan("paper=bagel")
    data = training.build(this.stages["slice"].data)
    data.setup()
    networks = [training.build(this.stages[name].module) for name in ("strong", "middle", "weak")]
    module = SelectedSlice(networks[:2], networks[2], 10).eval()
    module.points = [(40.0, 70.0), (30.0, 60.0), (20.0, 40.0)]
    figures = module.pictures(data)
    assert [len(figure.axes) for figure in figures.values()] == [6, 1]
    networks[0].confused[3, 4] = 2
    (bars,) = networks[0].pictures(data).values()
    assert bars.axes[0].get_yticklabels()[0].get_text() == "dress, taken for coat"
    assert networks[1].pictures(data) == {}


@pytest.fixture(scope="module")
def counted() -> dict[str, float]:
    data = Mistakes(str(ROOT / "labels" / "imagenet_mistakes"), **NAMES, batch_size=100)
    if problem := data.available():
        pytest.skip(problem)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = pl.Trainer(
        accelerator="cpu", devices=1, enable_checkpointing=False, use_distributed_sampler=False, **quiet
    )
    module = MistakeTables(**NAMES)
    actual = trainer.test(module, datamodule=data, verbose=False)
    assert len(module.pictures(data)["category by severity"].axes) == 2
    return {name.removeprefix("test/"): value for part in actual for name, value in part.items()}


def test_the_released_annotations_give_the_published_counts(
    counted: dict[str, float], make_plan: Callable[..., Plan]
) -> None:
    rows = claims.published(make_plan("paper=bagel", "scale=mini", "variant=annotations").config)
    assert len(rows) == 34
    assert all(counted[row.metric.removeprefix("test/")] == pytest.approx(row.value, abs=0.05) for row in rows)
    assert counted["n"] == 378 + 249 - 164


def test_the_most_confused_pairs() -> None:
    data = Mistakes(str(ROOT / "labels" / "imagenet_mistakes"), **NAMES)
    if problem := data.available():
        pytest.skip(problem)
    data.setup()
    _, names = imagenet_classes()
    assert {frozenset((names[a], names[b])) for a, b, times in data.pairs.tolist() if times == 5} == {
        frozenset(("American chameleon", "green lizard")),
        frozenset(("Madagascar cat", "indri")),
    }


def test_every_mistake_has_one_category_and_one_severity(counted: dict[str, float]) -> None:
    for model in NAMES["models"]:
        for kind in ("categories", "severities"):
            assert sum(counted[f"{model}_{name}"] for name in NAMES[kind]) == counted[f"{model}_mistakes"]
        worst = sum(counted[f"{model}_major_{name}"] for name in NAMES["categories"])
        assert worst == counted[f"{model}_major"]


def test_mistake_tables_by_hand() -> None:
    photos = torch.tensor(
        [
            [[5, 0, 0], [5, 1, 0]],  # both, same class, major in both
            [[5, 4, 1], [6, 0, 0]],  # both, another class
            [[-1, -1, -1], [7, 2, 2]],
            [[8, 0, 0], [-1, -1, -1]],
        ]
    )
    module = MistakeTables(**NAMES)
    actual = report_of(module, [photos[:3], photos[3:], torch.tensor([[1, 2, 1], [3, 4, 5], [4, 3, 1]])])
    assert actual["test/n"] == 4
    assert [actual[f"test/{name}"] for name in ("shared", "shared_same_class", "shared_major")] == [2, 1, 1]
    counts = MistakeCounts(2, 5, 3)
    counts.update(photos)
    assert set(counts._reductions.values()) == {torchmetrics.utilities.dim_zero_sum}  # over processes
    assert counts.table[0].tolist() == [[2, 0, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0], [0, 1, 0]]
    assert counts.table[1].tolist() == [[1, 0, 0], [1, 0, 0], [0, 0, 1], [0, 0, 0], [0, 0, 0]]
    assert actual["test/vit3b_mistakes"] == int(counts.table[0].sum()) == 3
    assert [actual[f"test/pairs_seen_{times}"] for times in range(1, 6)] == [2, 0, 0, 0, 1]
    assert actual["test/pair_mistakes"] == 7


def test_what_a_guess_reaches_in_mini(make_plan: Callable[..., Plan]) -> None:
    """The recipe says 10 percent top-1, 20 percent MLA, 11 percent of the mistakes valid; a claim's bar is that MLA."""
    this = make_plan("paper=bagel", "scale=mini")
    data = training.build(this.stages["middle"].data)
    data.setup()
    draw = torch.Generator().manual_seed(0)
    measure = MultiLabelAccuracy(10)
    for _ in range(10):
        for _, original, valid, skip, _ in data.test_dataloader():
            measure.update(torch.randint(10, original.shape, generator=draw), original, valid, skip)
    actual = measure.compute()
    assert float(actual["macro_top1"]) == pytest.approx(10, abs=0.6)
    assert float(actual["mla"]) == pytest.approx(20, abs=0.8)
    assert float(actual["valid_share"]) == pytest.approx(100 / 9, abs=0.8)
    (bar,) = (c.than for c in claims.read(this.config).claims if c.better == "slice/test/slice_acc")
    assert bar == 20


def test_the_three_networks_of_mini_differ_in_size_alone(make_plan: Callable[..., Plan]) -> None:
    stages = make_plan("paper=bagel", "scale=mini").stages
    weak, middle, strong = (stages[name] for name in ("weak", "middle", "strong"))
    sizes = [
        sum(p.numel() for p in training.build(stage.module).network.parameters()) for stage in (weak, middle, strong)
    ]
    assert sizes == sorted(set(sizes))
    for stage in (middle, strong):
        assert stage.data == weak.data
        assert stage.trainer == weak.trainer
        assert {k: v for k, v in stage.module.items() if k != "network"} == {
            k: v for k, v in weak.module.items() if k != "network"
        }
    assert stages["slice"].data == weak.data


def test_photos_are_equally_large_and_their_label_is_any_of_them(make_plan: Callable[..., Plan]) -> None:
    this = make_plan("paper=bagel", "scale=mini", "variant=photos")
    data = this.stages["middle"].data
    assert data["_target_"] == "datamodules.common.composites.Composites"
    assert "prominence" not in data
    assert not any(c.than == "middle/test/macro_top1" for c in claims.read(this.config).claims)
