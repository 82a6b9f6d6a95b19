"""The independent checks of frozen features: hand-computed values, library agreement, limit cases, invariances."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from experiments import claims
from experiments.plan import Plan
from modules.off_the_shelf.features import Features, unit
from modules.off_the_shelf.handmade import Pixels
from modules.off_the_shelf.linear_svm import Machines
from modules.off_the_shelf.module import Curve, LinearSVM, Retrieval, search_distance, signed_power
from modules.off_the_shelf.overfeat import OverFeat, load_released
from modules.off_the_shelf.views import Jitter, Patches


def images(count: int = 4, channels: int = 3, side: int = 32, seed: int = 0) -> Tensor:
    return torch.rand(count, channels, side, side, generator=torch.Generator().manual_seed(seed))


def exported(f: Tensor) -> Features:
    """A features stage that holds f (rows, V, D)."""
    features = Features(Pixels())
    features.stored = unit(f)
    return features


def random_features(rows: int, views: int = 1, d: int = 24, seed: int = 0) -> Features:
    return exported(torch.randn(rows, views, d, generator=torch.Generator().manual_seed(seed)))


@pytest.mark.parametrize(
    ("size", "side", "parameters", "operations"),
    [("large", 221, 144_656_488, 5.355), ("small", 231, 145_920_872, None)],
)
def test_sizes_of_overfeat(size: str, side: int, parameters: int, operations: float | None) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):
        network = OverFeat(size)
        assert sum(p.numel() for p in network.parameters()) == parameters
        with FlopCounterMode(display=False) as counter:
            assert network(torch.empty(1, 3, side, side)).shape == (1, 1000)
        assert network.side == side
        if operations is not None:
            assert counter.get_total_flops() / 2e9 == pytest.approx(operations, abs=5e-4)
            assert network.maps[:3](torch.empty(1, 3, 221, 221)).shape[2:] == (36, 36)
            assert network.maps(torch.empty(1, 3, 221, 221)).shape == (1, 1024, 5, 5)
            assert network(torch.empty(1, 3, 257, 257)).shape == (1, 1000, 2, 2)
    with pytest.raises(ValueError, match="size='huge': expected one of small, large"):
        OverFeat("huge")


def test_overfeat_is_the_composition_of_its_layers() -> None:
    """Against plain functional calls in the published order."""
    torch.manual_seed(0)
    source = OverFeat("large", width=0.02, classes=7)
    layers = [m for m in source.modules() if isinstance(m, nn.Conv2d)]
    x = 255 * images(2, 3, 221)
    with torch.no_grad():
        h = (x - 118.380948) / 61.896913
        pools = {0: 3, 1: 2, 5: 3}
        for number, layer in enumerate(layers):
            h = nn.functional.conv2d(h, layer.weight, layer.bias, stride=2 if number == 0 else 1, padding=layer.padding)
            h = h.relu() if number < len(layers) - 1 else h
            h = nn.functional.max_pool2d(h, pools[number]) if number in pools else h
        assert torch.allclose(source(x), h.flatten(1), atol=1e-5)


def test_released_weights_are_read_layer_by_layer(tmp_path: Path) -> None:
    torch.manual_seed(0)
    source, target = OverFeat(width=0.02), OverFeat(width=0.02)
    stored = torch.cat([p.detach().flatten() for p in source.parameters()])
    path = tmp_path / "net_weight_1"
    stored.numpy().astype("<f4").tofile(path)
    load_released(target, path)
    assert all(torch.equal(a, b) for a, b in zip(source.parameters(), target.parameters(), strict=True))
    assert [tuple(p.shape[2:]) for p in source.parameters()][:2] == [(7, 7), ()]  # filters first, then biases
    stored[:-1].numpy().tofile(path)
    with pytest.raises(ValueError, match=r"holds .* numbers; this network has"):
        OverFeat(pretrained=str(path), width=0.02)


def test_sizes_of_the_tables() -> None:
    """32-120k without and 4-15k numbers with PCA: 8 views and 30 patches of 4096 or 500."""
    assert [n * d for n in (8, 30) for d in (4096, 500)] == [32_768, 4_000, 122_880, 15_000]
    x = images(1, 1, 40)
    assert (len(Jitter(mirror=False)(x, 40)), len(Patches(4)(x, 40))) == (8, 30)


def test_signed_power_by_hand() -> None:
    f = torch.tensor([0.6, -0.8])
    assert signed_power(f, 2).tolist() == pytest.approx([0.36, -0.64])
    assert unit(signed_power(f, 2)).tolist() == pytest.approx([0.4903, -0.8716], abs=1e-4)
    assert torch.equal(signed_power(f, 1), f)
    assert torch.allclose(signed_power(signed_power(f, 2), 2), signed_power(f, 4))


def test_search_distance_by_hand() -> None:
    query = torch.tensor([[[0.0, 0.0], [3.0, 4.0]]])  # one image of two patches
    reference = torch.tensor([[[0.0, 1.0], [3.0, 4.0]], [[0.0, 0.0], [6.0, 8.0]]])
    assert torch.allclose(search_distance(query, reference), torch.tensor([[0.5, 2.5]]))


def test_search_distance_limits() -> None:
    f = random_features(6, 5).stored
    assert torch.allclose(search_distance(f[:, :1], f[:, :1]), torch.cdist(f[:, 0], f[:, 0]), atol=1e-3)
    own = search_distance(f[:, :2], f)  # fewer levels, of the same grid
    assert float(own.diagonal().abs().max()) < 1e-3
    assert float((own - own.T).abs().max()) > 0.01  # mean over the query's patches: not symmetric
    more = search_distance(f, f[:, :2])
    assert not torch.allclose(own, more.T)


def test_rankings_by_distance_and_by_cosine_are_equal() -> None:
    f = random_features(40).stored[:, 0]
    distance = search_distance(f[:5, None], f[:, None])
    assert torch.allclose(distance.square(), 2 - 2 * f[:5] @ f.T, atol=1e-4)
    assert torch.equal(distance.argsort(1)[:, 1:], (-(f[:5] @ f.T)).argsort(1)[:, 1:])


def test_whitened_references_have_unit_covariance() -> None:
    """At the 500 dimensions of the paper."""
    module = Retrieval(random_features(400, 3, 520), reference_views=None, dimensions=500, whiten=True)
    module.solve(torch.arange(300), torch.zeros(300))
    f = module.projected(module.stored(torch.arange(300), None)).flatten(0, 1)
    assert f.shape == (900, 500)
    assert torch.allclose(torch.cov(f.T.double()), torch.eye(500).double(), atol=1e-3)
    assert torch.allclose(f.mean(0), torch.zeros(500), atol=1e-4)
    mapped = module.mapped(module.stored(torch.arange(5), 1))
    assert torch.allclose(mapped.norm(dim=-1), torch.ones(5, 1), atol=1e-5)
    with pytest.raises(ValueError, match="whiten=true needs dimensions"):
        Retrieval(random_features(3), whiten=True)


def test_pca_of_more_dimensions_than_there_are_is_refused() -> None:
    module = Retrieval(random_features(9, 2), reference_views=None, dimensions=20)
    with pytest.raises(ValueError, match="dimensions=20: 18 views of length 24 have only 17"):
        module.solve(torch.arange(9), torch.zeros(9))


def test_pca_never_sees_a_query() -> None:
    features, other = random_features(60, 2), random_features(60, 2)
    other.stored[40:] = random_features(60, 2, seed=9).stored[40:]  # the queries
    found = []
    for each in (features, other):
        module = Retrieval(each, reference_views=None, dimensions=5, whiten=True)
        module.solve(torch.arange(40), torch.zeros(40))
        found.append(module.projection)
    assert torch.equal(*found)


def test_retrieval_measures_by_hand(logged: Callable[..., dict[str, float]]) -> None:
    """References on a line at 0, 1, 2, 3 and the query at 0: the order is known."""
    place = torch.tensor([0.0, 0.1, 0.2, 0.3, 0.0])
    features = exported(torch.stack([place.cos(), place.sin()], 1)[:, None])
    module = Retrieval(features)
    module.solve(torch.arange(4), torch.zeros(4))
    module.test_step((torch.tensor([4]), torch.tensor([[0, 1, 0, 1]])), 0)
    found = logged(module)
    assert found["test/map"] == pytest.approx(100 * (1 / 2 + 2 / 4) / 2)
    assert (found["test/mrr"], found["test/top1"], found["test/recall4"]) == (50, 0, 100)
    module.test_step((torch.tensor([4]), torch.tensor([[-1, 1, 0, 0]])), 0)  # the nearest is not to be counted
    assert logged(module)["test/map"] == 100


def task(views: int = 1, per_view: float = 0.0, count: int = 90) -> tuple[Features, Tensor, Tensor]:
    """Three classes in 12 dimensions; views of an image differ by noise."""
    source = torch.Generator().manual_seed(0)
    y = torch.arange(count) % 3
    base = 2 * torch.eye(3, 12)[y] + torch.randn(count, 12, generator=source)
    noise = per_view * torch.randn(count, views, 12, generator=source)
    return exported(base[:, None] + noise), torch.arange(count), y


def test_the_sum_over_identical_views_is_one_view(logged: Callable[..., dict[str, float]]) -> None:
    features, rows, y = task()
    many = exported(features.stored.expand(-1, 16, -1))
    one, sixteen = LinearSVM(features, 3, 1.0, scheme="one_vs_all"), LinearSVM(many, 3, 1.0, scheme="one_vs_all")
    one.solve(rows[:60], y[:60])
    sixteen.train_views, sixteen.test_views = 1, None
    sixteen.solve(rows[:60], y[:60])
    assert sixteen(rows).shape == (90, 16, 3)
    assert torch.allclose(sixteen(rows).sum(1) / 16, one(rows)[:, 0], atol=1e-4)
    for module in (one, sixteen):
        module.test_step((rows[60:], y[60:]), 0)
    a, b = logged(one), logged(sixteen)
    assert a["test/top1"] == b["test/top1"] == b["test/top1_max"] == b["test/top1_one"]
    assert "test/top1_max" not in a


def test_the_maximum_of_a_pair_is_its_decision_of_largest_magnitude() -> None:
    """Two views of one image. For pairs -3 outweighs 2 (the higher class wins), for one machine per class 2 does."""
    decisions = torch.tensor([[[2.0, -1.0, 0.5], [-3.0, -2.0, 1.0]]])  # (image, views, machines)
    module = LinearSVM(random_features(1), 3, 1.0)
    pairs = torch.tensor([[0, 1], [0, 2], [1, 2]])
    module.weight, module.bias, module.pairs = torch.zeros(3, 24), torch.zeros(3), pairs
    found = module.pooled(decisions)
    votes = Machines(module.weight, module.bias, pairs).scores(torch.tensor([[-3.0, -2.0, 1.0]]), 3)  # 1, 2 and 1 win
    assert torch.equal(found["_max"], votes)
    assert int(found["_max"].argmax()) == 1
    mirrored = module.pooled(-decisions)["_max"]  # 0, 0 and 2 win: no class is favoured
    assert int(mirrored.argmax()) == 0
    module.pairs = pairs[:0]
    assert module.pooled(decisions)["_max"].tolist() == [[2.0, -1.0, 1.0]]
    assert module.pooled(decisions)[""].tolist() == [[-1.0, -3.0, 1.5]]


def test_power_is_applied_to_unit_features_of_each_view() -> None:
    f = torch.tensor([[[3.0, -4.0], [8.0, 6.0]]])
    module = LinearSVM(exported(f), 2, 1.0, train_views=None, exponent=2.0)
    assert torch.allclose(module.represented(torch.tensor([0]), None)[0], torch.tensor([[0.36, -0.64], [0.64, 0.36]]))
    module = LinearSVM(exported(f), 2, 1.0, train_views=None, exponent=2.0, renormalise=True)
    assert torch.allclose(module.represented(torch.tensor([0]), None).norm(dim=-1), torch.ones(1, 2))


def test_cost_is_chosen_on_training_rows_with_all_views_of_an_image_on_one_side() -> None:
    features, rows, y = task(4, 0.1)
    module = LinearSVM(features, 3, [1e-4, 1.0], scheme="one_vs_all", train_views=None, test_views=None)
    seen: list[int] = []
    fitted = module.fitted

    def counted(f: Tensor, y: Tensor, cost: float) -> Any:
        seen.append(len(f))
        assert f.shape[1] == 4
        return fitted(f, y, cost)

    module.fitted = counted  # type: ignore[method-assign]
    module.solve(rows[:60], y[:60])
    assert seen == [40] * 6 + [60]
    changed = random_features(90)
    changed.stored = torch.cat([features.stored[:60], 0 * features.stored[60:]])  # test images have no say
    other = LinearSVM(changed, 3, [1e-4, 1.0], scheme="one_vs_all", train_views=None, test_views=None)
    other.solve(rows[:60], y[:60])
    assert torch.equal(module.weight, other.weight)
    assert float(module.chosen) == float(other.chosen)


def test_cost_is_judged_by_the_views_of_the_test() -> None:
    """Second views point the wrong way: judged by the first alone, held-out images are right; by the sum, by chance."""
    features, rows, y = task(2)
    features.stored[:, 1] = -3 * features.stored[:, 0]
    judged = {}
    for views in (1, None):
        module = LinearSVM(features, 3, [1.0, 2.0], scheme="one_vs_all", test_views=views)
        seen: list[float] = []
        measured = module.measured

        def noted(scores: Tensor, y: Tensor, measured: Any = measured, seen: list[float] = seen) -> dict[str, float]:
            seen.append(measured(scores, y)["top1"])
            return {"top1": seen[-1]}

        module.measured = noted  # type: ignore[method-assign]
        module.solve(rows[:60], y[:60])
        judged[views] = min(seen) if views == 1 else max(seen)
    assert judged[1] > 60 > judged[None]


def test_curve_counts_what_its_stages_say(logged: Callable[..., dict[str, float]]) -> None:
    features, rows, y = task()
    machines = [LinearSVM(features, 3, 1.0) for _ in range(4)]
    for svm, n in zip(machines, (6, 60, 6, 60), strict=True):
        svm.solve(rows[:n], y[:n])
    curve = Curve(machines, ["a", "b"], [6, 60])
    for part in (rows[60:80], rows[80:]):
        curve.test_step((part, y[part]), 0)
    assert logged(curve)["test/n"] == 30
    for number, svm in enumerate(machines):
        svm.test_step((rows[60:], y[60:]), 0)
        assert float(curve.accuracy.flatten()[number]) == pytest.approx(logged(svm)["test/top1"])
    assert curve.per_class.shape == (2, 3)
    assert torch.allclose(curve.per_class.mean(1), curve.accuracy[:, -1], atol=1e-3)  # classes are equally frequent
    with pytest.raises(ValueError, match="4 machines: expected 2 features x 3 sizes"):
        Curve(machines, ["a", "b"], [1, 2, 3])


def test_accuracy_is_the_mean_of_classes_where_they_are_uneven() -> None:
    features, _, _ = task()
    module = LinearSVM(features, 2, 1.0)
    scores = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    assert module.measured(scores, torch.tensor([0, 0, 0, 1])) == {"top1": 75.0, "acc": 50.0}


def test_attributes_of_which_nothing_is_known_are_left_out() -> None:
    features, _, _ = task()
    module = LinearSVM(features, 3, 1.0, scheme="multilabel")
    scores = torch.tensor([[3.0, 1, 0], [2.0, 0, 0], [1.0, 2, 0], [0.0, 3, 0]])
    y = torch.tensor([[1, 0, 1], [0, 1, 1], [1, 1, 1], [-1, 0, 1]])
    found = module.measured(scores, y)  # (1, 0, 1) and (0, 1, 0, 1) by rank; the third has no negative
    assert found["map"] == pytest.approx(100 * ((1 + 2 / 3) / 2 + (1 / 2 + 2 / 4) / 2) / 2)
    assert found["mauc"] == pytest.approx(100 * (0.5 + 0.25) / 2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LinearSVM(random_features(2), 2, 1.0, loss="log"), "loss='log'"),
        (lambda: LinearSVM(random_features(2), 2, 1.0, rule="ten"), "rule='ten'"),
        (lambda: Retrieval(random_features(2), rule="ten"), "rule='ten'"),
    ],
)
def test_wrong_arguments_are_named(make: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_what_was_solved_survives_saving() -> None:
    features, rows, y = task()
    made, other = LinearSVM(features, 3, [0.1, 1.0]), LinearSVM(features, 3, [0.1, 1.0])
    made.solve(rows, y)
    other.load_state_dict(made.state_dict())
    assert torch.equal(made(rows), other(rows))
    assert "stored" not in made.state_dict()  # the export is kept once, by its own stage


def test_full_recipe_is_the_papers(make_plan: Callable[..., Plan]) -> None:
    stages = make_plan("paper=off_the_shelf", "scale=full").stages
    network = stages["backbone"].module
    assert (network["network"]["size"], network["side"], network["layer"], network["relu"]) == (
        "large",
        221,
        "fc1",
        False,
    )
    costs = {"svm": 0.2, "mit_svm": 2, "birds_svm": 2, "flowers_svm": 2, "h3d_svm": 0.2, "uiuc_svm": 0.2}
    for name, cost in costs.items():
        one, many = stages[name].module, stages[name.replace("svm", "aug")].module
        assert one["cost"] == many["cost"] == cost
        assert (one["loss"], one["exponent"], one["train_views"], one["test_views"]) == ("hinge", 1.0, 1, 1)
        assert (many["loss"], many["exponent"], many["train_views"], many["test_views"]) == (
            "squared_hinge",
            2.0,
            None,
            None,
        )
        multilabel = name in ("svm", "uiuc_svm", "h3d_svm")
        assert one["scheme"] == many["scheme"] == ("multilabel" if multilabel else "one_vs_one")
    assert stages["birds_views"].data["context"] == stages["h3d_views"].data["context"] == 1.5
    assert not any(stage.module.get("renormalise") for stage in stages.values())
    jittered = [
        stage for stage in stages.values() if stage.module.get("views", {}).get("_target_", "").endswith("Jitter")
    ]
    assert len(jittered) == 8
    for stage in jittered:
        assert round(2 * stage.data["side"] / 3) == network["side"]  # crops are not enlarged
    for prefix in ("", "paris_", "sculptures_"):
        rule = "steps" if prefix == "sculptures_" else "trapezoid"
        assert {stages[prefix + n].module.get("rule", "steps") for n in ("global", "search", "whitened")} == {rule}
        assert stages[f"{prefix}patches"].module["views"]["levels"] == 4
        search, whitened = (stages[f"{prefix}{name}"].module for name in ("search", "whitened"))
        assert search["query_views"] == whitened["query_views"] == 14
        assert search["reference_views"] is None
        assert (whitened["dimensions"], whitened["whiten"], whitened["exponent"]) == (500, True, 2.0)
    for name in ("holidays", "ukbench"):
        assert stages[f"{name}_views"].module["views"]["mirror"] is False
        assert stages[f"{name}_whitened"].module["query_views"] is None


def test_arms_of_a_comparison_differ_where_they_should(make_plan: Callable[..., Plan]) -> None:
    stages = make_plan("paper=off_the_shelf", "scale=mini").stages
    for n in (100, 300, 1000):
        arms = [stages[f"{kind}_{n}"] for kind in ("cnn", "hog", "pixels")]
        assert all(arm.data == arms[0].data and arm.module == arms[0].module for arm in arms)
        assert arms[0].data["first"] == n
    changed = {"aug": "exponent", "rooted": "exponent"}
    for name, key in changed.items():
        ours, reference = stages[name].module, stages["summed"].module
        assert {k for k in ours if ours[k] != reference[k]} == {key}
    single = stages["single"].module
    assert {k for k in single if single[k] != stages["summed"].module[k]} == {"train_views", "test_views"}
    retrieval = [stages[name].data for name in ("global", "search", "whitened", "histogram")]
    assert all(data == retrieval[0] for data in retrieval)
    assert math.isclose(sum(i * i for i in range(1, 3)), stages["search"].module["query_views"])


def test_classification_of_the_cifar10_variant_is_on_cifar10(make_plan: Callable[..., Plan]) -> None:
    this = make_plan("paper=off_the_shelf", "scale=mini", "variant=cifar10")
    sources = {name: stage.data["source"]["_target_"].rsplit(".")[-1] for name, stage in this.stages.items()}
    collections = {n for n, stage in this.stages.items() if stage.data["_target_"].endswith(".ArrayCollection")}
    assert {sources[name] for name in collections} == {"CIFAR10"}
    judged = {s for claim in claims.read(this.config).claims for s in claims.stages_of(claim, list(this.stages))}
    assert judged <= collections
    assert {"aug", "single", "summed", "cnn_100", "hog_100", "pixels_1000"} <= judged
