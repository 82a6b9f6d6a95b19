"""The independent checks of variable top-k, ReaL, groups, ASMA and of what a gap is made of."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from timm.data import RealLabelsImagenet
from torch import Tensor

from datamodules.common.label_files import padded
from modules.common.multilabel import MultiLabelAccuracy
from modules.reassess_imagenet import scores
from modules.reassess_imagenet.scores import MOST, Groups, Subgroups, asma, take_apart

# valid labels, ranking, original label
TOY = [
    ([0], [0, 1, 2, 3, 4], 0),
    ([1, 2], [1, 3, 2, 0, 4], 2),
    ([1, 2], [2, 1, 0, 3, 4], 1),
    ([0, 3, 4], [0, 4, 1, 3, 2], 0),
    ([], [0, 1, 2, 3, 4], 3),
]


def logits_of(ranking: list[int]) -> list[float]:
    return [-float(ranking.index(c)) for c in range(len(ranking))]


def toy() -> tuple[Tensor, Tensor, Tensor]:
    """logits, original labels, valid labels."""
    logits = torch.tensor([logits_of(ranking) for _, ranking, _ in TOY])
    return logits, torch.tensor([original for *_, original in TOY]), padded([valid for valid, *_ in TOY])


def groups_of(logits: Tensor, original: Tensor, valid: Tensor, parts: int = 1) -> Groups:
    measure = Subgroups(logits.shape[1])
    for part in zip(*(column.chunk(parts) for column in (logits, original, valid)), strict=True):
        measure.update(*part)
    return measure.groups()


def random_images(count: int = 3000, classes: int = 12, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Random logits and one to four valid labels, mostly one; the first is the original."""
    draw = torch.Generator().manual_seed(seed)
    order = torch.rand(count, classes, generator=draw).argsort(1)[:, :4]
    many = (torch.rand(count, 1, generator=draw) * 5).long() - 1
    valid = order.masked_fill(torch.arange(4) > many.clamp(min=0), -1)
    logits = torch.randn(count, classes, generator=draw)
    return logits, valid[:, 0], valid


@pytest.mark.parametrize("parts", [1, 2, 5])
def test_toy_example_by_hand(parts: int) -> None:
    groups = groups_of(*toy(), parts=parts)
    assert groups.images[:4].tolist() == [1, 2, 1, 0]
    assert groups.scores["vtk"][:3].tolist() == pytest.approx([1, 0.75, 2 / 3])
    assert float(groups.mean("vtk")) == pytest.approx(0.7917, abs=1e-4)
    assert float(groups.mean("strict")) == pytest.approx(0.5)
    assert float(groups.mean("real")) == 1.0
    value, used = asma(groups, least=1)
    assert (float(value), used) == (pytest.approx(0.8056, abs=1e-4), 3)
    assert asma(groups, least=2)[1] == 1  # only the group of two labels has two images


def test_images_without_labels_count_in_top1_over_all_images_alone() -> None:
    """2 of 5; of the 4 with labels also 2."""
    logits, original, valid = toy()
    measure = MultiLabelAccuracy(5)
    measure.update(scores.rank_classes(logits, 1)[:, 0], original, valid, scores.label_counts(valid) == 0)
    actual = measure.compute()
    assert float(actual["top1"]) == pytest.approx(40.0)
    assert float(actual["ml_acc"]) == 100.0
    assert int(actual["counted"]) == 4
    assert float(groups_of(logits, original, valid).mean("top1")) == pytest.approx(0.5)


def test_with_the_original_label_alone_every_score_is_top1() -> None:
    logits, original, _ = random_images()
    groups = groups_of(logits, original, original[:, None])
    top1 = float((logits.argmax(1) == original).float().mean())
    for name in ("top1", "real", "vtk", "strict"):
        assert float(groups.mean(name)) == pytest.approx(top1, abs=1e-6)
    assert float(asma(groups, 30)[0]) == pytest.approx(top1, abs=1e-6)
    assert float(groups.mean("ceiling")) == 1.0
    assert float(groups.scores["mlpc"][0]) == 0.0


def test_variable_top_k_can_be_above_and_below_real_for_one_image() -> None:
    valid = torch.tensor([[0, 1], [0, 1]])
    hits = scores.valid_ranks(torch.tensor([[2, 0], [0, 2]]), valid)
    assert hits[:, 0].tolist() == [False, True]
    assert (scores.right_in_variable_top_k(hits, torch.tensor([2, 2])) / 2).tolist() == [0.5, 0.5]


def test_a_random_ranking_scores_k_of_c_and_adds_nothing_behind_its_first_rank() -> None:
    groups = groups_of(*random_images(60_000, classes=20))
    for k in (1, 2, 3, 4):
        assert float(groups.scores["vtk"][k - 1]) == pytest.approx(k / 20, abs=0.008)
        assert float(groups.scores["mlpc"][k - 1]) == pytest.approx(0, abs=0.006)


def test_what_guesses_behind_the_first_rank_score_by_hand() -> None:
    """k = 2, C = 5. First rank right: one of four others is valid; wrong: two of four."""
    valid = torch.tensor([[0, 1]]).expand(4, 2)
    right = torch.tensor([logits_of([0, second, *(c for c in range(1, 5) if c != second)]) for second in (1, 2, 3, 4)])
    groups = groups_of(right, torch.zeros(4, dtype=torch.long), valid)
    assert float(groups.scores["vtk"][1]) == pytest.approx((1 + 1 / 4) / 2)
    assert float(groups.scores["mlpc"][1]) == pytest.approx(0, abs=1e-12)
    wrong = torch.tensor([logits_of([2, second, *(c for c in (0, 1, 3, 4) if c != second)]) for second in (0, 1, 3, 4)])
    assert float(groups_of(wrong, torch.zeros(4, dtype=torch.long), valid).scores["mlpc"][1]) == pytest.approx(0)
    best = groups_of(right[:1], torch.zeros(1, dtype=torch.long), valid[:1])
    assert float(best.scores["mlpc"][1]) == pytest.approx(1 - 5 / 8)


def test_one_more_label_never_lowers_real_and_may_lower_variable_top_k() -> None:
    logits, _, valid = random_images()
    extra = (valid[:, 0] + 1) % 12
    extra = torch.where((valid == extra[:, None]).any(1), -1, extra)
    more = torch.cat([valid, extra[:, None]], 1)
    before, after = (scores.valid_ranks(scores.rank_classes(logits, 5), v) for v in (valid, more))
    assert bool((after[:, 0] >= before[:, 0]).all())
    counts = [scores.label_counts(v) for v in (valid, more)]
    fractions = [scores.right_in_variable_top_k(h, n) / n for h, n in zip((before, after), counts, strict=True)]
    assert bool((fractions[1] < fractions[0]).any())


def test_order_of_labels_padding_and_scale_of_logits_change_nothing() -> None:
    logits, original, valid = random_images()
    plain = groups_of(logits, original, valid)
    shuffled = valid[:, torch.tensor([2, 0, 3, 1])]
    for other in (groups_of(7.5 * logits, original, valid), groups_of(logits - 3, original, shuffled)):
        assert torch.equal(plain.images, other.images)
        for name, score in plain.scores.items():
            assert torch.equal(score.nan_to_num(-1), other.scores[name].nan_to_num(-1))
    flat = torch.zeros(2, 4)
    assert scores.rank_classes(flat, 3).tolist() == [[0, 1, 2], [0, 1, 2]]  # ties: by class number
    source = torch.Generator().manual_seed(1)
    tied = torch.randint(0, 30, (200, 50), generator=source).float()
    for depth in (1, 5, 50):
        whole = tied.argsort(dim=1, descending=True, stable=True)[:, :depth]
        assert torch.equal(scores.rank_classes(tied, depth), whole)


def test_timms_real_labels_give_the_same_real_and_not_variable_top_k(tmp_path: Path) -> None:
    logits, original, valid = random_images(500)
    valid[::9] = -1
    lists = [[int(c) for c in row if c >= 0] for row in valid.tolist()]
    (tmp_path / "real.json").write_text(json.dumps(lists))
    names = [f"ILSVRC2012_val_{i + 1:08}.JPEG" for i in range(len(lists))]
    theirs = RealLabelsImagenet(names, real_json=str(tmp_path / "real.json"), topk=(1, 3))
    theirs.add_result(logits)
    groups = groups_of(logits, original, valid)
    assert 100 * float(groups.mean("real")) == pytest.approx(float(theirs.get_accuracy(k=1)), abs=1e-10)
    rankings = logits.argsort(1, descending=True).tolist()
    any_of_three = [bool(set(row[:3]) & set(names)) for row, names in zip(rankings, lists, strict=True) if names]
    assert float(theirs.get_accuracy(k=3)) == pytest.approx(100 * sum(any_of_three) / len(any_of_three))
    assert float(theirs.get_accuracy(k=3)) > 100 * float(groups.mean("vtk")) + 5


def test_plain_python_agrees() -> None:
    logits, original, valid = random_images(400)
    groups = groups_of(logits, original, valid, parts=4)
    by_size: dict[int, list[float]] = {}
    for z, labels in zip(logits, valid.tolist(), strict=True):
        named = {label for label in labels if label >= 0}
        ranked = sorted(range(len(z)), key=lambda c: -float(z[c]))[: len(named)]
        by_size.setdefault(len(named), []).append(len(named & set(ranked)) / len(named))
    for k, values in by_size.items():
        assert int(groups.images[k - 1]) == len(values)
        assert float(groups.scores["vtk"][k - 1]) == pytest.approx(sum(values) / len(values))


def test_the_overall_score_is_the_mixture_of_its_groups() -> None:
    logits, original, valid = random_images()
    groups = groups_of(logits, original, valid)
    top1 = float((logits.argmax(1) == original).double().mean())
    assert float((groups.shares * groups.scores["top1"].nan_to_num()).sum()) == pytest.approx(top1, abs=1e-9)
    assert float(groups.mean("top1", groups.shares)) == pytest.approx(float(groups.mean("top1")), abs=1e-12)
    merged = groups.merged(3)
    assert int(merged.images.sum()) == len(logits)
    assert len(merged.images) == 3
    assert float(merged.mean("vtk")) == pytest.approx(float(groups.mean("vtk")), abs=1e-12)


def test_a_gap_is_what_counts_make_and_what_is_left() -> None:
    first, second = (groups.merged(4) for groups in two_sets_of_shares())
    for name in scores.COMPARED:
        parts = take_apart(first, second, name)
        assert float(parts["plain"]) == pytest.approx(float(parts["counts"] + parts["reverse"]), abs=1e-12)
    alike = take_apart(first, first, "vtk")
    assert all(float(value) == pytest.approx(0, abs=1e-12) for value in alike.values())


def two_sets_of_shares() -> tuple[Groups, Groups]:
    images = random_images(6000)
    many = scores.label_counts(images[2])
    few = (many == 1) | (torch.arange(6000) % 5 == 0)
    return groups_of(*(column[few] for column in images)), groups_of(*images)


def given(images: list[int], values: list[float]) -> Groups:
    score = torch.tensor(values, dtype=torch.double)
    return Groups(torch.tensor(images), {"top1": score, "vtk": score})


def test_taking_apart_by_hand() -> None:
    first = given([80, 20], [0.9, 0.5])
    second = given([50, 50], [0.8, 0.4])
    parts = {name: round(float(value), 10) for name, value in take_apart(first, second, "top1").items()}
    assert parts == {"plain": 0.22, "k1": 0.1, "reweighted": 0.1, "reverse": 0.1, "counts": 0.12}


def test_a_group_that_is_missing_is_not_made_up() -> None:
    first = given([10, 0], [0.9, torch.nan])
    second = given([5, 5], [0.8, 0.4])
    parts = take_apart(first, second, "top1")
    assert float(parts["plain"]) == pytest.approx(0.3)
    assert float(parts["reweighted"]) == pytest.approx(0.1)
    assert torch.isnan(parts["reverse"])
    assert torch.isnan(asma(first, least=30)[0])
    assert torch.isnan(first.merged(2).scores["top1"][1])


def test_too_many_labels_are_named() -> None:
    with pytest.raises(ValueError, match=f"an image has 17 valid labels; expected at most {MOST}"):
        Subgroups(20).update(torch.zeros(1, 20), torch.zeros(1, dtype=torch.long), torch.arange(17)[None])
