"""Training one network: loss, auxiliary classifier, averaged weights, networks that die."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from modules.common.averaging import WeightAverage
from modules.inception_v4 import architectures
from modules.inception_v4.blocks import Auxiliary
from modules.inception_v4.module import InceptionClassifier
from modules.inception_v4.networks import JOINS
from tests.papers.inception_v4.helpers import batch, parameters, quiet, small


def test_auxiliary_classifier_is_slims() -> None:
    with torch.device("meta"):
        network = architectures.inception_v4(auxiliary_side=17)
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
    for join in JOINS:
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

    stopped = WeightAverage(layer, 0.9)
    stopped.update(layer)  # it knows a count of its own, which the loaded one replaces
    stopped.load_state_dict(average.state_dict())
    layer.weight.data.fill_(3.0)
    stopped.update(layer)
    assert float(stopped.values()["weight"]) == pytest.approx(11 / 20 * expected + 9 / 20 * 3.0, abs=1e-5)
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
