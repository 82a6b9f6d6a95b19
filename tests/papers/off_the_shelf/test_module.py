"""SVMs and retrieval on features: hand-computed values, limit cases, invariances."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from datamodules.common.base import Fed
from datamodules.common.loader import batch_type
from datamodules.common.torchvision_sets import FashionMNIST
from datamodules.off_the_shelf.collection import ArrayCollection
from datamodules.off_the_shelf.crops import Crops
from modules.off_the_shelf.features import unit
from modules.off_the_shelf.linear_svm import Machines
from modules.off_the_shelf.module import LinearSVM, Retrieval, ValidatedSVM, search_distance, signed_power
from modules.off_the_shelf.views import Jitter, Patches

Task = Callable[..., tuple[Tensor, Tensor]]
Logged = Callable[..., dict[str, float]]


def random_features(rows: int, views: int = 1, d: int = 24, seed: int = 0) -> Tensor:
    return F.normalize(torch.randn(rows, views, d, generator=torch.Generator().manual_seed(seed)), dim=-1)


def batch(x: Tensor, y: Tensor) -> Any:
    return batch_type(("x", "y"))(x, y)


def exported(f: Tensor) -> Fed:
    return Fed(nn.Identity(), {"features": f.numpy()})


def train_on(module: LinearSVM | Retrieval, data: ArrayCollection | Crops) -> None:
    """What a fit does, without a trainer."""
    data.setup()
    batches = list(data.train_dataloader())
    x = torch.cat([module.keep(part.x) for part in batches])
    module.solve(x, torch.cat([part.y for part in batches]))


def test_sizes_of_the_tables() -> None:
    """32-120k without and 4-15k numbers with PCA: 8 views and 30 patches of 4096 or 500."""
    assert [n * d for n in (8, 30) for d in (4096, 500)] == [32_768, 4_000, 122_880, 15_000]
    x = torch.rand(1, 1, 40, 40)
    assert (len(Jitter(mirror=False)(x, 40)), len(Patches(4)(x, 40))) == (8, 30)


def test_signed_power_by_hand() -> None:
    f = torch.tensor([0.6, -0.8])
    assert signed_power(f, 2).tolist() == pytest.approx([0.36, -0.64])
    assert unit(signed_power(f, 2)).tolist() == pytest.approx([0.4903, -0.8716], abs=1e-4)
    assert torch.equal(signed_power(f, 1), f)
    assert torch.allclose(signed_power(signed_power(f, 2), 2), signed_power(f, 4))


# Retrieval


def test_search_distance_by_hand() -> None:
    query = torch.tensor([[[0.0, 0.0], [3.0, 4.0]]])  # one image of two patches
    reference = torch.tensor([[[0.0, 1.0], [3.0, 4.0]], [[0.0, 0.0], [6.0, 8.0]]])
    assert torch.allclose(search_distance(query, reference), torch.tensor([[0.5, 2.5]]))


def test_search_distance_limits() -> None:
    f = random_features(6, 5)
    assert torch.allclose(search_distance(f[:, :1], f[:, :1]), torch.cdist(f[:, 0], f[:, 0]), atol=1e-3)
    own = search_distance(f[:, :2], f)  # fewer levels, of the same grid
    assert float(own.diagonal().abs().max()) < 1e-3
    assert float((own - own.T).abs().max()) > 0.01  # mean over the query's patches: not symmetric
    more = search_distance(f, f[:, :2])
    assert not torch.allclose(own, more.T)


def test_rankings_by_distance_and_by_cosine_are_equal() -> None:
    f = random_features(40)[:, 0]
    distance = search_distance(f[:5, None], f[:, None])
    assert torch.allclose(distance.square(), 2 - 2 * f[:5] @ f.T, atol=1e-4)
    assert torch.equal(distance.argsort(1)[:, 1:], (-(f[:5] @ f.T)).argsort(1)[:, 1:])


@pytest.mark.parametrize(("references", "dimensions"), [(300, 500), (80, 200)])
def test_whitened_references_have_unit_covariance(references: int, dimensions: int) -> None:
    """At the 500 dimensions of the paper, and of fewer views than a feature is long."""
    x = random_features(references, 3, 520)
    module = Retrieval(reference_views=None, dimensions=dimensions, whiten=True)
    module.solve(x, torch.zeros(references))
    f = module.project(x).flatten(0, 1)
    assert f.shape == (3 * references, dimensions)
    assert torch.allclose(torch.cov(f.T.double()), torch.eye(dimensions).double(), atol=1e-3)
    assert torch.allclose(f.mean(0), torch.zeros(dimensions), atol=1e-4)
    compared = module.represent(x[:5, :1])
    assert torch.allclose(compared.norm(dim=-1), torch.ones(5, 1), atol=1e-5)
    with pytest.raises(ValueError, match="whiten=true needs dimensions"):
        Retrieval(whiten=True)


def test_pca_of_more_dimensions_than_there_are_is_refused() -> None:
    module = Retrieval(reference_views=None, dimensions=20)
    with pytest.raises(ValueError, match="dimensions=20: 18 views of length 24 have only 17"):
        module.solve(random_features(9, 2), torch.zeros(9))


def test_pca_sees_the_compared_views_of_the_references_and_no_query() -> None:
    """Other features of the queries, and other views that are not compared, give the same directions."""
    f = random_features(60, 2)
    changed = f.clone()
    changed[40:] = random_features(20, 2, seed=9)  # the queries
    changed[:, 1:] = random_features(60, 1, seed=8)
    projections = []
    for features in (f, changed):
        source = FashionMNIST(50, train_size=40, val_size=0, test_size=1)
        module = Retrieval(dimensions=5, whiten=True)
        train_on(module, Crops(source, 16, references=40, queries=20, features=exported(features)))
        projections.append(module.projection)
    assert torch.equal(*projections)


def test_retrieval_measures_by_hand(logged: Logged) -> None:
    """References on a line at 0, 1, 2, 3 and the query at 0: the order is known."""
    place = torch.tensor([0.0, 0.1, 0.2, 0.3])
    references = torch.stack([place.cos(), place.sin()], 1)[:, None]
    query = references[:1]
    module = Retrieval()
    for part in references.split(3):  # in two batches
        module.test_step(batch(part, torch.zeros(len(part))), 0, 0)
    module.test_step(batch(query, torch.tensor([[0, 1, 0, 1]])), 0, 1)
    metrics = logged(module)
    assert metrics["test/map"] == pytest.approx(100 * (1 / 2 + 2 / 4) / 2)
    assert (metrics["test/mrr"], metrics["test/top1"], metrics["test/recall4"]) == (50, 0, 100)
    assert metrics["test/n"] == 1
    module.test_step(batch(query, torch.tensor([[-1, 1, 0, 0]])), 0, 1)  # the nearest is not to be counted
    assert logged(module)["test/map"] == 100


# Linear SVMs


def test_the_sum_over_identical_views_is_one_view(task: Task, logged: Logged) -> None:
    x, y = task()
    copies = x.expand(-1, 16, -1)
    one = LinearSVM(3, 1.0, scheme="one_vs_all")
    sixteen = LinearSVM(3, 1.0, scheme="one_vs_all", train_views=1, test_views=None)
    one.solve(x[:60], y[:60])
    sixteen.solve(copies[:60], y[:60])
    assert sixteen(copies).shape == (90, 16, 3)
    assert torch.allclose(sixteen(copies).sum(1) / 16, one(x)[:, 0], atol=1e-4)
    one.test_step(batch(x[60:], y[60:]), 0)
    sixteen.test_step(batch(copies[60:], y[60:]), 0)
    a = logged(one)
    b = logged(sixteen)
    assert a["test/top1"] == b["test/top1"] == b["test/top1_max"] == b["test/top1_one"]
    assert "test/top1_max" not in a


def test_the_maximum_of_a_pair_is_its_decision_of_largest_magnitude() -> None:
    """Two views of one image. For pairs -3 outweighs 2 (the higher class wins), for one machine per class 2 does."""
    decisions = torch.tensor([[[2.0, -1.0, 0.5], [-3.0, -2.0, 1.0]]])  # (image, views, machines)
    module = LinearSVM(3, 1.0)
    pairs = torch.tensor([[0, 1], [0, 2], [1, 2]])
    module.weight = torch.zeros(3, 24)
    module.bias = torch.zeros(3)
    module.pairs = pairs
    pooled = module.pool(decisions)
    votes = Machines(module.weight, module.bias, pairs).scores(torch.tensor([[-3.0, -2.0, 1.0]]), 3)  # 1, 2 and 1 win
    assert torch.equal(pooled["_max"], votes)
    assert int(pooled["_max"].argmax()) == 1
    mirrored = module.pool(-decisions)["_max"]  # 0, 0 and 2 win: no class is favoured
    assert int(mirrored.argmax()) == 0
    module.pairs = pairs[:0]
    assert module.pool(decisions)["_max"].tolist() == [[2.0, -1.0, 1.0]]
    assert module.pool(decisions)[""].tolist() == [[-1.0, -3.0, 1.5]]


def test_power_is_applied_to_unit_features_of_each_view() -> None:
    x = unit(torch.tensor([[[3.0, -4.0], [8.0, 6.0]]]))
    module = LinearSVM(2, 1.0, train_views=None, exponent=2.0)
    assert torch.allclose(module.represent(x, None)[0], torch.tensor([[0.36, -0.64], [0.64, 0.36]]))
    module = LinearSVM(2, 1.0, train_views=None, exponent=2.0, renormalise=True)
    assert torch.allclose(module.represent(x, None).norm(dim=-1), torch.ones(1, 2))


def test_cost_is_chosen_with_all_views_of_an_image_on_one_side(task: Task) -> None:
    x, y = task(4, 0.1)
    module = LinearSVM(3, [1e-4, 1.0], scheme="one_vs_all", train_views=None, test_views=None)
    counts: list[int] = []
    fit_machines = module.fit_machines

    def counted(f: Tensor, y: Tensor, cost: float) -> Any:
        counts.append(len(f))
        assert f.shape[1] == 4
        return fit_machines(f, y, cost)

    module.fit_machines = counted  # type: ignore[method-assign]
    module.solve(x[:60], y[:60])
    assert counts == [40] * 6 + [60]


def test_attributes_choose_c_and_are_reported_by_average_precision(task: Task, logged: Logged) -> None:
    x, classes = task()
    y = F.one_hot(classes, 3)
    module = LinearSVM(3, [0.5, 1.0], scheme="multilabel")
    module.solve(x[:60], y[:60])
    assert float(module.chosen) in module.costs
    module.test_step(batch(x[60:], y[60:]), 0)
    values = logged(module)
    assert len(module.per_label) == 3
    assert values["test/map"] == pytest.approx(sum(module.per_label) / 3)


def test_test_images_have_no_say_and_training_images_come_in_order(task: Task) -> None:
    x, _ = task(4, 0.1)
    solved = []
    for features in (x, torch.cat([x[:60], 0 * x[60:]])):
        source = FashionMNIST(50, train_size=60, val_size=0, test_size=30)
        module = LinearSVM(10, [1e-4, 1.0], scheme="one_vs_all", train_views=None, test_views=None)
        data = ArrayCollection(source, 7, features=exported(features))
        train_on(module, data)
        solved.append(module)
    expected = LinearSVM(10, [1e-4, 1.0], scheme="one_vs_all", train_views=None, test_views=None)
    expected.solve(x[:60], data.targets["train"])
    for module in solved:
        assert torch.equal(module.weight, expected.weight)
        assert float(module.chosen) == float(expected.chosen)


def test_cost_is_judged_by_the_views_of_the_test(task: Task) -> None:
    """Second views point the wrong way: judged by the first alone, held-out images are right; by the sum, by chance."""
    x, y = task(2)
    x[:, 1] = -3 * x[:, 0]
    judged = {}
    for views in (1, None):
        module = LinearSVM(3, [1.0, 2.0], scheme="one_vs_all", test_views=views)
        accuracies: list[float] = []
        measure = module.measure

        def noted(
            scores: Tensor, y: Tensor, measure: Any = measure, accuracies: list[float] = accuracies
        ) -> dict[str, float]:
            accuracies.append(measure(scores, y)["top1"])
            return {"top1": accuracies[-1]}

        module.measure = noted  # type: ignore[method-assign]
        module.solve(x[:60], y[:60])
        judged[views] = min(accuracies) if views == 1 else max(accuracies)
    assert judged[1] > 60 > judged[None]


@pytest.mark.parametrize(
    ("cost", "train_views", "test_views", "kept"),
    [(1.0, 1, None, 1), (1.0, None, 1, 16), ([1.0, 2.0], 1, 4, 4), ([1.0, 2.0], 1, None, 16)],
)
def test_only_views_that_training_looks_at_are_kept(
    cost: float | list[float], train_views: int | None, test_views: int | None, kept: int
) -> None:
    module = LinearSVM(3, cost, train_views=train_views, test_views=test_views)
    views = module.keep(torch.zeros(2, 16, 5))
    assert views.shape == (2, kept, 5)
    assert views.untyped_storage().nbytes() == 4 * views.numel()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LinearSVM(2, 1.0, loss="log"), "loss='log'"),
        (lambda: LinearSVM(2, 1.0, rule="ten"), "rule='ten'"),
        (lambda: Retrieval(rule="ten"), "rule='ten'"),
    ],
)
def test_wrong_arguments_are_named(make: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_what_was_solved_survives_saving(task: Task) -> None:
    x, y = task()
    made = LinearSVM(3, [0.1, 1.0])
    other = LinearSVM(3, [0.1, 1.0])
    made.solve(x, y)
    other.load_state_dict(made.state_dict())
    assert torch.equal(made(x), other(x))
    assert sum(np.prod(value.shape) for value in made.state_dict().values()) < x.numel()  # no feature is kept again


def test_a_validated_svm_chooses_c_on_what_it_is_shown_there() -> None:
    """One feature, classes at 1 and at 0.9: told apart by a large C, called the same by a small one. Validation images
    of the first class alone, at 0.9, are right only for machines that cannot tell."""
    x = torch.tensor([[[1.0]]] * 4 + [[[0.9]]] * 3)
    y = torch.tensor([0] * 4 + [1] * 3)
    chosen = []
    for label in (0, 1):
        module = ValidatedSVM(2, [0.01, 1e5])
        shown = [batch(torch.full((2, 1, 1), 0.9), torch.full((2,), label))]
        module._trainer = SimpleNamespace(datamodule=SimpleNamespace(val_dataloader=lambda shown=shown: [shown]))  # type: ignore[assignment]
        module.solve(x, y)
        chosen.append(round(float(module.chosen), 2))
    assert chosen == [0.01, 1e5]
