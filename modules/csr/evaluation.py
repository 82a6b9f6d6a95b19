"""Macro-F1 of all images and of those that a doctor looks at, as they are and after each interaction."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchmetrics.classification import MulticlassConfusionMatrix


def macro_f1(confusion: Tensor) -> Tensor:
    """Mean F1 over the classes that occur, percent; 0 if none does.

    Args:
        confusion: (C, C), images of a class (row) by predicted class (column).
    """
    confusion = confusion.double()
    true = confusion.sum(1)
    right = confusion.diagonal()
    there = true > 0
    if not bool(there.any()):
        return torch.zeros((), dtype=torch.double, device=confusion.device)
    f1 = 2 * right / (true + confusion.sum(0)).clamp(min=1)
    return 100 * f1[there].mean()


class MacroF1(nn.Module):
    """Macro-F1, percent, by name, over an epoch and over all processes.

    Args:
        classes: C.
        names: what is measured side by side.
    """

    def __init__(self, classes: int, names: Sequence[str] = ("f1",)) -> None:
        super().__init__()
        self.matrices = {name: MulticlassConfusionMatrix(classes, validate_args=False) for name in names}
        for name, matrix in self.matrices.items():  # registered for moves between devices; the dict keeps their type
            self.add_module(name, matrix)

    def update(self, name: str, logits: Tensor, y: Tensor) -> None:
        """logits (B, C), y (B,); B may be 0."""
        self.matrices[name].update(logits.argmax(-1), y)

    def compute(self) -> dict[str, Tensor]:
        return {name: macro_f1(matrix.compute()) for name, matrix in self.matrices.items()}

    def reset(self) -> None:
        for matrix in self.matrices.values():
            matrix.reset()
