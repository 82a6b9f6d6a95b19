"""A Simple Zero-shot Prompt Weighting Technique to Improve Prompt Ensembling in Text-Image Models (Allingham et al.).

arXiv 2302.06235 (ICML 2023). A zero-shot classifier averages the logits of many prompts. ZPE weights each prompt of a
large generic pool by a score that needs no labels: the mean over images of the highest logit, after the average logits
of pre-training images and of the test images are subtracted. Scores, weights and the selection of prompts: scoring.py.

    logits_{n,c} = 1/P sum_p w_p l_{n,p,c},    w = softmax(s)

What is averaged are the logits themselves; the normalised ones are for scoring alone. The classifier that this gives is
not brought to length 1 (`renormalised`: CLIP's and open_clip's usual classifier is).

Where paper and released code differ, or leave something open:
- weights are a softmax over all 426 templates that the code has, cut to the pool. A common factor changes no
  prediction; here the softmax is over the pool.
- the paper's row "max-logit scoring" has the raw scores as weights, ZPE has softmax. Both are arms here.
- tau, the threshold of the selection, is 0.5 on ImageNet and its variants and 2 elsewhere: chosen with labels.
- where no score passes the threshold the code's accuracy is 0; here all prompts are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torchmetrics import CatMetric

from datamodules.common.base import generator
from modules.common.metrics import Classification
from modules.common.module import StageModule
from modules.zpe.networks import unit
from modules.zpe.pictures import draw_scores, draw_weights, kinds
from modules.zpe.scoring import Score, Weighting, ensemble, prompt_accuracy, rank_correlation, share

SUBSETS = ("pool", "own", "unplanted")


class PromptEnsemble(StageModule):
    """Classifies the sets of EmbeddedSets by a weighted ensemble of prompts. Nothing is trained. All arms are this.

    Logged for each set, as `<set>_top1`, and as their mean over sets, `top1`: top1 and from 6 classes on top5, percent;
    `planted`, the percentage of the weight that is on planted prompts. As means alone: `kept`, prompts with a weight;
    `effective`, the exponential of the weights' entropy; and with a score per prompt `rank_correlation` with the
    accuracies of single prompts. Labels are used for metrics alone, except by `oracle`.

    Args:
        score: how prompts are scored; None gives all the same weight.
        weighting: from scores to weights; softmax of all unless given.
        prompts: "pool", "own" (those written for the set), "unplanted", or a list of templates.
        renormalised: bring each class's classifier to length 1.
        oracle: the prompt that is best on the set by its labels, as an upper end.
        seed: of weights that are dealt at random.
        draws: show scores and weights on the report page.
    Raises:
        ValueError: no such subset of prompts, or an oracle with a score.
    """

    def __init__(
        self,
        score: Score | None = None,
        weighting: Weighting | None = None,
        prompts: str | Sequence[str] = "pool",
        renormalised: bool = False,
        oracle: bool = False,
        seed: int = 0,
        draws: bool = False,
    ) -> None:
        super().__init__()
        if isinstance(prompts, str) and prompts not in SUBSETS:
            raise ValueError(f"prompts={prompts!r}: expected one of {', '.join(SUBSETS)} or a list of templates")
        if oracle and score is not None:
            raise ValueError("an oracle looks at labels, not at a score")
        self.score = score
        self.weighting = weighting or Weighting()
        self.prompts = prompts if isinstance(prompts, str) else list(prompts)
        self.renormalised = renormalised
        self.oracle = oracle
        self.draw_seed = seed
        self.draws = draws

        self.names: list[str] = []  # of the sets
        self.texts: dict[str, Tensor] = {}  # (P, C, D) times the scale
        self.templates: dict[str, list[str]] = {}
        self.kinds: dict[str, np.ndarray] = {}
        self.scores: dict[str, Tensor] = {}  # (P,) or (N, P)
        self.weights: dict[str, Tensor] = {}
        self.classifiers: dict[str, Tensor] = {}  # (C, D)
        self.accuracies: dict[str, Tensor] = {}  # (P,) of single prompts
        self.metrics: dict[str, Classification] = {}
        self.answers: dict[str, CatMetric] = {}  # rows of image number and 0 or 100
        self.outcomes: dict[str, np.ndarray] = {}  # of every image, in order

    def weigh(self, data: Any, name: str) -> None:
        """Score a set's prompts on its unlabelled images and build the classifier."""
        t = self.texts[name]  # (P, C, D)
        v = data.tensor(name, "images")  # (N, D)
        self.accuracies[name] = prompt_accuracy(v, data.tensor(name, "labels"), t)  # (P,)

        if self.oracle:
            w = (self.accuracies[name] == self.accuracies[name].max()).float()
        elif self.score is None:
            w = torch.ones(len(t), device=t.device)
        else:
            s = self.score(v, t, data.pretraining_images(), self.every_text(data))  # (P,), or (N, P)
            self.scores[name] = s
            w = self.weighting(s, generator("dealt weights", self.draw_seed, self.names.index(name)))

        self.weights[name] = w
        if w.ndim == 1:  # a classifier for every image is made when the image comes
            self.classifiers[name] = self.classifier(t, w)

    def classifier(self, t: Tensor, w: Tensor) -> Tensor:
        """(P, C, D), weights (..., P) -> (..., C, D).

        Weights are brought to a mean size of 1. A common factor changes no prediction, but tenth powers of scores would
        give logits whose softmax has ties.
        """
        classifier = ensemble(t, w / w.abs().mean(-1, keepdim=True))
        return t.norm(dim=-1).mean() * unit(classifier) if self.renormalised else classifier

    def every_text(self, data: Any) -> Tensor | None:
        """The prompts' texts (P, D) averaged over the class names of all sets, where the score asks for it.

        None where the sets do not have the same prompts.
        """
        if self.score is None or self.score.normalisation != "pretrain_star":
            return None
        if len({tuple(templates) for templates in self.templates.values()}) > 1:
            return None
        by_class: dict[str, Tensor] = {}
        for name in self.names:
            by_class |= zip(data.words(name, "classes"), self.texts[name].unbind(1), strict=True)
        return torch.stack(list(by_class.values())).mean(0)

    def chosen(self, data: Any, name: str) -> Tensor:
        """Rows of a set's pool that take part.

        Raises:
            ValueError: a template that the pool does not have, or no prompt left.
        """
        templates = data.words(name, "templates")
        if isinstance(self.prompts, list):
            if stranger := next((template for template in self.prompts if template not in templates), None):
                raise ValueError(f"prompts: {stranger!r} is not in the pool of {name}")
            return torch.tensor([templates.index(template) for template in self.prompts])
        if self.prompts == "pool":
            return torch.arange(len(templates))
        own, planted = data.tensor(name, "own").cpu(), data.tensor(name, "planted").cpu()
        rows = (own if self.prompts == "own" else ~planted).nonzero().flatten()
        if not len(rows):
            raise ValueError(f"prompts={self.prompts}: {name} has none")
        return rows

    def on_test_start(self) -> None:
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        self.names = data.names
        with torch.autocast(self.device.type, enabled=False):  # lower precision is for networks
            for name in self.names:
                rows = self.chosen(data, name)
                texts = data.tensor(name, "texts") * data.tensor(name, "scale")
                self.texts[name] = texts[rows.to(texts.device)]
                self.templates[name] = [data.words(name, "templates")[row] for row in rows.tolist()]
                masks = [data.tensor(name, mask).cpu().numpy()[rows.numpy()] for mask in ("own", "planted")]
                self.kinds[name] = kinds(*masks)
            for name in self.names:
                self.weigh(data, name)
                self.metrics[name] = Classification(self.texts[name].shape[1], ("top1", "top5")).to(self.device)
                self.answers[name] = CatMetric(nan_strategy="disable").to(self.device)

    def forward(self, v: Tensor, name: str | None = None, rows: Tensor | None = None) -> Tensor:
        """Embeddings (B, D) of a set's images, the first set's unless named -> logits (B, C).

        `rows` are the images' numbers in the set, for weights per example.
        """
        name = name or self.names[0]
        with torch.autocast(self.device.type, enabled=False):
            if name in self.classifiers:
                return v @ self.classifiers[name].T
            w = self.weights[name][: len(v)] if rows is None else self.weights[name][rows]  # (B, P)
            return torch.einsum("bd,bcd->bc", v, self.classifier(self.texts[name], w))

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        name = self.names[dataloader_idx]
        logits = self(batch.x, name, batch.row)
        self.metrics[name].update(logits, batch.y)
        right = 100.0 * (logits.argmax(-1) == batch.y)
        self.answers[name].update(torch.stack([batch.row.float(), right], 1))

    def on_test_epoch_end(self) -> None:
        for name, answers in self.answers.items():
            rows = answers.compute().view(-1, 2).cpu()
            self.outcomes[name] = rows[rows[:, 0].argsort(), 1].numpy()
        sets: dict[str, dict[str, float]] = {}
        for name, metric in self.metrics.items():
            sets[name] = {key: float(value) for key, value in metric.compute().items()} | self.describe(name)
        logged = {"n": sum(values.pop("n") for values in sets.values())}

        first, *others = sets.values()
        for key in first:
            if all(key in values for values in others):
                logged[key] = sum(values[key] for values in sets.values()) / len(sets)
        for name, values in sets.items():
            logged |= {f"{name}_{key}": values[key] for key in ("top1", "top5", "planted") if key in values}
        self.log_dict({f"test/{key}": value for key, value in logged.items()})

    def describe(self, name: str) -> dict[str, float]:
        """What a set's weights are like."""
        w = self.weights[name].abs()
        p = w / w.sum(-1, keepdim=True)
        entropy = -torch.xlogy(p, p).sum(-1)
        values = {
            "kept": float((w > 0).sum(-1).float().mean()),
            "effective": float(entropy.exp().mean()),
            "planted": 100 * share(w, self.kinds[name] == "planted"),
        }
        if name in self.scores and self.scores[name].ndim == 1:
            values["rank_correlation"] = rank_correlation(self.scores[name], self.accuracies[name])
        return values

    def artifacts(self) -> dict[str, np.ndarray]:
        """Each image's outcome, 0 or 100, and each set's weights."""
        outcomes = {f"test-{name}_top1": outcome for name, outcome in self.outcomes.items()}
        return {**outcomes, **{f"weights-{name}": w.cpu().numpy() for name, w in self.weights.items()}}

    def pictures(self, data: Any) -> dict[str, Figure]:
        """Each prompt's accuracy against its score, and the heaviest prompts, where prompts are scored for a set."""
        if not self.draws or not self.scores or any(s.ndim > 1 for s in self.scores.values()):
            return {}
        scores, weights, accuracies = (
            {name: x.cpu() for name, x in of_set.items()} for of_set in (self.scores, self.weights, self.accuracies)
        )
        return {
            "accuracy of each prompt against its score": draw_scores(scores, accuracies, self.kinds),
            "the heaviest prompts": draw_weights(weights, self.templates, self.kinds),
        }
