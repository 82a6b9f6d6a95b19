"""CONN: the limits in which it is the plain classifier, what it says in others, and what its gradient reaches."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from modules.semiotics.images import Randomizer
from modules.semiotics.module import CONN, mean_prediction
from modules.semiotics.networks import Autoencoder, Convolutional, Dense
from modules.semiotics.perception import Perception, repeat
from modules.semiotics.person import Person
from tests.schedules import half


def person(network: nn.Module | None = None) -> Person:
    torch.manual_seed(7)
    return Person(network or Autoencoder(16, 24), Perception())  # type: ignore[arg-type]


def conn(**options: Any) -> CONN:
    torch.manual_seed(8)
    return CONN(Dense([16, 12, 3]), 3, **options)


def batch() -> tuple[Tensor, Tensor]:
    source = torch.Generator().manual_seed(9)
    return torch.rand(10, 1, 4, 4, generator=source), torch.randint(3, (10,), generator=source)


def outcome(module: CONN) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Prediction, loss and gradients."""
    torch.manual_seed(10)
    loss = module.training_step(batch(), 0)
    loss.backward()
    gradients = [p.grad for p in module.network.parameters() if p.grad is not None]
    return module(batch()[0]).detach(), loss.detach(), gradients


def assert_same(first: CONN, second: CONN) -> None:
    (prediction, loss, gradients), (others, other_loss, other_gradients) = outcome(first), outcome(second)
    assert torch.equal(prediction, others)
    assert torch.equal(loss, other_loss)
    assert len(gradients) == 4
    assert all(torch.equal(a, b) for a, b in zip(gradients, other_gradients, strict=True))


def test_without_iterations_or_with_an_identity_it_is_the_baseline_bit_for_bit() -> None:
    assert_same(conn(), conn(person=person(), perception=Perception(iterations=0)))
    assert_same(conn(), conn(person=person(nn.Identity()), perception=Perception()))


def test_without_randomizer_stochastic_is_vanilla() -> None:
    layer = {"person": person(), "perception": Perception()}
    assert_same(conn(**layer), conn(**layer, randomizer=Randomizer()))


def test_perception_changes_what_the_classifier_sees() -> None:
    assert not torch.equal(outcome(conn())[0], outcome(conn(person=person(), perception=Perception(1)))[0])


def test_copies_of_one_prediction_average_to_it() -> None:
    logits = torch.randn(1, 5, 3)
    assert torch.equal(mean_prediction(logits), logits[0])
    copies = mean_prediction(logits.expand(4, 5, 3))
    assert torch.allclose(copies.exp(), logits[0].softmax(-1), atol=1e-6)


def test_votes_are_averaged_as_probabilities_in_any_order() -> None:
    logits = torch.tensor([[[0.0, 0.0]], [[torch.log(torch.tensor(3.0)), 0.0]]])  # (2, 1, 2): 1/2, 1/2 and 3/4, 1/4
    assert torch.allclose(mean_prediction(logits).exp(), torch.tensor([[0.625, 0.375]]))
    assert torch.allclose(mean_prediction(logits.flip(0)), mean_prediction(logits))


def test_stochastic_is_the_mean_over_perceived_versions() -> None:
    module = conn(person=person(), perception=Perception(3), randomizer=Randomizer(noise=0.2, versions=4))
    x = batch()[0]
    versions = module.randomizer.fixed(x, module.versions_seed) if module.randomizer else x[None]
    expected = torch.stack([module.network(Perception(3)(person().network, v).images).softmax(-1) for v in versions])
    assert torch.allclose(module(x).exp(), expected.mean(0), atol=1e-5)


def test_assembled_is_the_mean_over_states() -> None:
    module = conn(person=person(), perception=Perception(3), assembled=True)
    x, y = batch()
    states = repeat(person().network, x, 3)
    expected = torch.stack([module.network(state).softmax(-1) for state in states])  # (4, 10, 3)
    assert torch.allclose(module(x).exp(), expected.mean(0), atol=1e-5)
    loss = torch.stack([nn.functional.cross_entropy(module.network(state), y) for state in states]).mean()
    assert float(module.training_step((x, y), 0).detach()) == pytest.approx(float(loss.detach()), rel=1e-5)


def test_a_step_tells_its_loss_and_accuracy_over_all_states() -> None:
    """Of 10 images in 3 states each: 30 answers, of which as many are right as the network says."""
    module = conn(person=person(), perception=Perception(2), assembled=True)
    tracked: dict[str, Any] = {}
    module.track = lambda count, **terms: tracked.update(terms, count=count)  # type: ignore[method-assign]
    x, y = batch()
    loss = module.training_step((x, y), 0)
    with torch.no_grad():
        answers = torch.stack([module.network(state).argmax(-1) for state in repeat(person().network, x, 2)])
    right = int((answers == y).sum())
    assert 0 < right < 30
    assert float(tracked["top1"]) == pytest.approx(100 * right / 30)
    assert (tracked["count"], float(tracked["loss"].detach())) == (10, float(loss.detach()))


def test_a_classifier_trains_with_the_optimizer_and_the_schedule_that_it_is_given() -> None:
    module = conn(optimizer=partial(torch.optim.Adam, lr=3e-3), schedule=half)
    optimizer = module.configure_optimizers()
    assert isinstance(optimizer, torch.optim.Adam)
    assert optimizer.param_groups[0]["lr"] == 3e-3
    assert module.schedule is half


def test_arms_that_start_alike_share_weights_and_versions() -> None:
    baseline, stochastic = (
        conn(),
        conn(person=person(), perception=Perception(), randomizer=Randomizer(0.1, versions=2)),
    )
    assert conn(randomizer=Randomizer(0.1, versions=2)).versions_seed == stochastic.versions_seed
    assert all(torch.equal(a, b) for a, b in zip(baseline.parameters(), stochastic.parameters(), strict=True))


def test_the_person_learns_nothing_from_the_classifier() -> None:
    known = person()
    before = [p.clone() for p in known.network.parameters()]
    module = conn(person=known, perception=Perception(2), randomizer=Randomizer(noise=0.1, versions=2))
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    module.training_step(batch(), 0).backward()
    optimizer.step()
    assert all(p.grad is None for p in known.network.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, known.network.parameters(), strict=True))
    ids = {id(p) for p in known.network.parameters()}
    assert not ids & {id(p) for p in module.parameters()}
    assert not any("person" in name for name in module.state_dict())


def test_behind_a_memory_any_fitting_classifier_says_the_same() -> None:
    """If every image becomes a stored one, the prediction is the label of that one, whatever B is beyond them."""
    stored = torch.rand(6, 1, 4, 4)
    labels = torch.arange(6) % 3

    class Memory(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return stored[torch.cdist(x.flatten(1), stored.flatten(1)).argmin(1)]

    x = torch.rand(50, 1, 4, 4)
    expected = labels[torch.cdist(x.flatten(1), stored.flatten(1)).argmin(1)]
    for seed in (1, 2):
        module = conn(person=person(Memory()), perception=Perception())
        torch.manual_seed(seed)
        module.network = Dense([16, 32, 3])
        optimizer = torch.optim.Adam(module.parameters(), lr=0.02)
        for _ in range(200):
            loss = module.training_step((stored, labels), 0)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        assert float(loss.detach()) < 0.1
        assert torch.equal(module(x).argmax(-1), expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"perception": Perception()}, "both"),
        ({"person": person()}, "both"),
        ({"assembled": True}, "assembled"),
    ],
)
def test_switches_that_make_no_sense_together_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        conn(**options)


def test_a_classifier_that_sees_images_votes_on_each_version() -> None:
    torch.manual_seed(8)
    module = CONN(Convolutional(8, (1, 2), 3), 3, randomizer=Randomizer(noise=0.1, versions=4)).eval()
    x = torch.rand(5, 1, 8, 8)
    with torch.no_grad():
        seen, logits = module.votes(x)
        assert (tuple(seen.shape), tuple(logits.shape)) == ((4, 5, 1, 8, 8), (4, 5, 3))
        for version, votes in zip(seen, logits, strict=True):
            assert torch.allclose(module.network(version), votes, atol=1e-5)
