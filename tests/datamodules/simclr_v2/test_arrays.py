"""Who keeps a label, and that nothing else changes."""

from __future__ import annotations

import pytest
import torch

from datamodules.common.base import DataError
from datamodules.common.digits import Digits
from datamodules.common.subsets import Subset
from datamodules.simclr_v2.arrays import PartlyLabelled, first_of_class


def test_the_first_of_each_class() -> None:
    labels = torch.tensor([1, 0, 1, 1, 0, 2, 1])
    assert first_of_class(labels, 2).tolist() == [True, True, True, False, True, True, False]


def test_few_labels_are_those_that_a_subset_trains_on() -> None:
    digits = Digits(50, train_size=400, test_size=100)
    data, subset = PartlyLabelled(digits, 20, per_class=3), Subset(digits, 20, per_class=3)
    data.setup()
    subset.setup()
    images, labels = data.splits["train"]
    assert torch.equal(images, digits.splits["train"][0])
    labelled = labels >= 0
    assert torch.equal(images[labelled], subset.splits["train"][0])
    assert torch.equal(labels[labelled], subset.splits["train"][1])
    assert labels[labelled].bincount().tolist() == [3] * 10
    assert (labels[~labelled] == -1).all()
    assert torch.equal(data.splits["test"][1], digits.splits["test"][1])
    assert data.spec.sizes == digits.spec.sizes
    assert "3 training images per class have a label" in data.spec.split
    assert data.spec.identity != digits.spec.identity
    batch = next(iter(data.train_dataloader()))
    assert batch.x.shape == (20, 1, 8, 8)


def test_more_labels_than_images_are_refused() -> None:
    with pytest.raises(DataError, match=r"training images of class .; per_class asks for 300"):
        PartlyLabelled(Digits(50, train_size=400, test_size=100), 20, per_class=300).setup()


def test_stand_ins() -> None:
    data = PartlyLabelled(Digits(50, train_size=400, test_size=100), 20, per_class=3, generated=True)
    data.setup()
    assert data.spec.source == "generated"
    assert len(data.splits["train"][0]) == 80
