"""Scores of prompts without labels, and the weights that follow from them (ZPE, arXiv 2302.06235, Algorithms 1 and 2).

Images v_n (N, D) and texts t_{p,c} (P, C, D) have length 1, logits are l_{n,p,c} = scale v_n . t_{p,c}. Functions take
texts that are multiplied by the scale.

    naive   s_p = mean_n max_c l_{n,p,c}                                                              (Algorithm 1)
    ZPE     s_p = mean_n max_c [l_{n,p,c} - 1/2 (E_pretrain[l]_{p,c} + E_test[l]_{p,c})]              (Algorithm 2)
    weights w = softmax(s), or over the prompts with (s_p - median) / MAD > tau alone

An average of logits over images is the logit of the average image, E[l]_{p,c} = scale mean_n(v_n) . t_{p,c}. So the
normalisation subtracts one vector from every image, and one pass over the images is enough for each statistic.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from scipy.stats import median_abs_deviation
from torch import Tensor

NORMALISATIONS = ("both", "test", "pretrain", "pretrain_star", "none")
RULES = ("softmax", "raw", "tenth_power")
CHUNK = 2**26  # logits at a time


def max_logits(v: Tensor, t: Tensor) -> Tensor:
    """The highest logit of each image under each prompt. (N, D), (P, C, D) -> (N, P)."""
    prompts, classes, dimension = t.shape
    flat = t.reshape(-1, dimension).T  # (D, P C)
    rows = max(1, CHUNK // (prompts * classes))
    return torch.cat([(part @ flat).view(-1, prompts, classes).amax(2) for part in v.split(rows)])


def prompt_accuracy(v: Tensor, y: Tensor, t: Tensor) -> Tensor:
    """Top-1 of each prompt by itself, in percent, (P,); needs the labels (N,)."""
    prompts, classes, dimension = t.shape
    flat = t.reshape(-1, dimension).T
    rows = max(1, CHUNK // (prompts * classes))
    hits = torch.zeros(prompts, device=v.device)
    for part, labels in zip(v.split(rows), y.split(rows), strict=True):
        hits += ((part @ flat).view(-1, prompts, classes).argmax(2) == labels[:, None]).sum(0)
    return 100 * hits / len(y)


@dataclass(frozen=True)
class Score:
    """How prompts are scored.

    Attributes:
        normalisation: "both" is ZPE; "test" and "pretrain" subtract one of the two averages, "pretrain_star" that of
            pre-training images over all class names too, "none" is the naive score.
        test_fraction: share of the test images, the first ones, whose average is subtracted.
        pretraining_images: how many of them, the first ones, are averaged; None takes all.
        scored_on: "set", or "pretraining": the score of images that are not of the set.
        per_example: a score for every image, instead of their mean.
    Raises:
        ValueError: no such normalisation or images.
    """

    normalisation: str = "both"
    test_fraction: float = 1.0
    pretraining_images: int | None = None
    scored_on: str = "set"
    per_example: bool = False

    def __post_init__(self) -> None:
        if self.normalisation not in NORMALISATIONS:
            raise ValueError(f"normalisation={self.normalisation!r}: expected one of {', '.join(NORMALISATIONS)}")
        if self.scored_on not in ("set", "pretraining"):
            raise ValueError(f"scored_on={self.scored_on!r}: expected set or pretraining")

    def __call__(self, v: Tensor, t: Tensor, pretraining: Tensor, every_text: Tensor | None = None) -> Tensor:
        """Scores (P,), or (N, P) per example.

        Args:
            v: images of the set, (N, D).
            t: texts of the set, (P, C, D), times the scale.
            pretraining: images, (M, D).
            every_text: (P, D), the texts' average over all class names there are, for "pretrain_star"; None takes the
                set's classes.
        """
        pretraining = pretraining[: self.pretraining_images]
        pretraining_mean = pretraining.mean(0)
        scored = v if self.scored_on == "set" else pretraining
        test_mean = scored[: max(1, round(self.test_fraction * len(scored)))].mean(0)

        centre = {
            "both": 0.5 * (pretraining_mean + test_mean),
            "test": test_mean,
            "pretrain": pretraining_mean,
        }.get(self.normalisation)
        s = max_logits(scored if centre is None else scored - centre, t)  # (N, P)
        if self.normalisation == "pretrain_star":
            s = s - (t.mean(1) if every_text is None else every_text) @ pretraining_mean
        return s if self.per_example else s.mean(0)


def outstanding(s: Tensor, tau: float) -> Tensor:
    """Which scores (P,) lie more than `tau` median absolute deviations above the median; all, where none does.

    The deviation is not scaled to a normal distribution's. Where it is 0, every score above the median counts.
    """
    above = s - s.median() if len(s) % 2 else s - s.sort().values[len(s) // 2 - 1 : len(s) // 2 + 1].mean()
    kept = above > tau * float(median_abs_deviation(s.double().cpu().numpy()))
    return kept if bool(kept.any()) else torch.ones_like(kept)


@dataclass(frozen=True)
class Weighting:
    """From scores to weights.

    Attributes:
        rule: "softmax"; "raw" takes the scores themselves, "tenth_power" their tenth power.
        tau: prompt selection's threshold; None keeps all prompts.
        dealt: a control: which prompt gets which weight is drawn at random.
    Raises:
        ValueError: no such rule.
    """

    rule: str = "softmax"
    tau: float | None = None
    dealt: bool = False

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise ValueError(f"rule={self.rule!r}: expected one of {', '.join(RULES)}")

    def __call__(self, s: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Weights like s, (P,) or (N, P); softmax weights sum to 1.

        Raises:
            ValueError: a selection per example, which the method does not have.
        """
        if self.tau is not None:
            if s.ndim > 1:
                raise ValueError("tau selects prompts for a set, not for each example")
            kept = outstanding(s, self.tau)
            s = s.masked_fill(~kept, -torch.inf if self.rule == "softmax" else 0.0)
        w = {"softmax": lambda: s.softmax(-1), "raw": lambda: s, "tenth_power": lambda: s.pow(10)}[self.rule]()
        if self.dealt:
            w = w[..., torch.randperm(w.shape[-1], generator=generator).to(w.device)]
        return w


def ensemble(t: Tensor, w: Tensor) -> Tensor:
    """The classifier whose logits are the weighted average of the prompts', not brought to length 1.

    logits_{n,c} = 1/P sum_p w_p l_{n,p,c} = v_n . W_c,    W_c = 1/P sum_p w_p t_{p,c}

    (P, C, D), (P,) -> (C, D); weights (N, P) give a classifier for each image, (N, C, D).
    """
    return torch.einsum("...p,pcd->...cd", w, t) / len(t)


def rank_correlation(a: Tensor, b: Tensor) -> float:
    """Spearman's, of two vectors (P,); 0 where one is constant."""
    from scipy.stats import rankdata

    ranks = [torch.as_tensor(rankdata(x.double().cpu().numpy())) for x in (a, b)]
    centred = [r - r.mean() for r in ranks]
    norm = float(centred[0].norm() * centred[1].norm())
    return float(centred[0] @ centred[1]) / norm if norm else 0.0


def share(w: Tensor, chosen: Sequence[bool] | Tensor) -> float:
    """How much of the weight (P,) or (N, P) falls to the chosen prompts, in [0, 1]."""
    part = w.abs() / w.abs().sum(-1, keepdim=True)
    return float(part[..., torch.as_tensor(chosen, dtype=torch.bool, device=w.device)].sum(-1).mean())
