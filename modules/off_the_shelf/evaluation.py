"""What is measured on the scores of classes, on those of labels, and on rankings; all in percent."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

RULES = ("steps", "trapezoid", "eleven")


def measure_classes(scores: Tensor, y: Tensor) -> dict[str, float]:
    """top1, and acc, its mean over the classes that occur. scores (N, classes), y (N,)."""
    right = (scores.argmax(1) == y).float()
    classes = [100 * float(right[y == k].mean()) for k in range(scores.shape[1]) if bool((y == k).any())]
    return {"top1": 100 * float(right.mean()), "acc": float(np.mean(classes))}


def measure_labels(scores: Tensor, y: Tensor, rule: str) -> dict[str, float]:
    """map and mauc over the labels that can be judged; 0 if none can. scores and y (N, K), y of 1, 0 and -1."""
    from sklearn.metrics import roc_auc_score

    areas = [
        100 * float(roc_auc_score(truth.cpu().numpy(), score.cpu().numpy()))
        for score, truth in judged_labels(scores, y)
    ]
    if not areas:
        return {"map": 0.0, "mauc": 0.0}
    return {"map": float(np.mean(average_precisions(scores, y, rule))), "mauc": float(np.mean(areas))}


def average_precisions(scores: Tensor, y: Tensor, rule: str) -> list[float]:
    """Of each label that can be judged."""
    return [100 * average_precision(score, truth, rule) for score, truth in judged_labels(scores, y)]


def judged_labels(scores: Tensor, y: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """(scores, targets) of each label with both 1 and 0 among its targets, without the examples whose target is -1."""
    for k in range(y.shape[1]):
        known = y[:, k] >= 0
        truth = y[known, k]
        if 0 < int(truth.sum()) < len(truth):
            yield scores[known, k], truth


def measure_ranking(distances: Tensor, relevance: Tensor, rule: str) -> dict[str, float]:
    """Of one query: map, mrr (of the first relevant reference), recall4 (share of the relevant ones, at most 4, among
    the first four) and top1. Both (R,); references with relevance -1 are taken out of the ranking.
    """
    counted = relevance >= 0
    hits = rank(-distances[counted], relevance[counted])
    values = {
        "map": average_precision(-distances[counted], relevance[counted], rule),
        "mrr": 1 / (1 + int(hits.int().argmax())),
        "recall4": float(hits[:4].sum()) / min(4, int(hits.sum())),
        "top1": float(hits[0]),
    }
    return {name: 100 * value for name, value in values.items()}


def rank(scores: Tensor, relevant: Tensor) -> Tensor:
    """Relevance in order of falling score; equal scores keep the order of the items. Both (N,)."""
    return relevant[scores.argsort(descending=True, stable=True)].bool()


def average_precision(scores: Tensor, relevant: Tensor, rule: str = "steps") -> float:
    """Area under precision over recall, in [0, 1]; NaN without a relevant item.

    Items of equal score are one step of the curve, as in scikit-learn: their order says nothing.

    Args:
        scores: (N,), of every item of the collection, the best has the highest.
        relevant: (N,) bool, or 1 and 0.
        rule: "steps", the precision at each step weighted by what it adds to the recall; "trapezoid", the evaluation
            program of Oxford5k, which joins the points of the curve; "eleven", Pascal VOC 2007, the mean over recalls
            0, 0.1 ... 1 of the best precision at that recall or above.
    Raises:
        ValueError: another rule.
    """
    check_rule(rule)
    hits = rank(scores, relevant).double()
    total = float(hits.sum())
    if not total:
        return float("nan")

    ordered = scores.sort(descending=True, stable=True).values
    last = torch.cat([ordered[1:] != ordered[:-1], ordered.new_ones(1, dtype=torch.bool)])  # of its score
    count = hits.cumsum(0)[last]
    precision = count / torch.arange(1, len(hits) + 1, device=hits.device)[last]
    new = count.diff(prepend=count.new_zeros(1))
    if rule == "steps":
        return float((precision * new).sum()) / total
    if rule == "trapezoid":
        before = torch.cat([precision.new_ones(1), precision[:-1]])
        return float(((precision + before) / 2 * new).sum()) / total
    recall = count / total
    return sum(float(precision[recall >= tenth / 10 - 1e-9].max()) for tenth in range(11)) / 11


def check_rule(rule: str) -> None:
    if rule not in RULES:
        raise ValueError(f"rule={rule!r}: expected one of {', '.join(RULES)}")
