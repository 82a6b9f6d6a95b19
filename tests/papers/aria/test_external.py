"""Detectors of others: what their outputs mean, and files that are not what they should be."""

from __future__ import annotations

import pickle
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from datamodules.common.loader import batch_type
from modules.aria.external import ExternalDetectors, ReleasedDetector


def network(outputs: int = 2) -> nn.Sequential:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, outputs))


def test_what_an_output_means() -> None:
    pictures = torch.rand(4, 3, 8, 8)
    two, one = network(), network(1)
    normalised = (pictures - 0.5) / 0.25
    fake = ReleasedDetector(two, False, mean=[0.5] * 3, std=[0.25] * 3)
    real = ReleasedDetector(two, False, fake=0, mean=[0.5] * 3, std=[0.25] * 3)
    assert torch.allclose(fake.predict(pictures), two(normalised).softmax(1)[:, 1])
    assert torch.allclose(real.predict(pictures), 1 - fake.predict(pictures))
    single = ReleasedDetector(one, False, mean=[0.5] * 3, std=[0.25] * 3)
    assert torch.allclose(single.predict(pictures), one(normalised)[:, 0].sigmoid())
    assert ReleasedDetector(network(), False, side=4).predict(pictures).shape == (4,)
    with pytest.raises(ValueError, match="expected"):
        ReleasedDetector(network(3), False).predict(pictures)
    with pytest.raises(ValueError, match="fake=2"):
        ReleasedDetector(two, False, fake=2)
    with pytest.raises(ValueError, match="pretrained=true: expected a file"):
        ReleasedDetector(two, True)


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": {f"module.{n}": v for n, v in s.items()}}])
def test_weights_come_from_a_file_of_tensors(wrap: object, tmp_path: Path) -> None:
    theirs, ours = network(), network()
    path = tmp_path / "weights.pt"
    torch.save(wrap(theirs.state_dict()), path)  # type: ignore[operator]
    loaded = ReleasedDetector(ours, str(path))
    assert all(torch.equal(value, theirs.state_dict()[name]) for name, value in loaded.network.state_dict().items())


class Runs:
    """What a pickle may run when it is loaded."""

    def __reduce__(self) -> tuple[object, ...]:
        return (exec, ("raise SystemExit('code of a file ran')",))


def test_a_file_that_is_no_weights_is_named_and_never_run(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    with pytest.raises(ValueError, match="no such file"):
        ReleasedDetector(network(), str(path))
    torch.save({"model": Runs()}, path, pickle_module=pickle)
    with pytest.raises(ValueError, match="expected a file of tensors alone"):
        ReleasedDetector(network(), str(path))
    torch.save({"a": 1}, path)
    with pytest.raises(ValueError, match="holds no state_dict"):
        ReleasedDetector(network(), str(path))
    torch.save(network(3).state_dict(), path)
    with pytest.raises(ValueError, match="does not fit Sequential"):
        ReleasedDetector(network(), str(path))


def test_they_are_judged_at_one_half_on_every_cell() -> None:
    """Brightness is what this one calls generated; it sees pictures from 0 to 1, whatever the data's normalisation."""
    bright = network(1)
    with torch.no_grad():
        bright[2].weight.fill_(10.0)
        bright[2].bias.fill_(-15.0)
    stage = ExternalDetectors({"bright": ReleasedDetector(bright, False, mean=[0] * 3, std=[1] * 3)})
    logged: dict[str, float] = {}
    stage.log = lambda name, value, **_: logged.update({name: value})  # type: ignore[method-assign]
    stage.log_dict = lambda values, **_: logged.update(values)  # type: ignore[method-assign]
    data = SimpleNamespace(
        names=("a_t2i", "a_it2i"),
        modes={"a_t2i": "T2I", "a_it2i": "IT2I"},
        subjects=("art",),
        seed=0,
        shown=lambda x: x / 10,
    )
    stage._trainer = SimpleNamespace(datamodule=data)  # type: ignore[assignment]
    said = torch.tensor([1.0, 9.0, 9.0, 1.0])
    make = batch_type(("x", "y", "subset", "category"))
    x = said.view(-1, 1, 1, 1).expand(-1, 3, 2, 2)
    stage.test_step(make(x, torch.tensor([0, 1, 1, 1]), torch.tensor([-1, 0, 0, 1]), torch.zeros(4)), 0)
    stage.on_test_epoch_end()
    assert (logged["test/fake_acc_t2i"], logged["test/fake_acc_it2i"], logged["test/real_acc"]) == (100, 0, 100)
    assert logged["test/cell_bright_a_it2i_art"] == 50
    with pytest.raises(ValueError, match="at least one"):
        ExternalDetectors({})
