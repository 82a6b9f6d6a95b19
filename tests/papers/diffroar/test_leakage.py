"""Where gradients lie: hand-computed shares, and the theorem's maximum-margin solution."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from datamodules.diffroar.signals import Signals
from modules.common.attributions import loss_gradient
from modules.diffroar.leakage import Leakage, measure_blocks


def source() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_shares_by_hand() -> None:
    """Three blocks of two; the signal is in the second block; the third holds it in no image."""
    gradient = torch.tensor([[3.0, -4.0, 6.0, 8.0, 0.0, -1.0]])
    values = measure_blocks(gradient, torch.tensor([1]), 3, 2, 1 / 3, source())
    assert float(values["signal_share"]) == pytest.approx(100 * 14 / 22)
    assert float(values["signal_first"]) == 100
    assert float(values["signal_last"]) == 0
    assert float(values["evenness"]) == pytest.approx(5 / 10)
    assert float(values["own_ratio"]) == pytest.approx(10 / 7.5)
    assert float(values["irrelevant_share"]) == pytest.approx(100 * 1 / 16)


def test_each_image_is_measured_by_its_own_blocks() -> None:
    """Two images at once give what each gives alone: norms 5, 10 and 2, 0."""
    gradient = torch.tensor([[3.0, -4.0, 6.0, 8.0], [2.0, 0.0, 0.0, 0.0]])
    values = measure_blocks(gradient, torch.tensor([0, 0]), 2, 2, 1 / 4, source())
    assert values["own_ratio"].tolist() == pytest.approx([5 / 7.5, 2 / 1])
    assert values["evenness"].tolist() == pytest.approx([5 / 10, 0])
    assert values["signal_share"].tolist() == pytest.approx([100 * 7 / 21, 100])


def test_one_coordinate_at_least_and_ties_at_random() -> None:
    values = measure_blocks(torch.ones(5000, 10), torch.zeros(5000, dtype=torch.long), 10, 10, 0.05, source())
    assert float(values["signal_first"].mean()) == pytest.approx(10, abs=1.5)
    assert float(values["signal_last"].mean()) == pytest.approx(10, abs=1.5)
    assert bool((values["evenness"] == 1).all())


def linear(weight: torch.Tensor) -> nn.Sequential:
    """Two logits, W_1 = -W_0: a linear classifier of the sign of weight x."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(len(weight), 2, bias=False))
    with torch.no_grad():
        net[1].weight.copy_(torch.stack([-weight, weight]))
    return net


def test_the_maximum_margin_solution_marks_all_relevant_blocks_alike() -> None:
    """eta = 0: w = u on the first d/2 blocks has margin 1 / sqrt(d/2) at |w| = 1, and others have less."""
    data = Signals(50, blocks=10, length=4, relevant=5, train_size=200, test_size=100)
    data.setup()
    batch = next(iter(data.test_dataloader()))
    w = torch.zeros(10, 4)
    w[:5] = 0.5
    w = (w / w.norm()).flatten()
    margins = (2 * batch.y - 1) * (batch.x.flatten(1) @ w)
    assert torch.allclose(margins, torch.full_like(margins, 5**-0.5), atol=1e-6)
    for _ in range(20):  # the smallest margin of any other direction of length 1
        other = nn.functional.normalize(w + 0.3 * torch.randn(40), dim=0)
        assert float(((2 * batch.y - 1) * (batch.x.flatten(1) @ other)).min()) < 5**-0.5

    net = linear(w)
    gradient = loss_gradient(net, batch.x, net(batch.x).argmax(1)).flatten(1)
    values = measure_blocks(gradient, batch.signal, data.blocks, data.relevant, 0.05, source())
    assert torch.allclose(values["evenness"], torch.ones(50), atol=1e-5)
    assert torch.allclose(values["own_ratio"], torch.ones(50), atol=1e-5)
    assert torch.allclose(values["signal_share"], torch.full((50,), 20.0), atol=1e-4)
    assert float(values["irrelevant_share"].max()) < 1e-4


def test_a_network_that_reads_one_block_at_a_time_marks_its_own() -> None:
    """A positive control: f = sum_i relu(x_i - 0.5) - relu(-x_i - 0.5) is flat where there is no signal."""

    class Thresholds(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = x.flatten(1)
            f = ((x - 0.5).relu() - (-x - 0.5).relu()).sum(1)
            return torch.stack([-f, f], 1)

    data = Signals(100, test_size=100)
    data.setup()
    batch = next(iter(data.test_dataloader()))
    net = Thresholds()
    gradient = loss_gradient(net, batch.x, net(batch.x).argmax(1)).flatten(1)
    values = measure_blocks(gradient, batch.signal, data.blocks, data.relevant, 0.05, source())
    assert float(values["signal_share"].min()) == pytest.approx(100)
    assert float(values["signal_first"].min()) == 100


def test_the_tiny_gradient_of_a_confident_network_has_a_direction(monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits 60 apart: the gradient of the loss is about 1e-24, alike in ten coordinates: |cos| is 1/sqrt(10)."""
    data = Signals(100, test_size=100)
    data.setup()
    batch = next(iter(data.test_dataloader()))
    module = Leakage(SimpleNamespace(network=linear(torch.full((10,), 30.0))), kind="loss")  # type: ignore[arg-type]
    monkeypatch.setattr(Leakage, "trainer", SimpleNamespace(datamodule=data))
    module.test_step(batch, 0)
    values = module.means.compute()
    assert float(values["cosine"]) == pytest.approx(10**-0.5, abs=1e-5)
    assert float(values["own_ratio"]) == pytest.approx(1, abs=1e-5)


def test_a_test_epoch_reports_the_theorems_values(
    monkeypatch: pytest.MonkeyPatch, logged: Callable[..., dict[str, float]]
) -> None:
    """The maximum margin's gradient is alike in the five relevant blocks and 0 in the five others."""
    data = Signals(50, blocks=10, length=4, relevant=5, train_size=200, test_size=100)
    data.setup()
    w = torch.zeros(10, 4)
    w[:5] = 1.0
    module = Leakage(SimpleNamespace(network=linear(w.flatten())), kind="loss")  # type: ignore[arg-type]
    monkeypatch.setattr(Leakage, "trainer", SimpleNamespace(datamodule=data))
    values = logged(module, *data.test_dataloader())
    expected = {"own_ratio": 1, "evenness": 1, "irrelevant_share": 0, "signal_share": 20, "cosine": 5**-0.5}
    assert {name: values[f"test/{name}"] for name in expected} == pytest.approx(expected, abs=1e-4)
    assert (values["test/top1"], values["test/n"]) == (100, 100)


def test_wrong_kind_is_named() -> None:
    model = type("M", (), {"network": nn.Linear(2, 2)})()
    with pytest.raises(ValueError, match="kind='lossy': expected one of logit, loss"):
        Leakage(model, kind="lossy")  # type: ignore[arg-type]
