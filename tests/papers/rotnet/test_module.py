"""The independent checks of RotNet: hand-computed values, library agreement, limit cases, gradient facts."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from datamodules.common.subsets import Subset
from datamodules.common.torchvision_sets import FashionMNIST
from experiments import claims, expressions, training
from experiments.plan import Plan
from modules.common.schedules import Position
from modules.rotnet import heads, networks
from modules.rotnet.module import Calibrated, RotNet, rotate, rotations
from modules.rotnet.probe import Probe

LN2 = math.log(2)
SMALL = {"in_channels": 1, "input_size": 8, "widths": [6, 5, 4, 7]}


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def small(seed: int = 0, blocks: int = 3, **options: Any) -> RotNet:
    torch.manual_seed(seed)
    return RotNet(networks.nin(blocks=blocks, **SMALL), heads.pooled, **options)


def images(count: int = 12, seed: int = 1) -> Tensor:
    return torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


def labelled(count: int = 12) -> tuple[Tensor, Tensor]:
    return images(count), torch.arange(count) % 10


def sgd(lr: float = 0.1) -> Callable[..., torch.optim.Optimizer]:
    return partial(torch.optim.SGD, lr=lr, momentum=0.9, nesterov=True, weight_decay=5e-4)


def test_rotation_by_hand_and_by_numpy() -> None:
    x = torch.arange(9.0).view(1, 1, 3, 3)
    assert rotate(x, 90)[0, 0].tolist() == [[2, 5, 8], [1, 4, 7], [0, 3, 6]]
    several = images(3)
    for k in range(4):
        assert np.array_equal(rotate(several, 90 * k).numpy(), np.rot90(several.numpy(), k, (2, 3)))
    assert torch.equal(rotate(rotate(several, 90), 270), several)
    assert torch.equal(rotate(rotate(rotate(rotate(several, 90), 90), 90), 90), several)


def test_interpolated_rotations_turn_the_same_way() -> None:
    """Two turns by 45 degrees are one by 90, up to interpolation; a smooth picture has little of it."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, 65), torch.linspace(-1, 1, 65), indexing="ij")
    blob = torch.exp(-8 * ((x - 0.3) ** 2 + (y + 0.1) ** 2))[None, None]
    inside = x.square() + y.square() < 0.9  # what no corner is turned into
    assert float((rotate(rotate(blob, 45), 45) - rotate(blob, 90)).abs()[0, 0, inside].max()) < 0.02
    assert torch.allclose(rotate(blob, 135), rotate(rotate(blob, 90), 45))
    assert float((rotate(blob, 45) - blob).abs().max()) > 0.3


def test_the_copies_of_an_image_are_neighbours_and_share_its_crop_and_flip() -> None:
    data = FashionMNIST(8, train_size=16, val_size=0, augment=[])
    data.setup()
    x = next(iter(data.train_dataloader()))[0]  # cropped and mirrored upright, before any rotation
    copies, y = rotations(x, (0, 90, 180, 270))
    assert copies.shape == (32, 1, 28, 28)
    assert y.tolist() == [0, 1, 2, 3] * 8
    for i, k in ((0, 1), (3, 2), (7, 3)):
        assert torch.equal(torch.rot90(copies[4 * i + k], -k, (1, 2)), x[i])


class Constant(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros(len(x), 4)


def test_constant_logits_give_ln_4() -> None:
    module = small()
    module.head = Constant()
    assert float(module.training_step(labelled(), 0)) == pytest.approx(2 * LN2, abs=1e-6)


def test_loss_is_the_mean_over_images_and_their_copies() -> None:
    """Equations 2 and 3, one copy at a time, turned by numpy."""
    module = small().eval()
    module.head[-1].weight.data *= 30  # type: ignore[union-attr, operator]
    x = images(5)
    terms = []
    for image in x:
        for k in range(4):
            turned = torch.from_numpy(np.rot90(image.numpy(), k, (1, 2)).copy())
            terms.append(-float(module(turned[None]).detach().log_softmax(-1)[0, k]))
    assert max(terms) - min(terms) > 0.1
    found = module.training_step((x, torch.full((5,), 7)), 0)  # labels are not looked at
    assert found is not None
    assert float(found.detach()) == pytest.approx(sum(terms) / 20, abs=1e-5)


@pytest.mark.parametrize(("symmetry", "bound"), [(4, 2 * LN2), (2, LN2)])
def test_symmetric_images_cannot_be_told_apart(symmetry: int, bound: float) -> None:
    """Copies that are equal get equal logits: the loss is at least ln 4 (or ln 2 with 180-degree symmetry)."""
    turns = range(0, 4, 4 // symmetry)
    x = torch.stack([torch.rot90(images(32), k, (2, 3)) for k in turns]).mean(0)
    for seed in range(3):
        module = small(seed).eval()  # one image at a time: batch statistics would tie the images together
        module.head[-1].weight.data *= 30  # type: ignore[union-attr, operator]
        assert float(module.training_step((x, torch.zeros(32)), 0).detach()) >= bound - 1e-5


def test_a_network_that_sees_a_histogram_cannot_beat_chance() -> None:
    class Histogram(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(2, 4)

        def forward(self, x: Tensor) -> Tensor:
            flat = x.flatten(1).sort(1).values  # the same numbers in the same order for every copy
            return self.linear(torch.stack([flat.mean(1), flat.square().mean(1)], 1))

    copies, y = rotations(images(64), (0, 90, 180, 270))
    torch.manual_seed(0)
    network = Histogram()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    for _ in range(30):
        loss = nn.functional.cross_entropy(network(copies), y)
        assert float(loss.detach()) >= 2 * LN2 - 1e-6
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def test_sizes_of_the_published_networks() -> None:
    with torch.device("meta"):
        trunk = networks.nin(blocks=5)
        assert [parameters(block) for block in trunk] == [61_376, 535_680, 406_656, 406_656, 406_656]
        totals = [parameters(RotNet(networks.nin(blocks=n), heads.pooled)) for n in (3, 4, 5)]
        assert totals == [1_004_484, 1_411_140, 1_817_796]
        assert trunk.shapes == [(96, 16, 16), *[(192, 8, 8)] * 4]
        assert networks.nin(blocks=4, pool_block3=True).shapes[2:] == [(192, 4, 4)] * 2
        assert parameters(heads.mlp((192, 8, 8), 10)) == 2_500_410
        assert parameters(heads.mlp((96, 16, 16), 10)) == 4_958_010
        assert parameters(heads.conv_block((192, 8, 8), 10)) == 408_586
        large = RotNet(networks.alexnet(), heads.fully_connected)
        assert parameters(large.trunk) == 2_472_000
        assert parameters(large) == 57_030_724
        inputs = [heads.linear(shape, 1000)[-1].in_features for shape in large.trunk.shapes]  # type: ignore[index]
        assert inputs == [9_216, 9_408, 9_600, 9_216, 9_216]
        assert parameters(heads.fully_connected((256, 13, 13), 4, conv=True)) == 57_030_724 - 2_472_000 + 590_592


def test_the_supervised_network_is_a_nin_of_three_blocks() -> None:
    source = RotNet(networks.nin(), heads.pooled)
    module = Probe(source, 10, {"block2": heads.conv_block}, tuned=True, init="library")
    assert parameters(module) == sum(p.numel() for p in module.trained()) == 1_005_642


def test_alexnet_agrees_with_torchvision() -> None:
    """With batch norm as the identity, blocks 1 to 5 are torchvision's features without the last pooling."""
    torch.manual_seed(0)
    theirs = torchvision.models.alexnet().features[:-1].eval()
    trunk = networks.alexnet().eval()
    pairs = zip(
        (m for m in trunk.modules() if isinstance(m, nn.Conv2d)),
        (m for m in theirs.modules() if isinstance(m, nn.Conv2d)),
        strict=True,
    )
    for ours, other in pairs:
        ours.load_state_dict(other.state_dict())
    for part in trunk.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.eps = 0.0
    x = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        assert torch.allclose(trunk(x)[-1], theirs(x), atol=1e-5)
        assert trunk(x)[1].shape == (1, 192, 27, 27)  # before the pooling


def test_the_network_in_network_layer_by_layer() -> None:
    """Statistics are 0 and 1: a unit is a convolution, a division by sqrt(1 + eps) and a ReLU."""
    torch.manual_seed(0)
    trunk = networks.nin(blocks=3, **SMALL).eval()  # type: ignore[arg-type]
    convs = [part for part in trunk.modules() if isinstance(part, nn.Conv2d)]
    assert [conv.kernel_size[0] for conv in convs] == [5, 1, 1, 5, 1, 1, 3, 1, 1]
    x, expected = images(), []
    with torch.no_grad():
        found = trunk(x)
        for number, conv in enumerate(convs):
            x = (F.conv2d(x, conv.weight, padding=conv.kernel_size[0] // 2) / math.sqrt(1 + 1e-5)).relu()
            if number == 2:
                x = F.max_pool2d(x, 3, 2, 1)
            if number == 5:
                x = F.avg_pool2d(x, 3, 2, 1)
            if number % 3 == 2:
                expected.append(x)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(found, expected, strict=True))


def test_the_linear_probe_takes_maxima_and_scales_nothing() -> None:
    head = heads.linear((3, 6, 6), 10, inputs=27).eval()
    assert parameters(head) == 27 * 10 + 10  # the linear layer's: the norm has none
    x = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    dense = head[-1]  # type: ignore[index]
    with torch.no_grad():
        maxima = F.max_pool2d(x, 2).flatten(1)  # 6x6 -> 3x3
        assert torch.allclose(head(x), dense(maxima / math.sqrt(1 + 1e-5)), atol=1e-5)


def test_average_pooling_counts_the_zeros_of_its_padding() -> None:
    pool = networks.nin(**SMALL)[1][-1]  # type: ignore[index]
    assert isinstance(pool, nn.AvgPool2d)
    found = nn.AvgPool2d(pool.kernel_size, 1, pool.padding)(torch.ones(1, 1, 4, 4))[0, 0]
    assert found[0, :2].tolist() == pytest.approx([4 / 9, 6 / 9])
    assert float(found[1, 1]) == pytest.approx(1)
    assert pool(torch.ones(1, 1, 4, 4))[0, 0, 0, 0] == pytest.approx(4 / 9)


def probe(source: RotNet, blocks: Sequence[int] = (1, 2, 3), **options: Any) -> Probe:
    return Probe(source, 10, {f"block{n}": heads.mlp for n in blocks}, **options)


def test_a_frozen_probe_leaves_the_trunk_as_it_was() -> None:
    source = small()
    before = {name: tensor.clone() for name, tensor in source.trunk.state_dict().items()}
    module = probe(source, optimizer=sgd()).train()
    optimizer = module.configure_optimizers()
    assert isinstance(optimizer, torch.optim.Optimizer)
    module.training_step(labelled(), 0).backward()
    optimizer.step()
    after = source.trunk.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)  # weights and batch statistics
    assert all(p.grad is None for p in source.trunk.parameters())
    assert module.frozen is not None
    assert not any(part.training for part in module.frozen.networks[0].modules())
    assert not any("trunk" in name for name in module.state_dict())
    assert all(p.grad is not None for p in module.parameters())


def test_heads_trained_together_are_heads_trained_alone() -> None:
    together, alone = probe(small()), probe(small(), [2])
    for module in (together, alone):
        module.training_step(labelled(), 0).backward()
    pairs = list(zip(together.heads["block2"].parameters(), alone.heads["block2"].parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in pairs)  # the same initial weights
    assert all(a.grad is not None and b.grad is not None and torch.allclose(a.grad, b.grad) for a, b in pairs)


def test_a_tuned_probe_trains_the_blocks_below_it_alone() -> None:
    source = small()
    frozen, tuned = probe(source, [2]), probe(source, [2], tuned=True)
    tuned.training_step(labelled(), 0).backward()
    assert parameters(tuned) - parameters(frozen) == sum(parameters(block) for block in list(source.trunk)[:2])
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in tuned.trunk.parameters())
    assert all(p.grad is None for p in source.trunk[2].parameters())


def test_head_seed_pairs_the_heads_and_draws_nothing_else() -> None:
    def weight(module: Probe) -> Tensor:
        return module.heads["block2"][1].weight  # type: ignore[index, return-value]

    source = small()
    torch.manual_seed(5)
    first = probe(source, head_seed=3)
    drawn = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(3), drawn)
    assert torch.equal(weight(first), weight(probe(small(7), head_seed=3)))
    assert not torch.equal(weight(first), weight(probe(source, head_seed=4)))


def test_initial_weights_of_probes() -> None:
    head = heads.conv_block((64, 4, 4), 10)
    library = [p.clone() for p in head.parameters()]
    networks.initialise(head, "library", dense=True)
    assert all(torch.equal(a, b) for a, b in zip(library, head.parameters(), strict=True))
    torch.manual_seed(0)
    networks.initialise(head, "he", dense=True)
    assert float(head[0].weight.detach().std()) == pytest.approx(math.sqrt(2 / (9 * 64)), rel=0.02)  # type: ignore[index]
    assert float(head[-1].weight.detach().std()) == pytest.approx(math.sqrt(2 / 10), rel=0.1)  # type: ignore[index]
    assert float(head[-1].bias.detach().abs().max()) == 0  # type: ignore[index]


def test_calibration_averages_all_batches_and_moves_no_weight() -> None:
    start = small()
    weights = [p.clone() for p in start.parameters()]
    module = Calibrated(start).train()
    batches = [images(10, seed) for seed in range(3)]
    for batch in batches:
        module.training_step((batch, torch.zeros(10)), 0)
    conv, norm = module.trunk[0][0], module.trunk[0][1]  # type: ignore[index]
    with torch.no_grad():
        outputs = [conv(batch) for batch in batches]
    assert torch.allclose(norm.running_mean, torch.stack([o.mean((0, 2, 3)) for o in outputs]).mean(0), atol=1e-6)
    assert torch.allclose(norm.running_var, torch.stack([o.var((0, 2, 3)) for o in outputs]).mean(0), atol=1e-5)
    assert all(torch.equal(a, b) for a, b in zip(weights, module.parameters(), strict=True))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RotNet(), "either network and head, or start"),
        (lambda: small(init="wrong"), "init='wrong': expected one of library, he"),
        (lambda: probe(small(), [4]), "heads.block4: there is no such block; expected some of block1, block2, block3"),
        (lambda: probe(small(), tuned=True), "heads has 3 entries; expected one"),
        (lambda: networks.nin(blocks=1), "blocks=1"),
    ],
)
def test_wrong_arguments_are_named(make: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_learning_rates_of_the_full_recipe(make_plan: Callable[..., Plan]) -> None:
    stages = make_plan("paper=rotnet", "scale=full").stages

    def rates(name: str) -> list[float]:
        stage = stages[name]
        schedule = training.build(stage.module["schedule"])
        lr, epochs = stage.module["optimizer"]["lr"], stage.trainer["max_epochs"]
        return [lr * schedule(Position(epoch, 390, 391, epochs)) for epoch in range(epochs)]

    drops = [0.1, 0.02, 0.004, 0.0008]

    def expected(*counts: int) -> list[float]:
        return [rate for rate, count in zip(drops, counts, strict=True) for _ in range(count)]

    for name in ("rotnet", "rotnet_180", "supervised", "supervised_20"):
        assert rates(name) == pytest.approx(expected(60, 60, 40, 40))
    assert rates("probe") == rates("probe_random") == pytest.approx(expected(20, 20, 5, 55))
    assert rates("conv") == rates("conv_1000") == pytest.approx(expected(35, 35, 15, 15))
    assert {stage.reference_batch for stage in stages.values() if "optimizer" in stage.module} == {128}
    optimizers = [stage.module["optimizer"] for stage in stages.values() if "optimizer" in stage.module]
    assert all((o["momentum"], o["nesterov"], o["weight_decay"]) == (0.9, True, 5e-4) for o in optimizers)


def test_learning_rates_on_imagenet(make_plan: Callable[..., Plan]) -> None:
    stages = make_plan("paper=rotnet", "scale=full", "variant=imagenet").stages
    drops = {"rotnet": 0.1, "supervised": 0.1, "probe": 0.2, "probe_random": 0.2, "conv": 0.2, "conv_random": 0.2}
    backbone = (15, 30, 45, 50)
    ends = {"rotnet": backbone, "supervised": backbone, "probe": (5, 15, 25, 35), "conv": (10, 20, 30, 40)}
    for name, drop in drops.items():
        stage = stages[name]
        schedule, last = training.build(stage.module["schedule"]), stage.trainer["max_epochs"]
        found = [0.01 * schedule(Position(epoch, 0, 6673, last)) for epoch in range(last)]
        bounds = ends[name.removesuffix("_random")]
        starts = (0, *bounds[:-1])
        expected = [0.01 * drop**i for i, (a, b) in enumerate(zip(starts, bounds, strict=True)) for _ in range(a, b)]
        assert found == pytest.approx(expected)
        assert stage.module["optimizer"]["lr"] == 0.01
        assert (stage.reference_batch, stage.data["batch_size"]) == (192, 192)


def test_variants_claim_what_they_train(make_plan: Callable[..., Plan]) -> None:
    def sides(variant: str, word: str) -> list[tuple[str, str | float]]:
        config = make_plan("paper=rotnet", "scale=full", f"variant={variant}").config
        return [(claim.better, claim.than) for claim in claims.read(config).claims if word in claim.name]

    four, two = "probe/test/block2_top1", "probe_180/test/block2_top1"
    assert sides("rotations_8", "are predicted") == [(four, two)]
    assert sides("rotations_90_270", "are predicted") == [(two, four)]
    for blocks in (3, 5):
        assert sides(f"blocks_{blocks}", "last block") == [(four, f"probe/test/block{blocks}_top1")]


@pytest.mark.parametrize(
    ("variant", "angles"), [("default", 4), ("rotations_90_270", 2), ("rotations_8", 8), ("imagenet", 4)]
)
def test_claims_require_rotations_told_apart_better_than_by_chance(
    variant: str, angles: int, make_plan: Callable[..., Plan]
) -> None:
    plan = make_plan("paper=rotnet", "scale=full", *([f"variant={variant}"] if variant != "default" else []))
    assert len(plan.stages["rotnet"].module["angles"]) == angles
    for claim in claims.read(plan.config).claims:
        (left, sign, right) = expressions.comparison(claim.requires[0], claim.name)
        assert (str(left), sign) == ("rotnet/test/rotation_top1", ">")
        assert isinstance(right, float)
        assert right >= 100 / angles


def test_twenty_labels_a_class_are_drawn_equally_often(make_plan: Callable[..., Plan]) -> None:
    data = make_plan("paper=rotnet", "scale=full").stages["conv_20"].data
    assert (data["per_class"], data["draws"]) == (20, 50_000)
    assert (data["source"]["train_size"], data["source"]["val_size"]) == (None, 0)
    source = FashionMNIST(128, train_size=3000, val_size=0)
    subset = Subset(source, data["batch_size"], per_class=20, draws=data["draws"])
    subset.setup()
    images_, labels = subset.splits["train"]
    assert labels.bincount().tolist() == [20] * 10
    for label in range(10):
        everything = source.splits["train"][0][source.splits["train"][1] == label]
        assert torch.equal(images_[labels == label], everything[:20])
    shares = torch.cat([share.indices for share in subset.train_dataloader().batches])
    assert len(shares) == 50_000
    assert shares.bincount().tolist() == [250] * 200


def test_arms_of_a_seed_share_data_and_initial_weights(make_plan: Callable[..., Plan]) -> None:
    stages = make_plan("paper=rotnet", "scale=mini", seed=3).stages
    arms = (
        ("probe", "probe_random", "probe_180", "probe_tuned"),
        ("conv", "conv_random", "conv_tuned", "supervised"),
        ("conv_20", "supervised_20"),
        ("conv_100", "supervised_100"),
        ("rotnet", "rotnet_180"),
    )
    for first, *others in [[stages[name] for name in names] for names in arms]:
        for second in others:
            assert first.data == second.data
            assert first.trainer == second.trainer
            assert first.module["optimizer"] == second.module["optimizer"]
            assert first.module["schedule"] == second.module["schedule"]
            assert first.module.get("head_seed") == second.module.get("head_seed")
    assert stages["conv_20"].module["head_seed"] == 3
    few, more = stages["conv_20"], stages["conv_100"]  # as many updates, whatever the number of labels
    assert few.trainer == more.trainer
    assert few.data | {"per_class": 100} == more.data
    assert stages["rotnet"].needs == stages["random"].needs == stages["rotnet_180"].needs == {"start": "untrained"}


def test_labelled_images_are_among_those_that_rotations_are_learnt_on(make_plan: Callable[..., Plan]) -> None:
    stages = make_plan("paper=rotnet", "scale=mini", seed=3).stages
    seen: dict[str, dict[str, set[bytes]]] = {}
    for name in ("rotnet", "conv_20", "conv_100", "conv"):
        data = training.build(stages[name].data)
        data.setup()
        seen[name] = {split: {bytes(image.numpy()) for image in data.splits[split][0]} for split in ("train", "test")}
    assert seen["conv_20"]["train"] < seen["conv_100"]["train"] < seen["conv"]["train"] < seen["rotnet"]["train"]
    assert len(seen["conv_100"]["train"]) == 1000
    for splits in seen.values():
        assert splits["test"] == seen["rotnet"]["test"]
        assert not splits["test"] & seen["rotnet"]["train"]
