"""Topologies: how many, how large, and which one is chosen."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from modules.cifake.module import ChosenDetector, TopologyDetector
from modules.cifake.networks import CNN, Topology, best_of, extractors, grid, heads, sides
from modules.cifake.scores import BinaryScores, of_counts


def count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def test_there_are_exactly_36_topologies() -> None:
    topologies = grid(Topology(32, 2))
    assert len(extractors()) == 12
    assert len(heads(Topology(32, 2))) == 24
    assert len(topologies) == len(set(topologies)) == 36
    assert all(t.dense == 0 for t in extractors())
    assert all(t.dense > 0 for t in heads(Topology(32, 2)))


@pytest.mark.parametrize(("padding", "bare", "headed"), [("same", 12_193, 141_345), ("valid", 11_297, 84_001)])
def test_parameters_of_two_layers_of_32_filters(padding: str, bare: int, headed: int) -> None:
    assert count(CNN(Topology(32, 2), padding)) == bare
    assert count(CNN(Topology(32, 2, 64, 1), padding)) == headed


@pytest.mark.parametrize(("filters", "parameters"), [(16, 448), (32, 896), (64, 1_792), (128, 3_584)])
def test_parameters_of_the_first_convolution(filters: int, parameters: int) -> None:
    assert count(CNN(Topology(filters, 1)).features[0]) == parameters


def test_a_softmax_over_two_units_would_have_as_many_parameters_as_the_reproduction() -> None:
    network = CNN(Topology(32, 2, 64, 1))
    network.head[-1] = nn.Linear(64, 2)
    assert count(network) == 141_410


def test_sides_of_maps() -> None:
    assert sides(32, 3, "same") == [16, 8, 4]
    assert sides(32, 3, "valid") == [15, 6, 2]
    with pytest.raises(ValueError, match="padding='full': expected one of same, valid"):
        sides(32, 1, "full")
    with pytest.raises(ValueError, match="nothing is left of the maps"):
        CNN(Topology(16, 3), "valid", side=8)


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("topology", extractors(), ids=str)
def test_every_extractor_gives_one_logit(topology: Topology, padding: str) -> None:
    network = CNN(topology, padding)
    x = torch.rand(2, 3, 32, 32)
    last = sides(32, topology.convolutions, padding)[-1]
    maps = network.maps(x)
    assert network.pool(maps).shape == (2, topology.filters, last, last)
    assert network(x).shape == (2, 1)
    assert torch.equal(network(x), network.read(maps))


def test_weights_begin_as_in_keras() -> None:
    layer = CNN(Topology(128, 2)).features[3]
    assert isinstance(layer, nn.Conv2d)
    bound = (6 / (9 * 128 + 9 * 128)) ** 0.5
    assert float(layer.weight.detach().abs().max()) == pytest.approx(bound, rel=1e-3)
    assert float(layer.bias.detach().abs().max()) == 0


@pytest.mark.parametrize("wrong", [(0, 1), (16, 0), (16, 1, 0, 1), (16, 1, 64, 0)])
def test_topologies_that_make_no_sense(wrong: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected filters and convolutions from 1"):
        Topology(*wrong)


def test_the_choice_is_by_validation_accuracy_the_first_of_equals() -> None:
    first, second, third = Topology(16, 1), Topology(16, 2), Topology(32, 1)
    assert best_of([(first, 80.0), (second, 90.0), (third, 90.0)]) == second
    with pytest.raises(ValueError, match="expected one stage or more"):
        best_of([])


def test_heads_stand_on_the_chosen_extractor() -> None:
    candidates = [TopologyDetector(Topology(16, n)) for n in (1, 2, 3)]
    for candidate, acc in zip(candidates, (80.0, 91.0, 85.0), strict=True):
        candidate.val_acc.fill_(acc)
    assert ChosenDetector(candidates, units=64, dense=2).topology == Topology(16, 2, 64, 2)
    winner = ChosenDetector(candidates)
    assert winner.topology == Topology(16, 2)
    assert float(winner.val_acc) == -1  # nothing of the candidates is left but the topology
    assert not [name for name, _ in winner.named_modules() if name.startswith("candidates")]
    assert set(winner.pictures(None)) == {"grid"}


def test_cross_entropy_by_hand() -> None:
    logits = torch.tensor([0.0, 2.0, 2.0])
    y = torch.tensor([1.0, 1.0, 0.0])
    values = F.binary_cross_entropy_with_logits(logits, y, reduction="none")
    assert torch.allclose(values, torch.tensor([0.693147, 0.126928, 2.126928]), atol=1e-6)
    scores = BinaryScores()
    scores.update(logits, y.long())
    assert float(scores.compute()["loss"]) == pytest.approx(float(values.mean()), abs=1e-6)


def test_one_sigmoid_is_a_softmax_over_nothing_and_itself() -> None:
    s = torch.linspace(-8, 8, 9)
    p = torch.stack([torch.zeros_like(s), s], 1).softmax(1)[:, 1]
    assert torch.allclose(p, s.sigmoid(), atol=1e-6)


def test_scores_of_the_reproductions_confusion_matrix() -> None:
    values = of_counts(torch.tensor([[9452, 548], [827, 9173]]))
    assert float(values["acc"]) == pytest.approx(93.125)
    assert float(values["precision_real"]) == pytest.approx(94.36, abs=0.005)
    assert float(values["recall_real"]) == pytest.approx(91.73)
    assert float(values["f1_real"]) == pytest.approx(93.03, abs=0.005)
    assert float(values["precision_fake"]) == pytest.approx(100 * 9452 / (9452 + 827))
    assert float(values["recall_fake"]) == pytest.approx(94.52)


def test_scores_against_torchmetrics() -> None:
    from torchmetrics.functional.classification import binary_accuracy, binary_f1_score, binary_precision, binary_recall

    logits, y = torch.randn(200), torch.randint(2, (200,))
    scores = BinaryScores()
    scores.update(logits[:70], y[:70])
    scores.update(logits[70:], y[70:])
    values = scores.compute()
    for kind, called, there in (("fake", logits.sigmoid(), y), ("real", 1 - logits.sigmoid(), 1 - y)):
        for name, reference in (("precision", binary_precision), ("recall", binary_recall), ("f1", binary_f1_score)):
            assert float(values[f"{name}_{kind}"]) == pytest.approx(100 * float(reference(called, there)), abs=1e-4)
    assert float(values["acc"]) == pytest.approx(100 * float(binary_accuracy(logits.sigmoid(), y)), abs=1e-4)
    assert float(values["n"]) == 200


def test_a_probability_of_one_half_says_real_and_empty_classes_give_nought() -> None:
    scores = BinaryScores()
    scores.update(torch.zeros(3), torch.zeros(3, dtype=torch.long))
    values = scores.compute()
    assert float(values["acc"]) == 100
    assert float(values["precision_fake"]) == float(values["f1_fake"]) == 0


def test_scores_of_two_processes_are_added_up() -> None:
    logits, y = torch.randn(50), torch.randint(2, (50,))
    whole, first, second = BinaryScores(), BinaryScores(), BinaryScores()
    whole.update(logits, y)
    first.update(logits[:20], y[:20])
    second.update(logits[20:], y[20:])
    first.merge_state(second)
    expected = {name: float(value) for name, value in whole.compute().items()}
    assert {name: float(value) for name, value in first.compute().items()} == pytest.approx(expected)
