"""What is measured against the training images."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from datamodules.common.torchvision_sets import FashionMNIST
from modules.case_based_prototypes.evaluation import contrast, nearest_of
from modules.case_based_prototypes.losses import LossWeights, reconstruction_error
from modules.case_based_prototypes.module import CaseBased
from modules.case_based_prototypes.networks import CaseBasedNetwork
from modules.common.classifier import Classifier
from modules.common.distances import squared_distances


def test_nearest_of_looks_through_all_chunks() -> None:
    queries, items = torch.randn(7, 5), torch.randn(2_345, 5)
    distance, which = nearest_of(queries, items)
    expected = squared_distances(queries, items).min(1)
    assert torch.equal(which, expected.indices)
    assert torch.allclose(distance, expected.values)
    unit = torch.rand(2_345) + 0.1
    distance, which = nearest_of(queries, items, unit)
    expected = (squared_distances(queries, items) / unit).min(1)
    assert torch.equal(which, expected.indices)
    assert torch.allclose(distance, expected.values)


def test_a_picture_without_shape_does_not_pass_for_a_real_one() -> None:
    assert contrast(torch.tensor([[0.0, 1.0, 0.0, 1.0], [0.5, 0.5, 0.5, 0.5]])).tolist() == [1, 0]
    data = FashionMNIST(100, val_size=200, train_size=4000, test_size=100)
    data.setup()
    real, others = (data.splits[name][0].flatten(1) / 255.0 for name in ("val", "train"))
    plain = torch.linspace(0, 1, 11)[:, None].expand(-1, 784)  # from black to white
    assert float(nearest_of(plain, others, contrast(others))[0].min()) >= 1 - 1e-5
    assert float(nearest_of(real, others, contrast(others))[0].mean()) < 0.5
    without_unit = nearest_of(plain[:1], others)[0]
    assert float(without_unit) < 0.7 * float(nearest_of(real, others)[0].mean())  # why there is a unit


def test_measures_against_the_training_images(
    lively: Callable[..., CaseBasedNetwork], score: Callable[..., dict[str, float]]
) -> None:
    """Prototypes laid on codes of known training images."""
    net = lively()
    judge = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(784, 10)), 10)
    data = FashionMNIST(100, val_size=100, train_size=1500, test_size=200)
    data.setup()
    images, labels = data.splits["train"]
    assert net.prototypes is not None
    assert net.decoder is not None
    chosen = torch.arange(15) * 97
    with torch.no_grad():
        net.prototypes.copy_(net.encoder(images[chosen] / 255.0))
        seen = judge((net.decoder(net.prototypes) - data.spec.mean[0]) / data.spec.std[0]).argmax(-1)
        net.weight.copy_(-F.one_hot(torch.where(torch.arange(15) < 6, seen, (seen + 1) % 10), 10))
    module = CaseBased(net, 10, LossWeights(), judge)
    metrics = score(module, data)
    assert metrics["test/latent_realism"] == pytest.approx(0, abs=1e-6)
    assert metrics["test/classes_covered"] == len(labels[chosen].unique())
    with torch.no_grad():
        x, decoded = images / 255.0, net.decoder(net.prototypes)
        distances = torch.cdist(decoded.flatten(1).double(), x.flatten(1).double()).square()
        closest = (distances / (784 * x.flatten(1).double().var(1, correction=0))).min(1).values
        right = (net(data.normalised(images)).argmax(-1) == labels).float().mean()
        test = data.splits["test"][0] / 255.0
        error = reconstruction_error(net.decoder(net.encoder(test)), test)
    assert metrics["test/pixel_realism"] == pytest.approx(float(closest.mean()), rel=1e-4)
    assert metrics["test/train_top1"] == pytest.approx(100 * float(right), abs=0.1)
    assert metrics["test/agreement"] == pytest.approx(40)  # 6 of 15
    assert metrics["test/reconstruction"] == pytest.approx(float(error), rel=1e-4)
    assert metrics["test/n"] == 200
    with torch.no_grad():
        net.prototypes.add_(0.1)
        codes = net.encoder(x).double()
        nearest = torch.cdist(net.prototypes.double(), codes).square().min(1).values
    expected = float(nearest.mean() / codes.var(0, correction=0).sum())
    assert score(module, data)["test/latent_realism"] == pytest.approx(expected, rel=1e-4)


def test_an_ordinary_network_reports_what_it_has(
    network: Callable[..., CaseBasedNetwork], score: Callable[..., dict[str, float]]
) -> None:
    data = FashionMNIST(100, val_size=0, train_size=300, test_size=100)
    module = CaseBased(network(layer="dense", decode=False), 10, LossWeights())
    names = {name.removeprefix("test/") for name in score(module, data)}
    assert names == {"top1", "top5", "ece", "nll", "n", "train_top1"}
    assert module.pictures(data) == {}


def test_pixels_are_those_before_normalisation(
    network: Callable[..., CaseBasedNetwork], score: Callable[..., dict[str, float]]
) -> None:
    data = FashionMNIST(100, val_size=0, train_size=100, test_size=100)
    module = CaseBased(network(), 10, LossWeights())
    score(module, data)
    images = data.splits["test"][0]
    assert torch.allclose(module.network.pixels(data.normalised(images)), images / 255.0, atol=1e-6)


def test_of_rows_that_are_equally_near_the_first_is_named() -> None:
    item = torch.randn(1, 5)
    items = torch.cat([item + 3, item, item + 1, item]).repeat_interleave(700, 0)  # in chunks of 1000
    distance, which = nearest_of(item, items)
    assert (float(distance), int(which)) == (pytest.approx(0, abs=1e-5), 700)


def test_training_images_are_looked_at_on_the_networks_device() -> None:
    """The meta device holds shapes alone, and refuses what lies elsewhere."""
    distance, which = nearest_of(torch.zeros(3, 5, device="meta"), torch.zeros(1500, 5), torch.ones(1500))
    assert (distance.device.type, which.device.type) == ("meta", "meta")
    assert (distance.shape, which.shape) == ((3,), (3,))
