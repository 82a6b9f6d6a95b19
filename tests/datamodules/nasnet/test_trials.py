"""Numbered trials: shared out over processes, resumable, with the whole images of a source."""

from __future__ import annotations

import pytest
import torch

from datamodules.common.base import DataError
from datamodules.common.digits import Digits
from datamodules.nasnet.trials import Trials


def trials(count: int = 12, batch: int = 4, **options: object) -> Trials:
    return Trials(Digits(20, train_size=50, val_size=30, test_size=20), batch, count, **options)  # type: ignore[arg-type]


def test_numbers_come_in_order() -> None:
    whole = [batch.tolist() for batch in trials().train_dataloader()]
    assert whole == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]


def test_a_resumed_loader_goes_on_where_it_stood() -> None:
    loader = trials().train_dataloader()
    iterator = iter(loader)
    next(iterator)
    state = loader.state_dict()
    again = trials().train_dataloader()
    again.load_state_dict(state)
    assert [batch.tolist() for batch in again] == [[4, 5, 6, 7], [8, 9, 10, 11]]


def test_images_are_the_sources() -> None:
    data = trials()
    data.setup()
    assert data.spec.sizes == {"train": 12, "val": 30, "test": 20}
    assert "50 train" in data.spec.split
    assert data.spec.identity == data.source.spec.identity
    assert [sum(len(y) for _, y in data.images(name)) for name in ("train", "val", "test")] == [50, 30, 20]
    first, second = ([y for _, y in data.images("train")] for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))  # every trial sees the same order
    with pytest.raises(DataError, match="no wrong images"):
        data.images("wrong")


def test_generated_trials_are_few_and_say_so() -> None:
    data = trials(20_000, 4, generated=True)
    data.setup()
    assert data.spec.source == "generated"
    assert sum(len(numbers) for numbers in data.train_dataloader()) == 8
    assert data.spec.sizes["train"] == 20_000  # what a real run would take


@pytest.mark.parametrize("count", [0, 10])
def test_trials_must_fill_their_batches(count: int) -> None:
    with pytest.raises(DataError, match="multiple of batch_size=4"):
        trials(count)
