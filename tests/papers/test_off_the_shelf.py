"""The independent checks of frozen features: hand-computed values, library agreement, limit cases, invariances."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from datamodules.collection import ArrayCollection
from datamodules.torchvision_sets import FashionMNIST
from experiments.plan import Plan
from modules.common.handmade import Pixels
from modules.common.overfeat import OverFeat, load_released
from modules.common.pretrained import efficientnet_lite
from modules.off_the_shelf import (
    Backbone,
    Features,
    Jitter,
    LinearSVM,
    Patches,
    Retrieval,
    patch_boxes,
    search_distance,
    signed_power,
    unit,
)


def images(count: int = 4, channels: int = 3, side: int = 32, seed: int = 0) -> Tensor:
    return torch.rand(count, channels, side, side, generator=torch.Generator().manual_seed(seed))


def small(**options: Any) -> Backbone:
    """A network with batch statistics that are not their initial values."""

    def network() -> nn.Module:
        made = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        nn.init.uniform_(made[1].running_mean)  # type: ignore[arg-type]
        nn.init.uniform_(made[1].running_var, 0.5, 2)  # type: ignore[arg-type]
        return made

    return Backbone(network, 32, **options)


def exported(f: Tensor) -> Features:
    """A features stage that holds f (rows, V, D)."""
    features = Features(Pixels())
    features.stored = unit(f)
    return features


def random_features(rows: int, views: int = 1, d: int = 24, seed: int = 0) -> Features:
    return exported(torch.randn(rows, views, d, generator=torch.Generator().manual_seed(seed)))


def logged(module: Any) -> dict[str, float]:
    found: dict[str, float] = {}
    module.log_dict = lambda values: found.update({k: float(v) for k, v in values.items()})
    module.on_test_epoch_end()
    return found


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


def test_features_have_unit_length_and_the_backbone_stays_as_it_is() -> None:
    backbone = small()
    features = Features(backbone=backbone, views=Jitter())
    network = backbone.built()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    features.train()
    backbone.train()
    x = images(3)
    f = features(x)
    assert f.shape == (3, 16, 8)
    assert torch.allclose(f.norm(dim=2), torch.ones(3, 16), atol=1e-6)
    features.training_step((x, torch.arange(3)), 0)  # type: ignore[arg-type]
    assert not any(part.training for part in network.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert "1.running_mean" in before
    assert not any(p.requires_grad for p in network.parameters())
    assert torch.equal(features(x), f)
    assert not list(features.parameters())


def test_layers_are_taken_before_the_next_one_rectifies_in_place() -> None:
    """FC6 of torchvision's AlexNet, which is followed by an in-place ReLU."""
    torch.manual_seed(0)
    alexnet = torchvision.models.alexnet().eval()
    x = images(2, 3, 224)
    with torch.no_grad():
        expected = alexnet.classifier[1](alexnet.avgpool(alexnet.features(x)).flatten(1))
    assert torch.allclose(Backbone(lambda: alexnet, 224, layer="classifier.1")(x), expected, atol=1e-4)
    assert float(expected.min()) < 0
    again = Backbone(lambda: alexnet, 224, layer="classifier.1", relu=True)(x)
    assert torch.allclose(again, expected.relu(), atol=1e-4)
    with pytest.raises(ValueError, match=r"layer='fc9': the network has features, features\.0"):
        Backbone(lambda: alexnet, 224, layer="fc9")(x)


def test_lite_features_are_timms_pooled_features() -> None:
    x = images(2, 3, 64)
    backbone = Backbone(
        partial(efficientnet_lite, 0), 64, layer="global_pool", mean=[0.5, 0.5, 0.5], std=[0.5, 0.5, 0.5]
    )
    theirs = timm.create_model("tf_efficientnet_lite0.in1k", pretrained=False, num_classes=0).eval()
    theirs.load_state_dict(efficientnet_lite(0).state_dict(), strict=False)
    with torch.no_grad():
        expected = theirs((x - 0.5) / 0.5)
    assert expected.shape == (2, 1280)
    assert torch.allclose(backbone(x), expected, atol=1e-4)


def test_grey_images_are_shown_in_all_channels() -> None:
    x = images(2, 1)
    assert torch.equal(small()(x), small()(x.expand(-1, 3, -1, -1)))


def test_random_backbones_are_the_same_in_every_stage() -> None:
    x = images(1)
    torch.manual_seed(1)
    first = small()(x)
    torch.manual_seed(2)
    assert torch.equal(small()(x), first)
    assert not torch.equal(small(weight_seed=1)(x), first)


def test_sixteen_views() -> None:
    x = images(2, 3, 221)
    views = Jitter()(x, 221)
    assert len(views) == 16
    assert all(view.shape == x.shape for view in views)
    assert torch.equal(views[0], x)
    assert torch.equal(views[8].flip(-1), x)  # the mirror of a mirror
    corner = nn.functional.interpolate(x[..., :147, :147], (221, 221), mode="bicubic", antialias=True).clamp(0, 1)
    centre = nn.functional.interpolate(x[..., 37:184, 37:184], (221, 221), mode="bicubic", antialias=True).clamp(0, 1)
    assert torch.allclose(views[1], corner)
    assert torch.allclose(views[5], centre)
    assert pytest.approx(4 / 9, abs=0.005) == (147 / 221) ** 2
    assert len(Jitter(mirror=False)(x, 221)) == 8


def test_views_of_a_symmetric_image_are_equal_in_pairs() -> None:
    x = images(1, 1, 60)
    views = Jitter()(x + x.flip(-1), 60)
    assert all(torch.equal(a, b) for a, b in zip(views[:8], views[8:], strict=True))


def test_mirrored_views_are_views_of_the_mirror() -> None:
    """Corners and rotations change places; as a set nothing is missing."""
    views = Jitter()(images(1, 1, 60), 60)
    partners = [8, 10, 9, 12, 11, 13, 15, 14]
    for view, other in zip(views[:8], partners, strict=True):
        assert torch.allclose(view.flip(-1), views[other], atol=1e-5)


def test_rotations_turn() -> None:
    x = images(1, 1, 33)
    quarter = Jitter(angle=90)(x, 33)
    assert torch.allclose(quarter[6], torch.rot90(x, 1, (2, 3)), atol=1e-4) or torch.allclose(
        quarter[6], torch.rot90(x, -1, (2, 3)), atol=1e-4
    )
    assert torch.allclose(quarter[6].flip(-1, -2), quarter[7], atol=1e-4)
    assert torch.allclose(Jitter(angle=0)(x, 33)[6], x, atol=1e-5)


@pytest.mark.parametrize(("levels", "patches"), [(1, 1), (2, 5), (3, 14), (4, 30)])
def test_patches_cover_the_image(levels: int, patches: int) -> None:
    for height, width in ((221, 221), (97, 150), (56, 56)):
        boxes = patch_boxes(height, width, levels)
        assert len(boxes) == patches
        seen = torch.zeros(height, width)
        for top, left, h, w in boxes[-(levels**2) :]:
            assert 0 <= top <= height - h
            assert 0 <= left <= width - w
            seen[top : top + h, left : left + w] += 1
        assert float(seen.min()) >= 1
    x = images(1, 1, 60)
    few, many = Patches(2)(x, 40), Patches(4)(x, 40)
    assert all(torch.equal(a, b) for a, b in zip(few, many, strict=False))  # fewer levels come first


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
    module = Retrieval(random_features(300, 3), reference_views=None, dimensions=10, whiten=True)
    module.solve(torch.arange(200), torch.zeros(200))
    f = module.projected(module.stored(torch.arange(200), None)).flatten(0, 1)
    assert f.shape == (600, 10)
    assert torch.allclose(torch.cov(f.T.double()), torch.eye(10).double(), atol=1e-4)
    assert torch.allclose(f.mean(0), torch.zeros(10), atol=1e-4)
    mapped = module.mapped(module.stored(torch.arange(5), 1))
    assert torch.allclose(mapped.norm(dim=-1), torch.ones(5, 1), atol=1e-5)
    with pytest.raises(ValueError, match="whiten=true needs dimensions"):
        Retrieval(random_features(3), whiten=True)


def test_pca_never_sees_a_query() -> None:
    features, other = random_features(60, 2), random_features(60, 2)
    other.stored[40:] = random_features(60, 2, seed=9).stored[40:]  # the queries
    found = []
    for each in (features, other):
        module = Retrieval(each, reference_views=None, dimensions=5, whiten=True)
        module.solve(torch.arange(40), torch.zeros(40))
        found.append(module.projection)
    assert torch.equal(*found)


def test_retrieval_measures_by_hand() -> None:
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


def test_the_sum_over_identical_views_is_one_view() -> None:
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


def test_export_follows_row_numbers_and_refuses_gaps() -> None:
    data = ArrayCollection(FashionMNIST(8, train_size=20, val_size=0, test_size=10), 8, exports=True)
    data.setup()
    features = Features(Pixels())
    for number, batch in enumerate(data.train_dataloader()):
        features._seen.append((features.gathered(batch[0]), batch[1]))
        assert number < 4
    x, rows = (torch.cat(parts) for parts in zip(*features._seen, strict=True))
    features.solve(x, rows)
    assert torch.allclose(features.stored[:, 0], unit(data.images(torch.arange(30)).flatten(1)), atol=1e-6)
    with pytest.raises(ValueError, match="exactly once"):
        features.solve(x[1:], rows[1:])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Features(), "either extractor, or backbone"),
        (lambda: Features(Pixels(), small()), "either extractor, or backbone"),
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
    for prefix in ("", "paris_", "sculptures_"):
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
