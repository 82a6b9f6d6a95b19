"""Weights that a user brings: a file of tensors, whoever saved it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

WRAPPERS = ("state_dict", "model")  # keys that a state_dict may lie under


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """A network's state_dict from a file of tensors alone, which executes nothing.

    Raises:
        ValueError: one line that names the file and what is wrong.
    """
    if not path.is_file():
        raise ValueError(f"pretrained={str(path)!r}: no such file; expected one with a network's state_dict")
    try:
        stored: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for files that hold code, are damaged or are something else
        raise ValueError(
            f"pretrained={str(path)!r} cannot be loaded ({type(error).__name__}): expected a file of tensors alone; "
            "save the checkpoint's state_dict again with torch.save"
        ) from error
    for key in WRAPPERS:
        if isinstance(stored, Mapping) and isinstance(stored.get(key), Mapping):
            stored = stored[key]
    if not isinstance(stored, Mapping) or not all(isinstance(value, Tensor) for value in stored.values()):
        raise ValueError(f"pretrained={str(path)!r} holds no state_dict: expected names and tensors")
    return {str(name): value for name, value in stored.items()}
