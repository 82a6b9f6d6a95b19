"""Generated phantoms: what they show is what their labels say."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from datamodules.common.base import DataError, hashed
from datamodules.mswal.phantoms import LESIONS, Phantoms, Volumes, phantoms
from tests.datamodules.mswal.helpers import SAMPLING, SMALL


def test_phantoms_are_a_function_of_the_seed_and_not_of_their_number() -> None:
    few, many = phantoms([3, 4], 48, 0.1), phantoms([3, 4, 5], 48, 0.1)
    assert torch.equal(few[0], many[0][:2])
    assert torch.equal(few[1], many[1][:2])
    assert not torch.equal(many[0][0], many[0][1])


def test_phantoms_have_the_lesions_they_say() -> None:
    images, labels = phantoms(range(60), 48, 0.0)
    assert labels.unique().tolist() == [0, 1, 2, 3]
    counts = [int((labels == c).sum((1, 2, 3)).max()) for c in (1, 2, 3)]
    ball = 4 / 3 * np.pi
    assert counts[0] <= 5 * ball * 2.4**3  # at most five stones of radius 2
    assert counts[1] <= 5 * ball * 7.2**3
    organ = images[(labels == 0) & (images > 0.6)].mean()
    grey = [float(images[labels == c].mean() / organ) for c in (1, 2, 3)]
    assert grey[0] > 1.3  # stones are bright
    assert grey[1] < grey[2] < 1  # cysts are darker than tumours, tumours than the organ
    assert any(int(label.max()) == 0 for label in labels)  # a volume may have no lesion


def test_easier_phantoms_have_larger_stones_and_darker_lesions() -> None:
    hard, labels = phantoms(range(30), 48, 0.0)
    easy, larger = phantoms(range(30), 48, 0.0, stones=(2.0, 3.5), tumour=0.7, cyst=0.4)
    assert int((larger == 1).sum()) > 4 * int((labels == 1).sum())
    same = (labels == 3) & (larger == 3)
    assert 0.1 < float((hard - easy)[same].mean()) < 0.15  # the edge is soft
    same = (labels == 2) & (larger == 2)
    assert 0.3 < float((hard - easy)[same].mean()) < 0.4  # of 0.35, under the bias field


def test_every_volume_has_every_kind_if_asked() -> None:
    some = phantoms(range(60), 48, 0.0)[1]
    every = phantoms(range(60), 48, 0.0, every_kind=True)[1]
    present, always = (
        [float((labels == number).flatten(1).any(1).float().mean()) for number in (1, 2, 3)] for labels in (some, every)
    )
    assert max(present) < 0.8
    assert always[:2] == [1.0, 1.0]
    assert always[2] > 0.95  # a tumour can lie within a cyst, which claims its voxels first


def test_splits_and_streams_share_no_phantom() -> None:
    data, other = Phantoms(2, SAMPLING, **SMALL), Phantoms(2, SAMPLING, replace(SMALL["volumes"], stream=1))
    data.setup()
    other.setup()
    marks = [hashed(v.image) for v in data.train] + [hashed(data.pair(i)[0]) for i in range(3)]
    marks += [hashed(data.chosen_by(i)[0]) for i in range(2)]
    marks += [hashed(v.image) for v in other.train]
    assert len(set(marks)) == 15
    assert data.spec.source == "generated"
    assert data.spec.identity != other.spec.identity
    again = Phantoms(2, SAMPLING, **SMALL)
    again.setup()
    assert again.spec == data.spec


def test_volumes_to_choose_by_are_served_whole_and_may_be_missing() -> None:
    data = Phantoms(2, SAMPLING, **SMALL)
    data.setup()
    (loader,) = data.val_dataloader()
    served = list(loader)
    assert [(x.shape, y.shape) for x, y in served] == [((1, 1, 32, 32, 32), (1, 32, 32, 32))] * 2
    assert torch.equal(served[1][0][0], data.chosen_by(1)[0])

    none = Phantoms(2, SAMPLING, Volumes(size=32, train=5, test=3))
    none.setup()
    assert none.val_dataloader() == []
    assert all(torch.equal(a.image, b.image) for a, b in zip(none.train, data.train, strict=True))
    assert torch.equal(none.pair(2)[0], data.pair(2)[0])


def test_unlabelled_lesions_are_background() -> None:
    every, some = Phantoms(2, SAMPLING, **SMALL), Phantoms(2, SAMPLING, **SMALL, labelled=["tumour"])
    every.setup()
    some.setup()
    assert some.spec.classes == ("background", "tumour")
    for a, b in zip(every.train, some.train, strict=True):
        assert torch.equal(a.image, b.image)
        assert torch.equal(a.label == 1 + LESIONS.index("tumour"), b.label == 1)


def test_grey_values_are_those_of_the_training_lesions() -> None:
    data = Phantoms(2, SAMPLING, replace(SMALL["volumes"], train=40))
    data.setup()
    lesions = torch.cat([v.image[0][v.label > 0] for v in data.train])
    assert abs(float(lesions.mean())) < 0.01
    assert abs(float(lesions.std()) - 1) < 0.01
    assert max(float(v.image.max()) for v in data.train) == pytest.approx(float(lesions.max()))


def test_grey_values_are_clipped_to_percentiles_by_hand() -> None:
    data = Phantoms(2, SAMPLING, **SMALL)
    assert (data.spec.mean, data.spec.std) == ((0.0,), (1.0,))  # before anything is read
    data.setup()
    images, lesions = data.draw("train")
    grey = images[lesions > 0].double().numpy()
    low, high = np.percentile(grey, [0.5, 99.5])
    clipped = grey.clip(low, high)
    assert grey.min() < low < high < grey.max()
    assert data.spec.mean[0] == pytest.approx(clipped.mean(), rel=1e-5)
    assert data.spec.std[0] == pytest.approx(clipped.std(ddof=1), rel=1e-5)
    for number, volume in enumerate(data.train):
        expected = (images[number].double().clip(low, high) - clipped.mean()) / clipped.std(ddof=1)
        assert torch.allclose(volume.image[0].double(), expected, atol=1e-4)


def test_tumours_have_a_finer_and_stronger_texture_than_the_organ() -> None:
    """Steps from a voxel to the next: of 0.1 times white noise of every fourth voxel, and besides in tumours of 0.15
    times that of every second, both interpolated: 1.5 times as strong and twice as steep.
    """
    images, labels = phantoms(range(12), 48, 0.0)
    step = images.diff(dim=-1)

    def roughness(where: Tensor) -> float:
        return float(step[where[..., 1:] & where[..., :-1]].std())

    organ = roughness((labels == 0) & (images > 0.8))
    assert 1.5 * organ < roughness(labels == 3) < 4 * organ
    assert roughness(labels == 2) < 0.5 * organ  # cysts have none


def test_scans_to_show_are_those_with_the_most_classes() -> None:
    data = Phantoms(2, SAMPLING, replace(SMALL["volumes"], test=14))
    data.setup()
    counts = [len(data.pair(index)[1].unique()) for index in range(12)]  # of the first dozen
    shown = data.tested(5)
    assert [len(label.unique()) for _, label in shown] == sorted(counts, reverse=True)[:5]
    assert len(data.tested(99)) == 12


def test_generated_volumes_have_the_patches_size() -> None:
    data = Phantoms(1, SAMPLING, **SMALL, generated=True)
    data.setup()
    assert data.spec.source == "generated"
    assert data.spec.sizes == {"train": 5, "val": 1, "test": 1}
    assert next(iter(data.train_dataloader()))[0].shape == (1, 1, 16, 16, 16)
    assert [x.shape for x, _ in data.test_dataloader()] == [(1, 1, 16, 16, 16)]


def test_wrong_values_are_named() -> None:
    with pytest.raises(DataError, match="labelled='cist'"):
        Phantoms(2, SAMPLING, **SMALL, labelled=["cist"])


@pytest.mark.parametrize(
    ("sizes", "message"), [({"size": 10}, "size=10"), ({"train": 0}, "train=0"), ({"val": -1}, "val=-1")]
)
def test_wrong_sizes_are_named(sizes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Volumes(**sizes)
