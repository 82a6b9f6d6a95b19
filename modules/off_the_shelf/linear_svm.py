"""Linear support vector machines on given features, solved by libsvm or liblinear (scikit-learn).

    min_w  1/2 |w|^2 + C sum_i loss(1 - y_i (w^T x_i + b)),  y in {-1, +1}

"hinge" is libsvm on the precomputed linear kernel (b is free), "squared_hinge" liblinear's primal solver (b is
regularised like a weight). Several classes: one machine per pair with voting ("one_vs_one"), or one per class
("one_vs_all"); "multilabel" is one per label for labels (N, K) of 0 and 1, -1 where an example says nothing about one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from torch import Tensor

LOSSES = ("hinge", "squared_hinge")
SCHEMES = ("one_vs_one", "one_vs_all", "multilabel")


@dataclass(frozen=True)
class Machines:
    """Trained machines; `pairs` (M, 2) names the two classes of each in one_vs_one and is empty otherwise."""

    weight: Tensor  # (M, D)
    bias: Tensor  # (M,)
    pairs: Tensor  # (M, 2) or (0, 2)

    def decisions(self, x: Tensor) -> Tensor:
        """(..., D) -> signed distances (..., M), in units of the margin."""
        return x @ self.weight.T + self.bias

    def scores(self, decisions: Tensor, classes: int) -> Tensor:
        """Per class: the decisions themselves or, one against one, votes; ties go to the lower class, as in libsvm."""
        if not len(self.pairs):
            return decisions
        winner = torch.where(decisions > 0, self.pairs[:, 0], self.pairs[:, 1])  # (..., M)
        votes = decisions.new_zeros(*decisions.shape[:-1], classes)
        votes.scatter_add_(-1, winner, torch.ones_like(decisions))
        return votes - torch.arange(classes, device=votes.device) / (2 * classes)


def binary(x: np.ndarray, kernel: np.ndarray | None, y: np.ndarray, c: float, loss: str) -> tuple[np.ndarray, float]:
    """One machine: x (N, D), its Gram matrix (hinge only), y (N,) bool -> w (D,), b.

    Where all examples have one sign the answer is that sign: w = 0, b = +-1.
    """
    from sklearn.svm import SVC, LinearSVC

    if y.all() or not y.any():
        return np.zeros(x.shape[1]), 1.0 if y.all() else -1.0
    if loss == "hinge":
        solved = SVC(C=c, kernel="precomputed").fit(kernel, y)
        return solved.dual_coef_[0] @ x[solved.support_], float(solved.intercept_[0])
    primal = LinearSVC(C=c, loss="squared_hinge", dual=False).fit(x, y)
    return primal.coef_[0], float(primal.intercept_[0])


def fit(x: Tensor, y: Tensor, classes: int, c: float, loss: str, scheme: str) -> Machines:
    """All machines of a task. x (N, D), y (N,) class numbers, or (N, K) of 1, 0 and -1 for multilabel.

    Raises ValueError for an unknown loss or scheme.
    """
    check(loss, scheme)
    features, labels = x.double().cpu().numpy(), y.cpu().numpy()
    kernel = features @ features.T if loss == "hinge" else None
    solved: list[tuple[np.ndarray, float]] = []
    pairs = list(combinations(range(classes), 2)) if scheme == "one_vs_one" else []
    for first, second in pairs:
        rows = np.flatnonzero((labels == first) | (labels == second))
        part = kernel[np.ix_(rows, rows)] if kernel is not None else None
        if len(rows):
            solved.append(binary(features[rows], part, labels[rows] == first, c, loss))
        else:  # neither class has an example
            solved.append((np.zeros(features.shape[1]), 0.0))
    for k in range(0 if pairs else classes):
        targets = labels[:, k] if scheme == "multilabel" else (labels == k).astype(int)
        rows = np.flatnonzero(targets >= 0)
        part = kernel[np.ix_(rows, rows)] if kernel is not None and len(rows) < len(targets) else kernel
        solved.append(binary(features[rows], part, targets[rows] > 0, c, loss))
    weight = torch.as_tensor(np.stack([w for w, _ in solved])).to(x)
    bias = torch.tensor([b for _, b in solved]).to(x)
    return Machines(weight, bias, torch.tensor(pairs, dtype=torch.long, device=x.device).view(-1, 2))


def check(loss: str, scheme: str) -> None:
    for name, value, valid in (("loss", loss, LOSSES), ("scheme", scheme, SCHEMES)):
        if value not in valid:
            raise ValueError(f"{name}={value!r}: expected one of {', '.join(valid)}")


def folds(y: Tensor, count: int, seed: int) -> list[Tensor]:
    """Held-out rows of each fold, every row once; classes are dealt out evenly where each row has one class."""
    source = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(y), generator=source)
    if y.ndim == 1:
        order = order[y.cpu()[order].argsort(stable=True)]
    return [order[start::count] for start in range(count)]


def best(scores: Sequence[float], grid: Sequence[float]) -> float:
    """The value with the highest score; of equals, the smallest."""
    return min(zip([-s for s in scores], grid, strict=True))[1]
