"""CNN Features off-the-shelf: an Astounding Baseline for Recognition (Razavian, Azizpour, Sullivan, Carlsson).

arXiv 1403.6382. The first fully connected layer of one ImageNet network, frozen, is the image's representation for
every task; what follows is a linear SVM, or a distance. The network is OverFeat (overfeat.py), or any other.

    f = x / |x|                                                          feature of a view, unit length (Section 2)
    min_w 1/2 |w|^2 + C sum_i max(0, 1 - y_i w^T f_i)                                             CNN-SVM (Eq. 1)
    16 views, g(f) = sign(f) |f|^2, score = sum over the views of a test image                            CNNaug-SVM
    d(query, reference) = mean over query patches of min over reference patches |f_q - f_r|           spatial search
    f -> PCA to 500 -> whitening -> unit length -> g                                                     CNNaug-ss

Features are exported once for every view of every image (features.py); SVMs and retrieval are fed with the export.

What the paper leaves open, or where its parts differ, and why we read it so:
- "layer 22": counted from 1 with standardisation and padding it is the ReLU behind FC1, counted from 0 as OverFeat's
  own tool does it is FC2 before its ReLU. `layer` and `relu` choose; the recipe takes FC1, because the words say "first
  fully connected", and takes it before the ReLU, because the paper's depth plot dips at ReLU outputs.
- Eq. 1 is the hinge loss, the primal liblinear solver named for CNNaug minimises its square: `loss` says which, and the
  recipe takes what each named solver minimises.
- g leaves vectors of other lengths: squares of unit features are short, so that the same C regularises them more.
  `renormalise` makes them units again. The full recipe does not, because its C is the paper's and nothing there speaks
  of it; mini does, because its arms with and without g share their values of C.
- side of the search's patches: 2 / (i + 1) of the image at level i, so that neighbours overlap by half.
- angle of the rotated views: 15 degrees, a choice. Crops are 2/3 of the photo's own side (views.py).
- what PCA is learnt on: the references, without labels, because queries are not known beforehand.
- responses of one-against-one machines over views: decision values are summed, then the machines vote, because votes
  of single views would throw the margins away. Where a maximum is asked for instead, a pair's two classes are treated
  alike: the decision of largest magnitude counts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from modules.common.closed_form import ClosedForm
from modules.off_the_shelf import linear_svm
from modules.off_the_shelf.evaluation import (
    average_precisions,
    check_rule,
    measure_classes,
    measure_labels,
    measure_ranking,
)
from modules.off_the_shelf.features import unit
from modules.off_the_shelf.linear_svm import Machines
from modules.off_the_shelf.pictures import draw_average_precisions, draw_matches, draw_ranking
from modules.off_the_shelf.views import Patches


def signed_power(f: Tensor, exponent: float) -> Tensor:
    """g: sign(f) |f|^exponent; the paper takes 2, most later work 1/2."""
    return f if exponent == 1 else f.sign() * f.abs().pow(exponent)


def search_distance(query: Tensor, reference: Tensor) -> Tensor:
    """Mean over query patches of the L2 distance to the nearest reference patch. (Q, p, D), (R, q, D) -> (Q, R)."""
    queries, p, d = query.shape
    references, q, _ = reference.shape
    result = query.new_empty(queries, references)
    rows = max(1, 2**25 // max(1, queries * p * q))  # references at a time, to bound the memory
    for start in range(0, references, rows):
        part = reference[start : start + rows]
        distances = torch.cdist(query.reshape(-1, d), part.reshape(-1, d)).view(queries, p, len(part), q)
        result[:, start : start + rows] = distances.amin(3).mean(1)
    return result


class LinearSVM(ClosedForm):
    """CNN-SVM and CNNaug-SVM on batches of unit features x (B, V, D) and targets y: see linear_svm.

    Logs top1, its mean over classes (acc), and with several test views also top1_max (maximum instead of sum) and
    top1_one (first view alone), both of the machines whose C was chosen for the sum; for several labels map and mauc.
    Percent. `cost` is the C that was used.

    Args:
        classes: of classes or labels.
        cost: C, or values to choose from by cross-validation on the training images: all views of an image stay
            together, and held-out images are judged as test images are, by the sum over their test views.
        loss, scheme: see linear_svm.
        train_views, test_views: how many views are used, first ones first; None takes all.
        exponent: of the signed power; 1 is none.
        renormalise: unit length again after the power.
        folds: of the cross-validation.
        rule: of the average precision, see evaluation.
        fold_seed: deals images out to folds.
    Raises:
        ValueError: loss, scheme or rule has no such value.
    """

    solution = ("weight", "bias", "pairs", "chosen")
    weight: Tensor
    bias: Tensor
    pairs: Tensor
    chosen: Tensor

    def __init__(
        self,
        classes: int,
        cost: float | Sequence[float],
        loss: str = "hinge",
        scheme: str = "one_vs_one",
        train_views: int | None = 1,
        test_views: int | None = 1,
        exponent: float = 1.0,
        renormalise: bool = False,
        folds: int = 3,
        rule: str = "steps",
        fold_seed: int = 0,
    ) -> None:
        super().__init__()
        linear_svm.check(loss, scheme)
        check_rule(rule)
        self.classes = classes
        self.costs = [cost] if isinstance(cost, int | float) else list(cost)
        self.loss = loss
        self.scheme = scheme
        self.train_views = train_views
        self.test_views = test_views
        self.exponent = exponent
        self.renormalise = renormalise
        self.folds = folds
        self.rule = rule
        self.fold_seed = fold_seed
        self._tested: list[tuple[dict[str, Tensor], Tensor]] = []
        self.per_label: list[float] = []  # average precisions of a test in this process

    @property
    def machines(self) -> Machines:
        return Machines(self.weight, self.bias, self.pairs)

    def represent(self, x: Tensor, views: int | None) -> Tensor:
        """g of the first views of unit features, (B, V, D) -> (B, v, D)."""
        f = signed_power(x[:, :views], self.exponent)
        return unit(f) if self.renormalise else f

    def forward(self, x: Tensor) -> Tensor:
        """Decisions of the machines for each test view of features (B, V, D): (B, v, M)."""
        with torch.autocast(self.device.type, enabled=False):  # lower precision is for networks
            return self.machines.decisions(self.represent(x, self.test_views))

    # Training: all images are kept, then C is chosen and the machines are solved.

    def keep(self, x: Tensor) -> Tensor:
        """The views that training looks at: those of the test too, where C is chosen by them."""
        views = [self.train_views, *([self.test_views] if len(self.costs) > 1 else [])]
        most = None if None in views else max(v for v in views if v is not None)
        return x[:, :most].clone()  # a slice would keep all views in memory

    def solve(self, x: Tensor, y: Tensor) -> None:
        f = self.represent(x, self.train_views)
        cost = self.costs[0]
        if len(self.costs) > 1:
            cost = self.choose_cost(f, self.represent(x, self.test_views), y)

        machines = self.fit_machines(f, y, cost)
        self.weight = machines.weight
        self.bias = machines.bias
        self.pairs = machines.pairs
        self.chosen = torch.tensor(float(cost), device=self.device)

    def fit_machines(self, f: Tensor, y: Tensor, cost: float) -> Machines:
        """Every view is an example with its image's target. (N, v, D), (N, ...)."""
        targets = y.repeat_interleave(f.shape[1], 0)
        return linear_svm.fit(f.flatten(0, 1), targets, self.classes, cost, self.loss, self.scheme)

    def choose_cost(self, f: Tensor, judged: Tensor, y: Tensor) -> float:
        """The best C for training views f (N, v, D) and test views `judged` (N, w, D) of the same images."""
        metric = "map" if self.scheme == "multilabel" else "top1"
        totals = [0.0] * len(self.costs)
        for held_out in linear_svm.folds(y, self.folds, self.fold_seed):
            held_out = held_out.to(y.device)
            kept = torch.ones(len(y), dtype=torch.bool, device=y.device).index_fill(0, held_out, False)
            for number, cost in enumerate(self.costs):
                machines = self.fit_machines(f[kept], y[kept], cost)
                scores = machines.scores(machines.decisions(judged[held_out]).sum(1), self.classes)
                totals[number] += self.measure(scores, y[held_out])[metric] * len(held_out)
        return linear_svm.best(totals, self.costs)

    # Test: the responses to an image's views become one score per class.

    def pool(self, decisions: Tensor) -> dict[str, Tensor]:
        """Scores (B, classes) of decisions (B, v, M), by the metrics' suffix; the sum, the method's own, has none.

        The maximum of a machine for two classes is the decision of largest magnitude, whatever its sign.
        """
        pooled = {"": decisions.sum(1)}
        if decisions.shape[1] > 1:
            paired = len(self.machines.pairs) > 0
            strongest = (decisions.abs() if paired else decisions).argmax(1, keepdim=True)  # (B, 1, M)
            pooled["_max"] = decisions.gather(1, strongest)[:, 0]
            pooled["_one"] = decisions[:, 0]
        return {name: self.machines.scores(response, self.classes) for name, response in pooled.items()}

    def measure(self, scores: Tensor, y: Tensor) -> dict[str, float]:
        """Metrics of scores (N, classes), in percent."""
        return measure_labels(scores, y, self.rule) if self.scheme == "multilabel" else measure_classes(scores, y)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self._tested.append((self.pool(self(batch.x)), batch.y))

    def on_test_epoch_end(self) -> None:
        y = torch.cat([targets for _, targets in self._tested])
        metrics = {"n": float(len(y)), "cost": float(self.chosen)}
        for suffix in self._tested[0][0]:
            scores = torch.cat([pooled[suffix] for pooled, _ in self._tested])
            metrics |= {f"{name}{suffix}": value for name, value in self.measure(scores, y).items()}
            if suffix == "" and self.scheme == "multilabel":
                self.per_label = average_precisions(scores, y, self.rule)
        self._tested = []
        self.log_dict({f"test/{name}": value for name, value in metrics.items()})

    def pictures(self, data: Any) -> dict[str, Figure]:
        """Average precision of each label, where there are several; for single labels see Curve."""
        names = data.spec.classes
        return (
            {"per label": draw_average_precisions(self.per_label, names)} if len(self.per_label) == len(names) else {}
        )


class ValidatedSVM(LinearSVM):
    """LinearSVM whose C is chosen on the validation images, by machines of all training images.

    For training images that overlap, of which folds would show the same parts.
    """

    def choose_cost(self, f: Tensor, judged: Tensor, y: Tensor) -> float:
        """The best C of machines for training views f (N, v, D); `judged` is not looked at."""
        (loader,) = self.trainer.datamodule.val_dataloader()  # type: ignore[attr-defined]
        shown, targets = zip(*((self.represent(batch.x, self.test_views), batch.y) for batch in loader), strict=True)
        truth = torch.cat(targets)

        metric = "map" if self.scheme == "multilabel" else "top1"
        right = []
        for cost in self.costs:
            machines = self.fit_machines(f, y, cost)
            scores = machines.scores(machines.decisions(torch.cat(shown)).sum(1), self.classes)
            right.append(self.measure(scores, truth)[metric])
        return linear_svm.best(right, self.costs)


class Retrieval(ClosedForm):
    """Ranks references for every query by the distance of their features x (B, V, D).

    Training looks at the references' features, for the PCA. A test serves the references first, then the queries with
    their relevance y (B, R). Logs map, mrr, recall4 and top1, in percent: see evaluation.measure_ranking.

    Args:
        query_views, reference_views: how many of the views are used, first ones first: 1 is the whole image, 5, 14 and
            30 are the patches of h = 2, 3 and 4 levels; None takes all.
        dimensions: of the PCA, learnt on the views of the references that are compared; None leaves it out.
        whiten: divide by the standard deviations, then unit length.
        exponent: of the signed power afterwards; 1 is none.
        rule: of the average precision, see evaluation.
    Raises:
        ValueError: whitening without PCA, no such rule, or fewer principal directions than `dimensions`.
    """

    solution = ("centre", "projection")
    centre: Tensor  # (D,)
    projection: Tensor  # (D, d)

    def __init__(
        self,
        query_views: int | None = 1,
        reference_views: int | None = 1,
        dimensions: int | None = None,
        whiten: bool = False,
        exponent: float = 1.0,
        rule: str = "steps",
    ) -> None:
        super().__init__()
        if whiten and dimensions is None:
            raise ValueError("whiten=true needs dimensions")
        check_rule(rule)
        self.query_views = query_views
        self.reference_views = reference_views
        self.dimensions = dimensions
        self.whiten = whiten
        self.exponent = exponent
        self.rule = rule
        self._references: list[Tensor] = []
        self._scores: list[dict[str, float]] = []

    def keep(self, x: Tensor) -> Tensor:
        return x[:, : self.reference_views].clone()  # a slice would keep all views in memory

    def solve(self, x: Tensor, y: Tensor) -> None:
        """PCA of the references' views, (R, V, D)."""
        if self.dimensions is None:
            return
        from sklearn.decomposition import PCA

        f = x[:, : self.reference_views].flatten(0, 1)  # (R v, D)
        directions = min(len(f) - 1, f.shape[1])
        if self.dimensions > directions:
            raise ValueError(
                f"dimensions={self.dimensions}: {len(f)} views of length {f.shape[1]} have only {directions}"
            )
        solver = "covariance_eigh" if len(f) >= f.shape[1] else "full"  # D x D, or (R v) x D where that is smaller
        pca = PCA(self.dimensions, whiten=False, svd_solver=solver).fit(f.double().cpu().numpy())
        scale = 1 / np.sqrt(pca.explained_variance_) if self.whiten else np.ones(self.dimensions)
        self.centre = torch.as_tensor(pca.mean_).to(f)
        self.projection = torch.as_tensor(pca.components_.T * scale).to(f)

    def project(self, f: Tensor) -> Tensor:
        """PCA, and whitening if it is asked for. (..., D) -> (..., d)."""
        return (f - self.centre) @ self.projection

    def represent(self, f: Tensor) -> Tensor:
        """The chain from unit features to what is compared, (..., D) -> (..., d)."""
        with torch.autocast(self.device.type, enabled=False):  # lower precision is for networks
            if self.dimensions is not None:
                f = unit(self.project(f))
            return signed_power(f, self.exponent)

    @property
    def references(self) -> Tensor:
        """What queries are compared with, (R, v, d)."""
        if len(self._references) > 1:
            self._references = [torch.cat(self._references)]
        return self._references[0]

    def forward(self, x: Tensor) -> Tensor:
        """Distances of queries with features (B, V, D) to all references: (B, R)."""
        with torch.autocast(self.device.type, enabled=False):
            return search_distance(self.represent(x[:, : self.query_views]), self.references)

    def on_test_start(self) -> None:
        self._references = []

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        if dataloader_idx == 0:
            self._references.append(self.represent(batch.x[:, : self.reference_views]))
            return
        for distances, relevance in zip(self(batch.x), batch.y, strict=True):
            self._scores.append(measure_ranking(distances, relevance, self.rule))

    def on_test_epoch_end(self) -> None:
        metrics = {name: float(np.mean([scores[name] for scores in self._scores])) for name in self._scores[0]}
        self.log_dict({f"test/{name}": value for name, value in metrics.items()} | {"test/n": float(len(self._scores))})
        self._scores = []

    def pictures(self, data: Any) -> dict[str, Figure]:
        """The first references of some queries; with patches, where the parts of the first query lie."""
        batch = next(iter(data.test_dataloader()[1]))
        count = min(3, len(batch.y))
        queries = data.images(data.rows["test"][:count])
        distances = self(batch.x[:count].to(self.device)).cpu()
        relevance = batch.y[:count].cpu()

        def references(numbers: Tensor) -> Tensor:
            return data.images(data.rows["train"][numbers])

        figures = {"retrieved": draw_ranking(queries, references, distances, relevance)}
        views = data.exports[0].module.views
        if isinstance(views, Patches) and self.query_views != 1 and self.reference_views != 1:
            best = distances[0].masked_fill(relevance[0] < 0, math.inf).argmin()
            patches = self.represent(batch.x[0, : self.query_views].to(self.device))  # (p, d)
            nearest = torch.cdist(patches, self.references[best]).argmin(1).tolist()
            figures["spatial search"] = draw_matches(queries[0], references(best.view(1))[0], nearest, views.levels)
        return figures
