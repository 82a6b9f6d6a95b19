"""ProtoPNet: its published size, its losses by hand, phases that train what they should, a push that copies patches."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from datamodules.common.loader import batch_type
from modules.common.backbones import imagenet_backbone
from modules.common.inference import inference
from modules.common.protopnet import PARTS, LossWeights, Phase, ProtoPNet, Push, cluster_and_separation
from modules.common.prototypes import wrong_class_l1

Build = Callable[..., ProtoPNet]


@pytest.fixture
def network() -> Build:
    """For 12x12 pictures of three classes; its initial weights depend on the seed."""

    def build(seed: int = 0, classes: int = 3, per_class: int = 2) -> ProtoPNet:
        torch.manual_seed(seed)
        layers = [nn.Conv2d(3, 6, 3, 2, 1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3, 1, 1), nn.BatchNorm2d(8)]
        return ProtoPNet(nn.Sequential(*layers, nn.ReLU()), 8, classes, per_class, 5)

    return build


@pytest.fixture
def batch() -> Any:
    """24 pictures of noise with their classes and rows."""
    x = torch.randn(24, 3, 12, 12, generator=torch.Generator().manual_seed(1))
    return batch_type(("x", "y", "row"))(x, torch.arange(24) % 3, torch.arange(24))


PHASES = {
    "warm": {"add_on": 3e-3, "prototypes": 3e-3},
    "joint": {"backbone": 1e-4, "add_on": 3e-3, "prototypes": 3e-3},
    "last": {"last": 1e-4},
}


PUBLISHED = {"vgg19": (512, 20_762_560), "resnet34": (512, 22_022_848), "densenet121": (1024, 7_757_568)}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes(name: str) -> None:
    features, parameters = PUBLISHED[name]
    with torch.device("meta"):
        net = ProtoPNet(imagenet_backbone(name, pretrained=False), features, 200)
        assert sum(p.numel() for p in net.parameters()) == parameters
        assert net.features(torch.zeros(1, 3, 224, 224)).shape == (1, 128, 7, 7)
    if name == "densenet121":
        assert sum(p.numel() for p in net.backbone.parameters()) == 6_953_856
        assert sum(p.numel() for p in net.add_on.parameters()) == 147_712
        assert net.prototypes.vectors.numel() == 256_000
        assert net.last.weight.numel() == 400_000


def test_unknown_backbone() -> None:
    with pytest.raises(ValueError, match="expected one of densenet121"):
        imagenet_backbone("alexnet")


def test_cluster_and_separation_by_hand() -> None:
    distances = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    cluster, separation = cluster_and_separation(distances, torch.tensor([0, 0, 1, 1]), torch.tensor([0]))
    assert (float(cluster), float(separation)) == (1.0, -3.0)
    total = LossWeights().total({"cluster": cluster, "separation": separation})
    assert float(total) == pytest.approx(0.56)  # 0.8 * 1 - 0.08 * 3


def test_the_norm_of_the_wrong_classes(network: Build) -> None:
    owner = torch.arange(200).repeat_interleave(10)
    weight = torch.where(owner == torch.arange(200)[:, None], 1.0, -0.5)
    assert float(weight.abs().sum()) == 201_000
    assert float(wrong_class_l1(weight, owner)) == 199_000
    net = network()
    wrong_class_l1(net.last.weight, net.prototypes.owner).backward()
    assert net.last.weight.grad is not None
    assert torch.equal(net.last.weight.grad == 0, net.prototypes.owner == torch.arange(3)[:, None])


def test_logits_are_own_minus_half_the_others(network: Build) -> None:
    net = network().eval()
    x = torch.randn(4, 3, 12, 12)
    g = net.prototypes(net.features(x)).flatten(2).amax(2)  # (4, 6)
    by_class = g.view(4, 3, 2).sum(2)
    expected = 1.5 * by_class - 0.5 * g.sum(1, keepdim=True)
    assert torch.allclose(net(x), expected, atol=1e-5)


def test_inference_leaves_every_layer_as_it_was(network: Build) -> None:
    net = network()
    net.add_on.eval()
    modes = [layer.training for layer in net.modules()]
    with inference(net):
        assert not any(layer.training for layer in net.modules())
        assert not torch.is_grad_enabled()
    assert [layer.training for layer in net.modules()] == modes
    assert torch.is_grad_enabled()


def state(net: ProtoPNet, part: str) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in net.get_submodule(part).named_parameters()}


def step(phase: Phase, batch: Any) -> None:
    """One step of Adam on one batch."""
    optimizer = torch.optim.Adam(phase.trained())
    loss = phase.training_step(batch, 0)
    loss.backward()
    optimizer.step()


@pytest.mark.parametrize("name", PHASES)
def test_a_phase_changes_its_parts_alone(name: str, network: Build, batch: Any) -> None:
    net = network()
    before = {part: state(net, part) for part in PARTS}
    running = net.backbone[1].running_mean.clone()
    step(Phase(3, PHASES[name], net), batch)
    for part in PARTS:
        changed = any(not torch.equal(value, before[part][key]) for key, value in state(net, part).items())
        assert changed == (part in PHASES[name]), part
    assert not torch.equal(net.backbone[1].running_mean, running)  # batch statistics move in every phase


def test_rates_and_decay_of_each_part(network: Build) -> None:
    phase = Phase(3, PHASES["joint"], network(), weight_decay=1e-3)
    assert [(g["lr"], g["weight_decay"]) for g in phase.trained()] == [(1e-4, 1e-3), (3e-3, 1e-3), (3e-3, 0.0)]
    assert sum(len(g["params"]) for g in phase.trained()) == sum(p.requires_grad for p in phase.parameters())


def test_the_next_phase_goes_on_with_the_network(network: Build) -> None:
    first = Phase(3, PHASES["warm"], network())
    second = Phase(3, PHASES["last"], start=first)
    assert second.network is first.network
    assert [p.requires_grad for p in second.network.last.parameters()] == [True]
    assert not any(p.requires_grad for p in second.network.backbone.parameters())


def test_wrong_arguments(network: Build) -> None:
    with pytest.raises(ValueError, match="either network, or start"):
        Phase(3, {})
    with pytest.raises(ValueError, match="'head': expected one of backbone"):
        Phase(3, {"head": 1.0}, network())


def push(stage: Push, batch: Any, size: int = 10) -> None:
    stage.train()
    for rows in torch.arange(len(batch.y)).split(size):
        stage.training_step(batch._replace(x=batch.x[rows], y=batch.y[rows], row=batch.row[rows]), 0)
    if not stage.chosen:
        stage.search.push(stage.network.prototypes)


def test_after_a_push_prototypes_are_patches(network: Build, batch: Any) -> None:
    stage = Push(3, Phase(3, {}, network()))
    running = stage.network.backbone[1].running_mean.clone()
    push(stage, batch)
    net = stage.network
    assert all(layer.training for layer in net.modules())  # as it was found
    assert torch.equal(net.backbone[1].running_mean, running)

    net.eval()
    layer = net.prototypes
    with torch.no_grad():
        z = net.features(batch.x)
        d = layer.distances(z)
    for j in range(len(layer)):
        row, (i, k) = int(layer.row[j]), layer.place[j].tolist()
        assert int(batch.y[row]) == int(layer.owner[j])
        assert torch.allclose(layer.vectors[j, :, 0, 0], z[row, :, i, k], atol=1e-6)
        assert float(d[row, j, i, k]) < 1e-5
    vectors = layer.vectors.detach().clone()
    push(Push(3, stage), batch)  # nothing was trained in between
    assert torch.allclose(layer.vectors, vectors, atol=1e-6)


def test_features_are_between_0_and_1_and_scores_bounded(network: Build) -> None:
    z = network().features(100 * torch.randn(4, 3, 12, 12))
    assert 0 <= float(z.detach().min()) <= float(z.detach().max()) <= 1
    with torch.device("meta"):
        assert network().features(torch.zeros(1, 3, 64, 64)).shape == (1, 5, 32, 32)


def test_the_untrained_network_gets_the_same_patches(network: Build, batch: Any) -> None:
    trained = Push(3, Phase(3, {}, network(seed=1)))
    push(trained, batch)
    other = Push(3, Phase(3, {}, network(seed=2)), trained)
    push(other, batch)
    ours, theirs = other.network.prototypes, trained.network.prototypes
    assert torch.equal(ours.row, theirs.row)
    assert torch.equal(ours.place, theirs.place)
    other.network.eval()
    with torch.no_grad():
        z = other.network.features(batch.x)
    for j in range(len(ours)):
        i, k = ours.place[j].tolist()
        assert torch.allclose(ours.vectors[j, :, 0, 0], z[int(ours.row[j]), :, i, k], atol=1e-6)


def test_published_initial_values() -> None:
    """Kaiming's normal weights for as many outputs as there are, biases 0; W is 1 and -0.5."""
    torch.manual_seed(0)
    net = ProtoPNet(nn.Identity(), 400, 3, 2, 300)
    for layer, fan_out in ((net.add_on[0], 300), (net.add_on[2], 300)):
        assert float(layer.weight.detach().std()) == pytest.approx((2 / fan_out) ** 0.5, rel=0.02)
        assert not bool(layer.bias.any())
    owner = net.prototypes.owner
    assert owner.tolist() == [0, 0, 1, 1, 2, 2]
    assert torch.equal(net.last.weight, torch.where(owner == torch.arange(3)[:, None], 1.0, -0.5))
    assert net.last.bias is None


def test_a_step_is_the_sum_of_its_four_weighted_terms(network: Build, batch: Any) -> None:
    net = network()
    phase = Phase(3, PHASES["joint"], net, weights=LossWeights(ce=2.0, cluster=0.5, separation=0.25, l1=0.1))
    phase.eval()  # batch norm then says the same again
    loss = phase.training_step(batch, 0)

    z = net.features(batch.x)
    nearest = net.prototypes.distances(z).flatten(2).amin(2)  # (B, P)
    own = net.prototypes.owner == batch.y[:, None]
    cluster = nearest.masked_fill(~own, torch.inf).amin(1).mean()
    separation = -nearest.masked_fill(own, torch.inf).amin(1).mean()
    wrong = net.last.weight[net.prototypes.owner != torch.arange(3)[:, None]].abs().sum()
    logits = net(batch.x)
    ce = F.cross_entropy(logits, batch.y)
    assert float(loss.detach()) == pytest.approx(
        float((2 * ce + 0.5 * cluster + 0.25 * separation + 0.1 * wrong).detach()), rel=1e-5
    )

    means = {name: float(value) / phase._count for name, value in phase._sums.items()}
    assert phase._count == 24
    assert means == pytest.approx(
        {
            "loss": float(loss.detach()),
            "ce": float(ce.detach()),
            "cluster": float(cluster.detach()),
            "separation": float(separation.detach()),
            "l1": float(wrong.detach()),
            "top1": 100 * float((logits.argmax(1) == batch.y).float().mean()),
        },
        rel=1e-5,
    )


def test_the_epoch_of_a_push_ends_with_patches_in_place(network: Build, batch: Any) -> None:
    stage = Push(3, Phase(3, {}, network()))
    before = stage.network.prototypes.vectors.detach().clone()
    assert (stage.automatic_optimization, stage.configure_optimizers()) == (False, [])
    assert not any(p.requires_grad for p in stage.parameters())
    stage._trainer = SimpleNamespace(optimizers=[])  # type: ignore[assignment]
    stage.training_step(batch, 0)
    assert torch.equal(stage.network.prototypes.vectors, before)
    stage.on_train_epoch_end()
    assert not torch.equal(stage.network.prototypes.vectors, before)
    assert bool((stage.network.prototypes.row >= 0).all())


def test_prototypes_are_shown_in_their_images(network: Build, batch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Push(3, Phase(3, {}, network(per_class=10)))
    push(stage, batch)
    asked: list[list[int]] = []

    def images(data: Any, rows: list[int]) -> Tensor:
        asked.append(rows)
        return batch.x[rows]

    drawn: dict[str, Any] = {}

    def draw(pictures: Tensor, boxes: Any, titles: list[str]) -> str:
        drawn.update(pictures=pictures, boxes=boxes, titles=titles)
        return "figure"

    monkeypatch.setattr("modules.common.protopnet.training_images", images)
    monkeypatch.setattr("modules.common.protopnet.draw_prototypes", draw)
    data = SimpleNamespace(spec=SimpleNamespace(classes=["wren", "robin", "tit"]), shown=lambda x: x + 1)
    assert stage.pictures(data) == {"prototypes": "figure"}
    rows = stage.network.prototypes.row
    shown = torch.linspace(0, 29, 24).long()
    assert asked == [rows[shown].tolist()]
    assert torch.equal(drawn["pictures"], batch.x[rows[shown]] + 1)
    assert (drawn["titles"][0], drawn["titles"][-1]) == ("0: wren", "29: tit")
    assert len(drawn["boxes"]) == 24
