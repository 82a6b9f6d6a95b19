"""Parts of a dataset: which images, which labels, how often each is drawn."""

from __future__ import annotations

import pytest
import torch

from datamodules.common.base import DataError
from datamodules.common.digits import Digits
from datamodules.common.subsets import Repeated, Subset


def digits() -> Digits:
    return Digits(32, 1000, 100, 600, seed=3)


def test_the_first_k_of_each_class_are_taken_and_drawn_equally_often() -> None:
    source, data = digits(), Subset(digits(), 50, per_class=20, draws=1000)
    source.setup()
    data.setup()
    images, labels = source.splits["train"]
    for label in range(10):
        ours = data.splits["train"][0][data.splits["train"][1] == label]
        assert torch.equal(ours, images[labels == label][:20])
    assert data.spec.sizes == {"train": 200, "val": 100, "test": 600}
    drawn = torch.cat([share.indices for share in data.train_dataloader().batches])
    assert torch.equal(drawn.bincount(), torch.full((200,), 5))


@pytest.mark.parametrize("size", [8, 20, 45, 60])
def test_every_image_is_drawn_equally_often_over_the_epochs(size: int) -> None:
    batches, counts = Repeated(20, size, 8, shuffle=True, seed=1), torch.zeros(20, dtype=torch.long)
    orders = []
    for epoch in range(10):
        batches.set_epoch(epoch)
        orders.append(torch.cat([share.indices for share in batches]))
        counts += orders[-1].bincount(minlength=20)
        assert len(orders[-1]) == size
        assert int(counts.max() - counts.min()) <= 1
    assert not torch.equal(orders[0], orders[1])


def test_epochs_of_repeated_draws_go_on_after_a_kill_and_are_shared_out() -> None:
    def epoch(rank: int, world: int, skip: int = 0) -> list[torch.Tensor]:
        batches = Repeated(20, 45, 8, shuffle=True, seed=1, rank=rank, world=world)
        batches.set_epoch(3)
        batches.load_state_dict({"position": skip})
        return [share.indices for share in batches]

    whole = epoch(0, 1)
    assert all(torch.equal(a, b) for a, b in zip(epoch(0, 1, skip=2), whole[2:], strict=True))
    halves = zip(epoch(0, 2), epoch(1, 2), strict=True)
    assert all(torch.equal(torch.cat(pair), both) for pair, both in zip(halves, whole, strict=True))


def test_classes_are_renumbered_in_the_order_given() -> None:
    data = Subset(digits(), 50, classes=[7, 2], per_class=[12, 30], test_classes=[2])
    data.setup()
    assert data.splits["train"][1].bincount().tolist() == [12, 30]
    assert data.splits["test"][1].unique().tolist() == [1]
    assert data.spec.classes == ("7", "2")


def test_nothing_is_in_two_splits() -> None:
    data = Subset(digits(), 50, classes=[1, 5])
    data.setup()
    seen = [{bytes(image.numpy()) for image in data.splits[name][0]} for name in ("train", "val", "test")]
    assert not seen[0] & seen[1]
    assert not seen[0] & seen[2]


def test_generated_data_has_the_declared_classes() -> None:
    data = Subset(digits(), 4, classes=[1, 5], per_class=100, generated=True)
    data.setup()
    assert data.spec.source == "generated"
    assert int(data.splits["train"][1].max()) <= 1


def test_what_is_not_there_is_named() -> None:
    with pytest.raises(DataError, match="no class 12"):
        Subset(digits(), 4, classes=[12])
    with pytest.raises(DataError, match="per_class asks for 5000"):
        Subset(digits(), 4, per_class=5000).setup()
