"""One task after another: what a step computes, what the next task takes over, how classes are predicted."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modules.napa_vq.losses import distances, distillation_loss
from modules.napa_vq.module import NapaVQ
from modules.napa_vq.prototypes import draw_mixed_prototypes, draw_noisy_prototypes, rotate
from tests.papers.napa_vq.helpers import TASKS, build_data, build_module, copy_of, fit, loop_neighbour_loss


def test_prediction_is_the_largest_cosine_whatever_the_scale() -> None:
    module = build_module().eval()
    x = torch.rand(20, 1, 8, 8)
    with torch.no_grad():
        scores = module(x)
        cosines = F.normalize(module.network(x)) @ F.normalize(module.new_vectors[::4]).T
        assert scores.shape == (20, 4)
        assert torch.allclose(scores, -(2 - 2 * cosines).clamp(min=0).sqrt(), atol=1e-3)
        module.new_vectors *= 7.0
        assert torch.allclose(module(x), scores, atol=1e-6)
        plainly = build_module(inference="distance").eval()
        f, v = plainly.network(x), plainly.new_vectors
        nearest = [min(range(4), key=lambda c: math.dist(row, v[4 * c].tolist())) for row in f.tolist()]
        assert plainly(x).argmax(1).tolist() == nearest


def test_prototypes_are_means_over_the_tasks_images(first: NapaVQ) -> None:
    part = build_data(0)
    part.setup()
    images, labels = part.splits["train"]
    x, y = rotate(part.normalised(images), labels)
    with torch.no_grad():
        f = first.eval().network(x)
    for c in range(16):
        assert torch.allclose(first.prototypes[c], f[y == c].mean(0), atol=1e-5)
    variance = torch.stack([f[y == c].var(0).mean() for c in range(0, 16, 4)])  # unrotated images, as PASS
    assert float(first.radius) == pytest.approx(float(variance.mean().sqrt()), rel=1e-4)


def test_the_next_task_takes_over_and_leaves_the_old_vectors_alone(first: NapaVQ) -> None:
    before, weights = first.coding_vectors.detach().clone(), [p.clone() for p in first.network.parameters()]
    old_edges, old_prototypes = first.edges.clone(), first.prototypes.clone()
    module = build_module(copy_of(first))
    assert torch.equal(module.edges[:16, :16], old_edges)
    assert torch.equal(module.edges[16:, 16:], torch.eye(8))
    assert torch.equal(module.history.correct[0], first.history.correct[0])
    ids = {id(p) for p in module.network.parameters()}
    assert not any(id(p) in ids for net in module.teacher.networks for p in net.parameters())
    assert not any("teacher" in name for name in module.state_dict())
    groups = [o.param_groups[0]["params"] for o in module.configure_optimizers()]
    assert groups[1] == [module.new_vectors]
    assert {id(p) for p in groups[0]} == ids
    metrics = fit(module, build_data(1), test=True)
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
    again = build_module(copy_of(first))
    again.load_state_dict(module.state_dict())  # strict: sizes follow from the configuration


def test_prototype_losses_reach_only_new_vectors(first: NapaVQ) -> None:
    module = build_module(copy_of(first))
    module.prototypes[16:] = torch.rand(8, 6)
    module.edges[:16:4, 16:] = 0.5
    torch.manual_seed(0)
    p, c = module.draw_prototypes()
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
        (0, {"na": 0.0}, {"dce"}),
        (1, {}, {"dce", "na", "kd", "na_pa", "pa"}),
        (1, {"prototypes": "gaussian"}, {"dce", "na", "kd", "na_pa", "pa"}),
        (1, {"prototypes": "none"}, {"dce", "na", "kd"}),
        (1, {"na": 0.0, "prototypes": "gaussian"}, {"dce", "kd", "pa"}),
        (1, {"na": 0.0, "kd": 0.0, "prototypes": "none"}, {"dce"}),
    ],
)
def test_a_step_has_the_losses_of_its_arm(
    task: int, options: dict[str, object], names: set[str], first: NapaVQ, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights, order and graph: images grow it first, prototypes are drawn from it and grow it again."""
    weights = {"na": 3.0, "kd": 7.0, "pa": 11.0, **options}
    module = build_module(copy_of(first) if task else None, **weights)
    if task:
        module.prototypes[16:] = torch.rand(8, 6)
    actual: dict[str, Tensor] = {}
    monkeypatch.setattr(module, "descend", lambda loss: actual.update(descended=loss.detach()))
    monkeypatch.setattr(module, "track", lambda count, **values: actual.update(values))
    before, v = module.edges.clone(), module.coding_vectors.detach()
    batch = torch.rand(6, 1, 8, 8), torch.arange(6) % TASKS[task] + module.old
    torch.manual_seed(3)
    module.train().training_step(batch, 0)
    assert set(actual) - {"descended", "loss", "top1"} == names
    x, y = rotate(*batch)
    with torch.no_grad():
        f = copy.deepcopy(module.network).train()(x)
        expected = {"dce": F.cross_entropy(-(f[:, None] - v).norm(dim=2) / 0.1, y)}
        edges = before
        if "na" in names:
            na, edges = loop_neighbour_loss(edges, f, v, y, 5)
            expected["na"] = torch.tensor(na)
        if "kd" in names:
            expected["kd"] = torch.dist(f, first.eval().network(x))
        if "pa" in names:
            torch.manual_seed(3)
            draw = draw_noisy_prototypes if options.get("prototypes") else draw_mixed_prototypes
            p, c = draw(module.prototypes, module.radius if options.get("prototypes") else edges, 4, 64)
            expected["pa"] = F.cross_entropy(-(p[:, None] - v).norm(dim=2) / 0.1, c)
        if "na_pa" in names:
            na_pa, edges = loop_neighbour_loss(edges, p, v, c, 5)
            expected["na_pa"] = torch.tensor(na_pa)
    assert {name: float(actual[name]) for name in names} == pytest.approx(
        {name: float(value) for name, value in expected.items()}, rel=1e-4
    )
    assert torch.allclose(module.edges, edges, atol=1e-6)
    factor = {"dce": 1.0, "na": 3.0, "na_pa": 3.0, "kd": 7.0, "pa": 11.0}
    total = sum(factor[name] * float(value) for name, value in expected.items())
    assert float(actual["descended"]) == pytest.approx(total, rel=1e-4)


def test_new_classes_have_prototypes_of_the_old_network_while_they_are_learned(first: NapaVQ) -> None:
    module, part = build_module(copy_of(first)), build_data(1)
    measured: list[tuple[bool, Tensor]] = []
    measure = module.measure_prototypes

    def watched(network: nn.Module) -> None:
        measure(network)
        measured.append((network is module.teacher.networks[0], module.prototypes[16:].clone()))

    module.measure_prototypes = watched  # type: ignore[method-assign]
    fit(module, part)
    assert [by_teacher for by_teacher, _ in measured] == [True, False]
    images, labels = part.splits["train"]
    x, y = rotate(part.normalised(images), labels)
    for network, (_, known) in zip((first.network, module.network), measured, strict=True):
        with torch.no_grad():
            f = network.eval()(x)
        assert torch.allclose(known, torch.stack([f[y == c].mean(0) for c in range(16, 24)]), atol=1e-5)


def test_teacher_equal_to_the_student_costs_nothing(first: NapaVQ) -> None:
    module = build_module(copy_of(first)).eval()
    x = torch.rand(8, 1, 8, 8)
    f = module.network(x)
    loss = distillation_loss(f, module.teacher.logits(x)[0])
    loss.backward()
    assert float(loss.detach()) == 0
    assert all(bool((p.grad == 0).all()) for p in module.network.parameters() if p.grad is not None)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"prototypes": "mixed"}, "expected one of neighbours"), ({"network": None}, "the first task needs one")],
)
def test_wrong_arguments_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_module(**options)
    with pytest.raises(ValueError, match="nothing there follows task 2"):
        build_module(build_module(build_module(build_module())))
