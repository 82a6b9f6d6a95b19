"""CNN Features off-the-shelf: an Astounding Baseline for Recognition (Razavian, Azizpour, Sullivan, Carlsson).

arXiv 1403.6382. The first fully connected layer of one ImageNet network, frozen, is the image's representation for
every task; what follows is a linear SVM, or a distance. The network is modules.common.overfeat, or any other.

    f = x / |x|                                                          feature of a view, unit length (Section 2)
    min_w 1/2 |w|^2 + C sum_i max(0, 1 - y_i w^T f_i)                                             CNN-SVM (Eq. 1)
    16 views, g(f) = sign(f) |f|^2, score = sum over the views of a test image                            CNNaug-SVM
    d(query, reference) = mean over query patches of min over reference patches |f_q - f_r|           spatial search
    f -> PCA to 500 -> whitening -> unit length -> g                                                     CNNaug-ss

Features are exported once for every view of every image (`Features`); SVMs and retrieval are fitted on the export.

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
- angle of the rotated views: 15 degrees, a choice. Crops are 2/3 of the photo's own side (modules.common.views).
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
from modules.common.module import StageModule
from modules.off_the_shelf import linear_svm
from modules.off_the_shelf.features import Features, show, unit
from modules.off_the_shelf.linear_svm import Machines
from modules.off_the_shelf.ranking import RULES, average_precision, ranked
from modules.off_the_shelf.views import Patches, patch_boxes


def signed_power(f: Tensor, exponent: float) -> Tensor:
    """sign(f) |f|^exponent; the paper takes 2, most later work 1/2."""
    return f if exponent == 1 else f.sign() * f.abs().pow(exponent)


def search_distance(query: Tensor, reference: Tensor) -> Tensor:
    """Mean over query patches of the L2 distance to the nearest reference patch. (Q, p, D), (R, q, D) -> (Q, R)."""
    (queries, p, d), (references, q, _) = query.shape, reference.shape
    found = query.new_empty(queries, references)
    rows = max(1, 2**25 // max(1, queries * p * q))
    for start in range(0, references, rows):
        part = reference[start : start + rows]
        distances = torch.cdist(query.reshape(-1, d), part.reshape(-1, d)).view(queries, p, len(part), q)
        found[:, start : start + rows] = distances.amin(3).mean(1)
    return found


class LinearSVM(ClosedForm):
    """CNN-SVM and CNNaug-SVM on stored features: see modules.common.linear_svm.

    Logs top1, its mean over classes (acc), and with several test views also top1_max (maximum instead of sum) and
    top1_one (first view alone), both of the machines whose C was chosen for the sum; for several labels map and mauc.
    Percent. `cost` is the C that was used.

    Args:
        features: the stage with the export.
        classes: of classes or labels.
        cost: C, or values to choose from by cross-validation on the training rows: all views of an image stay together,
            and held-out images are judged as test images are, by the sum over their test views.
        loss, scheme: see modules.common.linear_svm.
        train_views, test_views: how many views are used, first ones first; None takes all.
        exponent: of the signed power; 1 is none.
        renormalise: unit length again after the power.
        folds: of the cross-validation.
        rule: of the average precision, see modules.common.ranking.
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
        features: Features,
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
        if rule not in RULES:
            raise ValueError(f"rule={rule!r}: expected one of {', '.join(RULES)}")
        self.frozen, self.classes, self.loss, self.scheme = [features], classes, loss, scheme
        self.grid = [cost] if isinstance(cost, int | float) else list(cost)
        self.train_views, self.test_views = train_views, test_views
        self.exponent, self.renormalise, self.folds, self.rule = exponent, renormalise, folds, rule
        self.fold_seed = fold_seed
        self._tested: list[tuple[dict[str, Tensor], Tensor]] = []
        self.per_label: list[float] = []  # average precisions of a test in this process

    @property
    def machines(self) -> Machines:
        return Machines(self.weight, self.bias, self.pairs)

    def mapped(self, f: Tensor) -> Tensor:
        """g of unit features, (..., D)."""
        f = signed_power(f, self.exponent)
        return unit(f) if self.renormalise else f

    def represented(self, rows: Tensor, views: int | None) -> Tensor:
        """Stored features of rows (B,): (B, V, D)."""
        return self.mapped(self.frozen[0].stored.to(self.device)[rows, :views])

    def gathered(self, x: Tensor) -> Tensor:
        return x

    def fitted(self, f: Tensor, y: Tensor, cost: float) -> Machines:
        """Every view is an example with its image's target. (N, V, D), (N, ...)."""
        every = y.repeat_interleave(f.shape[1], 0)
        return linear_svm.fit(f.flatten(0, 1), every, self.classes, cost, self.loss, self.scheme)

    def solve(self, x: Tensor, y: Tensor) -> None:
        x, order = x.sort()
        y, f = y[order], self.represented(x, self.train_views)
        cost = self.grid[0]
        if len(self.grid) > 1:
            cost = self.cross_validated(f, self.represented(x, self.test_views), y)
        found = self.fitted(f, y, cost)
        self.weight, self.bias, self.pairs = found.weight, found.bias, found.pairs
        self.chosen = torch.tensor(float(cost), device=self.device)

    def cross_validated(self, f: Tensor, judged: Tensor, y: Tensor) -> float:
        """The best C for training views f (N, V, D) and test views `judged` (N, W, D) of the same images."""
        totals = [0.0] * len(self.grid)
        for held in linear_svm.folds(y, self.folds, self.fold_seed):
            held = held.to(y.device)
            kept = torch.ones(len(y), dtype=torch.bool, device=y.device).index_fill(0, held, False)
            for number, cost in enumerate(self.grid):
                machines = self.fitted(f[kept], y[kept], cost)
                scores = machines.scores(machines.decisions(judged[held]).sum(1), self.classes)
                measure = "map" if self.scheme == "multilabel" else "top1"
                totals[number] += self.measured(scores, y[held])[measure] * len(held)
        return linear_svm.best(totals, self.grid)

    def measured(self, scores: Tensor, y: Tensor) -> dict[str, float]:
        """Metrics of scores (N, classes), in percent; labels without both values among the targets are left out."""
        if self.scheme != "multilabel":
            right = (scores.argmax(1) == y).float()
            classes = [100 * float(right[y == k].mean()) for k in range(self.classes) if bool((y == k).any())]
            return {"top1": 100 * float(right.mean()), "acc": float(np.mean(classes))}
        from sklearn.metrics import roc_auc_score

        precisions, areas = [], []
        for k in range(self.classes):
            judged = y[:, k] >= 0
            truth, score = y[judged, k], scores[judged, k]
            if 0 < int(truth.sum()) < len(truth):
                precisions.append(100 * average_precision(ranked(score, truth), self.rule))
                areas.append(100 * float(roc_auc_score(truth.cpu().numpy(), score.cpu().numpy())))
        self.per_label = precisions
        return (
            {"map": float(np.mean(precisions)), "mauc": float(np.mean(areas))} if areas else {"map": 0.0, "mauc": 0.0}
        )

    def forward(self, rows: Tensor) -> Tensor:
        """Decisions of the machines for each view of rows (B,): (B, V, M)."""
        with torch.autocast(self.device.type, enabled=False):  # lower precision is for networks
            return self.machines.decisions(self.represented(rows, self.test_views))

    def example(self, shape: tuple[int, ...]) -> tuple[Any, ...]:
        return (torch.zeros(1, dtype=torch.long, device=self.device),)

    def pooled(self, decisions: Tensor) -> dict[str, Tensor]:
        """Scores (B, classes) of decisions (B, V, M), by the metrics' suffix; the sum, the method's own, has none.

        The maximum of a machine for two classes is the decision of largest magnitude, whatever its sign.
        """
        parts = {"": decisions.sum(1)}
        if decisions.shape[1] > 1:
            paired = len(self.machines.pairs) > 0
            strongest = (decisions.abs() if paired else decisions).argmax(1, keepdim=True)  # (B, 1, M)
            parts |= {"_max": decisions.gather(1, strongest)[:, 0], "_one": decisions[:, 0]}
        return {name: self.machines.scores(part, self.classes) for name, part in parts.items()}

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._tested.append((self.pooled(self(batch[0])), batch[1]))

    def on_test_epoch_end(self) -> None:
        y = torch.cat([targets for _, targets in self._tested])
        scores = {name: torch.cat([found[name] for found, _ in self._tested]) for name in self._tested[0][0]}
        self._tested = []
        found = {"n": float(len(y)), "cost": float(self.chosen)}
        for name, part in reversed(scores.items()):  # the sum last: its values per label are what the picture shows
            found |= {f"{key}{name}": value for key, value in self.measured(part, y).items()}
        self.log_dict({f"test/{name}": value for name, value in found.items()})

    def pictures(self, data: Any) -> dict[str, Figure]:
        """Average precision of each label, where there are several; for single labels see `Curve`."""
        names = data.spec.classes
        if len(self.per_label) != len(names):
            return {}
        figure = Figure(figsize=(9, 3), layout="constrained")
        axes = figure.subplots()
        axes.bar(range(len(names)), self.per_label)
        axes.set_xticks(range(len(names)), names, rotation=45, ha="right", fontsize=7)
        axes.set(ylim=(0, 100), ylabel="average precision, %", title=f"mean {np.mean(self.per_label):.1f}")
        return {"per label": figure}


class Curve(StageModule):
    """Accuracy against the number of training images for several features: a picture of stages that are there already.

    All are tested once more, on the rows of this stage's data; nothing is logged but how many those are.

    Args:
        machines: the stages, feature by feature, each with all `sizes`.
        features: names of the features.
        sizes: numbers of training images, increasing.
    Raises:
        ValueError: not one stage for each feature and size.
    """

    def __init__(self, machines: Sequence[LinearSVM], features: Sequence[str], sizes: Sequence[int]) -> None:
        super().__init__()
        if len(machines) != len(features) * len(sizes):
            raise ValueError(f"{len(machines)} machines: expected {len(features)} features x {len(sizes)} sizes")
        self.frozen, self.features, self.sizes = list(machines), list(features), list(sizes)
        self._right: list[Tensor] = []
        self._labels: list[Tensor] = []
        self.accuracy = torch.empty(0)  # (features, sizes) of a test in this process, percent
        self.per_class = torch.empty(0)  # (features, classes) with the most training images, percent

    def forward(self, rows: Tensor) -> Tensor:
        """Predicted classes of rows (B,): (machines, B)."""
        return torch.stack([svm.pooled(svm(rows.to(svm.device)))[""].argmax(1) for svm in self.frozen])

    def example(self, shape: tuple[int, ...]) -> tuple[Any, ...]:
        return (torch.zeros(1, dtype=torch.long, device=self.device),)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        rows, y = batch
        self._right.append(100 * (self(rows).cpu() == y.cpu()).float())
        self._labels.append(y.cpu())

    def on_test_epoch_end(self) -> None:
        right, y = torch.cat(self._right, 1).unflatten(0, (len(self.features), -1)), torch.cat(self._labels)
        self._right, self._labels = [], []
        self.accuracy = right.mean(2)
        self.per_class = torch.stack([right[:, -1, y == k].mean(1) for k in y.unique()], 1)
        self.log_dict({"test/n": float(len(y))})

    def pictures(self, data: Any) -> dict[str, Figure]:
        """Left accuracy against n, right the classes at the largest n."""
        figure = Figure(figsize=(9, 3.2), layout="constrained")
        left, right = figure.subplots(1, 2)
        width = 0.8 / len(self.features)
        for number, name in enumerate(self.features):
            left.plot(self.sizes, self.accuracy[number], marker="o", label=name)
            places = torch.arange(self.per_class.shape[1]) + width * (number - (len(self.features) - 1) / 2)
            right.bar(places, self.per_class[number], width)
        left.set_xscale("log")
        left.set_xticks(self.sizes, [str(n) for n in self.sizes])
        left.minorticks_off()
        left.set(xlabel="training images", ylabel="right, %", title="one seed")
        left.legend(fontsize=8)
        names = data.spec.classes
        if len(names) == self.per_class.shape[1]:
            right.set_xticks(range(len(names)), names, rotation=45, ha="right", fontsize=7)
        right.set(ylim=(0, 100), title=f"each class, {self.sizes[-1]} training images")
        return {"accuracy against training images": figure}


class Retrieval(ClosedForm):
    """Ranks references for every query by the distance of their features.

    Logs map, mrr (of the first relevant reference), recall4 (share of the relevant ones, at most 4, among the first
    four) and top1, in percent. References with relevance -1 are taken out of the ranking.

    Args:
        features: the stage with the export, of patches or jittered views.
        query_views, reference_views: how many of the views are used, first ones first: 1 is the whole image, 5, 14 and
            30 are the patches of h = 2, 3 and 4 levels; None takes all.
        dimensions: of the PCA, learnt on the views of the references that are compared; None leaves it out.
        whiten: divide by the standard deviations, then unit length.
        exponent: of the signed power afterwards; 1 is none.
        rule: of the average precision, see modules.common.ranking.
    Raises:
        ValueError: whitening without PCA, no such rule, or fewer principal directions than `dimensions`.
    """

    solution = ("references", "centre", "projection")
    references: Tensor  # (R,) rows
    centre: Tensor  # (D,)
    projection: Tensor  # (D, d)

    def __init__(
        self,
        features: Features,
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
        if rule not in RULES:
            raise ValueError(f"rule={rule!r}: expected one of {', '.join(RULES)}")
        self.frozen, self.query_views, self.reference_views = [features], query_views, reference_views
        self.dimensions, self.whiten, self.exponent, self.rule = dimensions, whiten, exponent, rule
        self._references: Tensor | None = None
        self.found: dict[str, list[float]] = {}

    def stored(self, rows: Tensor, views: int | None) -> Tensor:
        return self.frozen[0].stored.to(self.device)[rows, :views]

    def solve(self, x: Tensor, y: Tensor) -> None:
        self.references, self._references = x.sort().values, None
        if self.dimensions is None:
            return
        from sklearn.decomposition import PCA

        f = self.stored(self.references, self.reference_views).flatten(0, 1)
        if self.dimensions > (there := min(len(f) - 1, f.shape[1])):
            raise ValueError(f"dimensions={self.dimensions}: {len(f)} views of length {f.shape[1]} have only {there}")
        pca = PCA(self.dimensions, whiten=False, svd_solver="covariance_eigh").fit(f.double().cpu().numpy())
        scale = 1 / np.sqrt(pca.explained_variance_) if self.whiten else np.ones(self.dimensions)
        self.centre, self.projection = (torch.as_tensor(a).to(f) for a in (pca.mean_, pca.components_.T * scale))

    def projected(self, f: Tensor) -> Tensor:
        """PCA, and whitening if it is asked for. (..., D) -> (..., d)."""
        return (f - self.centre) @ self.projection

    def mapped(self, f: Tensor) -> Tensor:
        """The chain from unit features to what is compared, (..., D) -> (..., d)."""
        if self.dimensions is not None:
            f = unit(self.projected(f))
        return signed_power(f, self.exponent)

    def forward(self, rows: Tensor) -> Tensor:
        """Distances of queries (B,) to all references: (B, R)."""
        with torch.autocast(self.device.type, enabled=False):  # lower precision is for networks
            if self._references is None:
                self._references = self.mapped(self.stored(self.references, self.reference_views))
            return search_distance(self.mapped(self.stored(rows, self.query_views)), self._references)

    def example(self, shape: tuple[int, ...]) -> tuple[Any, ...]:
        return (torch.zeros(1, dtype=torch.long, device=self.device),)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        for distance, relevance in zip(self(batch[0]), batch[1], strict=True):
            counted = relevance >= 0
            hits = ranked(-distance[counted], relevance[counted])
            measured = {
                "map": average_precision(hits, self.rule),
                "mrr": 1 / (1 + int(hits.int().argmax())),
                "recall4": float(hits[:4].sum()) / min(4, int(hits.sum())),
                "top1": float(hits[0]),
            }
            for name, value in measured.items():
                self.found.setdefault(name, []).append(100 * value)

    def on_test_epoch_end(self) -> None:
        found = {name: float(np.mean(values)) for name, values in self.found.items()}
        self.log_dict({f"test/{k}": v for k, v in {**found, "n": float(len(self.found["map"]))}.items()})
        self.found = {}

    def pictures(self, data: Any) -> dict[str, Figure]:
        """The first references of some queries, relevant ones framed; with patches, where a query's parts lie."""
        rows, relevance = next(iter(data.test_dataloader()))
        distances = self(rows.to(self.device)).cpu().masked_fill(relevance.cpu() < 0, math.inf)
        count, shown = min(3, len(rows)), min(5, distances.shape[1])
        figure = Figure(figsize=(9, 1.5 * count), layout="constrained")
        axes = figure.subplots(count, shown + 1, squeeze=False)
        for row in range(count):
            order = distances[row].argsort()
            show(axes[row, 0], data.images(rows[row : row + 1].cpu())[0])
            best = 1 + int(relevance[row].cpu()[order].gt(0).int().argmax())
            axes[row, 0].set_title(f"query; first relevant: {best}", fontsize=7)
            for rank, reference in enumerate(order[:shown].tolist(), 1):
                axis = axes[row, rank]
                show(axis, data.images(self.references[reference : reference + 1].cpu())[0])
                axis.set_title(f"{rank}: {float(distances[row, reference]):.2f}", fontsize=7)
                if int(relevance[row, reference]) > 0:
                    axis.spines[:].set(color="tab:green", linewidth=4)
        return {"retrieved": figure, **self._matches(data, rows, distances)}

    def _matches(self, data: Any, rows: Tensor, distances: Tensor) -> dict[str, Figure]:
        views = self.frozen[0].views
        if not isinstance(views, Patches) or self.query_views == 1 or self.reference_views == 1:
            return {}
        query, reference = rows[0], self.references[int(distances[0].argmin())]
        pair = [
            self.mapped(self.stored(part.view(1).to(self.device), n))[0]
            for part, n in ((query, self.query_views), (reference, self.reference_views))
        ]
        nearest = torch.cdist(pair[0], pair[1]).argmin(1).tolist()
        images = [data.images(part.view(1).cpu())[0] for part in (query, reference)]
        boxes = patch_boxes(images[0].shape[-2], images[0].shape[-1], views.levels)
        figure = Figure(figsize=(9, 3), layout="constrained")
        for number, axis in enumerate(figure.subplots(2, min(len(nearest), 7)).T):
            for axes, image, box in zip(axis, images, (boxes[number], boxes[nearest[number]]), strict=True):
                show(axes, image)
                top, left, h, w = box
                xs, ys = [left, left + w, left + w, left, left], [top, top, top + h, top + h, top]
                axes.plot([x - 0.5 for x in xs], [y - 0.5 for y in ys], color="tab:orange")
        figure.suptitle("patches of a query (above) and the nearest of its best reference", fontsize=9)
        return {"spatial search": figure}
