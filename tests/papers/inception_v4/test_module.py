"""Training one network: loss, auxiliary classifier, averaged weights, networks that die."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from modules.common.averaging import WeightAverage
from modules.inception_v4 import architectures
from modules.inception_v4.blocks import Auxiliary
from modules.inception_v4.module import InceptionClassifier, total_loss
from modules.inception_v4.networks import JOINS
from tests.papers.inception_v4.helpers import batch, parameters, quiet, small
from tests.schedules import half


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


def test_smoothed_labels_mix_with_the_mean_over_classes_in_both_classifiers() -> None:
    """(1 - e) CE + e times the mean of -log p over all classes, and 0.4 times the same of the auxiliary one."""
    z, side = (torch.randn(6, 10, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    y = torch.arange(6)

    def smoothed(logits: Tensor) -> Tensor:
        log_p = logits.log_softmax(-1)
        return -(0.9 * log_p[range(6), y] + 0.1 * log_p.mean(-1)).mean()

    assert torch.allclose(total_loss(z, None, y, label_smoothing=0.1), smoothed(z))
    assert torch.allclose(total_loss(z, side, y, 0.4, 0.1), smoothed(z) + 0.4 * smoothed(side))
    assert torch.allclose(total_loss(z, side, y), F.cross_entropy(z, y) + 0.4 * F.cross_entropy(side, y))

    module = InceptionClassifier(small(dropout=0.0), 10, label_smoothing=0.1)
    tracked: dict[str, Any] = {}
    module.track = lambda count, **terms: tracked.update(terms, count=count)  # type: ignore[method-assign]
    x, labels = batch()
    loss = module.training_step((x, labels), 0)
    logits = module(x)
    expected = F.cross_entropy(logits, labels, label_smoothing=0.1)
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), abs=1e-5)
    assert float(tracked["loss"].detach()) == float(loss.detach())
    labels = torch.cat([logits[:2].argmax(-1), (logits[2:].argmax(-1) + 1) % 10])  # two of eight are right
    module.training_step((x, labels), 0)
    assert float(tracked["top1"]) == 25
    assert tracked["count"] == 8


class Weights(pl.Callback):
    """Remembers the network's weights after each step."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Tensor]] = []

    def on_train_batch_end(self, trainer: Any, module: Any, *others: Any) -> None:
        self.seen.append({name: value.clone() for name, value in module.network.state_dict().items()})


def test_the_average_follows_every_step_of_a_fit() -> None:
    """Three steps of a fit; the same rule on the weights that each of them left gives the same average."""
    module = InceptionClassifier(small(dropout=0.0), 10, average_decay=0.9, optimizer=partial(torch.optim.SGD, lr=0.1))
    weights, own = Weights(), WeightAverage(small(dropout=0.0), 0.9)
    quietly: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = pl.Trainer(
        accelerator="cpu", devices=1, max_epochs=1, callbacks=[weights], enable_checkpointing=False, **quietly
    )
    trainer.fit(module, DataLoader([list(batch(seed=seed)) for seed in range(3)], batch_size=None))  # type: ignore[arg-type]
    network = small(dropout=0.0)
    for state in weights.seen:
        network.load_state_dict(state)
        own.update(network)
    assert module.average is not None
    average = module.average.values()
    assert all(torch.allclose(average[name].float(), value.float()) for name, value in own.values().items())
    assert not torch.allclose(average["classifier.weight"], module.network.classifier.weight)


def test_a_classifier_keeps_its_schedule() -> None:
    assert InceptionClassifier(small(), 10, optimizer=partial(torch.optim.SGD, lr=0.1), schedule=half).schedule is half


def test_without_an_average_the_last_weights_are_counted_alike_where_outputs_are_not_finite() -> None:
    """A class at minus infinity counts as 0, which is above the others' -1: it is what both predict."""
    module = InceptionClassifier(small(), 10, tolerant=True).eval()
    logged = quiet(module)
    with torch.no_grad():
        module.network.classifier.weight.zero_()
        module.network.classifier.bias.fill_(-1.0)
        module.network.classifier.bias[3] = -torch.inf
    x, _ = batch()
    for label, right in ((3, 100), (0, 0)):
        module.test_step((x, torch.full((8,), label)), 0)
        module.on_test_epoch_end()
        assert logged["test/raw_top1"] == logged["test/top1"] == right


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
