"""Persons: what is learnt, what the test says of hand-made maps whose attractors are known."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from datamodules.common.loader import batch_type
from modules.semiotics.networks import Autoencoder, Convolutional, Dense
from modules.semiotics.perception import Perception
from modules.semiotics.person import NEAR, Communication, Means, Person, nearest, reconstruction_loss, rms
from tests.schedules import half

Logged = Callable[..., dict[str, float]]


class Map(nn.Module):
    """A function as a network."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def batch(x: Tensor, y: Tensor) -> Any:
    return batch_type(("x", "y"))(x, y)


def person(function: Callable[[Tensor], Tensor], stored: Tensor, iterations: int = 50) -> Person:
    module = Person(Map(function), Perception(iterations), probed=2)  # type: ignore[arg-type]
    module.known, module.labels = stored, torch.arange(len(stored))
    return module


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_sizes() -> None:
    autoencoder = Autoencoder(784, 512)
    assert parameters(autoencoder) == 784 * 512 + 512 + 4 * (512**2 + 512) + 512 * 784 + 784 == 1_854_736
    assert parameters(Autoencoder(64, 256)) == 296_256
    assert sum(isinstance(layer, nn.LeakyReLU) for layer in autoencoder.modules()) == 5
    assert isinstance(autoencoder.decoder[-1], nn.Linear), "the output is linear"
    assert autoencoder.encoder(torch.rand(3, 1, 28, 28)).shape == (3, 512)
    assert autoencoder(torch.rand(3, 1, 28, 28)).shape == (3, 1, 28, 28)
    assert parameters(Convolutional(28)) == 105_866
    assert parameters(Convolutional(8, (1, 2))) == 38_282
    assert parameters(Dense([64, 512, 10])) == 38_410
    assert Convolutional(8, (1, 2))(torch.rand(3, 1, 8, 8)).shape == (3, 10)
    assert sum(isinstance(layer, nn.ReLU) for layer in Convolutional(28)) == 3
    with pytest.raises(ValueError, match="hidden=0"):
        Autoencoder(64, 16, hidden=0)


@pytest.mark.parametrize(("hidden", "encoder", "decoder"), [(1, 1, 1), (2, 1, 2), (4, 2, 3), (5, 3, 3)])
def test_what_is_observed_is_the_middle(hidden: int, encoder: int, decoder: int) -> None:
    """Of an even number of hidden layers, the last of the first half."""
    network = Autoencoder(64, 16, hidden)
    for part, layers in ((network.encoder, encoder), (network.decoder, decoder)):
        assert sum(isinstance(layer, nn.Linear) for layer in part.modules()) == layers


def test_loss_and_distances_by_hand() -> None:
    x = torch.tensor([[[[0.0, 1.0]]], [[[1.0, 1.0]]]])
    seen = torch.tensor([[[[0.0, 0.0]]], [[[1.0, 1.0]]]])
    assert float(reconstruction_loss(seen, x)) == 0.25
    assert rms(seen - x).tolist() == pytest.approx([0.5**0.5, 0.0])
    index, distance = nearest(torch.tensor([[[[0.9, 0.7]]]]), x)
    assert index.tolist() == [1]
    assert float(distance) == pytest.approx(((0.1**2 + 0.3**2) / 2) ** 0.5)


def test_means_count_images_not_batches() -> None:
    means = Means(("share", "value"))
    means.add(share=torch.tensor([True, False, False]), value=torch.tensor([1.0, 2.0, 3.0]))
    means.add(share=torch.tensor([True]), value=torch.tensor([6.0]))
    assert {k: float(v) for k, v in means.finish().items()} == {"share": 50.0, "value": 3.0, "n": 4.0}
    assert list(means.children()) == list(means.sums.values())  # they move to a device with it


def test_the_person_is_asked_for_the_clean_image() -> None:
    """With A = identity, the loss is the variance of the noise, and without noise nothing."""
    x = torch.rand(4000, 1, 4, 4)
    for noise in (0.0, 0.3):
        module = Person(Map(lambda x: x), Perception(), noise=noise)  # type: ignore[arg-type]
        loss = module.training_step(batch(x, torch.zeros(4000)), 0)
        assert float(loss) == pytest.approx(noise**2, rel=0.02)
    usual = Person(Map(lambda x: x), Perception())  # type: ignore[arg-type]
    assert float(usual.training_step(batch(x, torch.zeros(4000)), 0)) == pytest.approx(0.3**2, rel=0.02)


def test_a_memory_captures_everything(logged: Logged) -> None:
    """A(x) = the nearest stored image, smoothed into a contraction: every image ends at its neighbour."""
    stored = torch.rand(5, 1, 3, 3)

    def recall(x: Tensor) -> Tensor:
        target = stored[torch.cdist(x.flatten(1), stored.flatten(1)).argmin(1)]
        return target + 0.1 * (x - target)

    x = torch.rand(20, 1, 3, 3)
    y = torch.cdist(x.flatten(1), stored.flatten(1)).argmin(1)
    y[0] = (y[0] + 1) % 5
    scores = logged(person(recall, stored), batch(x[:12], y[:12]), batch(x[12:], y[12:]))
    assert scores["test/converged"] == scores["test/captured"] == scores["test/attracting"] == 100
    assert scores["test/attractor_top1"] == scores["test/nearest_top1"] == 95
    assert scores["test/cycling"] == scores["test/drift"] == scores["test/residual"] == 0
    assert scores["test/radius"] == pytest.approx(0.1, abs=1e-5)
    assert scores["test/n"] == 20


def test_a_low_error_is_no_attractor(logged: Logged) -> None:
    """The training image is all but reproduced (a thousandth), but everything near it, itself included, moves away."""
    stored = torch.full((1, 1, 2, 2), 0.5)

    def flee(x: Tensor) -> Tensor:
        return 0.501 + 1.5 * (x - 0.5)

    scores = logged(person(flee, stored, iterations=15), batch(stored + 0.01, torch.zeros(1, dtype=torch.long)))
    assert scores["test/residual"] == pytest.approx(0.001, abs=1e-6)
    assert scores["test/drift"] > 0.5
    assert scores["test/radius"] == pytest.approx(1.5, abs=1e-4)
    assert scores["test/attracting"] == scores["test/converged"] == scores["test/captured"] == 0


def test_cycles_are_counted_apart(logged: Logged) -> None:
    stored = torch.full((2, 1, 2, 2), 0.5)
    x = torch.stack([stored[0], stored[0] + 0.3])
    scores = logged(person(lambda x: 1 - x, stored), batch(x, torch.zeros(2, dtype=torch.long)))
    assert scores["test/converged"] == scores["test/cycling"] == 50
    assert scores["test/steps"] == 0.5


def test_near_is_a_distance_of_one_between_images_of_784_pixels() -> None:
    assert torch.full((1, 784), NEAR).norm() == pytest.approx(1.0)


def test_two_persons_are_asked_by_turns(logged: Logged) -> None:
    stored = torch.tensor([1 / 3, 1 / 6]).view(2, 1, 1, 1)
    persons = [person(lambda x: 0.5 * x + 0.25, stored), person(lambda x: 0.5 * x, stored)]
    module = Communication(persons, Perception())
    module.known = stored
    x = torch.rand(4, 1, 1, 1)
    scores = logged(module, batch(x, torch.zeros(4)))
    assert scores["test/periodic"] == scores["test/agreed"] == 100
    assert scores["test/same_image"] == 0
    assert torch.allclose(module(x), 0.25 * x + 0.125)
    with pytest.raises(ValueError, match="1 persons"):
        Communication(persons[:1], Perception())


def test_what_is_stored_are_the_training_images(logged: Logged) -> None:
    """A test image always ends near itself; whether it ends near what was learnt is another question."""
    learnt, seen = torch.zeros(2, 1, 2, 2), torch.full((2, 1, 2, 2), 255)
    learnt[1] = 200
    splits = {"train": (learnt, torch.tensor([3, 4])), "test": (seen, torch.tensor([7, 8]))}
    module = Person(Map(lambda x: x), Perception(), probed=2)  # type: ignore[arg-type]
    other = Communication([module, module], Perception())
    for stage in (module, other):
        stage._trainer = SimpleNamespace(datamodule=SimpleNamespace(splits=splits, peak=255))  # type: ignore[assignment]
        stage.on_test_start()
        assert torch.equal(stage.known, learnt / 255)
    assert module.labels.tolist() == [3, 4]
    scores = logged(module, batch(seen / 255, splits["test"][1]))
    assert scores["test/captured"] == scores["test/nearest_top1"] == scores["test/attractor_top1"] == 0


def test_a_map_that_forgets_what_it_saw_drifts(logged: Logged) -> None:
    """All end in one picture, which attracts: what tells it from a memory is that the training images move there."""
    stored = torch.tensor([0.0, 0.5, 1.0]).view(3, 1, 1, 1).expand(3, 1, 2, 2)
    scores = logged(person(lambda x: 0 * x + 0.5, stored), batch(stored, torch.tensor([0, 1, 2])))
    assert scores["test/converged"] == scores["test/captured"] == scores["test/attracting"] == 100
    assert scores["test/drift"] == pytest.approx(1 / 3)


def test_the_jacobian_is_probed_at_the_first_eight_training_images(logged: Logged) -> None:
    """Images 0 to 0.9, each a single pixel; the slope of x^2 is 2x: 0 to 1.4 at the first eight, 0.7 in the mean."""
    stored = torch.linspace(0, 0.9, 10).view(10, 1, 1, 1)
    module = Person(Map(torch.square), Perception())  # type: ignore[arg-type]
    module.known, module.labels = stored, torch.arange(10)
    scores = logged(module, batch(stored, torch.arange(10)))
    assert scores["test/radius"] == pytest.approx(0.7, abs=1e-5)
    assert scores["test/attracting"] == 100 * 5 / 8  # slopes 0, 0.2, 0.4, 0.6 and 0.8


def test_persons_who_think_before_they_answer(logged: Logged) -> None:
    """The first halves an image twice, the second takes a third three times; at the end both see black."""
    stored = torch.tensor([0.0, 0.5]).view(2, 1, 1, 1)
    persons = [person(lambda x: x / 2, stored), person(lambda x: x / 3, stored)]
    module = Communication(persons, Perception(), internal=(2, 3))
    module.known = stored
    x = torch.rand(4, 1, 1, 1)
    assert torch.allclose(module(x), x / 4 / 27)
    scores = logged(module, batch(x, torch.zeros(4)))
    assert scores["test/same_image"] == scores["test/agreed"] == 100
    assert scores["test/n"] == 4


def test_a_person_trains_with_its_optimizer_and_schedule_and_sees_pixels() -> None:
    module = Person(Autoencoder(16, 24), Perception(), optimizer=torch.optim.SGD, schedule=half)
    assert (module.optimizer_factory, module.schedule) == (torch.optim.SGD, half)
    x = torch.rand(3, 1, 4, 4)
    assert torch.equal(module(x), module.network(module.pixels(x)))


def test_what_is_stored_is_compared_in_the_images_precision() -> None:
    stored = torch.eye(3, dtype=torch.float64)
    index, distance = nearest(torch.eye(3)[[2, 0]], stored)
    assert index.tolist() == [2, 0]
    assert distance.tolist() == [0, 0]
