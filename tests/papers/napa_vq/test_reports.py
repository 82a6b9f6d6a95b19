"""What NAPA-VQ says of its steps and tests, its two optimisers, and which stages may follow which."""

from __future__ import annotations

import functools
import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from modules.common.schedules import Position
from modules.napa_vq.evidence import EdgeEvidence
from modules.napa_vq.module import Losses, NapaVQ
from modules.napa_vq.networks import convnet, resnet
from modules.napa_vq.prototypes import draw_noisy_prototypes, rotate
from tests.papers.napa_vq.helpers import TASKS, build_module, build_network, build_vectors, copy_of


def images(count: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


def test_a_step_descends_both_optimisers_and_tells_the_accuracy_by_distance() -> None:
    module = build_module(na=0.0)
    module.train()
    x, y = images(6), torch.arange(6) % 4
    tracked: dict[str, Any] = {}
    steps: list[float] = []
    module.track = lambda count, **terms: tracked.update(terms, count=count)  # type: ignore[method-assign]
    module.descend = lambda loss: steps.append(float(loss.detach()))  # type: ignore[method-assign]
    returned = module.training_step((x, y), 0)

    turned, labels = rotate(x, y)
    with torch.no_grad():
        f = module.network(turned)
    nearest = [min(range(16), key=lambda c: math.dist(row, module.new_vectors[c].tolist())) for row in f.tolist()]
    right = sum(c == label for c, label in zip(nearest, labels.tolist(), strict=True))
    assert float(tracked["top1"]) == pytest.approx(100 * right / 24)
    assert tracked["count"] == 6
    assert steps == [float(returned)] == [float(tracked["loss"].detach())]
    assert not returned.requires_grad


def test_descending_moves_network_and_vectors_by_their_own_optimisers() -> None:
    """Plain SGD at two rates: each parameter moves by its gradient times the rate of its own."""
    module = build_module(optimizer=functools.partial(torch.optim.SGD, lr=0.5))
    optimizers = module.configure_optimizers()
    module.optimizers = lambda: optimizers  # type: ignore[method-assign, assignment]
    module.manual_backward = lambda loss: loss.backward()  # type: ignore[method-assign]
    weight = next(module.network.parameters())
    for p in (weight, module.new_vectors):
        p.grad = torch.full_like(p, 100.0)  # left over from before
    before = weight.detach().clone(), module.new_vectors.detach().clone()
    module.descend(weight.sum() + 3 * module.new_vectors.sum())
    assert torch.allclose(weight, before[0] - 0.5, atol=1e-6)
    assert torch.allclose(module.new_vectors, before[1] - 0.3, atol=1e-6)


def test_vectors_have_a_schedule_of_their_own_or_the_networks() -> None:
    own = build_module(schedule=lambda p: 0.5, vectors=build_vectors(schedule=lambda p: 0.25))
    shared = build_module(schedule=lambda p: 0.5, vectors=build_vectors(schedule=None))
    where = Position(1, 0, 10, 100)
    assert (own.factors(where), shared.factors(where)) == ([0.5, 0.25], [0.5, 0.5])


@pytest.mark.parametrize("missing", [{"optimizer": None}, {"vectors": build_vectors(optimizer=None)}])
def test_a_missing_optimiser_is_named(missing: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"lacks optimizer or vectors\.optimizer"):
        build_module(**missing).configure_optimizers()


def test_a_test_tells_both_ways_of_inference() -> None:
    """Vectors of one direction and different lengths: the cosine takes all alike, the distance does not."""
    module = build_module(inference="distance").eval()
    x, y = images(8, 3), torch.arange(8) % 4
    with torch.no_grad():
        f = module.network(x)
        module.new_vectors[::4] = f[:4] * torch.tensor([[1.0], [3.0], [0.2], [1.5]])
    logged: dict[str, float] = {}
    module.log_dict = lambda values, **_: logged.update({k: float(v) for k, v in values.items()})  # type: ignore[method-assign, assignment]
    module.test_step((x[:5], y[:5]), 0)
    module.test_step((x[5:], y[5:]), 1)
    module.on_test_epoch_end()

    v = module.new_vectors[::4].detach()
    by_distance = (f[:, None] - v).norm(dim=2).argmin(1)
    by_cosine = (F.normalize(f) @ F.normalize(v).T).argmax(1)
    distance, cosine = (100 * float((guess == y).float().mean()) for guess in (by_distance, by_cosine))
    assert distance != cosine
    assert logged == pytest.approx(
        {
            "test/top1": distance,
            "test/avg_incremental_acc": distance,
            "test/first_acc": distance,
            "test/distance_top1": distance,
            "test/distance_avg_incremental_acc": distance,
            "test/cosine_top1": cosine,
            "test/cosine_avg_incremental_acc": cosine,
            "test/n": 8,
        },
        abs=1e-3,
    )


def test_this_processs_share_of_the_prototypes(first: NapaVQ, monkeypatch: pytest.MonkeyPatch) -> None:
    """7 prototypes over two processes: 3 and 4, which together are those of one."""
    module = build_module(copy_of(first), prototype_batch=7)

    def share(rank: int, world: int) -> tuple[torch.Tensor, torch.Tensor]:
        monkeypatch.setattr(NapaVQ, "global_rank", rank)
        monkeypatch.setattr("modules.napa_vq.module.world_size", lambda: world)
        torch.manual_seed(1)
        return module.draw_prototypes()

    whole, parts = share(0, 1), [share(rank, 2) for rank in (0, 1)]
    assert [len(p) for p, _ in parts] == [3, 4]
    for both, one in zip(zip(*parts, strict=True), whole, strict=True):
        assert torch.equal(torch.cat(both), one)


def test_noise_of_prototypes_has_the_radius() -> None:
    torch.manual_seed(0)
    known = torch.arange(8.0)[:, None].expand(8, 50)
    p, c = draw_noisy_prototypes(known, torch.tensor(2.0), 2, 400)
    assert set(c.tolist()) == {0, 4}
    noise = p - known[c]
    assert float(noise.std()) == pytest.approx(2.0, rel=0.03)
    assert abs(float(noise.mean())) < 0.05


def test_stages_follow_each_other_task_by_task(first: NapaVQ) -> None:
    second = build_module(copy_of(first))
    third = build_module(second)
    assert [module.task for module in (first, second, third)] == [0, 1, 2]
    assert [(module.old, module.classes) for module in (first, second, third)] == [(0, 4), (4, 6), (6, 8)]
    with pytest.raises(ValueError, match=r"nothing there follows task 2 of \[4, 2, 2\]"):
        build_module(third)
    with pytest.raises(ValueError, match=r"tasks=\[4, 3\]: nothing there follows task 0 of \[4, 2, 2\]"):
        NapaVQ([4, 3], build_vectors(), Losses(), previous=copy_of(first))
    with pytest.raises(ValueError, match="network=None: the first task needs one"):
        NapaVQ(TASKS, build_vectors(), Losses())
    with pytest.raises(ValueError, match="inference='dot': expected one of cosine, distance"):
        NapaVQ(TASKS, build_vectors(), Losses(), build_network(), inference="dot")
    with pytest.raises(ValueError, match="prototypes='mixed': expected one of neighbours, gaussian, none"):
        Losses(prototypes="mixed")


def test_evidence_compares_stages_after_the_same_task(first: NapaVQ) -> None:
    second = build_module(copy_of(first))
    with pytest.raises(ValueError, match="expected the same tasks, and both after the same one"):
        EdgeEvidence(first, second, 2)
    stage = EdgeEvidence(second, second, 2)
    x = images(5)
    second.eval()
    with torch.no_grad():
        assert torch.equal(stage(x), second(x))
        stage.test_step((x, torch.tensor([0, 1, 2, 3, 5])), 0)
        taken = second(x).argmax(1)
    counts = stage.confusion.compute()
    expected = torch.zeros(6, 6, dtype=torch.long)
    for true, guess in zip((0, 1, 2, 3, 5), taken.tolist(), strict=True):
        expected[true, guess] += 1
    assert torch.equal(counts, expected)
    assert stage.across.nonzero().tolist() == [[i, j] for i in range(4) for j in (4, 5)]


def test_losses_have_the_papers_weights() -> None:
    losses = Losses()
    assert (losses.na, losses.kd, losses.pa, losses.temperature) == (1.0, 10.0, 10.0, 0.1)
    assert (losses.prototypes, losses.prototype_batch, losses.neighbours) == ("neighbours", 64, 15)
    terms = {"dce": 1.0, "na": 2.0, "kd": 3.0, "na_pa": 5.0, "pa": 7.0}
    weighed = Losses(na=10.0, kd=100.0, pa=1000.0).total({name: torch.tensor(value) for name, value in terms.items()})
    assert float(weighed) == 1 + 20 + 300 + 50 + 7000


def test_extractors_end_before_their_classifier() -> None:
    torch.manual_seed(0)
    network = convnet(1, 8, [4, 6], [2, 1]).eval()
    x = images(3)
    with torch.no_grad():
        maps = nn.Sequential(*list(network)[:-3])(x)  # type: ignore[call-overload] # before pooling, flattening, the identity
        assert torch.allclose(network(x), maps.mean((2, 3)), atol=1e-6)
    stem = resnet("cifar")
    assert stem.conv1.kernel_size == (3, 3)  # type: ignore[union-attr]
    assert stem.conv1.stride == (1, 1)  # type: ignore[union-attr]
    assert float(stem.conv1.weight.detach().std()) == pytest.approx(math.sqrt(2 / (9 * 64)), rel=0.05)  # type: ignore[union-attr, operator]
    with torch.no_grad():
        assert stem.eval().maxpool(stem.conv1(torch.zeros(1, 3, 32, 32))).shape == (1, 64, 32, 32)  # type: ignore[operator]


def test_validation_averages_over_the_tasks_so_far_by_the_arms_inference(first: NapaVQ) -> None:
    """Half of task 0's validation images right after it, all of both tasks' after task 1: 50 and 100 are 75."""
    told: dict[str, float] = {}
    previous = copy_of(first)

    def validate(module: NapaVQ, scores: torch.Tensor, y: torch.Tensor) -> None:
        module.forward = lambda x: scores  # type: ignore[method-assign]
        module.log_dict = lambda values: told.update({k: float(v) for k, v in values.items()})  # type: ignore[method-assign, assignment]
        module.validation_step((torch.zeros(len(y)), y), 0)
        module.on_validation_epoch_end()

    validate(previous, torch.eye(4)[[0, 0, 2, 2]], torch.arange(4))
    assert told == {"val/top1": 50.0, "val/avg_incremental_acc": 50.0}
    following = build_module(previous)
    validate(following, torch.eye(6), torch.arange(6))
    assert told == {"val/top1": 100.0, "val/avg_incremental_acc": 75.0}


def test_a_test_tells_which_share_of_pairs_of_different_tasks_is_joined(first: NapaVQ) -> None:
    """4 + 2 classes have 8 pairs across tasks; edges within a task and of other rotations do not count."""
    module = build_module(copy_of(first))
    module.edges.copy_(torch.eye(24))
    for a, b in ((0, 16), (4, 20), (0, 4), (1, 17)):  # 0-4, 1-5, within task 0, of rotation 1
        module.edges[a, b] = module.edges[b, a] = 0.5
    told: dict[str, Any] = {}
    module.log_dict = told.update  # type: ignore[method-assign, assignment]
    module.test_step((images(6), torch.arange(6)), 0)
    module.on_test_epoch_end()
    assert float(told["test/joined"]) == pytest.approx(2 / 8)


def test_without_neighbours_features_are_drawn_to_their_vector_and_prototypes_are_replayed(first: NapaVQ) -> None:
    """K = 1: the graph stays without edges, L_NA is the mean squared distance, p is the class's own prototype."""
    module = build_module(copy_of(first), neighbours=1)
    module.edges.copy_(torch.eye(24))
    module.prototypes.copy_(torch.rand(24, 6, generator=torch.Generator().manual_seed(1)))
    y = torch.arange(24)
    d = torch.rand(24, 24, generator=torch.Generator().manual_seed(2)) + 0.1
    loss = module.neighbour_loss(d, y)
    assert torch.equal(module.edges, torch.eye(24))
    assert float(loss) == pytest.approx(float(d.diagonal().square().mean()), rel=1e-6)

    p, c = module.draw_prototypes()
    assert torch.allclose(p, module.prototypes[c], atol=1e-6)


def test_accuracy_after_the_third_task_is_that_of_the_third_test(first: NapaVQ) -> None:
    """One image of each class seen, of which all, half and a quarter are right after tasks 0, 1 and 2."""
    told: dict[str, float] = {}
    module = copy_of(first)
    for task, right in enumerate((4, 3, 2)):
        module = module if task == 0 else build_module(module)
        y = torch.arange(module.classes)
        guesses = torch.where(y < right, y, (y + 1) % module.classes)
        scores = torch.eye(module.classes)[guesses]
        module.predict_by_both = lambda x, scores=scores: dict.fromkeys(("cosine", "distance"), scores)  # type: ignore[method-assign]
        module.log_dict = lambda values, **_: told.update({k: float(v) for k, v in values.items()})  # type: ignore[method-assign, assignment]
        module.test_step((torch.zeros(len(y)), y), 0)
        module.on_test_epoch_end()
        expected = 100 * right / len(y)
        assert told["test/top1"] == told["test/cosine_top1"] == told["test/distance_top1"] == pytest.approx(expected)
    assert told["test/avg_incremental_acc"] == pytest.approx((100 + 50 + 25) / 3)
