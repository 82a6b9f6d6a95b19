"""Measures of a ranking."""

from __future__ import annotations

import torch
from torch import Tensor

RULES = ("steps", "trapezoid", "eleven")


def average_precision(relevant: Tensor, rule: str = "steps") -> float:
    """Area under precision over recall, in [0, 1]; NaN without a relevant item.

    Args:
        relevant: (N,) bool, best-ranked first, every item of the collection.
        rule: "steps", the mean precision at the relevant items; "trapezoid", the evaluation program of Oxford5k, which
            joins the points of the curve; "eleven", Pascal VOC 2007, the mean over recalls 0, 0.1 ... 1 of the best
            precision at that recall or above.
    Raises:
        ValueError: another rule.
    """
    if rule not in RULES:
        raise ValueError(f"rule={rule!r}: expected one of {', '.join(RULES)}")
    hits = relevant.double()
    total = float(hits.sum())
    if not total:
        return float("nan")
    found = hits.cumsum(0)
    precision = found / torch.arange(1, len(hits) + 1, device=hits.device)
    if rule == "steps":
        return float((precision * hits).sum()) / total
    if rule == "trapezoid":
        before = torch.cat([precision.new_ones(1), precision[:-1]])
        return float(((precision + before) / 2 * hits).sum()) / total
    recall = found / total
    return sum(float(precision[recall >= tenth / 10 - 1e-9].max()) for tenth in range(11)) / 11


def ranked(scores: Tensor, relevant: Tensor) -> Tensor:
    """Relevance in order of falling score; equal scores keep the order of the items. Both (N,)."""
    return relevant[scores.argsort(descending=True, stable=True)].bool()
