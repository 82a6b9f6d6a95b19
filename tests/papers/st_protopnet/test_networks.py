"""Published sizes, maps, and what logits do not depend on."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from modules.common.backbones import imagenet_backbone
from modules.common.prototypes import wrong_class_l1
from modules.st_protopnet.networks import Branch, BranchedNetwork, Plain, conv_backbone, large_map_backbone

Build = Callable[..., BranchedNetwork]
PUBLISHED = {"vgg19": (512, 20_626_368), "resnet34": (512, 21_886_656)}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes(name: str) -> None:
    features, parameters = PUBLISHED[name]
    with torch.device("meta"):
        backbone = imagenet_backbone(name, pretrained=False)
        net = BranchedNetwork(backbone, features, 200, {"trivial": 5, "support": 5})
    assert sum(p.numel() for p in net.parameters()) == parameters
    assert sum(p.numel() for p in net.branch("support").add_on.parameters()) == 36_992


@pytest.mark.parametrize(("name", "features"), [("vgg16", 512), ("resnet50", 2048), ("densenet121", 1024)])
def test_maps_of_cropped_and_whole_photos(name: str, features: int) -> None:
    with torch.device("meta"):
        x = torch.zeros(1, 3, 224, 224)
        assert imagenet_backbone(name, False).eval()(x).shape == (1, features, 7, 7)
        assert large_map_backbone(name, False).eval()(x).shape == (1, features, 14, 14)


def test_the_small_backbones_strides_alone_make_maps_smaller() -> None:
    with torch.device("meta"):
        assert conv_backbone()(torch.zeros(2, 3, 64, 64)).shape == (2, 64, 8, 8)
        assert conv_backbone(1, (4, 6), (1, 2), (5, 3))(torch.zeros(2, 1, 10, 10)).shape == (2, 6, 5, 5)


def test_vgg_has_larger_maps_without_its_last_pooling_and_others_by_interpolation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[tuple[str, bool]] = []

    def backbone(name: str, pretrained: bool) -> nn.Sequential:
        asked.append((name, pretrained))
        return nn.Sequential(nn.ReLU(), nn.MaxPool2d(2))

    monkeypatch.setattr("modules.st_protopnet.networks.imagenet_backbone", backbone)
    x = torch.rand(1, 3, 4, 4)
    assert torch.equal(large_map_backbone("vgg19", True)(x), x)
    enlarged = F.interpolate(F.max_pool2d(x, 2), scale_factor=2, mode="bilinear")
    assert torch.allclose(large_map_backbone("resnet34", False)(x), enlarged)
    assert asked == [("vgg19", True), ("resnet34", False)]


def test_add_on_layers_are_bounded_for_cropped_photos_alone() -> None:
    z = 100 * torch.randn(2, 4, 3, 3)
    cropped, whole = (Branch(4, 3, 2, 8, scores).add_on(z).detach().abs() for scores in ("projection", "cosine"))
    assert float(cropped.max()) <= 1 < float(whole.max())


def test_the_last_layer_at_the_start() -> None:
    branch = Branch(4, 200, 5, 8, "projection")
    assert float(branch.last.weight.abs().sum()) == 100_500
    assert float(wrong_class_l1(branch.last.weight, branch.prototypes.owner)) == 99_500
    assert branch.last.bias is None


def scaled(branch: Branch, prototypes: float, features: float) -> torch.Tensor:
    torch.manual_seed(0)
    z = torch.randn(4, 5, 3, 3)
    with torch.no_grad():
        branch.prototypes.vectors.mul_(prototypes)
        return branch.classify(branch.similarities(features * z))


def test_what_logits_do_not_depend_on(network: Build) -> None:
    """Lengths of prototypes in both variants, those of features with cosines alone."""
    cosine, projection = (network(scores=scores).branch("trivial") for scores in ("cosine", "projection"))
    for branch in (cosine, projection):
        assert torch.allclose(scaled(branch, 1.0, 1.0), scaled(branch, 3.0, 1.0), atol=1e-5)
    assert torch.allclose(scaled(cosine, 1.0, 1.0), scaled(cosine, 1.0, 7.0), atol=1e-5)
    assert torch.allclose(7 * scaled(projection, 1.0, 1.0), scaled(projection, 1.0, 7.0), atol=1e-4)


def test_scores_of_whole_photos_are_between_0_and_1(network: Build) -> None:
    branch = network(scores="cosine").branch("support")
    z = torch.randn(4, 5, 3, 3)
    maps = branch.similarities(z)
    assert float(maps.detach().min()) == 0.0
    assert float(maps.detach().max()) <= 1 + 1e-6
    assert torch.equal(branch.cosines(maps, z), maps.flatten(2).amax(2))


def test_losses_of_cropped_photos_see_cosines(network: Build) -> None:
    branch = network(scores="projection").branch("support")
    z = torch.randn(4, 5, 3, 3)
    cosines = branch.cosines(branch.similarities(z), z)
    expected = nn.functional.cosine_similarity(z[:, None], branch.prototypes.vectors[None, :, :], dim=2)
    assert torch.allclose(cosines, expected.flatten(2).amax(2), atol=1e-6)


def test_logits_are_the_sum_of_the_branches(network: Build) -> None:
    net = network().eval()
    x = torch.randn(4, 3, 12, 12)
    each = net.logits(x)
    assert list(each) == ["trivial", "support"]
    assert torch.allclose(net(x), each["trivial"] + each["support"])
    assert net.branch("trivial").vectors().shape == (3, 2, 5)


def test_classes_that_share_values_share_weights() -> None:
    """With all combinations there, the cross-entropy of classes is the sum of those of their values."""
    net = Plain(nn.Identity(), 5, 6, factors=(3, 2))
    x = torch.randn(7, 5, 4, 4)
    first, second = net.head(x.amax((2, 3))).split([3, 2], 1)
    labels = torch.tensor([0, 1, 2, 3, 4, 5, 5])
    assert torch.allclose(net(x)[:, 3], first[:, 1] + second[:, 1])  # class 3 is (1, 1)
    expected = F.cross_entropy(first, labels // 2) + F.cross_entropy(second, labels % 2)
    assert torch.allclose(F.cross_entropy(net(x), labels), expected)


def test_the_plain_network_and_wrong_names() -> None:
    assert Plain(conv_backbone(3, (4, 6), (2, 2), (3, 3)), 6, 3)(torch.randn(2, 3, 16, 16)).shape == (2, 3)
    with pytest.raises(ValueError, match=r"factors=\[5, 2\]: their product is 10; expected 40 classes"):
        Plain(nn.Identity(), 4, 40, factors=[5, 2])
    with pytest.raises(ValueError, match="scores='log': expected one of projection, cosine"):
        Branch(4, 3, 2, 8, "log")
