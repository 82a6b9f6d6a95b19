"""Files that hold several labels for an image, and tables of them: class numbers, padded with -1."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from datamodules.common.base import DataError


def read_json(path: Path, where: str) -> Any:
    """The content of a label file. Raises DataError if it is missing or no JSON."""
    if not path.is_file():
        raise DataError(f"{path} is missing; {where}")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise DataError(f"{path} is damaged: {error}") from error


def padded(lists: Sequence[Sequence[int]]) -> Tensor:
    """(N, L) with -1 behind shorter lists; L is at least 1."""
    width = max(1, *(len(row) for row in lists)) if lists else 1
    return torch.tensor([[*row, *[-1] * (width - len(row))] for row in lists], dtype=torch.long).view(-1, width)
