"""Orders of coordinates: hand-computed values, ties, and what they may and may not depend on."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from modules.common.adversarial import AdversarialClassifier
from modules.common.attributions import logit_gradient
from modules.diffroar.networks import MLP
from modules.diffroar.ranking import Rank, places


def source(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_places_by_hand() -> None:
    sizes = torch.tensor([[0.1, 0.4, 0.3, 0.2], [5.0, 1.0, 2.0, 9.0]])
    assert places(sizes, source()).tolist() == [[3, 0, 1, 2], [1, 3, 2, 0]]


def test_ties_are_in_random_order() -> None:
    """Of equal coordinates each is first equally often; by index, the same ones would be kept of every image."""
    placed = places(torch.zeros(6000, 4), source())
    assert torch.equal(placed.sort(1).values, torch.arange(4).expand(6000, 4))
    first = (placed == 0).double().mean(0)
    assert bool(((first - 0.25).abs() < 0.02).all())


def test_ties_do_not_move_what_differs() -> None:
    sizes = torch.tensor([[0.0, 3.0, 0.0, 1.0, 0.0]]).expand(100, 5)
    placed = places(sizes, source())
    assert bool((placed[:, 1] == 0).all())
    assert bool((placed[:, 3] == 1).all())
    assert len({tuple(row) for row in placed.tolist()}) == 6


def test_a_linear_model_ranks_all_images_of_a_class_alike() -> None:
    """f = W x: the gradient of the predicted class's logit is its row of W."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    x = torch.randn(30, 1, 3, 4)
    predicted = network(x).argmax(1)
    placed = places(logit_gradient(network, x, predicted).abs().flatten(1), source())
    expected = places(network[1].weight.detach().abs(), source())[predicted]
    assert torch.equal(placed, expected)


class Batch:
    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y


def ranked(network: nn.Module, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    stage = Rank(AdversarialClassifier(network, 3))
    torch.manual_seed(4)
    stage.on_test_epoch_start()
    stage.test_step(Batch(x, y), 0)
    return {kind: torch.from_numpy(array.astype("int32")) for kind, array in stage.artifacts().items()}


def test_labels_are_not_used_and_weights_get_no_gradient() -> None:
    network = MLP(16, [8], 3)
    x, y = torch.randn(9, 1, 4, 4), torch.randint(3, (9,))
    one, other = ranked(network, x, y), ranked(network, x, (y + 1) % 3)
    assert set(one) == {"logit", "loss", "predicted"}
    assert torch.equal(one["predicted"].long(), network(x).argmax(1))
    assert all(torch.equal(one[kind], other[kind]) for kind in one)
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in network.parameters())


def test_channels_are_coordinates_of_their_own() -> None:
    placed = ranked(MLP(3 * 4 * 4, [8], 3), torch.randn(5, 3, 4, 4), torch.zeros(5, dtype=torch.long))["logit"]
    assert placed.shape == (5, 48)
    assert torch.equal(placed.sort(1).values, torch.arange(48, dtype=torch.int32).expand(5, 48))


def test_the_metrics_are_shares_of_all_images() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(40, 2))
    with torch.no_grad():
        network[1].weight.zero_()
        network[1].weight[0, :10] = 1.0
        network[1].bias.copy_(torch.tensor([5.0, 0.0]))
    stage = Rank(AdversarialClassifier(network, 2))
    stage.on_test_epoch_start()
    stage.test_step(Batch(0.1 * torch.rand(8, 1, 5, 8), torch.tensor([0, 0, 0, 0, 0, 0, 1, 1])), 0)
    values = stage.means.compute()
    assert float(values["n"]) == 8
    assert float(values["top1"]) == 75
    assert float(values["zero"]) == 75


def test_the_overlap_of_both_kinds_by_hand() -> None:
    """Of 2 x 20 coordinates, 2 are the largest 5%. Logit 0 has 3, 2, 0.1 at the first three; less logit 1: 3, 1, 5.1.

    So the logit's are coordinates 0 and 1, the loss's 2 and 0, and 1 comes third: half of them are the same."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(40, 2))
    with torch.no_grad():
        network[1].weight.zero_()
        network[1].weight[0, :3] = torch.tensor([3.0, 2.0, 0.1])
        network[1].weight[1, :3] = torch.tensor([0.0, 1.0, -5.0])
        network[1].bias.copy_(torch.tensor([1.0, 0.0]))
    stage = Rank(AdversarialClassifier(network, 2))
    stage.on_test_epoch_start()
    stage.test_step(Batch(torch.zeros(3, 2, 4, 5), torch.zeros(3, dtype=torch.long)), 0)
    assert float(stage.means.compute()["overlap"]) == 50


def test_too_many_coordinates_are_refused() -> None:
    stage = Rank(AdversarialClassifier(nn.Sequential(nn.Flatten(), nn.Linear(70_000, 2)), 2))
    stage.on_test_epoch_start()
    with pytest.raises(ValueError, match="70000 coordinates: expected at most 65536"):
        stage.test_step(Batch(torch.zeros(1, 1, 1, 70_000), torch.zeros(1, dtype=torch.long)), 0)
