"""The independent checks of Inception-v4: sizes, library agreement, limit cases, gradient facts."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import timm
import torch
from timm.optim import RMSpropTF
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from experiments import training
from experiments.plan import Plan
from modules.common.averaging import WeightAverage
from modules.common.module import StageModule
from modules.common.schedules import Position, staircase
from modules.inception_v4 import networks
from modules.inception_v4.blocks import Auxiliary, Build, Mixed, Unit
from modules.inception_v4.crops import MultiCrop, views
from modules.inception_v4.module import Curves, Growth, InceptionClassifier, Race, race
from modules.inception_v4.networks import Grid, Inception, Plain, Residual, timm_key

LINES = ("1x1 4", "1x1 4 - 1x3 4 - 3x1 6")


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def multiply_adds(module: nn.Module, shape: tuple[int, ...]) -> float:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module.eval()(torch.zeros(1, *shape, device="meta"))
    return counter.get_total_flops() / 2e9


def normalised(module: nn.Module, shape: tuple[int, ...]) -> float:
    """Numbers that batch norms put out for one image, in 1e9; some counters add twice as many operations."""
    total = 0

    def count(layer: nn.Module, inputs: object, output: Tensor) -> None:
        nonlocal total
        total += output.numel()

    handles = [m.register_forward_hook(count) for m in module.modules() if isinstance(m, nn.BatchNorm2d)]
    module.eval()(torch.zeros(1, *shape, device="meta"))
    for handle in handles:
        handle.remove()
    return total / 1e9


def small(join: str = "residual", seed: int = 0, **options: Any) -> Inception:
    torch.manual_seed(seed)
    grids = [Grid(LINES, 2, scale=0.2), Grid(LINES, 1, ["3x3/2 12"], 0.2)]
    return Inception([["3x3 8"], ["max"]], grids, 10, 1, join, **options)


def batch(count: int = 8, seed: int = 1) -> tuple[Tensor, Tensor]:
    return torch.randn(count, 1, 12, 12, generator=torch.Generator().manual_seed(seed)), torch.arange(count) % 10


def filled(make: Callable[[], nn.Module]) -> nn.Module:
    """Random weights of He's size (without the seconds an own initialisation takes), and batch statistics, gains and
    biases that are not 0 and 1, so that leaving one out shows."""
    with torch.device("meta"):
        module = make()
    module = module.to_empty(device="cpu").eval()
    source = torch.Generator().manual_seed(0)
    for name, value in module.state_dict().items():
        if value.ndim > 1:
            value.normal_(0, (2 / value[0].numel()) ** 0.5, generator=source)
        elif name.endswith(("running_var", "weight")):
            value.uniform_(0.5, 1.5, generator=source)
        elif value.is_floating_point():
            value.normal_(0, 0.3, generator=source)
        else:
            value.zero_()
    return module


# Checks 1 to 5: the published networks.

# timm's are counted with batch norm as two operations, the others with it and without the last layer.
PUBLISHED = [
    (networks.inception_v4, 42_679_816, 12.284, True, [(384, 35), (384, 35), (1024, 17), (1536, 8), (1536, 8)]),
    (
        networks.inception_resnet_v1,
        22_756_328,
        6.221,
        False,
        [(256, 35), (256, 35), (896, 17), (1792, 8), (1792, 8)],
    ),
    (
        networks.inception_resnet_v2,
        32_433_928,
        9.277,
        False,
        [(384, 35), (384, 35), (1152, 17), (2144, 8), (2144, 8)],
    ),
    (
        networks.inception_resnet_v2_released,
        55_843_464,
        13.183,
        True,
        [(320, 35), (320, 35), (1088, 17), (2080, 8), (1536, 8)],
    ),
    (partial(networks.inception_resnet_v2, repeats=(10, 20, 10)), 55_284_488, 14.169, False, None),
    (networks.inception_v3, 23_834_568, None, True, None),
]


@pytest.mark.parametrize(("make", "count", "giga", "whole", "shapes"), PUBLISHED)
def test_published_sizes(
    make: Callable[[], Inception],
    count: int,
    giga: float | None,
    whole: bool,
    shapes: list[tuple[int, int]] | None,
) -> None:
    with torch.device("meta"):
        network = make()
        assert parameters(network) == count
        if giga is not None:
            last = 0 if whole else network.classifier.weight.numel() / 1e9
            found = multiply_adds(network, (3, 299, 299)) + 2 * normalised(network, (3, 299, 299)) - last
            assert found == pytest.approx(giga, abs=0.0006)
        if shapes is not None:
            maps = network.maps(torch.zeros(1, 3, 299, 299))
            assert [(m.shape[1], m.shape[2]) for m in maps] == shapes


def test_parameters_without_the_last_layer() -> None:
    with torch.device("meta"):
        for make, trunk in (
            (networks.inception_resnet_v1, 20_963_328),
            (networks.inception_resnet_v2, 30_288_928),
        ):
            network = make()
            assert parameters(network) - parameters(network.classifier) == trunk


def test_maps_of_the_stem() -> None:
    with torch.device("meta"):
        x, found = torch.zeros(1, 3, 299, 299), []
        network = networks.inception_v4()
        for layer in network.features[0].branches[0]:  # type: ignore[union-attr, index]
            x = layer(x)
            found.append((x.shape[1], x.shape[2]))
        for layer in network.features[1:4]:
            x = layer(x)
            found.append((x.shape[1], x.shape[2]))
    assert found == [(32, 149), (32, 147), (64, 147), (160, 73), (192, 71), (384, 35)]


def test_width_and_depth_are_free() -> None:
    with torch.device("meta"):
        network = networks.inception_resnet_v2(classes=7, repeats=(1, 2, 1), width=0.125, in_channels=1)
        assert [m.shape[1] for m in network.maps(torch.zeros(1, 1, 139, 139))] == [48, 48, 144, 268, 268]
        assert sum(isinstance(layer, Residual) for layer in network.features) == 4
        assert network(torch.zeros(2, 1, 139, 139)).shape == (2, 7)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("inception_v4", networks.inception_v4),
        ("inception_resnet_v2", networks.inception_resnet_v2_released),
    ],
)
def test_timms_weights_give_timms_outputs(name: str, make: Callable[[], Inception]) -> None:
    """Random weights and statistics carried over by name; features relative to their size, and logits."""
    theirs = filled(partial(timm.create_model, name, pretrained=False, num_classes=1000))
    carried = {timm_key(key): value for key, value in theirs.state_dict().items()}
    assert len(carried) == len(theirs.state_dict())
    with torch.device("meta"):
        ours = make().eval()
    ours.load_state_dict(carried, assign=True)
    x = torch.randn(1, 3, 299, 299, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected, found = theirs.forward_features(x), ours.maps(x)[-1]  # type: ignore[operator]
        assert expected.shape == (1, 1536, 8, 8)
        assert float((found - expected).abs().max() / expected.std()) < 1e-4
        logits = theirs.forward_head(expected)  # type: ignore[operator]
        assert float(logits.std()) > 0.1
        assert torch.allclose(ours.decide(found.mean((2, 3))), logits, atol=1e-4)


@pytest.mark.slow
def test_inception_v3_is_timms() -> None:
    """Carried over in order of definition. timm's averages count the padding; ours do so here for the comparison."""
    theirs = filled(partial(timm.create_model, "inception_v3", pretrained=False, aux_logits=False))
    with torch.device("meta"):
        ours = networks.inception_v3().eval()
    carried = networks.carried("inception_v3", theirs, ours)
    assert {k: v.shape for k, v in carried.items()} == {k: v.shape for k, v in ours.state_dict().items()}
    ours.load_state_dict(carried, assign=True)
    x = torch.randn(1, 3, 299, 299, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        logits = theirs(x)
        assert not torch.allclose(ours(x), logits, atol=1e-4)
        for part in ours.modules():
            if isinstance(part, nn.AvgPool2d):
                part.count_include_pad = True
        assert torch.allclose(ours(x), logits, atol=1e-4)


def test_every_name_of_timm_is_known() -> None:
    with torch.device("meta"):
        for name, make in (
            ("inception_v4", networks.inception_v4),
            ("inception_resnet_v2", networks.inception_resnet_v2_released),
        ):
            ours = {key: value.shape for key, value in make().state_dict().items()}
            theirs = timm.create_model(name, pretrained=False).state_dict()
            assert {timm_key(key): value.shape for key, value in theirs.items()} == ours
    for wrong in ("blocks.0.weight", "features.9.branchx.weight", "repeat_7.1.branch0.conv.weight"):
        with pytest.raises(KeyError, match="neither inception_v4 nor"):
            timm_key(wrong)
    with pytest.raises(ValueError, match="expected one of inception_v3, inception_v4, inception_resnet_v2"):
        networks.ported("resnet50.tv_in1k", pretrained=False)


# Lines and blocks.


def test_a_line_by_hand() -> None:
    branch = Build(width=0.5).branch(6, "avg - 1x1 64 - 1x7 96 - 3x3/2V 128 - (1x3 256 | 3x1 256)")
    pool, one, row, strided, fork = branch
    assert isinstance(pool, nn.AvgPool2d)
    assert (one.conv.in_channels, one.conv.out_channels, one.conv.kernel_size) == (6, 32, (1, 1))  # type: ignore[union-attr]
    assert (row.conv.kernel_size, row.conv.padding) == ((1, 7), (0, 3))  # type: ignore[union-attr]
    assert (strided.conv.stride, strided.conv.padding) == ((2, 2), (0, 0))  # type: ignore[union-attr]
    assert isinstance(fork, Mixed)
    assert branch.out_channels == fork.out_channels == 256
    assert branch(torch.randn(2, 6, 15, 15)).shape == (2, 256, 7, 7)
    assert all(p.conv.bias is None and p.bn.eps == 1e-3 for p in branch.modules() if isinstance(p, Unit))


@pytest.mark.parametrize("line", ["1x1", "3x3/2v 96", "pool", "(1x3 4 | 3x1 4) - 1x1 4", "1x1 4-3x3 4"])
def test_a_line_that_cannot_be_read(line: str) -> None:
    with pytest.raises(ValueError, match="is no step; expected"):
        Build().branch(3, line)


def test_average_pooling_leaves_out_the_padding() -> None:
    (pool,) = Build().branch(1, "avg")
    assert torch.equal(pool(torch.ones(1, 1, 4, 4)), torch.ones(1, 1, 4, 4))


def test_no_normalisation_on_the_sum_or_the_expansion() -> None:
    block = Residual(8, LINES, Build(), 0.1)
    assert block.expand.bias is not None
    assert sum(isinstance(part, nn.BatchNorm2d) for part in block.modules()) == 4  # the branches' convolutions
    plain = Plain(8, LINES, Build())
    assert sum(isinstance(part, nn.BatchNorm2d) for part in plain.modules()) == 5
    assert parameters(plain) - parameters(block) == 8  # gain and shift for a bias


def test_a_scale_of_zero_passes_the_input_on() -> None:
    """Check 6: the block is ReLU(x), and its branches get no gradient."""
    torch.manual_seed(0)
    block = Residual(8, LINES, Build(), 0.0)
    x = torch.randn(2, 8, 5, 5)
    assert torch.equal(block(x), F.relu(x))
    assert torch.equal(block(x.abs()), x.abs())
    block(x).square().sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in block.parameters())


def test_the_sum_is_affine_in_the_scale() -> None:
    torch.manual_seed(0)
    block = Residual(8, LINES, Build(), 0.1, relu=False)
    x = torch.randn(2, 8, 5, 5)
    once = block(x) - x
    block.scale = 0.2
    assert float(once.detach().abs().max()) > 0.01
    assert torch.allclose(block(x) - x, 2 * once, atol=1e-6)
    block.relu = True
    assert torch.allclose(block(x), F.relu(x + 2 * once), atol=1e-6)


def test_a_block_by_hand() -> None:
    """One branch of one 1x1 convolution: every number is known."""
    block = Residual(1, ["1x1 1"], Build(), 0.5).eval()
    with torch.no_grad():
        block.branches[0][0].conv.weight.fill_(2.0)  # type: ignore[index, union-attr]
        block.branches[0][0].bn.running_var.fill_(4.0)  # type: ignore[index, union-attr]
        block.expand.weight.fill_(-3.0)
        block.expand.bias.fill_(1.0)  # type: ignore[union-attr]
    found = block(torch.tensor([1.0, -1.0]).view(1, 1, 1, 2)).flatten().tolist()
    inner = 2 / (4 + 1e-3) ** 0.5
    assert found == pytest.approx([max(0.0, 1 + 0.5 * (1 - 3 * inner)), 0.0], abs=1e-6)  # -1 + 0.5 (1 - 0) < 0


def test_released_network_ends_with_an_unscaled_block_without_relu() -> None:
    with torch.device("meta"):
        blocks = [b for b in networks.inception_resnet_v2_released().features if isinstance(b, Residual)]
    assert [b.scale for b in blocks] == [0.17] * 10 + [0.10] * 20 + [0.20] * 9 + [1.0]
    assert [b.relu for b in blocks] == [True] * 39 + [False]


def test_initial_weights() -> None:
    torch.manual_seed(0)
    network = networks.inception_resnet_v1(width=0.5, repeats=(1, 1, 1))
    for unit in (part for part in network.modules() if isinstance(part, nn.Conv2d) and part.weight.numel() > 20_000):
        deviation = (2 / unit.weight[0].numel()) ** 0.5
        assert float(unit.weight.detach().std()) == pytest.approx(deviation, rel=0.03)
        assert float(unit.weight.detach().abs().max()) <= 2 * 1.3**0.5 * deviation + 1e-6
        assert unit.bias is None or not unit.bias.any()


@pytest.mark.slow
def test_activations_grow_without_scaling() -> None:
    """Check 7 at full size: behind the last block over behind the stem, 3.60 / 0.80, 1.45 / 0.80 and 1.05 / 0.80."""
    torch.manual_seed(0)
    module = Growth(networks.inception_resnet_v2, [1.0, 0.3, 0.1])
    x = torch.randn(2, 3, 299, 299)
    with torch.no_grad():
        module.test_step((x, torch.zeros(2)), 0)
    found = {name: float(metric.compute()) for name, metric in module.sums.items()}
    assert found["stem"] == pytest.approx(0.80, rel=0.15)
    assert [found[f"last_{s}"] for s in ("1", "0.3", "0.1")] == pytest.approx([3.60, 1.45, 1.05], rel=0.15)
    assert found["growth_1"] == pytest.approx(4.5, rel=0.2)
    assert found["growth_0.3"] == pytest.approx(1.81, rel=0.2)
    assert found["growth_0.1"] == pytest.approx(1.31, rel=0.2)


# The recipe.


def test_learning_rate_staircase() -> None:
    """Check 8."""
    rate = [0.045 * staircase(Position(epoch, 1999, 2002, 200)) for epoch in range(102)]
    assert [rate[e] for e in (0, 1, 20, 21, 100)] == pytest.approx([0.045, 0.045, 0.02424, 0.02424, 0.00204], abs=5e-6)
    assert rate[2] == pytest.approx(0.94 * 0.045)
    fine = [staircase(Position(0, step, 8, 1), 0.5, 0.25) for step in range(8)]
    assert fine == [1, 1, 0.5, 0.5, 0.25, 0.25, 0.125, 0.125]
    steps = [staircase(Position(epoch, step, 40, 5), 0.5, 0.05) for epoch in range(5) for step in range(40)]
    assert steps == [0.5 ** (n // 2) for n in range(200)]  # 0.05 epochs are 2 steps; 0.15 // 0.05 would be 2
    assert staircase(Position(0, 3, 10, 1), 0.5, 0.01) == 0.125  # at least a step


def test_rmsprop_has_epsilon_inside_the_root() -> None:
    """Check 9: at a steady gradient of 0.1 the step is 0.0995, torch's 0.0909; the square average begins at 1."""
    steps = {}
    for name, make in (
        ("tf", partial(RMSpropTF, alpha=0.9, eps=1.0)),
        ("torch", partial(torch.optim.RMSprop, alpha=0.9, eps=1.0)),
    ):
        p = nn.Parameter(torch.zeros(1))
        optimizer = make([p], lr=1.0)
        found = []
        for _ in range(300):
            before = float(p.detach())
            p.grad = torch.tensor([0.1])
            optimizer.step()
            found.append(before - float(p.detach()))
        steps[name] = found
    assert steps["tf"][-1] == pytest.approx(0.0995, abs=5e-5)
    assert steps["torch"][-1] == pytest.approx(0.0909, abs=5e-5)
    assert steps["tf"][0] == pytest.approx(0.1 / (0.9 + 0.001 + 1) ** 0.5, abs=1e-5)


def test_full_recipe(make_plan: Callable[..., Plan]) -> None:
    stages = make_plan("paper=inception_v4", "scale=full").stages
    trained = [stage for stage in stages.values() if stage.fit]
    assert len(trained) == 10
    for stage in trained:
        optimizer = stage.module["optimizer"]
        assert optimizer["_target_"] == "timm.optim.RMSpropTF"
        assert (optimizer["lr"], optimizer["alpha"], optimizer["eps"]) == (0.045, 0.9, 1.0)
        assert (optimizer["momentum"], optimizer["weight_decay"]) == (0.9, 4e-5)
        schedule = stage.module["schedule"]
        assert schedule["_target_"] == "modules.common.schedules.staircase"
        assert (schedule["decay"], schedule["every"]) == (0.94, 2.0)
        assert stage.trainer["max_epochs"] == 200
        assert stage.reference_batch == stage.data["batch_size"] == 640
        assert stage.trainer["gradient_clip_val"] == 2.0
        assert stage.module["average_decay"] == 0.9999
        assert stage.data["mean"] == stage.data["std"] == [0.5, 0.5, 0.5]  # inputs in [-1, 1]
        assert stage.module["network"]["momentum"] == 3e-4  # TensorFlow's decay 0.9997
    with torch.device("meta"):
        built = {stage.name: training.build(stage.module["network"]) for stage in trained}
    assert {network.dropout for network in built.values()} == {0.2}  # the share dropped; the paper keeps 0.8
    scales = {n: {b.scale for b in m.features if isinstance(b, Residual)} for n, m in built.items()}
    residual = ["inception_resnet_v1", *(f"inception_resnet_v2{end}" for end in ("", "_b", "_c"))]
    expected = {name: {0.1} for name in residual} | {"wide": {1.0}, "wide_scaled": {0.3}}
    assert {name: found for name, found in scales.items() if found} == expected
    members = stages["crops_144"].needs["members"]
    four = [members[stages["crops_144"].module["names"].index(n)] for n in stages["crops_144"].module["ensemble"]]
    assert four == ["inception_v4", "inception_resnet_v2", "inception_resnet_v2_b", "inception_resnet_v2_c"]


def test_networks_with_released_weights_are_fed_as_timm_does(make_plan: Callable[..., Plan]) -> None:
    stages = make_plan("paper=inception_v4", "scale=full", "variant=ported").stages
    for name in ("inception_v3", "inception_v4", "inception_resnet_v2"):
        stage, theirs = stages[name], timm.get_pretrained_cfg(f"{stages[name].module['network']['model_name']}")
        assert not stage.fit
        assert theirs is not None
        assert stage.data["interpolation"] == theirs.interpolation
        assert (stage.data["image_size"], stage.data["resize"]) == (299, int(299 / theirs.crop_pct))
        assert tuple(stage.data["mean"]) == theirs.mean
        assert tuple(stage.data["std"]) == theirs.std


def test_released_networks_all_have_the_auxiliary_classifier(make_plan: Callable[..., Plan]) -> None:
    plan = make_plan("paper=inception_v4", "scale=full", "variant=released")
    with torch.device("meta"):
        for stage in plan.stages.values():
            if stage.fit:
                network = training.build(stage.module["network"])
                *_, side, _, _ = network.maps(torch.zeros(2, 3, 299, 299))
                assert network.auxiliary(side).shape == (2, 1000)


def without(module: dict[str, Any], *names: str) -> dict[str, Any]:
    return {key: value for key, value in module.items() if key not in names}


def test_mini_networks_cost_the_same(make_plan: Callable[..., Plan]) -> None:
    stages = make_plan("paper=inception_v4", "scale=mini").stages
    with torch.device("meta"):
        made = {n: training.build(s.module["network"]) for n, s in stages.items() if "optimizer" in s.module}
        sizes = {n: (parameters(m), multiply_adds(m, (1, 28, 28))) for n, m in made.items()}
        for residual, concatenated, plain in (
            ("inception_resnet_v2", "inception_v4", "plain"),
            ("inception_resnet_v1", "inception_v3", "plain_shallow"),
        ):
            assert sizes[concatenated][0] == pytest.approx(sizes[residual][0], rel=0.01)
            assert sizes[concatenated][1] == pytest.approx(sizes[residual][1], rel=0.05)
            assert sizes[plain][0] == pytest.approx(sizes[residual][0], rel=0.01)
            assert sizes[plain][1] == sizes[residual][1]
        recipes = [without(s.module, "network", "mistakes") for s in stages.values() if s.fit]
        assert all(recipe == recipes[0] for recipe in recipes[:6])
        assert [without(r, "tolerant", "optimizer") for r in recipes[6:]] == [without(recipes[0], "optimizer")] * 2
        assert made["wide"].out_channels > 1000
        deep = {}
        for name in ("plain", "inception_resnet_v2"):  # as counted for colour images and 4/7/3 blocks
            options = stages[name].module["network"]
            grids = [{**grid, "repeats": count} for grid, count in zip(options["grids"], (4, 7, 3), strict=True)]
            deep[name] = parameters(training.build({**options, "grids": grids, "in_channels": 3}))
    assert deep == {"plain": 106_658, "inception_resnet_v2": 105_986}


def test_auxiliary_classifier_is_slims() -> None:
    with torch.device("meta"):
        network = networks.inception_v4(auxiliary_side=17)
        head = network.auxiliary
        assert isinstance(head, Auxiliary)
        x = torch.zeros(2, 1024, 17, 17)
        shapes = []
        for layer in head:
            x = layer(x)
            shapes.append(tuple(x.shape[1:]))
    assert shapes == [(1024, 5, 5), (128, 5, 5), (768, 1, 1), (768,), (1000,)]
    module = InceptionClassifier(small(auxiliary_side=5, dropout=0.0), 10, auxiliary_weight=0.4)
    x, y = batch()
    main, side = module.network.both(x)
    assert side is not None
    expected = F.cross_entropy(main, y) + 0.4 * F.cross_entropy(side, y)
    assert float(module.training_step((x, y), 0).detach()) == pytest.approx(float(expected.detach()), abs=1e-5)


def test_loss_is_cross_entropy_and_reaches_every_weight() -> None:
    for join in networks.JOINS:
        module = InceptionClassifier(small(join, dropout=0.0), 10)
        x, y = batch()
        loss = module.training_step((x, y), 0)
        assert float(loss.detach()) == pytest.approx(float(F.cross_entropy(module(x), y).detach()), abs=1e-6)
        loss.backward()
        assert all(p.grad is not None for p in module.parameters())
    groups = module.trained()
    assert sum(len(group["params"]) for group in groups) == len(list(module.parameters()))
    assert all(p.ndim > 1 for p in groups[0]["params"])
    assert groups[1]["weight_decay"] == 0


# Averaged weights.


def test_running_average_follows_tensorflows_rule() -> None:
    layer = nn.BatchNorm1d(1)
    average = WeightAverage(layer, 0.5)
    values, expected = [1.0, 3.0, -2.0, 5.0, 4.0, 4.5, 7.0, 8.0, 1.0, 2.0], 1.0
    for n, value in enumerate(values):
        layer.weight.data.fill_(value)
        layer.num_batches_tracked.fill_(n)  # type: ignore[union-attr]
        average.update(layer)
        d = min(0.5, (1 + n) / (10 + n))
        expected = d * expected + (1 - d) * value
    assert float(average.values()["weight"]) == pytest.approx(expected, abs=1e-5)
    assert int(average.values()["num_batches_tracked"]) == 9
    assert not list(average.parameters())
    with pytest.raises(ValueError, match=r"decay=1\.0"):
        WeightAverage(layer, 1.0)


def test_evaluation_uses_the_average_and_training_does_not() -> None:
    module = InceptionClassifier(small(dropout=0.0), 10, average_decay=0.9)
    other = small(seed=5, dropout=0.0)
    assert module.average is not None
    assert parameters(module) == parameters(module.network)
    x, _ = batch()
    before = module.eval()(x)
    module.network.load_state_dict(other.state_dict())
    assert torch.allclose(module(x), before)
    assert torch.allclose(module.train()(x), other.train()(x), atol=1e-6)
    for _ in range(200):
        module.average.update(module.network)
    assert torch.allclose(module.eval()(x), module.network(x), atol=1e-4)


# Many crops.


@pytest.mark.parametrize(("shape", "turned"), [((60, 45), False), ((45, 60), True), ((45, 45), False)])
def test_number_of_views(shape: tuple[int, int], turned: bool) -> None:
    """Check 10: 144 and 12, all of the asked size."""
    x = torch.rand(2, 3, *shape, generator=torch.Generator().manual_seed(0))
    many = list(views(x, 28, [32, 36, 40, 44], 3))
    few = list(views(x, 28, [32], 1))
    assert (len(many), len(few)) == (144, 12)
    assert {tuple(view.shape) for view in many + few} == {(2, 3, 28, 28)}
    assert all(torch.equal(b, a.flip(-1)) for a, b in zip(many[::2], many[1::2], strict=True))


def test_views_are_cut_where_they_should() -> None:
    """Each pixel holds its row or its column; nothing is resized where the scale is the shorter side."""
    rows = torch.arange(40.0).view(40, 1).expand(40, 60)
    columns = torch.arange(60.0).expand(40, 60)
    found = list(views(torch.stack([rows, columns])[None], 30, [40], 3))[::2]
    corners = [(int(v[0, 0, 0, 0]), int(v[0, 1, 0, 0])) for v in found]
    for square, left in enumerate((0, 10, 20)):
        expected = [(0, left), (0, left + 10), (10, left), (10, left + 10), (5, left + 5)]
        assert corners[6 * square : 6 * square + 5] == expected
    whole = found[5][0]  # the left square, resized from 40 to 30
    assert float(whole[0].mean()) == pytest.approx(19.5, abs=0.01)
    assert float(whole[1].mean()) == pytest.approx(19.5, abs=0.01)
    (one,) = views(torch.stack([rows, columns])[None], 30, [40], 0)
    assert torch.equal(one, found[10])  # the centre of the middle square, unmirrored
    with pytest.raises(ValueError, match="scales from 30"):
        next(views(torch.zeros(1, 1, 40, 40), 30, [28], 3))
    with pytest.raises(ValueError, match="squares=2"):
        next(views(torch.zeros(1, 1, 40, 40), 30, [40], 2))


def test_identical_views_count_as_one_and_probabilities_are_averaged() -> None:
    """Check 10: a constant image has 144 equal views; the average is of probabilities, not of logits."""
    members = [InceptionClassifier(small(seed=s), 10).eval() for s in (0, 1)]
    for member in members:
        member.network.classifier.weight.data.mul_(20)
    flat = torch.full((3, 1, 16, 16), 0.7)
    one = MultiCrop(members[:1], ["only"], 10, 12, [12, 13, 14, 16], 3).eval()
    assert torch.allclose(one(flat).exp(), members[0](flat[..., :12, :12]).softmax(-1), atol=1e-5)
    x = torch.rand(4, 1, 16, 20, generator=torch.Generator().manual_seed(0))
    both = MultiCrop(members, ["a", "b"], 10, 12, [14], 1).eval()
    logits = torch.stack([m(view) for view in views(x, 12, [14], 1) for m in members])  # (24, 4, 10)
    assert torch.allclose(both(x).exp(), logits.softmax(-1).mean(0), atol=1e-6)
    assert not torch.allclose(both(x).exp(), logits.mean(0).softmax(-1), atol=1e-3)
    assert torch.allclose(both.probabilities(x)[1], logits[1::2].softmax(-1).mean(0), atol=1e-6)
    second = MultiCrop(members, ["a", "b"], 10, 12, [14], 1, ensemble=["b"]).eval()
    assert torch.allclose(second(x).exp(), both.probabilities(x)[1], atol=1e-6)
    with pytest.raises(ValueError, match="2 members"):
        MultiCrop(members, ["a"], 10, 12, [14], 1)
    with pytest.raises(ValueError, match="expected some of a, b"):
        MultiCrop(members, ["a", "b"], 10, 12, [14], 1, ensemble=["c"])


def test_crops_log_each_network_and_all_together() -> None:
    members = [InceptionClassifier(small(seed=s), 10).eval() for s in (0, 1)]
    module = MultiCrop(members, ["a", "b"], 10, 12, [12], 1).eval()
    logged: dict[str, float] = {}
    module.log_dict = lambda values: logged.update({k: float(v) for k, v in values.items()})  # type: ignore[assignment, misc]
    x, y = batch(40)
    module.test_step((x, y), 0)
    module.on_test_epoch_end()
    found = module.probabilities(x)
    for name, one in zip(("a_", "b_", ""), (*found, found.mean(0)), strict=True):
        assert logged[f"test/{name}top1"] == pytest.approx(100 * float((one.argmax(-1) == y).float().mean()), abs=1e-4)
    assert logged["test/n"] == 40
    assert module.by_count.shape == (12, 2)
    first = torch.stack([member(next(views(x, 12, [12], 1))) for member in members]).argmax(-1)
    assert module.by_count[0].tolist() == pytest.approx([100 * float((one == y).float().mean()) for one in first])
    assert module.by_count[-1].tolist() == pytest.approx([logged["test/a_top1"], logged["test/b_top1"]], abs=1e-4)


# The comparison of curves, and networks that die.


def test_race_by_hand() -> None:
    first, second = torch.tensor([50.0, 40.0, 35.0, 36.0]), torch.tensor([80.0, 60.0, 41.0, 38.0])
    found = {name: float(value) for name, value in race(first, second).items()}
    assert found == {"area_gap": pytest.approx(14.5), "lead": pytest.approx(2.0), "match": pytest.approx(0.75)}
    assert float(race(second, first)["match"]) == pytest.approx(1.25)  # never
    assert float(race(first, first)["area_gap"]) == 0
    with pytest.raises(ValueError, match="3 and 4 epochs"):
        race(first[:3], second)
    with pytest.raises(ValueError, match="0 and 0 epochs"):
        race(first[:0], second[:0])


def quiet(module: StageModule) -> dict[str, float]:
    logged: dict[str, float] = {}
    module.log_dict = lambda values: logged.update({k: float(v) for k, v in values.items()})  # type: ignore[assignment, misc]
    return logged


def test_the_curve_is_kept_in_the_checkpoint() -> None:
    module = InceptionClassifier(small(), 10).eval()
    logged = quiet(module)
    for seed in range(3):
        module.validation_step(batch(seed=seed), 0)
        module.on_validation_epoch_end()
    assert len(module.curve) == 3
    again = InceptionClassifier(small(seed=3), 10).eval()
    again.load_state_dict(module.state_dict())
    assert torch.equal(again.curve, module.curve)
    module.test_step(batch(), 0)
    module.on_test_epoch_end()
    assert logged["test/curve_error"] == pytest.approx(float(module.curve.mean()))
    contest = Race(again, module, 10).eval()
    found = quiet(contest)
    contest.test_step(batch(), 0)
    contest.on_test_epoch_end()
    assert (found["test/area_gap"], found["test/gap"], found["test/n"]) == (0, 0, 8)
    board = Curves([again, module], ["a", "b"])
    last = quiet(board)
    board.on_test_epoch_end()
    assert last == {f"test/{name}_last_error": pytest.approx(float(module.curve[-1])) for name in ("a", "b")}
    (figure,) = board.pictures(None).values()
    assert [line.get_label() for line in figure.axes[0].lines] == ["a", "b"]
    with pytest.raises(ValueError, match="2 members"):
        Curves([again, module], ["a"])


def test_dead_channels_and_outputs_that_are_not_finite() -> None:
    module = InceptionClassifier(small(), 10, average_decay=0.9, tolerant=True).eval()
    logged = quiet(module)
    expand = module.network.features[-1].expand
    with torch.no_grad():
        for network in (expand,):
            network.weight.zero_()  # type: ignore[union-attr]
            network.bias.copy_(torch.tensor([-1e4] * 3 + [1e4] * 9))  # type: ignore[union-attr]
    module.test_step(batch(), 0)
    module.on_test_epoch_end()
    assert logged["test/raw_dead"] == pytest.approx(25.0)
    with torch.no_grad():
        module.network.classifier.bias.fill_(float("nan"))
        expand.bias.fill_(float("nan"))  # type: ignore[union-attr]
    for _ in range(3):
        module.average.update(module.network)  # type: ignore[union-attr]
    assert torch.equal(module(batch()[0]), torch.zeros(8, 10))
    module.test_step(batch(), 0)
    module.on_test_epoch_end()
    assert logged["test/raw_dead"] == pytest.approx(100.0)
    assert bool(torch.isfinite(module.train().training_step(batch(), 0)))
    assert float(module.broken) == 1


def test_collapse_is_a_loss_that_was_not_finite_or_accuracy_near_chance() -> None:
    """Constant predictions, right on so many of 100 images; 15% would be 1.5 times chance."""
    module = InceptionClassifier(small(), 10, tolerant=True).eval()
    logged = quiet(module)
    with torch.no_grad():
        module.network.classifier.weight.zero_()
        module.network.classifier.bias.copy_(F.one_hot(torch.tensor(0), 10))
    x = torch.randn(100, 1, 12, 12)
    for right, broken, expected in ((100, 0.0, 0), (16, 0.0, 0), (14, 0.0, 1), (10, 0.0, 1), (100, 0.5, 1)):
        module.broken.fill_(broken)
        module.test_step((x, (torch.arange(100) >= right).long()), 0)
        module.on_test_epoch_end()
        assert logged["test/raw_top1"] == pytest.approx(right)
        assert logged["test/raw_collapsed"] == expected


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: small("add"), "join='add': expected one of concat, residual, plain"),
        (lambda: InceptionClassifier(small(), 10, average_decay=-1.0), "decay=-1"),
    ],
)
def test_wrong_arguments_are_named(make: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
