"""Generated noise: declared as such, of the asked shape, a function of the seed."""

from __future__ import annotations

import pytest
import torch

from datamodules.inception_next import Noise


def test_noise_says_that_it_is_generated_and_is_normal() -> None:
    data = Noise((3, 16, 24), 64, classes=7, seed=3)
    data.setup()
    assert data.spec.source == "generated"
    assert data.spec.sizes == {"train": 64, "val": 0, "test": 64}
    (batch,) = list(data.test_dataloader())
    assert batch[0].shape == (64, 3, 16, 24)
    assert float(batch[0].mean()) == pytest.approx(0, abs=0.02)
    assert float(batch[0].std()) == pytest.approx(1, abs=0.02)
    assert set(batch[1].tolist()) == set(range(7))
    again, other = Noise((3, 16, 24), 64, classes=7, seed=3), Noise((3, 16, 24), 64, seed=4)
    again.setup()
    other.setup()
    assert all(
        torch.equal(a, b) for s in ("train", "test") for a, b in zip(again.splits[s], data.splits[s], strict=True)
    )
    assert not torch.equal(other.splits["test"][0], data.splits["test"][0])
    assert not torch.equal(data.splits["train"][0], data.splits["test"][0])
