"""Training keeps the weights with the lowest loss; what is measured of maps and swapped pictures."""

from __future__ import annotations

from collections import namedtuple
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from modules.cifake.explain import GradCAMs, Swap, central
from modules.cifake.module import ChosenDetector, TopologyDetector
from modules.cifake.networks import Topology
from tests.quiet import trainer as quiet_trainer


def test_patience_is_a_number_of_epochs() -> None:
    with pytest.raises(ValueError, match="patience=0: expected 1 or more epochs, or null"):
        TopologyDetector(Topology(16, 1), patience=0)


class Scripted(TopologyDetector):
    """Answers with one number an epoch, whatever it sees."""

    script = (5.0, -0.01, 4.0, 3.0, 2.0)  # log odds of "generated"

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        with torch.no_grad():
            self.network.head[-1].weight.zero_()
            self.network.head[-1].bias.fill_(self.script[self.current_epoch])
        return super().training_step(batch, batch_idx)


@pytest.mark.parametrize(("patience", "epochs", "kept"), [(2, 4, 1), (None, 5, 4)])
def test_the_epoch_of_the_lowest_loss_is_kept_and_its_accuracy_is_what_the_choice_sees(
    patience: int | None, epochs: int, kept: int
) -> None:
    """Four of six validation pictures are generated. The second epoch's loss is the lowest, its accuracy too: two of
    six. Without patience the last epoch counts."""
    batch = namedtuple("Batch", "x y")(torch.rand(6, 3, 32, 32), torch.tensor([1, 0, 1, 0, 1, 1]))
    detector = Scripted(Topology(8, 1), patience=patience, optimizer=partial(torch.optim.SGD, lr=0.0))
    trainer = quiet_trainer(5, num_sanity_val_steps=0)
    loader = DataLoader([batch], batch_size=None)
    trainer.fit(detector, loader, loader)
    assert trainer.current_epoch == epochs
    assert float(detector.network.head[-1].bias.detach()) == pytest.approx(Scripted.script[kept])
    accuracy = pytest.approx(100 * (4 if Scripted.script[kept] > 0 else 2) / 6, abs=1e-4)
    assert float(trainer.callback_metrics["val/kept_acc"]) == accuracy
    assert ChosenDetector([detector]).candidates == [(detector.topology, accuracy)]


def test_a_constant_answer_to_shuffled_labels_is_chance() -> None:
    """What a network learns of y alone is nothing: the gradient of the loss at logit 0 is (1/2 - y) / B."""
    detector = TopologyDetector(Topology(16, 1))
    nn.init.zeros_(detector.network.head[-1].weight)
    batch = namedtuple("Batch", "x y")(torch.rand(6, 3, 32, 32), torch.tensor([0, 1, 0, 1, 0, 1]))
    loss = detector.training_step(batch, 0)
    assert float(loss.detach()) == pytest.approx(0.693147, abs=1e-6)
    loss.backward()
    assert float(detector.network.head[-1].bias.grad) == pytest.approx(0, abs=1e-7)


def test_a_step_tells_the_share_that_is_right() -> None:
    detector = TopologyDetector(Topology(8, 1))
    x = torch.rand(8, 3, 32, 32)
    y = (detector.logits(x) > 0).long()
    y[:2] = 1 - y[:2]
    loss = detector.training_step(namedtuple("Batch", "x y")(x, y), 0)
    assert float(detector._sums["acc"]) / 8 == 75
    assert float(detector._sums["loss"]) / 8 == pytest.approx(float(loss.detach()))


def test_the_middle_is_a_quarter() -> None:
    region = central(torch.zeros(2, 3, 32, 32))
    assert float(region.float().mean()) == 0.25
    assert not bool(region[:, :8].any())


class Brightness(nn.Module):
    """Says "generated" where the picture is darker than a half in the mean."""

    network: Any = None

    def logits(self, x: Tensor) -> Tensor:
        return 0.5 - x.mean((1, 2, 3))


def finished(module: Any) -> dict[str, float]:
    logged: dict[str, float] = {}
    module.log_dict = logged.update
    module.on_test_epoch_end()
    return {name: float(value) for name, value in logged.items()}


def test_decisions_that_change_are_those_of_detected_pictures() -> None:
    swap = Swap(Brightness())
    flat = torch.ones(4, 3, 8, 8)
    make = namedtuple("Batch", "x object background real mask place")
    fake, with_object, with_background = (
        flat * torch.tensor(levels).view(4, 1, 1, 1)
        for levels in ([0.2, 0.4, 0.4, 0.9], [0.3, 0.6, 0.4, 0.9], [0.6, 0.6, 0.4, 0.1])
    )
    region = torch.ones(4, 8, 8, dtype=torch.bool)
    swap.test_step(make(fake, with_object, with_background, flat, region, region), 0)
    values = finished(swap)
    assert values["test/n"] == 4
    assert values["test/detected"] == 75
    assert values["test/flip_object"] == pytest.approx(100 / 3)
    assert values["test/flip_background"] == values["test/flip_either"] == pytest.approx(200 / 3)
    assert values["test/flip_everything"] == 100
    assert values["test/drop_object"] == pytest.approx(0.1, abs=1e-6)
    assert values["test/error_object"] == values["test/error_background"] == pytest.approx(255 * 2.1 / 4, rel=1e-5)


def test_the_detector_of_one_number_learns_from_training_pictures() -> None:
    swap = Swap(Brightness())
    sharp = torch.randint(256, (6, 3, 8, 8), dtype=torch.uint8)
    columns = {"x": torch.cat([sharp, sharp // 8]), "y": torch.tensor(6 * [0] + 6 * [1])}
    data = SimpleNamespace(columns={"train": columns})
    swap._trainer = SimpleNamespace(datamodule=data)  # type: ignore[assignment]
    swap.on_test_epoch_start()
    assert swap.side == -1.0
    right = (swap.number(columns["x"].float() / 255) > 0) == (columns["y"] == 1)
    assert bool(right.all())


def test_maps_are_measured_on_pictures_that_are_called_right() -> None:
    detector = TopologyDetector(Topology(8, 1))
    maps = GradCAMs(detector)
    maps.on_test_epoch_start()
    x = torch.rand(6, 3, 32, 32)
    called = (detector.logits(x) > 0).long().detach()
    y = called.clone()
    y[0] = 1 - y[0]  # the first is called wrong
    maps.test_step(namedtuple("Batch", "x y")(x, y), 0)
    values = finished(maps)
    assert values["test/n"] == 6
    assert values["test/area"] in (0.0, 25.0)
    kinds = {kind: int((y == number).sum()) for kind, number in (("real", 0), ("fake", 1))}
    for kind, number in (("real", 0), ("fake", 1)):
        right = int(((y == called) & (y == number)).sum())
        assert values[f"test/{kind}_right"] == pytest.approx(100 * right / max(1, kinds[kind]))
        assert sum(len(part) for part in maps.shown[kind]["image"]) == 3 * right
        for sign in ("fake", "real"):
            assert 0 <= values[f"test/energy_{kind}_{sign}"] <= 100


def test_shares_of_maps_are_of_pictures_called_right_whose_map_is_not_empty() -> None:
    """Columns: generated, called right, area of the object; for either sign a map's share and whether it has any."""
    maps = GradCAMs(TopologyDetector(Topology(8, 1)))
    rows = [
        [1, 1, 20, 40, 1, 0, 0],
        [1, 1, 30, 60, 1, 10, 1],
        [1, 0, 90, 99, 1, 99, 1],  # called real
        [0, 1, 12, 0, 0, 30, 1],
    ]
    maps.rows.update(torch.tensor(rows, dtype=torch.double))
    values = finished(maps)
    expected = {"n": 4, "fake_right": 200 / 3, "real_right": 100, "area_fake": 25, "area_real": 12}
    expected |= {"energy_fake_fake": 50, "energy_fake_real": 10, "energy_real_fake": 0, "energy_real_real": 30}
    expected |= {"blank_fake_fake": 0, "blank_fake_real": 50, "blank_real_fake": 100, "blank_real_real": 0}
    expected |= {"energy": 50, "area": 25}
    assert values == pytest.approx({f"test/{name}": value for name, value in expected.items()})
    x = torch.rand(2, 3, 32, 32)
    assert torch.equal(maps(x), maps.detector(x))
    assert torch.equal(Swap(maps.detector)(x), maps.detector(x))


def test_swaps_of_the_detector_of_one_number_by_hand() -> None:
    """Columns: logits and numbers of x, object, background and real, then the two errors. 0 says "real"."""
    swap = Swap(Brightness())
    rows = [
        [2, 1, 1, 1, 3, 0, 0, -1, 5, 7],
        [2, 0, -3, -1, 1, 2, 1, 0, 5, 7],
        [-1, -1, -1, -1, -2, -2, -2, 4, 5, 7],
        [-1, -1, -1, -1, 1, -1, 2, -4, 5, 7],
    ]
    swap.rows.update(torch.tensor(rows, dtype=torch.double))
    values = finished(swap)
    expected = {"n": 4, "detected": 50, "flip_object": 50, "flip_background": 50, "flip_everything": 50}
    expected |= {"flip_either": 50, "drop_object": 1.5, "drop_background": 3, "drop_everything": 2}
    expected |= {"number_detected": 75, "number_acc": 75, "number_flip_object": 200 / 3}
    expected |= {"number_flip_background": 100 / 3, "error_object": 5, "error_background": 7}
    assert values == pytest.approx({f"test/{name}": value for name, value in expected.items()})


def test_where_no_picture_is_detected_no_decision_changes() -> None:
    swap = Swap(Brightness())
    swap.rows.update(-torch.ones(3, 10, dtype=torch.double))
    values = finished(swap)
    assert {values[f"test/{name}"] for name in ("detected", "flip_object", "flip_either", "number_flip_object")} == {0}
