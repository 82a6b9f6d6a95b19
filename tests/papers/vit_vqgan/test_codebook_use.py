"""How much of a codebook is used: batches of 256 images, all classes, uniform codes."""

from __future__ import annotations

import math

import pytest
import torch

from modules.vit_vqgan.codebook_use import CodebookUse


def test_codebook_use_counts_batches_of_256_images_whatever_the_loaders_are() -> None:
    source = torch.Generator().manual_seed(0)
    codes = torch.randint(64, (600, 4), generator=source)
    use = CodebookUse(64, 600)
    batches = [(use.group(torch.arange(600)) == number).nonzero().flatten() for number in range(3)]
    assert [len(batch) for batch in batches] == [256, 256, 88]
    codes[batches[1]] = 3  # the second batch uses one code; the last 88 images are no whole batch
    codes[batches[2]] = 5
    for numbers in torch.randperm(600, generator=source).split(50):
        use.update(codes[numbers], numbers)
    actual = use.compute()
    expected = 50 * (len(codes[batches[0]].unique()) + 1) / 64
    assert float(actual["code_use"]) == pytest.approx(expected)
    share = torch.bincount(codes.flatten(), minlength=64).double() / 2400
    entropy = -sum(float(p) * math.log(float(p)) for p in share if p > 0)
    assert float(actual["perplexity"]) == pytest.approx(math.exp(entropy))


def test_codebook_use_sees_all_classes_of_a_sorted_test_set() -> None:
    """50 classes of 50 images, each with two codes of its own: 256 consecutive images would use 6 of 50 classes'."""
    codes = 2 * torch.arange(50).repeat_interleave(50)[:, None] + torch.tensor([0, 1])
    use = CodebookUse(100, 2500)
    use.update(codes, torch.arange(2500))
    assert float(use.compute()["code_use"]) > 95


def test_codebook_use_of_uniform_codes_is_complete() -> None:
    """262,144 tokens over 8192 codes leave a code unused with probability (1 - 1/8192)^262144 = e^-32."""
    codes = torch.randint(8192, (256, 1024), generator=torch.Generator().manual_seed(0))
    use = CodebookUse(8192, 256)
    use.update(codes, torch.arange(256))
    actual = use.compute()
    assert float(actual["code_use"]) == 100
    assert 8000 < float(actual["perplexity"]) <= 8192
    few = CodebookUse(8192, 100)
    few.update(codes[:100], torch.arange(100))  # no whole batch: what there is
    assert float(few.compute()["code_use"]) == pytest.approx(100 * len(codes[:100].unique()) / 8192)
