"""ProtoPNet at published size, its losses by hand, its rates."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from modules.common.backbones import imagenet_backbone
from modules.common.inference import inference
from modules.common.protopnet import LossWeights, ProtoPNet, cluster_and_separation
from modules.common.prototypes import wrong_class_l1
from modules.common.schedules import Position
from modules.explaining_prototypes.schedules import before_epoch

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


def test_the_norm_of_the_wrong_classes(network: Callable[..., ProtoPNet]) -> None:
    owner = torch.arange(200).repeat_interleave(10)
    weight = torch.where(owner == torch.arange(200)[:, None], 1.0, -0.5)
    assert float(weight.abs().sum()) == 201_000
    assert float(wrong_class_l1(weight, owner)) == 199_000
    net = network()
    wrong_class_l1(net.last.weight, net.prototypes.owner).backward()
    assert net.last.weight.grad is not None
    assert torch.equal(net.last.weight.grad == 0, net.prototypes.owner == torch.arange(3)[:, None])


def test_logits_are_own_minus_half_the_others(network: Callable[..., ProtoPNet]) -> None:
    net = network().eval()
    x = torch.randn(4, 3, 12, 12)
    g = net.prototypes(net.features(x)).flatten(2).amax(2)  # (4, 6)
    by_class = g.view(4, 3, 2).sum(2)
    expected = 1.5 * by_class - 0.5 * g.sum(1, keepdim=True)
    assert torch.allclose(net(x), expected, atol=1e-5)


def test_features_are_between_0_and_1_and_scores_bounded(network: Callable[..., ProtoPNet]) -> None:
    z = network().features(100 * torch.randn(4, 3, 12, 12))
    assert 0 <= float(z.detach().min()) <= float(z.detach().max()) <= 1
    with torch.device("meta"):
        assert network().features(torch.zeros(1, 3, 64, 64)).shape == (1, 5, 32, 32)


def test_rates_fall_before_the_epoch() -> None:
    factors = [before_epoch(Position(epoch, 0, 10, 26)) for epoch in range(26)]
    assert factors == pytest.approx([1] * 4 + [0.1] * 5 + [0.01] * 5 + [1e-3] * 5 + [1e-4] * 5 + [1e-5] * 2)
    stages = [(0, 6), (6, 10), (16, 10)]
    split = [before_epoch(Position(e, 0, 10, n), done=done) for done, n in stages for e in range(n)]
    assert split == factors


def test_inference_leaves_every_layer_as_it_was(network: Callable[..., ProtoPNet]) -> None:
    net = network()
    net.add_on.eval()
    modes = [layer.training for layer in net.modules()]
    with inference(net):
        assert not any(layer.training for layer in net.modules())
        assert not torch.is_grad_enabled()
    assert [layer.training for layer in net.modules()] == modes
    assert torch.is_grad_enabled()
