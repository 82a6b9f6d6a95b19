"""Unmasking: hand-computed values, what partitions the image, and which ranking an image meets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from datamodules.common.base import DataError, Fed
from datamodules.common.photo_regions import PhotoRegions
from datamodules.diffroar.unmasked import Everything, Unmasked, others, unmask
from modules.common.adversarial import AdversarialClassifier
from modules.diffroar.ranking import Rank

ZERO = torch.zeros(1, 1, 1)


def test_unmasking_by_hand() -> None:
    """|g| = (.1, .4, .3, .2), k = 2 of 4: top keeps coordinates 2 and 3, bottom 1 and 4."""
    x = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 1, 2, 2)
    top, bottom = unmask(x, torch.tensor([[3, 0, 1, 2]]), 2, ZERO)
    assert top.flatten().tolist() == [0, 2, 3, 0]
    assert bottom.flatten().tolist() == [1, 0, 0, 4]


@pytest.mark.parametrize("count", [1, 5, 17, 26])
def test_top_k_and_bottom_d_minus_k_partition_the_image(count: int) -> None:
    x = torch.randn(6, 3, 3, 3)
    place = torch.rand(6, 27).argsort(1)
    top, _ = unmask(x, place, count, ZERO)
    _, bottom = unmask(x, place, 27 - count, ZERO)
    assert torch.equal(top + bottom, x)
    assert bool(((top != 0).flatten(1).sum(1) == count).all())


def test_all_coordinates_are_the_whole_image_on_both_sides() -> None:
    x, place = torch.randn(4, 1, 3, 3), torch.rand(4, 9).argsort(1)
    top, bottom = unmask(x, place, 9, ZERO)
    assert torch.equal(top, x)
    assert torch.equal(bottom, x)


def batches(data: Any, split: str) -> tuple[Tensor, Tensor, Tensor]:
    data.setup()
    loader = data.train_dataloader() if split == "train" else data.test_dataloader()
    columns = zip(*[tuple(batch) for batch in loader], strict=True)
    return tuple(torch.cat(parts) for parts in columns)  # type: ignore[return-value]


def test_the_ranking_of_test_images_follows_that_of_training_images(
    images: Callable[..., Any], ranking: Callable[..., Any]
) -> None:
    """Row by row: each image's own places, training images first."""
    fed = ranking(60)
    for row in range(60):
        fed.arrays["logit"][row] = (torch.arange(784) - row).remainder(784).numpy().astype("uint16")  # `row` is first
    source = images()
    data = Unmasked(source, 8, 100 / 784, ranking=fed)
    top, bottom, y = batches(data, "test")
    plain = source.normalised(source.splits["test"][0]).flatten(1)
    assert data.count == 1
    assert torch.equal(y, source.splits["test"][1])
    for row in range(20):
        kept = torch.zeros(784)
        kept[40 + row] = plain[row, 40 + row]
        assert torch.equal(top[row].flatten(), kept)
        kept = torch.zeros(784)
        kept[40 + row - 1] = plain[row, 40 + row - 1]
        assert torch.equal(bottom[row].flatten(), kept)


@pytest.fixture
def colours() -> PhotoRegions:
    """Pictures of 3 x 8 x 8, so d = 192."""
    return PhotoRegions(8, 24, 8, 8, side=8, seed=3)


def test_channels_are_coordinates_of_their_own(colours: PhotoRegions) -> None:
    """k = 12.5% of a picture in colour is 24 of 192 coordinates, not eight pixels with all their channels."""
    data = Unmasked(colours, 8, 12.5, kind="random")
    assert data.count == 24
    for side in batches(data, "test")[:2]:
        kept = (side != 0).flatten(2)  # (B, 3, 64); no byte is exactly the mean
        assert kept.sum((1, 2)).tolist() == [24] * len(side)
        assert bool((kept.any(1) & ~kept.all(1)).any())


def test_a_network_of_one_channel_ranks_the_coordinates_of_that_channel_first(colours: PhotoRegions) -> None:
    """Rankings, as the stage makes them, reach the images that are trained on: only the second channel is kept."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 3, bias=False))
    with torch.no_grad():
        weight = network[1].weight.view(3, 3, 64)
        weight.abs_().add_(0.1)
        weight[:, 1] += 5
    everything = Everything(colours, 16)
    everything.setup()
    stage = Rank(AdversarialClassifier(network, 3))
    stage.on_test_epoch_start()
    for number, batch in enumerate(everything.test_dataloader()):
        stage.test_step(batch, number)
    fed = Fed(nn.Identity(), stage.artifacts())
    data = Unmasked(colours, 8, 100 / 3, ranking=fed, fill="black")
    top, bottom, _ = batches(data, "test")
    whole = data.shown(data.source.normalised(data.images["test"][0]))
    assert torch.allclose(data.shown(top)[:, 1], whole[:, 1], atol=1e-6)
    assert not data.shown(top)[:, [0, 2]].any()
    assert not data.shown(bottom)[:, 1].any()


def test_what_is_ranked_is_what_is_unmasked(images: Callable[..., Any], ranking: Callable[..., Any]) -> None:
    everything = Everything(images(), 16)
    everything.setup()
    seen = torch.cat([batch.x for batch in everything.test_dataloader()])
    data = Unmasked(images(), 8, 100, ranking=ranking(60))
    data.setup()
    stored = torch.cat([data.images["train"][0], data.images["test"][0]])
    assert torch.equal(seen, data.source.normalised(stored))
    assert everything.spec.sizes == {"train": 40, "val": 0, "test": 60}
    assert data.spec.sizes == {"train": 40, "val": 0, "test": 20}


def test_black_and_mean_fill(images: Callable[..., Any], ranking: Callable[..., Any]) -> None:
    shown = {}
    for fill in ("mean", "black"):
        data = Unmasked(images(), 8, 5, ranking=ranking(60), fill=fill)
        top, _, _ = batches(data, "test")
        shown[fill] = data.shown(top).flatten(1)
    assert data.count == 39
    assert torch.allclose(shown["mean"][:, 39:], torch.tensor(0.2860))
    assert not shown["black"][:, 39:].any()
    assert torch.equal(shown["mean"][:, :39], shown["black"][:, :39])


def test_random_order_is_another_one_for_each_image(images: Callable[..., Any]) -> None:
    data = Unmasked(images(), 8, 5, kind="random")
    data.setup()
    placed = torch.from_numpy(data.places["train"].astype("int32"))
    assert torch.equal(placed.sort(1).values, torch.arange(784, dtype=torch.int32).expand(40, 784))
    assert len({tuple(row) for row in placed[:, :20].tolist()}) == 40


def test_permuted_rankings_are_those_of_other_images(images: Callable[..., Any], ranking: Callable[..., Any]) -> None:
    fed = ranking(60)
    fed.arrays["logit"][:, 0] = torch.arange(60).numpy().astype("uint16")
    data = Unmasked(images(), 8, 5, ranking=fed, permuted=True)
    data.setup()
    for name, rows in (("train", range(40)), ("test", range(40, 60))):
        dealt = data.places[name][:, 0].tolist()
        assert sorted(dealt) == list(rows)
        assert not any(own == other for own, other in zip(rows, dealt, strict=True))


def test_test_images_meet_another_order_of_rankings_than_training_images(
    images: Callable[..., Any], ranking: Callable[..., Any]
) -> None:
    """As many in both splits; row r ranks coordinate r first, so that the places tell whose ranking it is."""
    fed = ranking(40)
    for row in range(40):
        fed.arrays["logit"][row] = (torch.arange(784) - row).remainder(784).numpy().astype("uint16")
    data = Unmasked(images(20, 20), 8, 10, ranking=fed, permuted=True)
    data.setup()
    owners = {name: data.places[name].argmin(1) - first for name, first in (("train", 0), ("test", 20))}
    assert all(sorted(rows.tolist()) == list(range(20)) for rows in owners.values())
    assert owners["train"].tolist() != owners["test"].tolist()


def test_what_is_kept_is_part_of_the_identity(images: Callable[..., Any], ranking: Callable[..., Any]) -> None:
    """The same images by another ranking are other data."""
    one, again, other = ranking(60), ranking(60), ranking(60)
    other.arrays["logit"][3] = other.arrays["logit"][3][::-1]
    identities = []
    for fed in (one, again, other):
        data = Unmasked(images(), 8, 10, ranking=fed)
        data.setup()
        identities.append(data.spec.identity)
    assert identities[0] == identities[1] != identities[2]


def test_others_are_of_the_same_group() -> None:
    """Pairs change places, one alone stays, of three nobody stays: a single cycle."""
    groups = torch.tensor([0, 1, 0, 2, 3, 3, 3])
    other = others(groups, torch.Generator().manual_seed(1)).tolist()
    assert other[:4] == [2, 1, 0, 3]
    assert sorted(other[4:]) == [4, 5, 6]
    assert all(row != other[row] for row in (4, 5, 6))


def test_rankings_are_exchanged_within_the_predicted_class(
    images: Callable[..., Any], ranking: Callable[..., Any]
) -> None:
    fed = ranking(60)
    fed.arrays["logit"][:, 0] = torch.arange(60).numpy().astype("uint16")
    predicted = torch.arange(60) % 3
    fed.arrays["predicted"] = predicted.numpy().astype("uint16")
    data = Unmasked(images(), 8, 5, ranking=fed, permuted=True, same_class=True)
    data.setup()
    for name, rows in (("train", range(40)), ("test", range(40, 60))):
        dealt = data.places[name][:, 0].tolist()
        assert sorted(dealt) == list(rows)
        assert all(own != other and predicted[own] == predicted[other] for own, other in zip(rows, dealt, strict=True))


def test_a_linear_networks_order_is_that_of_any_image_of_the_class(images: Callable[..., Any]) -> None:
    """Then nothing hangs on the image: own and exchanged rankings are the same."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(784, 10, bias=False))
    everything = Everything(images(), 60)
    everything.setup()
    stage = Rank(AdversarialClassifier(network, 10))
    stage.on_test_epoch_start()
    stage.test_step(next(iter(everything.test_dataloader())), 0)
    fed = Fed(nn.Identity(), stage.artifacts())
    own, exchanged = (Unmasked(images(), 8, 5, ranking=fed, permuted=p, same_class=p) for p in (False, True))
    for one, other in zip(batches(own, "test"), batches(exchanged, "test"), strict=True):
        assert torch.equal(one, other)


class Noise:
    """Adds to each image a number of its own; records what it saw."""

    def __call__(self, x: Tensor, draws: Any) -> Tensor:
        return x + draws.uniform().view(-1, 1, 1, 1)


def test_both_sides_are_augmented_alike_and_test_images_are_not(
    images: Callable[..., Any], ranking: Callable[..., Any]
) -> None:
    data = Unmasked(images(), 8, 100, ranking=ranking(60), augment=[Noise()])
    top, bottom, _ = batches(data, "train")
    assert torch.equal(top, bottom)
    plain, _, y = batches(data, "test")
    assert torch.equal(plain, data.source.normalised(data.images["test"][0]))
    assert len(y) == 20


def test_training_images_come_in_another_order_and_moved(
    images: Callable[..., Any], ranking: Callable[..., Any]
) -> None:
    """Each brighter by a number of its own: by their differences from pixel to pixel they are the stored ones."""
    data = Unmasked(images(), 8, 100, ranking=ranking(60), augment=[Noise()])
    top, _, y = batches(data, "train")
    stored, labels = data.images["train"]
    plain = data.source.normalised(stored).flatten(1)
    moved = top.flatten(1)

    distance = torch.cdist(moved.diff(dim=1), plain.diff(dim=1))
    owner = distance.argmin(1)
    assert owner.tolist() != list(range(40))
    assert sorted(owner.tolist()) == list(range(40))
    assert torch.equal(y, labels[owner])
    added = (moved - plain[owner]).mean(1)
    assert len(set(added.tolist())) == 40
    assert 0 < float(added.min()) < float(added.max()) < 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"percent": 0}, "percent=0: expected more than 0"),
        ({"percent": 101}, "percent=101"),
        ({"kind": "lgoit"}, "kind='lgoit': expected one of logit, loss, random"),
        ({"fill": "grey"}, "fill='grey': expected one of mean, black"),
        ({"kind": "random"}, "kind='random' and feeds: ranking"),
        ({"ranking": None}, "kind='logit' and feeds: ranking"),
        ({"same_class": True}, "same_class=true: expected permuted=true"),
    ],
)
def test_wrong_arguments_are_named(
    options: dict[str, Any], message: str, images: Callable[..., Any], ranking: Callable[..., Any]
) -> None:
    with pytest.raises(DataError, match=message):
        Unmasked(images(), 8, **{"percent": 5, "ranking": ranking(60), **options})


def test_a_ranking_of_other_images_is_refused(images: Callable[..., Any], ranking: Callable[..., Any]) -> None:
    data = Unmasked(images(), 8, 5, ranking=ranking(59))
    with pytest.raises(DataError, match=r"\(59, 784\)"):
        data.setup()
