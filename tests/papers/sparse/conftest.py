"""A small SPARSE and a MedMNIST file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from modules.common.networks import ConvNet
from modules.sparse.module import Rules, Sparse
from modules.sparse.networks import Critic, Networks, Translator
from modules.sparse.pseudo_labels import History

CLASSES = 3


@pytest.fixture
def make_sparse(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Sparse]:
    """SPARSE for 8x8 images of three classes, the same weights each time, whose steps need no trainer.

    Options that Rules has go there.
    """

    def make(images: int = 40, kind: type[Sparse] = Sparse, **options: Any) -> Sparse:
        torch.manual_seed(0)
        networks = Networks(
            Translator(CLASSES, channels=1, widths=[4, 8]),
            Critic(CLASSES, channels=1, widths=[4, 8], side=8),
            ConvNet(1, 8, [4, 8], [2, 1], CLASSES, grid=1, dropout=0.2),
        )
        rules = Rules(**{name: options.pop(name) for name in [*options] if name in Rules.__dataclass_fields__})
        module = kind(networks, CLASSES, rules=rules, optimizer=torch.optim.AdamW, **options)
        optimizers = module.configure_optimizers()
        monkeypatch.setattr(module, "optimizers", lambda: optimizers)
        monkeypatch.setattr(module, "manual_backward", lambda loss: loss.backward())
        module.history = History(images, CLASSES)
        return module

    return make


@pytest.fixture
def labelled() -> Any:
    return SimpleNamespace(x=torch.rand(6, 1, 8, 8), y=torch.tensor([0, 1, 2, 0, 1, 2]))


@pytest.fixture
def unlabelled() -> Any:
    """A batch of 16 images in rows 6 to 21."""
    truth = torch.arange(16) % CLASSES
    return SimpleNamespace(x=torch.rand(16, 1, 8, 8), y=torch.full((16,), -1), row=torch.arange(6, 22), truth=truth)


@pytest.fixture
def medmnist(tmp_path: Path) -> Callable[..., Path]:
    """Writes a set's npz file, with arrays replaced as given, and returns its folder."""

    def write(name: str = "breastmnist", side: int = 6, channels: int = 1, file: str = "", **replaced: Any) -> Path:
        source = np.random.default_rng(0)
        arrays: dict[str, Any] = {}
        for part, count in {"train": 40, "val": 12, "test": 20}.items():
            shape = (count, side, side) if channels == 1 else (count, side, side, channels)
            arrays[f"{part}_images"] = source.integers(0, 256, shape, dtype=np.uint8)
            arrays[f"{part}_labels"] = (np.arange(count) % 2)[:, None].astype(np.uint8)
        arrays |= replaced
        np.savez(tmp_path / (file or f"{name}.npz"), **{k: v for k, v in arrays.items() if v is not None})
        return tmp_path

    return write
