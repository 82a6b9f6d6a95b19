"""Frozen networks as extractors: nothing moves, layers are what they are called, rows stay in order."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import timm
import torch
import torchvision
from torch import Tensor, nn

from datamodules.common.imagenet_classes import imagenet_classes
from datamodules.common.loader import batch_type
from datamodules.common.photo_regions import read_photos
from datamodules.common.torchvision_sets import FashionMNIST
from datamodules.off_the_shelf.collection import ArrayCollection
from modules.common.pretrained import efficientnet_lite
from modules.off_the_shelf.features import Backbone, Features, RandomBackbone, unit
from modules.off_the_shelf.handmade import Pixels
from modules.off_the_shelf.views import Jitter, resize


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


def test_features_have_unit_length_and_the_backbone_stays_as_it_is() -> None:
    backbone = small()
    features = Features(backbone=backbone, views=Jitter())
    network = backbone.load_network()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    features.train()
    backbone.train()
    x = images(3)
    f = features(x)
    assert f.shape == (3, 16, 8)
    assert torch.allclose(f.norm(dim=2), torch.ones(3, 16), atol=1e-6)
    features.training_step(batch_type(("x", "row"))(x, torch.arange(3)), 0)
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


def test_a_named_layer_and_the_scaling_of_lite_features() -> None:
    """The layer found by its name against the same network built without a classifier, on inputs scaled by hand; that
    the weights themselves are read rightly is tested elsewhere."""
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


def test_maps_are_averaged_over_their_places() -> None:
    backbone = Backbone(lambda: nn.Conv2d(3, 4, 3), 9)
    x = images(2, side=9)
    network = backbone.load_network()
    assert torch.allclose(backbone(x), network(x).mean((2, 3)), atol=1e-6)
    assert backbone(*backbone.example((3, 50, 50))).shape == (1, 4)


def test_a_backbone_reports_what_its_features_are_like(logged: Callable[..., dict[str, float]]) -> None:
    """Two batches of unlike size, larger than what the network sees."""
    backbone = Backbone(lambda: nn.Conv2d(3, 4, 3), 9)
    parts = [images(5, side=18), images(2, side=18, seed=1)]
    with torch.no_grad():
        f = torch.cat([backbone(resize(x, 9)) for x in parts])
        for _ in range(2):  # a second test starts anew
            values = logged(backbone, *(batch_type(("x", "row"))(x, torch.arange(len(x))) for x in parts))
            expected = {"dimension": 4, "norm": float(f.norm(dim=1).mean()), "positive": float((f > 0).float().mean())}
            assert values == pytest.approx({f"test/{name}": value for name, value in expected.items()}, rel=1e-5)
    assert 0 < values["test/positive"] < 1


def test_views_have_the_side_that_is_asked_for_or_the_backbones() -> None:
    assert Features(backbone=small()).side == 32
    assert Features(backbone=small(), side=24).side == 24
    assert Features(Pixels(), side=16)(images(2, side=20)).shape == (2, 1, 3 * 16 * 16)
    assert Features(Pixels())(images(2, side=20)).shape == (2, 1, 3 * 20 * 20)


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


def test_lite_was_trained_on_such_photos_as_the_install_has() -> None:
    network = efficientnet_lite(0).eval()
    named = []
    for photo in read_photos():
        side = min(photo.shape[1:])
        top, left = ((length - side) // 2 for length in photo.shape[1:])
        square = photo[None, :, top : top + side, left : left + side].float() / 255
        with torch.no_grad():
            named.append(imagenet_classes()[1][int(network((resize(square, 224) - 0.5) / 0.5).argmax())])
    assert named == ["palace", "daisy", "military uniform"]


def test_a_random_backbone_takes_its_batch_statistics_from_the_images() -> None:
    """Those of two batches, each counted alike; the weights stay, and so does what a checkpoint gave to another."""

    def network() -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    control = RandomBackbone(network, 32, weight_seed=3)
    made = control.load_network()
    weight = made[0].weight.clone()  # type: ignore[index]
    batches = [images(4, seed=1), 0.5 * images(4, seed=2)]
    with torch.no_grad():
        means = [made[0](x).mean((0, 2, 3)) for x in batches]  # type: ignore[index]
    for number, x in enumerate(batches):
        control.training_step(batch_type(("x", "row"))(x, torch.arange(4)), number)
    assert torch.allclose(made[1].running_mean, torch.stack(means).mean(0), atol=1e-5)  # type: ignore[index]
    assert torch.equal(made[0].weight, weight)  # type: ignore[index]
    assert not any(part.training for part in made.modules())

    again = RandomBackbone(network, 32, weight_seed=4)
    again.load_state_dict(control.state_dict())
    assert torch.equal(again(batches[0]), control(batches[0]))


def test_spread_by_hand() -> None:
    """Of unit features at right angles, half of each: |mean|^2 is 1/2. Of equal ones, 1."""
    features = Features(Pixels())
    logged: dict[str, float] = {}
    features.log_dict = logged.update  # type: ignore[method-assign, assignment]
    for exported, spread in ((torch.eye(2)[:, None], 0.5), (torch.tensor([[[0.6, 0.8]]] * 3), 0.0)):
        features.exported = exported
        features.on_test_epoch_end()
        assert logged["test/spread"] == pytest.approx(spread, abs=1e-6)
        assert logged["test/dimension"] == 2


def test_the_first_batch_is_extracted_again() -> None:
    features = Features(Pixels())
    x = images(2, side=4)
    features.solve(features.keep(x) + 0.25, torch.arange(2))
    batch = batch_type(("x", "row"))
    features.test_step(batch(x, torch.arange(2)), 0)
    features.test_step(batch(0 * x, torch.arange(2)), 1)
    assert features.difference == pytest.approx(0.25)


def collection() -> ArrayCollection:
    data = ArrayCollection(FashionMNIST(8, train_size=20, val_size=0, test_size=10), 8)
    data.setup()
    return data


def test_export_follows_row_numbers_and_refuses_gaps() -> None:
    data = collection()
    batches = list(data.train_dataloader())
    assert len(batches) == 4
    features = Features(Pixels())
    x = torch.cat([features.keep(batch.x) for batch in batches])
    rows = torch.cat([batch.row for batch in batches])
    features.solve(x, rows)
    exported = torch.from_numpy(features.artifacts()["features"])
    assert torch.allclose(exported[:, 0], unit(data.images(torch.arange(30)).flatten(1)), atol=1e-6)
    assert not features.state_dict()  # a checkpoint does not hold the export again
    with pytest.raises(ValueError, match="exactly once"):
        features.solve(x[1:], rows[1:])


def test_a_stage_that_was_ended_after_its_export_exports_the_same_again() -> None:
    """Its checkpoint says that training is over, and holds no features."""
    options: dict[str, Any] = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False}
    options |= {"enable_progress_bar": False, "enable_model_summary": False}
    whole = Features(backbone=small(), side=32)
    trainer = pl.Trainer(max_epochs=1, **options)
    trainer.fit(whole, datamodule=collection())
    (metrics,) = trainer.test(whole, datamodule=collection(), verbose=False)

    continued = Features(backbone=whole.frozen.networks[0], side=32)
    (again,) = pl.Trainer(**options).test(continued, datamodule=collection(), verbose=False)
    assert again == metrics
    assert metrics["test/reextraction"] < 1e-5
    assert np.array_equal(continued.artifacts()["features"], whole.artifacts()["features"])


@pytest.mark.parametrize("given", [{}, {"extractor": Pixels(), "backbone": small()}])
def test_either_an_extractor_or_a_backbone(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="either extractor, or backbone"):
        Features(**given)
