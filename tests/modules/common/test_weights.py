"""Files of weights that a user brings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from modules.common.weights import read_state_dict

STATE = {"layer.weight": torch.arange(3.0)}


@pytest.mark.parametrize(
    "stored",
    [
        STATE,
        {"state_dict": STATE, "epoch": 3},
        {"model": STATE},
        {"model": {"state_dict": STATE}, "state_dict": {"model": STATE}},
    ],
)
def test_a_state_dict_is_found_under_its_wrappers(stored: Any, tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    torch.save(stored, path)
    found = read_state_dict(path)
    assert list(found) == ["layer.weight"]
    assert torch.equal(found["layer.weight"], STATE["layer.weight"])


@pytest.mark.parametrize("stored", [[1, 2], {"layer": 3.0}, {"state_dict": {"layer": torch.zeros(1), "epoch": 2}}])
def test_what_is_no_state_dict_is_refused(stored: Any, tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    torch.save(stored, path)
    with pytest.raises(ValueError, match=r"net\.pt' holds no state_dict: expected names and tensors"):
        read_state_dict(path)


class Code:
    """What a file of tensors alone cannot hold."""


def test_a_file_that_would_execute_code_is_not_loaded(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    torch.save({"layer": torch.zeros(1), "more": Code()}, path)
    with pytest.raises(ValueError, match=r"cannot be loaded \(UnpicklingError\): expected a file of tensors alone"):
        read_state_dict(path)
    with pytest.raises(ValueError, match="no such file; expected one with a network's state_dict"):
        read_state_dict(tmp_path / "none.pt")
    with pytest.raises(ValueError, match="no such file"):
        read_state_dict(tmp_path)
