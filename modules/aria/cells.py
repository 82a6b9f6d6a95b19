"""One cell of a protocol: real and generated pictures of one test source, as a detector of one training source sees
them. Generated is the positive class; accuracies, precision, recall and F1 are in percent, AUC lies in [0, 1].
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchmetrics.functional.classification import binary_auroc, binary_f1_score, binary_precision, binary_recall

from datamodules.common.base import generator

COLUMNS = ("train_source", "test_source", "mode", "category", "n_real", "n_fake", "acc_real", "acc_fake",
           "balanced_acc", "auc", "seed", "accuracy", "precision", "recall", "f1", "low", "high")  # fmt: skip
DRAWS = 1000  # resamplings of the bootstrap
LEVEL = 0.95  # of its intervals


@dataclass(frozen=True)
class Source:
    """A test source: which real and which generated pictures belong together.

    Attributes:
        name: of the source, as training sources are named.
        real, fake: (N,) masks of the test pictures.
        test_source, mode, category: for the table, empty where the source has none.
    """

    name: str
    real: Tensor
    fake: Tensor
    test_source: str = ""
    mode: str = ""
    category: str = ""


def measure(score: Tensor, y: Tensor) -> dict[str, float]:
    """What a detector does on one source.

    Args:
        score: (n,) log odds of "generated"; above 0 a picture is called generated.
        y: (n,), 1 for generated.
    Returns:
        n_real and n_fake, and where there are pictures of both kinds acc_real, acc_fake, balanced_acc, accuracy,
        precision (0 where nothing is called generated), recall, f1 and auc.
    """
    y = y.long()
    fakes = int(y.sum())
    values = {"n_real": float(len(y) - fakes), "n_fake": float(fakes)}
    if not values["n_real"] or not values["n_fake"]:
        return values
    called = (score > 0).long()
    right = 100 * (called == y).double()
    real, fake = float(right[y == 0].mean()), float(right[y == 1].mean())
    values |= {"acc_real": real, "acc_fake": fake, "balanced_acc": (real + fake) / 2, "accuracy": float(right.mean())}
    for name, function in (("precision", binary_precision), ("recall", binary_recall), ("f1", binary_f1_score)):
        values[name] = 100 * float(function(called, y))
    ranks = score.unique(return_inverse=True)[1].double()  # the sigmoid of large scores would make ties
    values["auc"] = float(binary_auroc(ranks / ranks.max().clamp(min=1), y))
    return values


def resample(right: Tensor, sources: Sequence[Source], draws: int = DRAWS) -> Tensor:
    """Balanced accuracies under resampled pictures, for bootstrap intervals over images.

    Pictures are drawn with replacement among the real ones and among the generated ones of a source, the same for all
    detectors, and the same real ones for all sources that share them. The answer does not depend on the pictures'
    order.

    Args:
        right: (D, N), whether each of D detectors is right about each picture, 0 or 1.
        sources: S of them.
        draws: how many times R.
    Returns:
        (R, D, S), percent; NaN where a source lacks real or generated pictures.
    """
    order = sorted(range(right.shape[1]), key=lambda column: right[:, column].tolist())
    right = right[:, order].float()
    drawn: dict[bytes, Tensor] = {}

    def means(mask: Tensor) -> Tensor:  # (R, D)
        chosen = mask[order].cpu()
        key = bytes(chosen.to(torch.uint8).numpy())
        if key not in drawn:
            picked = right[:, chosen]
            count = picked.shape[1]
            if not count:
                drawn[key] = torch.full((draws, len(right)), math.nan)
                return drawn[key]
            places = torch.randint(count, (draws, count), generator=generator("bootstrap over images", len(drawn)))
            drawn[key] = torch.stack([line[places].mean(1) for line in picked], 1)
        return drawn[key]

    return torch.stack([50 * (means(source.real) + means(source.fake)) for source in sources], 2)


def interval(values: Tensor, level: float = LEVEL) -> tuple[float, float]:
    """The middle share `level` of bootstrap values (R,)."""
    tail = (1 - level) / 2
    low, high = torch.quantile(values.double(), torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return low, high


def summarise(cells: Tensor) -> dict[str, Tensor]:
    """Mean of a matrix's diagonal, where training and test source belong together, of all other cells, and the gap
    between them.

    Args:
        cells: (..., D, D), balanced accuracies; NaN for a cell that there is not.
    Returns:
        diagonal, off_diagonal and gap, of shape (...).
    Raises:
        ValueError: no cell on the diagonal, or none beside it.
    """
    own = torch.eye(cells.shape[-2], cells.shape[-1], dtype=torch.bool)
    there = ~cells.isnan().flatten(0, -3).any(0) if cells.dim() > 2 else ~cells.isnan()
    if not (own & there).any() or not (~own & there).any():
        raise ValueError("a matrix needs cells on its diagonal and beside it")
    diagonal = cells[..., own & there].mean(-1)
    off_diagonal = cells[..., ~own & there].mean(-1)
    return {"diagonal": diagonal, "off_diagonal": off_diagonal, "gap": diagonal - off_diagonal}


def to_csv(rows: Sequence[Mapping[str, object]]) -> str:
    """Rows as CSV with COLUMNS; what a row lacks is empty, fractions have six digits."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        values = (row.get(name, "") for name in COLUMNS)
        writer.writerow([f"{value:.6g}" if isinstance(value, float) else value for value in values])
    return text.getvalue()
