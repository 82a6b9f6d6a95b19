"""The independent checks of NAPA-VQ: hand-computed values, a plain loop as reference, limit cases, gradient facts."""

from __future__ import annotations

import copy
import functools
import itertools
import math
from collections.abc import Callable

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from datamodules.common.digits import Digits
from datamodules.napa_vq import Incremental
from experiments import training
from experiments.plan import Plan
from modules.common.schedules import Position, multistep
from modules.napa_vq.module import EdgeEvidence, NapaVQ
from modules.napa_vq.neighbours import (
    distances,
    frobenius,
    grown,
    mixed_prototypes,
    neighbour_loss,
    noisy_prototypes,
    rotated,
)
from modules.napa_vq.networks import convnet, resnet
from modules.napa_vq.task_history import TaskHistory

TASKS = [4, 2, 2]
THREE = torch.tensor([[0.0, 0], [1, 0], [0, 2]])  # coding vectors


def symmetric(edges: Tensor) -> Tensor:
    return (edges + edges.T) / 2


def network() -> nn.Module:
    return convnet(1, 8, [4, 6], [2, 1])


def napa(previous: NapaVQ | None = None, **options: object) -> NapaVQ:
    settings: dict[str, object] = {
        "features": 6,
        "network": network,
        "neighbours": 5,
        "optimizer": functools.partial(torch.optim.Adam, lr=1e-3, weight_decay=2e-4),
        "cv_optimizer": functools.partial(torch.optim.SGD, lr=0.1),
        "schedule": functools.partial(multistep, milestones=[45, 90]),
        "cv_schedule": functools.partial(multistep, milestones=[20, 40, 60, 80]),
    }
    return NapaVQ(TASKS, previous=previous, **{**settings, **options})  # type: ignore[arg-type]


def data(task: int) -> Incremental:
    return Incremental(Digits(32, 1000, 0, 300, seed=3), 32, TASKS, task, order_seed=7, per_class=30)


def fit(module: NapaVQ, part: Incremental, *, test: bool = False) -> dict[str, float]:
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    torch.manual_seed(0)
    trainer.fit(module, datamodule=part)
    return dict(trainer.test(module, datamodule=part, verbose=False)[0]) if test else {}


def chain(length: int, **options: object) -> NapaVQ:
    module = napa(**options)
    fit(module, data(0))
    for task in range(1, length):
        module = napa(module, **options)
        fit(module, data(task))
    return module


def plain(edges: Tensor, x: Tensor, v: Tensor, y: Tensor, k: int) -> tuple[float, Tensor]:
    """L_NA and the graph after it, sample by sample in plain Python."""
    m = len(v)
    d = [[math.dist(f, c) for c in v.tolist()] for f in x.tolist()]
    hits, wins = [[0] * m for _ in range(m)], [0] * m
    for row in d:
        nearest = sorted(range(m), key=lambda n: row[n])[:k]
        wins[nearest[0]] += 1
        for n in nearest:
            hits[nearest[0]][n] += 1
    e = edges.tolist()
    for s in range(m):
        for n in range(m):
            e[s][n] = (1.0 if hits[s][n] else e[s][n]) * 0.9 ** max(wins[s] - hits[s][n], 0)
            e[s][n] = 0.0 if e[s][n] < 0.9**10 else e[s][n]
    total = 0.0
    for row, label in zip(d, y.tolist(), strict=True):
        near = [n for n in range(m) if n != label and e[label][n] > 0 and row[n] > 0]
        w = [math.exp(-0.001 * row[n] ** 2) for n in near]
        push = sum(a * row[n] ** 2 for a, n in zip(w, near, strict=True)) / (sum(w) or 1)
        total += max(row[label] ** 2 - push, 0)
    return total / len(x), torch.tensor([[(e[i][j] + e[j][i]) / 2 for j in range(m)] for i in range(m)])


def test_backbone_at_published_size() -> None:
    with torch.device("meta"):
        cifar, photos = resnet("cifar"), resnet("imagenet")
        assert cifar(torch.empty(2, 3, 32, 32)).shape == photos(torch.empty(2, 3, 224, 224)).shape == (2, 512)
    counts = [sum(p.numel() for p in net.parameters()) for net in (cifar, photos)]
    assert counts[0] == 11_689_512 - 513_000 - (9_408 - 1_728) == 11_168_832
    assert counts[1] == 11_689_512 - 513_000
    assert 11_307_956 - counts[0] == 139_124  # what the released module builds and never uses
    with pytest.raises(ValueError, match="stem='wide': expected cifar or imagenet"):
        resnet("wide")


def test_first_call_on_three_vectors_by_hand() -> None:
    """Label 2 has no neighbour yet: the winner is vector 0 and only its row has grown."""
    v, x = THREE.clone().requires_grad_(), torch.tensor([[0.5, 0.0]])
    d = distances(x, v)
    edges = grown(torch.eye(3), d, 15)
    loss = neighbour_loss(d, torch.tensor([2]), edges)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(4.25)
    assert v.grad is not None
    assert torch.allclose(v.grad, torch.tensor([[0.0, 0], [0, 0], [-1, 4]]))
    assert torch.equal(symmetric(edges), torch.tensor([[1, 0.5, 0.5], [0.5, 1, 0], [0.5, 0, 1]]))


def test_a_sample_nearer_to_its_own_vector_costs_nothing() -> None:
    d = distances(torch.tensor([[0.5, 0.1]]), THREE)
    edges = grown(torch.eye(3), d, 15)
    assert float(neighbour_loss(d, torch.tensor([0]), edges)) == 0
    squared = d.square()[0]
    w = (-0.001 * squared[1:]).exp()
    assert float(squared[0]) == pytest.approx(0.26)
    assert float((w * squared[1:]).sum() / w.sum()) == pytest.approx(2.06, abs=0.01)


def test_edges_on_a_line() -> None:
    line = torch.arange(20.0)[:, None]
    row = symmetric(grown(torch.eye(20), distances(torch.tensor([[0.2]]), line), 15))[0]
    assert torch.equal(row, torch.tensor([1.0, *[0.5] * 14, *[0.0] * 5]))
    edges, d = torch.eye(20), distances(torch.full((4, 1), 10.2), line)
    for _ in range(3):
        edges = symmetric(grown(edges, d, 15))
    expected = torch.zeros(20)
    expected[3:18], expected[10] = 0.875, 1.0
    assert torch.allclose(edges[10], expected)


def test_edges_that_lose_fade_and_vanish() -> None:
    """Ten wins without an edge bring it to 0.9^10, where it may still stand; one more removes it."""
    line, edges = torch.arange(8.0)[:, None], torch.eye(8)
    edges[0, 7] = 1.0
    for wins, left in ((5, 0.9**5), (9, 0.9**9), (11, 0.0)):
        after = grown(edges, distances(torch.zeros(wins, 1), line), 3)
        assert float(after[0, 7]) == pytest.approx(left)
        assert torch.equal(after.diagonal(), torch.ones(8))


@pytest.mark.parametrize("seed", range(3))
def test_loss_and_graph_equal_a_plain_loop(seed: int) -> None:
    torch.manual_seed(seed)
    v, edges, theirs = torch.randn(12, 3), torch.eye(12), torch.eye(12)
    for _ in range(4):
        x, y = torch.randn(20, 3), torch.randint(12, (20,))
        d = distances(x, v)
        after = grown(edges, d, 4)
        loss, theirs = plain(theirs, x, v, y, 4)
        edges = symmetric(after)
        assert float(neighbour_loss(d, y, after)) == pytest.approx(loss, rel=1e-5)
        assert torch.allclose(edges, theirs, atol=1e-6)


def test_neighbours_are_pushed_with_weights_that_carry_no_gradient() -> None:
    torch.manual_seed(0)
    x, v = torch.randn(6, 3), (0.3 * torch.randn(5, 3)).requires_grad_()
    y, edges = torch.zeros(6, dtype=torch.long), torch.ones(5, 5)
    neighbour_loss(distances(x, v), y, edges).backward()
    squared = distances(x, v.detach()).square()
    w = (-0.001 * squared[:, 1:]).exp()
    w = w / w.sum(1, keepdim=True)
    active = (squared[:, 0] > (w * squared[:, 1:]).sum(1)).float()[:, None]
    assert float(active.sum()) > 0
    by_hand = torch.zeros(5, 3)
    by_hand[0] = (active * 2 * (v.detach()[0] - x)).mean(0)
    for n in range(1, 5):
        by_hand[n] = -(active * w[:, n - 1 : n] * 2 * (v.detach()[n] - x)).mean(0)
    assert v.grad is not None
    assert torch.allclose(v.grad, by_hand, atol=1e-6)


def test_without_edges_the_loss_is_pure_attraction() -> None:
    x, v, y = torch.randn(7, 4), torch.randn(5, 4), torch.randint(5, (7,))
    loss = neighbour_loss(distances(x, v), y, torch.eye(5))
    assert float(loss) == pytest.approx(float((x - v[y]).square().sum(1).mean()), rel=1e-5)


def test_classification_by_plain_distance_at_temperature_a_tenth() -> None:
    v = torch.tensor([[1.0], [1.1]])
    probabilities = (-distances(torch.zeros(1, 1), v) / 0.1).softmax(-1)
    assert torch.allclose(probabilities, torch.tensor([[0.731, 0.269]]), atol=5e-4)


def test_distillation_is_a_norm() -> None:
    torch.manual_seed(0)
    a, b = torch.randn(8, 5, requires_grad=True), torch.randn(8, 5)
    loss = frobenius(a, b)
    (gradient,) = torch.autograd.grad(loss, a)
    (theirs,) = torch.autograd.grad(torch.dist(a, b), a)
    assert float(loss.detach()) == pytest.approx(float(torch.dist(a, b).detach()), rel=1e-6)
    assert torch.allclose(gradient, theirs, atol=1e-6)
    twice = frobenius(torch.cat([a, a]), torch.cat([b, b]))
    assert float((twice / loss).detach()) == pytest.approx(math.sqrt(2), rel=1e-6)
    same = frobenius(a, a.detach())
    (nothing,) = torch.autograd.grad(same, a)
    assert float(same.detach()) == 0
    assert torch.equal(nothing, torch.zeros(8, 5))


def test_prototypes_that_are_not_mixed(monkeypatch: pytest.MonkeyPatch) -> None:
    """g = 1 and a graph without edges both leave plain replay; other draws stay between a class and its neighbour."""
    torch.manual_seed(0)
    known, edges = torch.randn(24, 3), torch.eye(24)
    p, c = mixed_prototypes(known, edges, 4, 50)
    assert torch.allclose(p, known[c], atol=1e-6)
    assert set(c.tolist()) == {0, 4, 8, 12}
    edges[:16:4, 17] = 0.01  # any strength joins
    p, c = mixed_prototypes(known, edges, 4, 50)
    share = (p - known[c]).norm(dim=1) / (known[17] - known[c]).norm(dim=1)
    assert 0 < int((share > 1e-3).sum()) < 50
    assert float(share.max()) <= 0.5
    monkeypatch.setattr(torch, "rand", lambda *shape, **_: torch.ones(*shape))
    p, c = mixed_prototypes(known, edges, 4, 50)
    assert torch.allclose(p, known[c], atol=1e-6)
    p, c = noisy_prototypes(known, torch.tensor(0.0), 4, 50)
    assert torch.equal(p, known[c])


def test_rotations_become_classes() -> None:
    x = torch.arange(8.0).view(2, 1, 2, 2)
    images, labels = rotated(x, torch.tensor([3, 0]))
    assert labels.tolist() == [12, 13, 14, 15, 0, 1, 2, 3]
    assert torch.equal(images[1, 0], torch.tensor([[1.0, 3], [0, 2]]))
    assert torch.equal(images[4], x[1])


def test_prediction_is_the_largest_cosine_whatever_the_scale() -> None:
    module = napa().eval()
    x = torch.rand(20, 1, 8, 8)
    with torch.no_grad():
        scores = module(x)
        cosines = F.normalize(module.network(x)) @ F.normalize(module.new_vectors[::4]).T
        assert scores.shape == (20, 4)
        assert torch.allclose(scores, -(2 - 2 * cosines).clamp(min=0).sqrt(), atol=1e-3)
        module.new_vectors *= 7.0
        assert torch.allclose(module(x), scores, atol=1e-6)
        plainly = napa(inference="distance").eval()
        f, v = plainly.network(x), plainly.new_vectors
        nearest = [min(range(4), key=lambda c: math.dist(row, v[4 * c].tolist())) for row in f.tolist()]
        assert plainly(x).argmax(1).tolist() == nearest


def test_arms_start_from_the_same_weights() -> None:
    torch.manual_seed(1)
    a = napa(na_weight=0.0, prototypes="none", seed=5)
    torch.manual_seed(2)
    b = napa(seed=5)
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    later = napa(napa(seed=5), seed=5, na_weight=0.0), napa(napa(seed=5), seed=5)
    assert torch.equal(later[0].new_vectors, later[1].new_vectors)
    assert not torch.equal(a.new_vectors, napa(seed=6).new_vectors)


@pytest.fixture(scope="module")
def first() -> NapaVQ:
    torch.set_num_threads(1)
    return chain(1)


def test_prototypes_are_means_over_the_tasks_images(first: NapaVQ) -> None:
    part = data(0)
    part.setup()
    images, labels = part.splits["train"]
    x, y = rotated(part.normalised(images), labels)
    with torch.no_grad():
        f = first.eval().network(x)
    for c in range(16):
        assert torch.allclose(first.prototypes[c], f[y == c].mean(0), atol=1e-5)
    variance = torch.stack([f[y == c].var(0).mean() for c in range(0, 16, 4)])  # unrotated images, as PASS
    assert float(first.radius) == pytest.approx(float(variance.mean().sqrt()), rel=1e-4)


def test_the_next_task_takes_over_and_leaves_the_old_vectors_alone(first: NapaVQ) -> None:
    before, weights = first.coding_vectors.detach().clone(), [p.clone() for p in first.network.parameters()]
    old_edges, old_prototypes = first.edges.clone(), first.prototypes.clone()
    module = napa(copy_of(first))
    assert torch.equal(module.edges[:16, :16], old_edges)
    assert torch.equal(module.edges[16:, 16:], torch.eye(8))
    assert torch.equal(module.history.correct[0], first.history.correct[0])
    ids = {id(p) for p in module.network.parameters()}
    assert not any(id(p) in ids for net in module.teacher.networks for p in net.parameters())
    assert not any("teacher" in name for name in module.state_dict())
    groups = [o.param_groups[0]["params"] for o in module.configure_optimizers()]
    assert groups[1] == [module.new_vectors]
    assert {id(p) for p in groups[0]} == ids
    metrics = fit(module, data(1), test=True)
    assert torch.equal(module.old_vectors, before)
    assert torch.equal(module.prototypes[:16], old_prototypes)
    assert bool(module.prototypes.isfinite().all())
    teacher = list(module.teacher.networks[0].parameters())
    assert all(torch.equal(a, b) for a, b in zip(teacher, weights, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(module.network.parameters(), weights, strict=True))
    assert float(module.edges.diagonal().min()) == 1
    assert torch.equal(module.edges, module.edges.T)
    history = module.history.seen(1)
    assert metrics["test/top1"] == pytest.approx(float(history[1]), abs=1e-4)
    assert metrics["test/avg_incremental_acc"] == pytest.approx(float(history.mean()), abs=1e-4)
    again = napa(copy_of(first))
    again.load_state_dict(module.state_dict())  # strict: sizes follow from the configuration


def copy_of(module: NapaVQ) -> NapaVQ:
    made = napa()
    made.load_state_dict(module.state_dict())
    return made


def test_prototype_losses_reach_only_new_vectors(first: NapaVQ) -> None:
    module = napa(copy_of(first))
    module.prototypes[16:] = torch.rand(8, 6)
    module.edges[:16:4, 16:] = 0.5
    torch.manual_seed(0)
    p, c = module.drawn_prototypes()
    d = distances(p, module.coding_vectors)
    (F.cross_entropy(-d / 0.1, c) + module.neighbour_loss(d, c)).backward()
    assert module.new_vectors.grad is not None
    assert float(module.new_vectors.grad.abs().max()) > 0
    assert all(parameter.grad is None for parameter in module.network.parameters())
    assert not module.old_vectors.requires_grad


@pytest.mark.parametrize(
    ("task", "options", "names"),
    [
        (0, {}, {"dce", "na"}),
        (0, {"na_weight": 0.0}, {"dce"}),
        (1, {}, {"dce", "na", "kd", "na_pa", "pa"}),
        (1, {"prototypes": "gaussian"}, {"dce", "na", "kd", "na_pa", "pa"}),
        (1, {"prototypes": "none"}, {"dce", "na", "kd"}),
        (1, {"na_weight": 0.0, "prototypes": "gaussian"}, {"dce", "kd", "pa"}),
        (1, {"na_weight": 0.0, "kd_weight": 0.0, "prototypes": "none"}, {"dce"}),
    ],
)
def test_a_step_has_the_losses_of_its_arm(
    task: int, options: dict[str, object], names: set[str], first: NapaVQ, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights, order and graph: images grow it first, prototypes are drawn from it and grow it again."""
    weights = {"na_weight": 3.0, "kd_weight": 7.0, "prototype_weight": 11.0, **options}
    module = napa(copy_of(first) if task else None, **weights)
    if task:
        module.prototypes[16:] = torch.rand(8, 6)
    found: dict[str, Tensor] = {}
    monkeypatch.setattr(module, "descend", lambda loss: found.update(descended=loss.detach()))
    monkeypatch.setattr(module, "track", lambda count, **values: found.update(values))
    before, v = module.edges.clone(), module.coding_vectors.detach()
    batch = torch.rand(6, 1, 8, 8), torch.arange(6) % TASKS[task] + module.old
    torch.manual_seed(3)
    module.train().training_step(batch, 0)
    assert set(found) - {"descended", "loss", "top1"} == names
    x, y = rotated(*batch)
    with torch.no_grad():
        f = copy.deepcopy(module.network).train()(x)
        expected = {"dce": F.cross_entropy(-(f[:, None] - v).norm(dim=2) / 0.1, y)}
        edges = before
        if "na" in names:
            na, edges = plain(edges, f, v, y, 5)
            expected["na"] = torch.tensor(na)
        if "kd" in names:
            expected["kd"] = torch.dist(f, first.eval().network(x))
        if "pa" in names:
            torch.manual_seed(3)
            draw = noisy_prototypes if options.get("prototypes") else mixed_prototypes
            p, c = draw(module.prototypes, module.radius if options.get("prototypes") else edges, 4, 64)
            expected["pa"] = F.cross_entropy(-(p[:, None] - v).norm(dim=2) / 0.1, c)
        if "na_pa" in names:
            na_pa, edges = plain(edges, p, v, c, 5)
            expected["na_pa"] = torch.tensor(na_pa)
    assert {name: float(found[name]) for name in names} == pytest.approx(
        {name: float(value) for name, value in expected.items()}, rel=1e-4
    )
    assert torch.allclose(module.edges, edges, atol=1e-6)
    factor = {"dce": 1.0, "na": 3.0, "na_pa": 3.0, "kd": 7.0, "pa": 11.0}
    total = sum(factor[name] * float(value) for name, value in expected.items())
    assert float(found["descended"]) == pytest.approx(total, rel=1e-4)


def test_new_classes_have_prototypes_of_the_old_network_while_they_are_learned(first: NapaVQ) -> None:
    module, part = napa(copy_of(first)), data(1)
    measured: list[tuple[bool, Tensor]] = []
    measure = module.measure_prototypes

    def watched(network: nn.Module) -> None:
        measure(network)
        measured.append((network is module.teacher.networks[0], module.prototypes[16:].clone()))

    module.measure_prototypes = watched  # type: ignore[method-assign]
    fit(module, part)
    assert [by_teacher for by_teacher, _ in measured] == [True, False]
    images, labels = part.splits["train"]
    x, y = rotated(part.normalised(images), labels)
    for network, (_, known) in zip((first.network, module.network), measured, strict=True):
        with torch.no_grad():
            f = network.eval()(x)
        assert torch.allclose(known, torch.stack([f[y == c].mean(0) for c in range(16, 24)]), atol=1e-5)


def test_teacher_equal_to_the_student_costs_nothing(first: NapaVQ) -> None:
    module = napa(copy_of(first)).eval()
    x = torch.rand(8, 1, 8, 8)
    f = module.network(x)
    loss = frobenius(f, module.teacher.logits(x)[0])
    loss.backward()
    assert float(loss.detach()) == 0
    assert all(bool((p.grad == 0).all()) for p in module.network.parameters() if p.grad is not None)


def test_forgetting_and_averages_by_hand() -> None:
    history = TaskHistory(TASKS)
    history.record(0, torch.diag(torch.tensor([10, 10, 10, 6])) + torch.tensor([[0] * 4] * 3 + [[4, 0, 0, 0]]))
    after_1 = torch.full((6, 6), 0).fill_diagonal_(5)
    after_1[:, 0] += 5
    history.record(1, after_1)  # 5 of 10 right, class 0 all 10
    after_2 = torch.zeros(8, 8, dtype=torch.long)
    after_2[:, 7] = 10  # all taken for the newest class
    history.record(2, after_2)
    assert torch.allclose(history.seen(2), torch.tensor([90.0, 100 * 35 / 60, 12.5]))
    found = {name: float(value) for name, value in history.metrics(2).items()}
    assert found == pytest.approx(
        {
            "avg_incremental_acc": (90 + 100 * 35 / 60 + 12.5) / 3,
            "first_acc": 90.0,
            "avg_later_acc": (100 * 35 / 60 + 12.5) / 2,
            "new_acc": 50.0,
            "old_acc": 0.0,
            "forgetting": (90.0 + 50.0) / 2,
        },
        rel=1e-5,
    )
    assert set(history.metrics(0)) == {"avg_incremental_acc", "first_acc"}


def test_evidence_counts_edges_among_the_most_confused(first: NapaVQ) -> None:
    with torch.no_grad():
        last = napa(napa(copy_of(first)))
    last.edges[::4, ::4] = torch.eye(8)
    for i, j in ((0, 6), (1, 4)):
        last.edges[4 * i, 4 * j] = last.edges[4 * j, 4 * i] = 0.5
    stage = EdgeEvidence(last, last, pairs=2)
    logged: dict[str, float] = {}
    stage.log_dict = lambda values, **_: logged.update({k: float(v) for k, v in values.items()})  # type: ignore[method-assign]
    truth = torch.tensor([0, 0, 6, 4, 4, 1])
    taken = torch.tensor([6, 6, 0, 7, 7, 0])  # 0-6 three times, 4-7 twice; 0 and 1 are of one task
    stage.confusion.update(taken, truth)
    stage.on_test_epoch_end()
    pairs = 4 * 2 + 6 * 2
    chance = (1 / 8 + 0 / 4) / 2  # tasks 0 and 2 have 8 pairs, one of them joined; tasks 1 and 2 have 4 and none
    expected = {"confused_joined": 0.5, "chance_joined": chance, "all_joined": 2 / pairs, "n": 6}
    assert logged == pytest.approx({f"test/{name}": value for name, value in expected.items()})


@pytest.mark.parametrize(
    ("options", "message"),
    [({"prototypes": "mixed"}, "expected one of neighbours"), ({"network": None}, "the first task needs one")],
)
def test_wrong_arguments_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        napa(**options)
    with pytest.raises(ValueError, match="nothing there follows task 2"):
        napa(napa(napa(napa())))


def test_published_recipe(make_plan: Callable[..., Plan]) -> None:
    stages = make_plan("scale=full", "paper=napa_vq").stages
    start, last = stages["na_0"], stages["napa"]
    assert start.data["batch_size"] == start.reference_batch == last.reference_batch == 64
    assert (start.module["optimizer"]["lr"], last.module["optimizer"]["lr"]) == (1e-3, 1e-4)
    assert (start.module["cv_optimizer"]["lr"], last.module["cv_optimizer"]["lr"]) == (5.0, 0.5)
    assert last.module["kd_weight"] == 10
    assert stages["finetune"].module["kd_weight"] == 0
    made = {k: training.build(last.module[k]) for k in ("schedule", "cv_schedule")}
    module = napa(**made)
    rates = [module.factors(Position(epoch, 0, 79, 100)) for epoch in (0, 19, 20, 44, 45, 80, 90)]
    step = [(epoch // 45, epoch // 20) for epoch in (0, 19, 20, 44, 45, 80, 90)]
    assert rates == [pytest.approx([0.1**a, 0.1**b]) for a, b in step]


def test_photos_begin_with_sgd(make_plan: Callable[..., Plan]) -> None:
    stages = make_plan("scale=full", "paper=napa_vq", "variant=imagenet_subset").stages
    for name in ("plain_0", "na_0"):
        module, epochs = stages[name].module, stages[name].trainer["max_epochs"]
        made = {key: training.build(module[key]) for key in ("optimizer", "schedule", "cv_schedule")}
        start = napa(**made)
        sgd = start.configure_optimizers()[0]
        assert isinstance(sgd, torch.optim.SGD)
        (group,) = sgd.param_groups
        assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.1, 0.9, 5e-4)
        rates = [start.factors(Position(epoch, 0, 1, epochs)) for epoch in range(epochs)]
        falls = [sum(epoch >= at for at in (80, 120, 150)) for epoch in range(160)]
        assert rates == [pytest.approx([0.1**n, 0.1 ** (epoch // 20)]) for epoch, n in enumerate(falls)]
    assert stages["napa"].module["optimizer"]["_target_"] == "torch.optim.Adam"
    assert stages["napa"].trainer["max_epochs"] == 100
    assert stages["na_0"].module["network"]["stem"] == "imagenet"


@pytest.mark.parametrize(
    ("variant", "seen"),
    [(None, range(50, 101, 10)), ("steps_10", range(50, 101, 5)), ("steps_20", range(40, 101, 3))],
)
def test_every_arm_is_one_chain_over_all_tasks(
    variant: str | None, seen: range, make_plan: Callable[..., Plan]
) -> None:
    stages = make_plan("scale=full", "paper=napa_vq", *([f"variant={variant}"] if variant else [])).stages
    for arm in ("finetune", "distill", "gaussian", "na", "napa", "matched"):
        walked, name = [stages[arm]], arm
        while "previous" in stages[name].needs:
            name = stages[name].needs["previous"]  # type: ignore[assignment]
            walked.append(stages[name])
        assert name == ("na_0" if arm in ("na", "napa", "matched") else "plain_0")
        assert [stage.data["task"] for stage in reversed(walked)] == list(range(len(seen)))
        assert all(stage.data["tasks"] == stage.module["tasks"] for stage in walked)
        assert list(itertools.accumulate(walked[0].data["tasks"])) == list(seen)
        later = [{k: v for k, v in stage.module.items()} for stage in walked[:-1]]
        assert all(module == later[0] for module in later)
