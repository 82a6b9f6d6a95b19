"""Scores and weights against hand-computed values, the dense formulas, and what may not change them."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import median_abs_deviation, spearmanr
from torch import Tensor

from modules.zpe import scoring
from modules.zpe.networks import unit
from modules.zpe.scoring import (
    NORMALISATIONS,
    Score,
    Weighting,
    ensemble,
    max_logits,
    outstanding,
    prompt_accuracy,
    rank_correlation,
    share,
)

# prompt 0 tells two images apart; prompt 1 has high logits whatever the image shows
LOGITS = torch.tensor([[[3.0, 1.0], [5.0, 5.2]], [[1.0, 2.0], [5.0, 5.2]]])  # (N, P, C)
PRETRAINING = torch.tensor([[1.0, 1.0], [4.8, 5.0]])  # (P, C), average logits


def from_logits() -> tuple[Tensor, Tensor, Tensor]:
    """Embeddings whose products are the logits above: every image has an axis of its own, and pre-training one too."""
    v = torch.eye(3)[:2]  # (2, 3)
    t = torch.cat([LOGITS, PRETRAINING[None]]).permute(1, 2, 0)  # (P, C, 3)
    return v, t, torch.eye(3)[2:]


def random_case(n: int = 40, p: int = 7, c: int = 5, d: int = 16) -> tuple[Tensor, Tensor, Tensor]:
    v, t, pretraining = unit(torch.randn(n, d)), unit(torch.randn(p, c, d)), unit(torch.randn(30, d))
    return v, 20 * t, pretraining


def dense(mode: str, v: Tensor, t: Tensor, pretraining: Tensor) -> Tensor:
    """The scores as the paper writes them, on all logits at once."""
    logits = torch.einsum("nd,pcd->npc", v, t)
    before = torch.einsum("nd,pcd->npc", pretraining, t)
    subtracted = {
        "both": 0.5 * (before.mean(0) + logits.mean(0)),
        "test": logits.mean(0),
        "pretrain": before.mean(0),
        "pretrain_star": before.mean((0, 2))[:, None],
        "none": torch.zeros(()),
    }[mode]
    return (logits - subtracted).amax(2).mean(0)


@pytest.mark.parametrize(
    ("mode", "scores", "weights"),
    [
        ("none", (2.5, 5.2), (0.0630, 0.9370)),
        ("both", (1.125, 0.1), (0.7359, 0.2641)),
        ("test", (0.75, 0.0), None),
        ("pretrain", (1.5, 0.2), None),
    ],
)
def test_two_images_two_prompts_two_classes(mode: str, scores: tuple[float, ...], weights: tuple[float, ...]) -> None:
    s = Score(mode)(*from_logits())
    assert s.tolist() == pytest.approx(scores, abs=1e-6)
    if weights:
        assert Weighting()(s).tolist() == pytest.approx(weights, abs=1e-4)


@pytest.mark.parametrize("mode", NORMALISATIONS)
def test_one_vector_for_every_image_is_the_dense_formula(mode: str) -> None:
    v, t, pretraining = random_case()
    assert torch.allclose(Score(mode)(v, t, pretraining), dense(mode, v, t, pretraining), atol=1e-5)


def test_logits_at_a_time_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    v, t, pretraining = random_case()
    y = torch.randint(5, (40,))
    whole = Score()(v, t, pretraining), prompt_accuracy(v, y, t)
    monkeypatch.setattr(scoring, "CHUNK", 3 * 7 * 5)
    parts = Score()(v, t, pretraining), prompt_accuracy(v, y, t)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(whole, parts, strict=True))
    logits = torch.einsum("nd,pcd->npc", v, t)
    assert torch.allclose(whole[1], 100 * (logits.argmax(2) == y[:, None]).float().mean(0))


@pytest.mark.parametrize("mode", ["both", "test", "pretrain"])
def test_a_constant_of_a_prompt_or_of_prompt_and_class_is_removed(mode: str) -> None:
    """It is the same for test and pre-training images: an axis on which all of them are 1."""
    v, t, pretraining = random_case()
    offsets = 3 * torch.randn(7, 5)
    one = torch.ones(1)
    v1, pretraining1 = (torch.cat([x, one.expand(len(x), 1)], 1) for x in (v, pretraining))
    biased = torch.cat([t, offsets[:, :, None]], 2)
    assert torch.allclose(Score(mode)(v1, biased, pretraining1), Score(mode)(v, t, pretraining), atol=1e-4)

    by_prompt = torch.cat([t, offsets[:, :1, None].expand(7, 5, 1)], 2)
    moved = Score("none")(v1, by_prompt, pretraining1) - Score("none")(v, t, pretraining)
    assert torch.allclose(moved, offsets[:, 0], atol=1e-4)


def test_equal_averages_make_the_modes_one() -> None:
    v, t, _ = random_case()
    assert torch.allclose(Score("both")(v, t, v), Score("test")(v, t, v), atol=1e-5)
    assert torch.allclose(Score("pretrain")(v, t, v), Score("test")(v, t, v), atol=1e-5)


def test_a_prompt_that_does_not_look_at_the_image_scores_nothing() -> None:
    v, t, pretraining = random_case()
    v = torch.cat([v, torch.ones(len(v), 1)], 1)
    blind = torch.zeros(1, 5, 17)
    blind[..., -1] = torch.randn(5)
    t = torch.cat([torch.cat([t, torch.zeros(7, 5, 1)], 2), blind])
    s = Score("test")(v, t, torch.cat([pretraining, torch.ones(30, 1)], 1))
    assert float(s[-1].abs()) < 1e-5
    assert bool((s[:-1] > 0.1).all())


def test_pretrain_star_takes_all_class_names_where_they_are_given() -> None:
    v, t, pretraining = random_case()
    every = torch.randn(7, 16)
    given = Score("pretrain_star")(v, t, pretraining, every)
    expected = Score("none")(v, t, pretraining) - every @ pretraining.mean(0)
    assert torch.allclose(given, expected, atol=1e-5)


def test_parts_of_the_images_in_the_averages() -> None:
    v, t, pretraining = random_case()
    logits = torch.einsum("nd,pcd->npc", v, t)
    centred = logits - logits[:4].mean(0)
    assert torch.allclose(Score("test", test_fraction=0.1)(v, t, pretraining), centred.amax(2).mean(0), atol=1e-5)
    few = Score("pretrain", pretraining_images=5)(v, t, pretraining)
    assert torch.allclose(few, Score("pretrain")(v, t, pretraining[:5]), atol=1e-5)


def test_scores_per_example_average_to_the_score() -> None:
    v, t, pretraining = random_case()
    each = Score(per_example=True)(v, t, pretraining)
    assert each.shape == (40, 7)
    assert torch.allclose(each.mean(0), Score()(v, t, pretraining), atol=1e-5)


def test_scores_of_other_images_ignore_the_set() -> None:
    v, t, pretraining = random_case()
    foreign = Score(scored_on="pretraining")
    assert torch.equal(foreign(v, t, pretraining), foreign(v.flip(0)[:3], t, pretraining))
    assert torch.allclose(foreign(v, t, pretraining), Score("test")(pretraining, t, v), atol=1e-5)


def test_equal_prompts_get_equal_weights_and_equal_scores_the_plain_average() -> None:
    v, t, pretraining = random_case()
    t = t[:1].expand(7, 5, 16)
    w = Weighting()(Score()(v, t, pretraining))
    assert torch.allclose(w, torch.full((7,), 1 / 7))
    _, different, _ = random_case()
    assert torch.allclose(7 * ensemble(different, w), different.mean(0), atol=1e-5)
    assert torch.allclose(ensemble(different[:1], torch.ones(1)), different[0])  # P = 1: plain zero-shot


def test_the_factor_of_the_weights_changes_no_prediction() -> None:
    v, t, pretraining = random_case()
    s = Score()(v, t, pretraining)
    more = torch.cat([s, torch.randn(9)]).softmax(0)[:7]  # a softmax over more templates, cut to the pool
    for w in (0.01 * Weighting()(s), more):
        assert torch.equal((v @ ensemble(t, w).T).argmax(1), (v @ ensemble(t, Weighting()(s)).T).argmax(1))


def test_the_classifier_averages_logits_and_is_not_renormalised() -> None:
    v, t, pretraining = random_case()
    w = Weighting()(Score()(v, t, pretraining))
    logits = torch.einsum("nd,pcd->npc", v, t)
    averaged = (w[None, :, None] * logits).mean(1)
    assert torch.allclose(v @ ensemble(t, w).T, averaged, atol=1e-5)
    assert float(ensemble(t, w).norm(dim=1).std()) > 1e-3

    each = Weighting()(Score(per_example=True)(v, t, pretraining))  # (N, P)
    by_image = torch.einsum("nd,ncd->nc", v, ensemble(t, each))
    assert torch.allclose(by_image, (each[:, :, None] * logits).mean(1), atol=1e-5)


def test_without_the_scale_weights_are_nearly_uniform() -> None:
    s = torch.tensor([0.30, 0.31])  # cosines
    ratio = Weighting()(s)
    assert float(ratio[1] / ratio[0]) == pytest.approx(math.exp(0.01), rel=1e-5)
    scaled = Weighting()(100 * s)
    assert float(scaled[1] / scaled[0]) == pytest.approx(math.e, rel=1e-4)


def test_selection_by_hand() -> None:
    s = torch.tensor([0.10, 0.20, 0.15, 0.18, 0.90])
    assert float(median_abs_deviation(s.numpy())) == pytest.approx(0.03, abs=1e-6)
    assert outstanding(s, 0.5).tolist() == [False, True, False, False, True]
    assert outstanding(s, 2.0).tolist() == [False, False, False, False, True]
    assert outstanding(s, 1e6).all()  # none passes: all are kept
    w = Weighting(tau=0.5)(s)
    assert w.nonzero().flatten().tolist() == [1, 4]
    assert w[[1, 4]].tolist() == pytest.approx(s[[1, 4]].softmax(0).tolist())
    raw = Weighting("raw", tau=2.0)(s)
    assert raw.tolist() == pytest.approx([0, 0, 0, 0, 0.9])


def test_selection_with_an_even_number_and_without_deviation() -> None:
    even = torch.tensor([0.0, 1.0, 2.0, 5.0])  # median 1.5, deviations 1.5, .5, .5, 3.5: MAD 1
    assert outstanding(even, 0.4).tolist() == [False, False, True, True]
    assert outstanding(even, 0.6).tolist() == [False, False, False, True]
    flat = torch.tensor([1.0, 1.0, 1.0, 1.5])
    assert outstanding(flat, 3.0).tolist() == [False, False, False, True]
    assert outstanding(flat[:3], 0.5).all()


def test_rules() -> None:
    s = torch.tensor([1.0, 2.0])
    assert torch.equal(Weighting("raw")(s), s)
    assert Weighting("tenth_power")(s).tolist() == [1.0, 1024.0]
    dealt = Weighting(dealt=True)(torch.arange(6.0), torch.Generator().manual_seed(1))
    assert not torch.equal(dealt, torch.arange(6.0).softmax(0))
    assert torch.equal(dealt.sort().values, torch.arange(6.0).softmax(0))


def test_unknown_words_are_refused() -> None:
    with pytest.raises(ValueError, match="expected one of both, test"):
        Score("train")
    with pytest.raises(ValueError, match="set or pretraining"):
        Score(scored_on="test")
    with pytest.raises(ValueError, match="softmax, raw"):
        Weighting("linear")
    with pytest.raises(ValueError, match="for a set"):
        Weighting(tau=0.5)(torch.zeros(3, 4))


def test_shares_and_rank_correlation() -> None:
    assert share(torch.tensor([1.0, 3.0]), [False, True]) == pytest.approx(0.75)
    assert share(torch.tensor([[1.0, 3.0], [1.0, 1.0]]), [False, True]) == pytest.approx(0.625)
    a, b = torch.tensor([0.1, 0.5, 0.5, 0.9, 0.2]), torch.tensor([3.0, 2.0, 5.0, 5.0, 1.0])
    assert rank_correlation(a, b) == pytest.approx(float(spearmanr(a.numpy(), b.numpy()).statistic))
    assert rank_correlation(a, torch.ones(5)) == 0.0


def test_highest_logits() -> None:
    v, t, _ = from_logits()
    assert torch.allclose(max_logits(v, t), torch.tensor([[3.0, 5.2], [2.0, 5.2]]))
