"""Heads on frozen features: gradients, names of metrics, counts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from datamodules.common.loader import batch_type
from modules.common.probe import Probe, keep_for_a_loss
from tests.schedules import half

X = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [2.0, 0.0]])
BATCH = batch_type(("x", "y"))(X, torch.tensor([0, 1, 1, 0]))


class Doubled(Probe):
    """Sees the input, and twice the input."""

    def features(self, batch: Any) -> dict[str, Tensor]:
        with torch.inference_mode():
            outputs = {"one": batch.x * 1, "two": batch.x * 2}
        return keep_for_a_loss({name: outputs[name] for name in self.heads})


def identity() -> nn.Linear:
    """Logits that are the features."""
    head = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        head.weight.copy_(torch.eye(2))
    return head


def test_each_head_has_the_gradient_of_its_own_loss() -> None:
    module = Doubled({"one": identity(), "two": identity()}, 2)
    loss = module.training_step(BATCH, 0)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(
        float(F.cross_entropy(X, BATCH.y) + F.cross_entropy(2 * X, BATCH.y)), rel=1e-6
    )
    for name, scale in (("one", 1), ("two", 2)):
        error = (scale * X).softmax(-1) - F.one_hot(BATCH.y, 2)  # the gradient by the logits, times 4
        expected = error.T @ (scale * X) / 4
        assert torch.allclose(module.heads[name].weight.grad, expected, atol=1e-6)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("heads", "headline", "names"),
    [
        (("one",), None, {"top1"}),
        (("one", "two"), None, {"one_top1", "two_top1"}),
        (("one", "two"), "two", {"one_top1", "top1"}),
    ],
)
def test_names_and_values_of_metrics(heads: tuple[str, ...], headline: str | None, names: set[str]) -> None:
    module = Doubled({name: identity() for name in heads}, 2, headline)
    logged: dict[str, Tensor] = {}
    module.log_dict = logged.update  # type: ignore[method-assign, assignment]
    module.log = lambda name, value: logged.update({name: value})  # type: ignore[method-assign, assignment]
    with torch.no_grad():
        module.test_step(BATCH, 0)
        module.test_step(BATCH, 1)
        module.on_test_epoch_end()
    assert set(logged) == {f"test/{name}" for name in (*names, "n")}
    assert float(logged.pop("test/n")) == 8
    # the tie of [1, 1] goes to class 0, which is wrong: three of four
    assert {float(value) for value in logged.values()} == {75.0}


def test_a_probe_without_features_says_so() -> None:
    with pytest.raises(NotImplementedError, match="Probe does not say which features"):
        Probe({"one": identity()}, 2).training_step(BATCH, 0)


def test_an_epochs_books_of_each_head() -> None:
    module = Doubled({"one": identity(), "two": identity()}, 2, "two", torch.optim.SGD, half)
    assert (module.optimizer_factory, module.schedule) == (torch.optim.SGD, half)
    assert len(list(module.trained())) == 2
    module.training_step(BATCH, 0)
    assert {name: float(value) / module._count for name, value in module._sums.items() if name != "loss"} == {
        "one_top1": 75.0,
        "top1": 75.0,
    }
    logged: dict[str, Tensor] = {}
    module.log_dict = logged.update  # type: ignore[method-assign, assignment]
    module.log = lambda name, value: logged.update({name: value})  # type: ignore[method-assign, assignment]
    module.validation_step(BATCH, 0)
    module.on_validation_epoch_end()
    assert {name: float(value) for name, value in logged.items()} == {"val/one_top1": 75, "val/top1": 75, "val/n": 4}
    module.test_step(BATCH, 0)
    losses = module.report("test")
    assert float(losses["one"]) == pytest.approx(float(F.cross_entropy(X, BATCH.y)), rel=1e-6)
    assert float(losses["two"]) == pytest.approx(float(F.cross_entropy(2 * X, BATCH.y)), rel=1e-6)
