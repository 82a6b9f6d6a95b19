"""A user's file: read as tensors alone, and only if it is the unconditional network."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch

from modules.common.unet import UNet
from modules.diffusion_features import released


def small(classes: int | None = None) -> UNet:
    return UNet(8, 1, 8, (1, 1), 1, (), 4, 4, classes=classes, zero=False)


def test_weights_are_those_of_the_file(tmp_path: Path) -> None:
    torch.manual_seed(1)
    theirs, ours = small(), small()
    torch.save({name: value.half() for name, value in theirs.state_dict().items()}, tmp_path / "w.pt")
    released.load_released(ours, tmp_path / "w.pt")
    for name, value in ours.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, theirs.state_dict()[name].half().float())


def test_files_that_are_refused(tmp_path: Path) -> None:
    class Harmful:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (eval, ("1 + 1",))

    path = tmp_path / "w.pt"
    with pytest.raises(ValueError, match=r"path=.*w\.pt: there is no such file; https"):
        released.load_released(small(), path)

    path.write_bytes(b"not weights")
    with pytest.raises(ValueError, match="cannot be read as weights"):
        released.load_released(small(), path)

    with path.open("wb") as out:
        pickle.dump(Harmful(), out)
    with pytest.raises(ValueError, match="cannot be read as weights"):
        released.load_released(small(), path)

    torch.save({"a": Harmful()}, path)
    with pytest.raises(ValueError, match="cannot be read as weights"):
        released.load_released(small(), path)

    torch.save([torch.zeros(1)], path)
    with pytest.raises(ValueError, match="expected names of tensors"):
        released.load_released(small(), path)

    torch.save(small(classes=3).state_dict(), path)
    with pytest.raises(ValueError, match="has seen the labels"):
        released.load_released(small(), path)

    state = small().state_dict()
    torch.save({**state, "out.2.bias": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match=r"out\.2\.bias is \(2,\), expected \(1,\)"):
        released.load_released(small(), path)

    del state["out.2.bias"]
    torch.save(state, path)
    with pytest.raises(ValueError, match=r"out\.2\.bias is None, expected \(1,\)"):
        released.load_released(small(), path)


def test_published_network_without_the_file() -> None:
    with torch.device("meta"):
        network = released.imagenet256("nowhere.pt", pretrained=False)
        assert network(torch.zeros(1, 3, 256, 256), torch.zeros(1)).shape == (1, 6, 256, 256)
    assert sum(p.numel() for p in network.parameters()) == 552_814_086
    with torch.device("meta"), pytest.raises(ValueError, match=r"path=nowhere\.pt: there is no such file"):
        released.imagenet256("nowhere.pt")
