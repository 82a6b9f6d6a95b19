"""Similarities: extremes, hand-computed values, an independent SSIM, and the fusion's direction."""

from __future__ import annotations

import pytest
import torch

from modules.copyscope.scores import (
    PIXEL_SCORES,
    channel_statistics,
    colour_histogram,
    cut_out,
    difference_hash,
    fuse,
    grey,
    structural_similarity,
    thumbnail_cosine,
)


@pytest.mark.parametrize("name", PIXEL_SCORES)
def test_an_image_is_as_near_to_itself_as_can_be(name: str) -> None:
    x = torch.rand(3, 3, 16, 16)
    assert PIXEL_SCORES[name](x, x).tolist() == pytest.approx([1.0] * 3, abs=1e-5)
    assert float(PIXEL_SCORES[name](x, x.roll(1, 0)).max()) < 0.99


def test_cosine_of_a_black_half() -> None:
    x = torch.ones(1, 3, 64, 64)
    half = x.clone()
    half[..., :32] = 0
    assert float(thumbnail_cosine(x, half)) == pytest.approx(0.5**0.5, abs=1e-6)


def test_histograms_do_not_see_where_colours_are() -> None:
    x = torch.rand(1, 3, 16, 16)
    shuffled = x.flatten(2)[..., torch.randperm(256)].view_as(x)
    assert float(colour_histogram(x, shuffled)) == pytest.approx(1.0, abs=1e-5)
    assert float(colour_histogram(torch.zeros(1, 3, 4, 4), torch.ones(1, 3, 4, 4))) == pytest.approx(-1 / 255)


def test_hash_of_a_mirrored_ramp_agrees_nowhere() -> None:
    ramp = torch.linspace(0, 1, 18).expand(1, 3, 16, 18)
    assert float(difference_hash(ramp, ramp.flip(-1))) == 0
    assert float(difference_hash(ramp, ramp / 2)) == 1


def test_ssim_against_a_loop_over_windows() -> None:
    a, b = torch.rand(1, 3, 9, 8), torch.rand(1, 3, 9, 8)
    values = []
    first, second = grey(a)[0, 0].double(), grey(b)[0, 0].double()
    for i in range(3):
        for j in range(2):
            p, q = first[i : i + 7, j : j + 7].flatten(), second[i : i + 7, j : j + 7].flatten()
            covariance = torch.cov(torch.stack([p, q]))
            top = (2 * p.mean() * q.mean() + 1e-4) * (2 * covariance[0, 1] + 9e-4)
            bottom = (p.mean() ** 2 + q.mean() ** 2 + 1e-4) * (covariance[0, 0] + covariance[1, 1] + 9e-4)
            values.append(float(top / bottom))
    assert float(structural_similarity(a, b)) == pytest.approx(sum(values) / 6, abs=1e-6)


def test_cut_out_keeps_the_subject() -> None:
    x = torch.full((1, 3, 8, 8), 0.2)
    x[..., 3:5, 3:5] = 0.9
    kept = cut_out(x)
    assert torch.equal(kept[..., 3:5, 3:5], x[..., 3:5, 3:5])
    assert float(kept.sum()) == pytest.approx(3 * 4 * 0.9)


def test_channel_statistics() -> None:
    maps = torch.tensor([[[[1.0, 3.0]], [[2.0, 2.0]]]])
    assert channel_statistics(maps).tolist() == [[2.0, 2.0, 1.0, 0.0]]


def test_fusion_agrees_with_scores_that_agree() -> None:
    truth = torch.rand(100, dtype=torch.float64)
    scores = torch.stack([truth, 5 * truth + 1, torch.full_like(truth, 3.0)], dim=1)
    fused = fuse(scores)
    assert float(torch.corrcoef(torch.stack([fused, truth]))[0, 1]) == pytest.approx(1.0)
    assert float(fused.mean()) == pytest.approx(0.0, abs=1e-12)
    assert torch.allclose(fuse(scores * torch.tensor([10.0, 0.1, 2.0])), fused)


def test_images_are_cut_out_apart() -> None:
    """A pale subject is one, whatever else is in the batch."""
    x = torch.full((1, 3, 8, 8), 0.2)
    x[..., 3:5, 3:5] = 0.9
    pale = 0.2 + 0.1 * (x - 0.2)
    assert torch.equal(cut_out(torch.cat([x, pale])), torch.cat([cut_out(x), cut_out(pale)]))
