"""What is held out of a detector's training is shown to it nowhere, and pairs stay together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from datamodules.aria.held_out import HeldOut
from datamodules.common.base import DataError, Fed
from datamodules.common.generated_pictures import RealOrGenerated
from datamodules.common.photo_regions import PhotoRegions

Serve = Callable[..., HeldOut]


@pytest.fixture
def serve() -> Serve:
    """Generators whose pictures are negatives of the real ones; 6 real pictures to train on and 4 to test on."""

    def make(kind: type = HeldOut, **options: Any) -> Any:
        source = PhotoRegions(8, 12, 6, 4, seed=1)
        source.setup()
        real = torch.cat([source.splits["val"][0], source.splits["test"][0]])
        fed = [Fed(torch.nn.Identity(), {"pictures": (255 - real).numpy()}) for _ in range(2)]
        data = kind(source, 8, names=("one", "two"), train_on=["one"], generators=fed, **options)
        data.setup()
        return data

    return make


def test_a_real_picture_and_its_generated_one_are_held_out_together(serve: Serve) -> None:
    data = serve(held=2)
    whole = serve(RealOrGenerated).columns
    train, val = data.columns["train"], data.columns["val"]
    assert torch.equal(train["x"], whole["train"]["x"][[0, 1, 2, 3, 6, 7, 8, 9]])
    assert torch.equal(val["x"], whole["train"]["x"][[4, 5, 10, 11]])
    assert (train["y"].tolist(), val["y"].tolist()) == ([0] * 4 + [1] * 4, [0, 0, 1, 1])
    assert torch.equal(data.columns["test"]["x"], whole["test"]["x"])
    assert (data.spec.sizes["train"], data.spec.sizes["val"]) == (8, 4)


def test_validation_is_neither_mirrored_nor_shuffled(serve: Serve) -> None:
    data = serve(held=2)
    (loader,) = data.val_dataloader()
    (batch,) = list(loader)
    assert torch.allclose(batch.x, data.columns["val"]["x"].float() / 127.5 - 1, atol=1e-6)
    assert batch.y.tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("held", [0, 6])
def test_something_is_held_out_and_something_is_left(serve: Serve, held: int) -> None:
    with pytest.raises(DataError, match=f"held={held}: expected 1 to 5 of 6 pictures"):
        serve(held=held)
