"""What the stages of CSR say of a step, an epoch and a test."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from datamodules.csr.encoded import ConceptVectors
from modules.csr.atlas import Atlas
from modules.csr.baselines import JointBottleneck, ProtoPNetStyle, SequentialBottleneck, average
from modules.csr.interaction import Doctor
from modules.csr.module import ConceptModel, Prototypes
from modules.csr.networks import ConceptNetwork, ConceptPrototypes
from modules.csr.task import TaskHead
from tests.schedules import half


def concept_network() -> ConceptNetwork:
    torch.manual_seed(0)
    return ConceptNetwork(nn.Conv2d(3, 4, 3), 4, 2)


def stages(**options: Any) -> list[Any]:
    prototypes = Prototypes(ConceptPrototypes(5, 2, 3, 4), **options)
    return [
        prototypes,
        ConceptModel(concept_network(), **options),
        TaskHead(prototypes, 3, **options),
        SequentialBottleneck(ConceptModel(concept_network()), 3, **options),
        JointBottleneck(concept_network(), 3, **options),
        ProtoPNetStyle(5, 3, 2, channels=4, **options),
    ]


def test_every_stage_trains_with_its_own_optimizer_and_schedule() -> None:
    for stage in stages(optimizer=torch.optim.SGD, schedule=half):
        assert (stage.optimizer_factory, stage.schedule) == (torch.optim.SGD, half), type(stage).__name__


def images() -> Any:
    concepts = torch.tensor([[0.0, 1.0], [1.0, 1.0], [1.0, 0.0]]).repeat(2, 1)
    x = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    return SimpleNamespace(x=x, y=torch.arange(6) % 3, concepts=concepts)


def test_step_one_is_cross_entropy_of_each_concept_by_hand() -> None:
    """Smoothed by 0.2, a label of 1 counts 0.9 and one of 0 counts 0.1."""
    stage = ConceptModel(concept_network(), label_smoothing=0.2)
    tracked: dict[str, Any] = {}
    stage.track = lambda count, **terms: tracked.update(terms, count=count)  # type: ignore[method-assign]
    batch = images()
    p = stage(batch.x).sigmoid()
    target = 0.1 + 0.8 * batch.concepts
    expected = -(target * p.log() + (1 - target) * (1 - p).log()).mean()
    assert float(stage.training_step(batch, 0)) == pytest.approx(float(expected), rel=1e-5)
    assert float(tracked["loss"]) == pytest.approx(float(expected), rel=1e-5)
    right = (p > 0.5) == (batch.concepts > 0)
    assert float(tracked["right"]) == pytest.approx(100 * float(right.float().mean()))
    assert tracked["count"] == 6

    batch.concepts = torch.ones(6, 2)
    stage.forward = lambda x: torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0]]).repeat(2, 1)  # type: ignore[method-assign]
    stage.training_step(batch, 0)
    assert float(tracked["right"]) == pytest.approx(100 * 4 / 6)


def test_prototypes_begin_in_random_directions_unless_asked() -> None:
    assert not Prototypes(ConceptPrototypes(5, 2, 3, 4)).seeded
    assert Prototypes(ConceptPrototypes(5, 2, 3, 4), seeded=True).seeded


def test_precision_of_concepts_is_over_all_batches_of_one_test(
    monkeypatch: pytest.MonkeyPatch, logged: Callable[..., dict[str, float]]
) -> None:
    """The first concept in perfect order: 1. The second's logits say 1 for a wrong image, then for a right one: 1/2."""
    stage = ConceptModel(concept_network())
    monkeypatch.setattr(stage, "forward", lambda x: x)
    first = SimpleNamespace(x=torch.tensor([[3.0, 2.0], [-3.0, -2.0]]), y=torch.zeros(2))
    first.concepts = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    second = SimpleNamespace(x=torch.tensor([[2.0, 1.0]]), y=torch.zeros(1), concepts=torch.tensor([[1.0, 1.0]]))
    for _ in range(2):  # a second test starts anew
        actual = logged(stage, first, second)
        assert actual["test/map"] == pytest.approx(75)
        assert actual["test/n"] == 3


def test_a_joint_bottleneck_tells_its_losses() -> None:
    stage = JointBottleneck(concept_network(), 3, weight=0.7)
    loss = stage.training_step(images(), 0)
    ce, bce, total = (float(stage._sums[name]) / 6 for name in ("ce", "bce", "loss"))
    assert total == pytest.approx(float(loss), rel=1e-5)
    assert ce + 0.7 * bce == pytest.approx(total, rel=1e-5)


def test_boxes_weigh_maps_that_are_not_square(small_batch: Any, trainer_of: Any) -> None:
    """Maps of 2 x 4 cells over images of 4 x 8 pixels: a positive box on the left, a negative one on the right."""
    head = nn.Conv2d(5, 2, 1, bias=False)
    stage = SequentialBottleneck(SimpleNamespace(network=SimpleNamespace(head=head)), 3)  # type: ignore[arg-type]
    stage.doctor = Doctor(alpha=0.2, gate=1.0)
    stage._trainer = trainer_of(SimpleNamespace(image_side=(4, 8)))  # type: ignore[assignment]
    boxes = torch.tensor([[[0.0, 0.0, 4.0, 2.0], [6.0, 0.0, 8.0, 2.0]]])
    x = torch.randn(1, 5, 2, 4, generator=torch.Generator().manual_seed(2))
    batch = small_batch._replace(x=x, boxes=boxes, shows=torch.tensor([[0, 2]]))
    weights = torch.tensor([[[1.0, 1.0, 0.2, 0.0], [0.2, 0.2, 0.2, 0.2]]])
    with torch.no_grad():
        corrected, gated = stage.boxed(batch, stage(x))
        assert gated.tolist() == [True]
        assert torch.allclose(corrected, stage.last(average(head(x), weights).sigmoid()), atol=1e-6)


def test_a_test_of_a_prototype_net_points_at_any_concept(
    small_batch: Any, logged: Callable[..., dict[str, float]], trainer_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its maps are of classes: a hit is any box of the image's concepts, which take a quarter of either image."""
    stage = ProtoPNetStyle(5, 3, 2, channels=4).eval()
    stage._trainer = trainer_of(SimpleNamespace(image_side=(4, 4)))  # type: ignore[assignment]
    logits = torch.eye(3)[[0, 1]]  # right, wrong
    first, second = [[9.0, 0.0], [0.0, 0.0]], [[0.0, 9.0], [0.0, 0.0]]  # peaks in its box, and beside its box
    shown = torch.tensor([[first], [second]])
    monkeypatch.setattr(stage, "explain", lambda batch: (logits, shown, False))
    for _ in range(2):  # a second test starts anew
        actual = logged(stage, small_batch)
        assert actual["test/pointing_any"] == 50
        assert actual["test/chance_any"] == 25
        assert actual["test/pairs"] == 0  # no map is of one concept
        assert actual["test/n"] == 2
        assert actual["test/f1"] == 50  # 1 of class 0, 0 of class 2, in the mean over classes that images have


def test_a_class_without_similar_patches_has_nothing_that_speaks_for_it() -> None:
    """ProtoPNet's last layer has no bias, and begins with 1 for a class's own prototypes and -0.5 for others."""
    net = ProtoPNetStyle(5, 3, 2, channels=4)
    with torch.no_grad():
        assert torch.equal(net.last(torch.zeros(2, 6)), torch.zeros(2, 3))
        assert net.last(torch.eye(6))[2].tolist() == [-0.5, 1.0, -0.5]


def test_an_epoch_of_the_atlas_says_how_many_prototypes_live_and_look_at_shortcuts(
    vectors: ConceptVectors, trainer_of: Any
) -> None:
    stage = Atlas(Prototypes(ConceptPrototypes(8, 11, 3, 4)))
    batches = list(vectors.train_dataloader())
    for number, batch in enumerate(batches):
        stage.training_step(batch, number)
    stage._trainer = SimpleNamespace(datamodule=vectors, optimizers=[])  # type: ignore[assignment]
    actual: dict[str, float] = {}
    stage.log = lambda name, value: actual.update({name: float(value)})  # type: ignore[method-assign, assignment]
    stage.on_train_epoch_end()

    with torch.no_grad():
        cosines = torch.cat([stage(batch.x) for batch in batches])
    y = torch.cat([batch.y for batch in batches])
    winners = {(k, int(m)) for k in range(11) for m in cosines[y == k, k].argmax(1)}
    assert actual["train/alive"] == len(winners)
    negative = stage.peaks_in_negative_box(vectors)
    assert torch.equal(stage.shortcut, negative)
    assert actual["train/on_shortcut"] == sum(bool(negative[k, m]) for k, m in winners)


def test_a_head_begins_where_cross_entropy_of_its_logits_does(small_batch: Any) -> None:
    stage = TaskHead(Prototypes(ConceptPrototypes(5, 2, 3, 4)).eval(), 3)
    loss = stage.training_step(small_batch, 0)
    logits = stage(small_batch.x)
    assert torch.allclose(loss, F.cross_entropy(logits, small_batch.y))
    top1 = 100 * (logits.argmax(1) == small_batch.y).float().mean()
    assert float(stage._sums["top1"]) / 2 == pytest.approx(float(top1))
