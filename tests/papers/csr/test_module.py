"""What each stage trains, and what it leaves alone."""

from __future__ import annotations

import copy
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from datamodules.csr.encoded import ConceptVectors, Encoded
from modules.common.protopnet import Phase, ProtoPNet
from modules.csr.atlas import Atlas
from modules.csr.baselines import (
    DistanceWeights,
    JointBottleneck,
    PhasedProtoPNet,
    ProtoPNetStyle,
    SequentialBottleneck,
    average,
)
from modules.csr.interaction import Doctor
from modules.csr.losses import local_vectors
from modules.csr.module import ConceptModel, Encode, Prototypes
from modules.csr.networks import ConceptNetwork, ConceptPrototypes
from modules.csr.task import TaskHead, kept_after


def state(module: nn.Module) -> dict[str, Tensor]:
    return copy.deepcopy(module.state_dict())


def same(module: nn.Module, before: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def step(stage: Any, batch: Any) -> None:
    optimizer = torch.optim.SGD(stage.trained(), lr=0.1)
    stage.training_step(batch, 0).backward()
    optimizer.step()


def test_vectors_are_of_concepts_that_are_present(encode: Encode, model: ConceptModel) -> None:
    made = encode.artifacts()
    assert made["concepts"].sum() == len(made["vectors"]) == 4 * 120
    features = torch.from_numpy(made["maps"])
    with torch.no_grad():
        every = local_vectors(features, model.network.maps(features))
    for image, concept, vector in list(zip(made["vector_image"], made["vector_concept"], made["vectors"], strict=True))[
        ::37
    ]:
        assert made["concepts"][image, concept] == 1
        assert torch.allclose(every[image, concept], torch.from_numpy(vector), atol=1e-5)
    assert (made["vector_in_test"] == made["in_test"][made["vector_image"]]).all()


def test_an_image_without_concepts_makes_no_vector(model: ConceptModel) -> None:
    stage = Encode(model)
    stage.on_test_epoch_start()
    nothing = torch.zeros(1, 11)
    batch = SimpleNamespace(
        x=torch.randn(1, 3, 64, 64),
        y=torch.zeros(1),
        concepts=nothing,
        boxes=nothing,
        shows=nothing,
        in_test=torch.zeros(1),
    )
    with torch.inference_mode():
        stage.test_step(batch, 0)
    assert len(stage.artifacts()["vectors"]) == 0


def test_step_three_leaves_the_concept_model_alone(model: ConceptModel, vectors: ConceptVectors) -> None:
    before = state(model)
    stage = Prototypes(ConceptPrototypes(8, 11, 3, 4))
    own = state(stage)
    step(stage, next(iter(vectors.train_dataloader())))
    assert same(model, before)
    assert not torch.equal(stage.prototypes.vectors, own["prototypes.vectors"])
    assert [group["weight_decay"] for group in stage.trained()] == [1e-4, 0.0]


def test_step_four_trains_the_last_layer_alone(encoded: Encoded) -> None:
    start = Prototypes(ConceptPrototypes(8, 11, 3, 4))
    before = state(start)
    stage = TaskHead(start, 40)
    weight = stage.head.weight.detach().clone()
    step(stage, next(iter(encoded.train_dataloader())))
    assert same(start, before)
    assert {name for name, _ in stage.named_parameters()} == {"head.weight", "head.bias"}
    assert not torch.equal(stage.head.weight, weight)
    assert not stage.maps(torch.randn(1, 8, 4, 4).requires_grad_()).requires_grad


def test_prototypes_begin_as_vectors_of_their_concept(vectors: ConceptVectors, trainer_of: Any) -> None:
    stage = Prototypes(ConceptPrototypes(8, 11, 3, 4), seeded=True)
    chosen = vectors.some_vectors(3)
    stage._trainer = trainer_of(vectors)  # type: ignore[assignment]
    stage.on_train_start()
    own = stage.prototypes.cosines(chosen.flatten(0, 1)).view(11, 3, 11, 3)
    assert torch.allclose(torch.einsum("kmkm->km", own), torch.ones(11, 3), atol=1e-5)

    placed = stage.prototypes.vectors.detach().clone()
    with torch.no_grad():
        stage.prototypes.vectors.add_(1)
    stage._trainer = trainer_of(vectors, global_step=5)  # type: ignore[assignment]
    stage.on_train_start()  # a run that goes on
    assert torch.equal(stage.prototypes.vectors, placed + 1)


def atlas_of(start: Prototypes, data: ConceptVectors, batches: list[Any]) -> Atlas:
    stage = Atlas(start)
    for number, batch in enumerate(batches):
        stage.training_step(batch, number)
    stage.shortcut.copy_(stage.peaks_in_negative_box(data))
    return stage


def test_the_atlas_is_the_most_similar_vector(vectors: ConceptVectors) -> None:
    start = Prototypes(ConceptPrototypes(8, 11, 3, 4))
    batches = list(vectors.train_dataloader())
    stage = atlas_of(start, vectors, batches)
    with torch.no_grad():
        cosines = torch.cat([stage(batch.x) for batch in batches])
    y = torch.cat([batch.y for batch in batches])
    row = torch.cat([batch.row for batch in batches])
    for k in range(11):
        own = cosines[y == k, k]  # (V_k, M)
        assert torch.allclose(stage.similarity[k], own.amax(0), atol=1e-6)
        assert stage.image[k].tolist() == row[y == k][own.argmax(0)].tolist()
        assert stage.wins[k].sum() == (y == k).sum()
    backwards = atlas_of(start, vectors, batches[::-1])
    assert torch.equal(stage.image, backwards.image)
    assert torch.equal(stage.shortcut, backwards.shortcut)
    assert not torch.equal(stage.image, torch.full_like(stage.image, -1))


def test_what_is_discarded() -> None:
    atlas = SimpleNamespace(shortcut=torch.tensor([[True, False, True], [False, False, False]]))
    kept = kept_after((2, 3), atlas, "shortcuts")  # type: ignore[arg-type]
    assert kept.tolist() == [[False, True, False], [True, True, True]]
    random = kept_after((2, 3), atlas, "at random")  # type: ignore[arg-type]
    assert random.sum(1).tolist() == [1, 3]
    assert kept_after((2, 3), None, [[1, 2]]).tolist() == [[True] * 3, [True, True, False]]
    for wrong, message in (
        ("shortcut", "discard='shortcut': expected"),
        ("shortcuts", "needs needs: {atlas: <stage>}"),
        ([[2, 0]], r"discard: \[2, 0\]: expected a concept below 2"),
        ([[k, m] for k in range(2) for m in range(3)], "no prototype is left"),
    ):
        with pytest.raises(ValueError, match=message):
            kept_after((2, 3), None, wrong)


def test_discarded_prototypes_lose_their_columns() -> None:
    start = Prototypes(ConceptPrototypes(5, 2, 3, 4))
    stage = TaskHead(start, 3, discard=[[0, 0], [0, 1], [0, 2], [1, 1]])
    assert stage.head.weight.shape == (3, 2)
    maps = torch.rand(1, 2, 3, 2, 2)
    shown = stage.concept_maps(maps)
    assert torch.equal(shown[0, 0], torch.zeros(2, 2))
    assert torch.equal(shown[0, 1], maps[0, 1, [0, 2]].amax(0))


def test_a_test_of_the_head_by_hand(small_batch: Any, logged: Callable[..., dict[str, float]], trainer_of: Any) -> None:
    """Everything is looked at; every number is compared with one that is computed another way."""
    stage = TaskHead(Prototypes(ConceptPrototypes(5, 2, 3, 4)), 3, Doctor(alpha=0.2, gate=1.0)).eval()
    stage._trainer = trainer_of(SimpleNamespace(image_side=(4, 4)))  # type: ignore[assignment]
    with torch.no_grad():
        maps = stage.maps(small_batch.x)
        logits = stage(small_batch.x)
        assert torch.allclose(stage.classify(maps.flatten(3).amax(3)), logits, atol=1e-6)

        corrected = stage.corrected(maps, small_batch)
        weights = torch.tensor([[[1.0, 0.0], [0.2, 0.2]], [[1.0, 0.2], [0.2, 0.2]]])
        moved = torch.tensor([[[0.2, 0.2], [1.0, 0.0]], [[0.2, 0.2], [1.0, 0.2]]])
        negative = torch.tensor([[[1.0, 0.0], [1.0, 1.0]], [[1.0, 1.0], [1.0, 1.0]]])
        for name, weight in (("spatial", weights), ("elsewhere", moved), ("negative", negative)):
            lowered = torch.where(maps > 0, maps * weight[:, None, None], maps).flatten(3).amax(3)
            assert torch.allclose(corrected[name], stage.classify(lowered), atol=1e-6), name
        rejected = maps.flatten(3).amax(3) * small_batch.concepts[:, :, None]
        assert torch.allclose(corrected["rejection"], stage.classify(rejected), atol=1e-6)
        other = maps.flatten(3).amax(3) * small_batch.concepts.flip(1)[:, :, None]
        assert torch.allclose(corrected["dealt"], stage.classify(other), atol=1e-6)

        actual = logged(stage, small_batch)
    right = (logits.argmax(-1) == small_batch.y).double()
    assert actual["test/gated"] == 100
    assert actual["test/f1"] == actual["test/f1_gated"]
    assert actual["test/f1"] <= 100 * float(right.mean()) + 1e-4  # one image of each class: a class missed has 0
    assert actual["test/pairs"] == 2
    assert actual["test/chance"] == actual["test/chance_any"] == 25
    assert actual["test/n"] == 2


@pytest.mark.parametrize("arm", ["csr", "bottleneck"])
def test_validation_looks_at_what_the_test_does(
    arm: str,
    small_batch: Any,
    logged: Callable[..., dict[str, float]],
    trainer_of: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On the same images, F1 without and with the doctor's boxes are the test's, epoch after epoch."""
    doctor = Doctor(alpha=0.2, gate=0.5)
    stage: Any
    if arm == "csr":
        stage = TaskHead(Prototypes(ConceptPrototypes(5, 2, 3, 4)), 3, doctor).eval()
    else:
        model: Any = SimpleNamespace(network=SimpleNamespace(head=nn.Conv2d(5, 2, 1, bias=False)))
        stage = SequentialBottleneck(model, 3, doctor=doctor).eval()
    stage._trainer = trainer_of(SimpleNamespace(image_side=(4, 4)))
    epochs: list[dict[str, float]] = []
    with torch.no_grad():
        tested = logged(stage, small_batch)
        monkeypatch.setattr(stage, "log_dict", lambda values: epochs.append({k: float(v) for k, v in values.items()}))
        for _ in range(2):
            stage.validation_step(small_batch, 0)
            stage.on_validation_epoch_end()
    expected = {f"val/{name}": pytest.approx(tested[f"test/{name}"]) for name in ("f1", "f1_spatial")}
    assert epochs == [expected, expected]


def test_baselines_train_and_explain(
    model: ConceptModel, encoded: Encoded, logged: Callable[..., dict[str, float]], trainer_of: Any
) -> None:
    before = state(model)
    sequential = SequentialBottleneck(model, 40)
    step(sequential, next(iter(encoded.train_dataloader())))
    assert same(model, before)
    sequential._trainer = trainer_of(encoded)  # type: ignore[assignment]
    with torch.no_grad():
        actual = logged(sequential, *encoded.test_dataloader())
    assert actual["test/n"] == 40
    assert actual["test/pairs"] == 160
    assert actual["test/chance_any"] == pytest.approx(4 * actual["test/chance"], rel=0.05)  # parts hardly overlap

    net = ProtoPNetStyle(8, 40, 2, channels=4)
    step(net, next(iter(encoded.train_dataloader())))
    net._trainer = trainer_of(encoded)  # type: ignore[assignment]
    batch = next(iter(encoded.test_dataloader()))
    with torch.no_grad():
        logits, shown, of_concepts = net.explain(batch)
        maps = net.maps(batch.x)
    winner = int(logits[0].argmax())
    assert not of_concepts
    assert torch.equal(shown[0, 0], maps[0, 2 * winner : 2 * winner + 2].amax(0))


def test_a_prototype_nets_loss_is_cross_entropy_and_the_two_weighted_distances(encoded: Encoded) -> None:
    batch = next(iter(encoded.train_dataloader()))
    net = ProtoPNetStyle(8, 40, 2, channels=4, weights=DistanceWeights(cluster=2, separation=3))

    loss = net.training_step(batch, 0)
    ce, cluster, separation = (net._sums[name] / len(batch.y) for name in ("ce", "cluster", "separation"))
    assert cluster > 0 > separation
    torch.testing.assert_close(loss, ce + 2 * cluster + 3 * separation)


def test_a_protopnet_of_phases_is_tested_as_it_was_trained() -> None:
    network = ProtoPNet(nn.Conv2d(3, 8, 3, 4), 8, 5, 2, channels=4).eval()
    phase = Phase(5, {"last": 0.1}, network)
    tested = PhasedProtoPNet(5, phase).eval()
    x = torch.randn(3, 3, 20, 20)
    with torch.no_grad():
        assert torch.equal(tested(x), network(x))
        assert tested.maps(x).shape == (3, 10, 5, 5)


def test_boxes_move_the_averages_of_a_bottlenecks_maps(
    small_batch: Any, logged: Callable[..., dict[str, float]], trainer_of: Any
) -> None:
    """A negative box goes, a positive one counts in full, what no box covers counts a fifth."""
    maps = torch.tensor([[[[1.0, 3.0], [5.0, 7.0]]]])
    assert float(average(maps, torch.tensor([[[1.0, 0.0], [0.2, 0.2]]]))) == pytest.approx((1 + 1 + 1.4) / 1.4)
    assert float(average(maps, torch.full((1, 2, 2), 0.2))) == pytest.approx(4)
    assert float(average(maps, torch.zeros(1, 2, 2))) == 0

    head = nn.Conv2d(5, 2, 1, bias=False)
    model: Any = SimpleNamespace(network=SimpleNamespace(head=head))
    stage = SequentialBottleneck(model, 3, doctor=Doctor(alpha=0.2, gate=1.0)).eval()
    stage._trainer = trainer_of(SimpleNamespace(image_side=(4, 4)))  # type: ignore[assignment]
    seen: dict[str, Tensor] = {}
    stage.f1.update = lambda name, logits, y: seen.update({name: logits})  # type: ignore[method-assign, assignment]
    with torch.no_grad():
        logged(stage, small_batch)
        weights = torch.tensor([[[1.0, 0.0], [0.2, 0.2]], [[1.0, 0.2], [0.2, 0.2]]])
        averages = (head(small_batch.x) * weights[:, None]).sum((2, 3)) / weights.sum((1, 2))[:, None]
        assert torch.allclose(seen["f1_spatial"], stage.last(averages.sigmoid()), atol=1e-6)
        assert torch.allclose(seen["f1"], stage(small_batch.x), atol=1e-6)


def test_how_many_images_a_bottleneck_doubts(
    small_batch: Any, logged: Callable[..., dict[str, float]], trainer_of: Any
) -> None:
    model: Any = SimpleNamespace(network=SimpleNamespace(head=nn.Conv2d(5, 2, 1, bias=False)))
    for gate, share in ((0.0, 0), (1.0, 100)):
        stage = SequentialBottleneck(model, 3, doctor=Doctor(alpha=0.2, gate=gate)).eval()
        stage._trainer = trainer_of(SimpleNamespace(image_side=(4, 4)))  # type: ignore[assignment]
        with torch.no_grad():
            assert logged(stage, small_batch)["test/gated"] == share


def test_the_joint_bottleneck_learns_its_concepts_beside_the_classes() -> None:
    """While the last layer is 0, classes tell the network nothing: what it learns then is the concepts'."""
    network = ConceptNetwork(nn.Conv2d(3, 4, 3), 4, 2)
    stage = JointBottleneck(network, 3, weight=0.7)
    batch = SimpleNamespace(
        x=torch.randn(6, 3, 8, 8), y=torch.arange(6) % 3, concepts=torch.tensor([[0.0, 1.0], [1.0, 1.0]]).repeat(3, 1)
    )
    concepts = network(batch.x)
    expected = nn.functional.cross_entropy(stage.last(concepts.sigmoid()), batch.y)
    expected = expected + 0.7 * nn.functional.binary_cross_entropy(concepts.sigmoid(), batch.concepts)
    assert float(stage.training_step(batch, 0)) == pytest.approx(float(expected), rel=1e-5)

    with torch.no_grad():
        stage.last.weight.zero_()
    before = state(network)
    step(stage, batch)
    assert not torch.equal(network.head.weight, before["head.weight"])


def test_rates_of_the_joint_bottleneck() -> None:
    network = ConceptNetwork(nn.Conv2d(3, 4, 3), 4, 2)
    network_group, last = JointBottleneck(network, 3, last_rate=0.05).trained()
    assert "lr" not in network_group
    assert last["lr"] == 0.05
    assert "lr" not in JointBottleneck(network, 3).trained()[1]
