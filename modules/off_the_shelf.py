"""CNN Features off-the-shelf: an Astounding Baseline for Recognition (Razavian, Azizpour, Sullivan, Carlsson).

arXiv 1403.6382. The first fully connected layer of one ImageNet network, frozen, is the image's representation for
every task; what follows is a linear SVM, or a distance. The network is modules.common.overfeat, or any other.

    f = x / |x|                                                          feature of a view, unit length (Section 2)
    min_w 1/2 |w|^2 + C sum_i max(0, 1 - y_i w^T f_i)                                             CNN-SVM (Eq. 1)
    16 views, g(f) = sign(f) |f|^2, score = sum over the views of a test image                            CNNaug-SVM
    d(query, reference) = mean over query patches of min over reference patches |f_q - f_r|           spatial search
    f -> PCA to 500 -> whitening -> unit length -> g                                                     CNNaug-ss

Features are exported once for every view of every image (`Features`); SVMs and retrieval are fitted on the export.

What the paper leaves open, or where its parts differ:
- "layer 22": counted from 1 with standardisation and padding it is the ReLU behind FC1, counted from 0 as OverFeat's
  own tool does it is FC2 before its ReLU. `layer` and `relu` choose; the recipe takes FC1 before the ReLU, 4096
  numbers, because the paper's depth plot dips at ReLU outputs.
- Eq. 1 is the hinge loss, the primal liblinear solver named for CNNaug minimises its square: `loss` says which.
- side of the search's patches: 2 / (i + 1) of the image at level i, so that neighbours overlap by half.
- angle of the rotated views: 15 degrees; what PCA is learnt on: the references, without labels.
- responses of one-against-one machines over views: decision values are summed, then the machines vote.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F

from modules.common import linear_svm
from modules.common.closed_form import ClosedForm
from modules.common.linear_svm import Machines
from modules.common.module import Frozen, StageModule
from modules.common.ranking import RULES, average_precision, ranked

Views = Callable[[Tensor, int], list[Tensor]]  # images (B, C, H, W), side S -> V views (B, C, S, S)


def unit(f: Tensor) -> Tensor:
    """Each row of (..., D) at length 1."""
    return F.normalize(f, dim=-1)


def signed_power(f: Tensor, exponent: float) -> Tensor:
    """sign(f) |f|^exponent; the paper takes 2, most later work 1/2."""
    return f if exponent == 1 else f.sign() * f.abs().pow(exponent)


def resized(x: Tensor, side: int) -> Tensor:
    """(B, C, H, W) in [0, 1] -> (B, C, side, side), bicubic and antialiased, not keeping the aspect."""
    if x.shape[-2:] == (side, side):
        return x
    return F.interpolate(x, (side, side), mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)


def rotated(x: Tensor, degrees: float) -> Tensor:
    """Turned about the centre; corners are filled by reflection."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    theta = torch.tensor([[c, -s, 0.0], [s, c, 0.0]], device=x.device, dtype=x.dtype).expand(len(x), 2, 3)
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, padding_mode="reflection", align_corners=False)


class Jitter:
    """The views of CNNaug: the image, its 4 corners and centre at 4/9 of the area, two rotations; then the same of the
    mirrored image.

    Args:
        angle: of the rotations, degrees.
        mirror: 16 views instead of 8.
    """

    def __init__(self, angle: float = 15.0, mirror: bool = True) -> None:
        self.angle, self.mirror = angle, mirror

    def __call__(self, x: Tensor, side: int) -> list[Tensor]:
        x = resized(x, side)
        c = round(2 * side / 3)
        last, middle = side - c, (side - c) // 2
        corners = [(0, 0), (0, last), (last, 0), (last, last), (middle, middle)]
        views = []
        for image in (x, x.flip(-1)) if self.mirror else (x,):
            crops = [resized(image[..., top : top + c, left : left + c], side) for top, left in corners]
            views += [image, *crops, rotated(image, self.angle), rotated(image, -self.angle)]
        return views


def patch_boxes(height: int, width: int, levels: int) -> list[tuple[int, int, int, int]]:
    """(top, left, height, width) of the patches of levels i = 1..levels: i^2 with sides 2 / (i + 1) of the image's."""
    boxes = []
    for i in range(1, levels + 1):
        h, w = math.ceil(2 * height / (i + 1)), math.ceil(2 * width / (i + 1))
        tops, lefts = (
            torch.linspace(0, full - part, i).round().int().tolist() for full, part in ((height, h), (width, w))
        )
        boxes += [(top, left, h, w) for top in tops for left in lefts]
    return boxes


class Patches:
    """All patches of the spatial search; those of fewer levels come first. `Patches(1)` is the whole image.

    Args:
        levels: h, giving h (h + 1) (2 h + 1) / 6 patches.
    """

    def __init__(self, levels: int = 1) -> None:
        self.levels = levels

    def __call__(self, x: Tensor, side: int) -> list[Tensor]:
        boxes = patch_boxes(x.shape[-2], x.shape[-1], self.levels)
        return [resized(x[..., top : top + h, left : left + w], side) for top, left, h, w in boxes]


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


class Backbone(StageModule):
    """A frozen network and the layer that is its feature. Built when it is first used: stages that only need stored
    features do not load it.

    Args:
        network: makes the network (`_partial_: true`).
        side: input side in pixels.
        layer: name of the layer; None takes the network's output.
        relu: rectify the layer's output.
        mean, std, peak: the network sees (peak x - mean) / std of images x in [0, 1].
        channels_last: memory layout that runs faster on most processors.
        weight_seed: of networks with random weights.
    Raises:
        ValueError: the network has no such layer.
    """

    def __init__(
        self,
        network: Callable[[], nn.Module],
        side: int,
        layer: str | None = None,
        relu: bool = False,
        mean: Sequence[float] = (0.0,),
        std: Sequence[float] = (1.0,),
        peak: float = 1.0,
        channels_last: bool = True,
        weight_seed: int = 0,
    ) -> None:
        super().__init__()
        self.factory, self.side, self.layer, self.relu = network, side, layer, relu
        self.scale, self.shift = [peak / s for s in std], [-m / s for m, s in zip(mean, std, strict=True)]
        self.channels_last, self.weight_seed = channels_last, weight_seed
        self.network: nn.Module | None = None
        self._kept = torch.empty(0)
        self.sums = torch.zeros(3, dtype=torch.float64)  # images, their features' norms, shares above 0
        self.dimension = 0

    def built(self) -> nn.Module:
        if self.network is None:
            with torch.random.fork_rng(devices=[]), torch.inference_mode(False):
                torch.manual_seed(self.weight_seed)
                network = self.factory().eval().requires_grad_(False)
            if self.layer is not None:
                parts = dict(network.named_modules())
                if self.layer not in parts:
                    raise ValueError(f"layer={self.layer!r}: the network has {', '.join(n for n in parts if n)}")
                parts[self.layer].register_forward_hook(self._keep)
            if self.channels_last:
                network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            self.network = network.to(self.device)
        return self.network

    def _keep(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        self._kept = output.clone()  # the next layer may rectify it in place

    def train(self, mode: bool = True) -> Backbone:
        """Stays in evaluation mode: batch statistics are part of what is frozen."""
        return super().train(False)

    def example(self, shape: tuple[int, ...]) -> tuple[Any, ...]:
        return (torch.zeros(1, shape[0], self.side, self.side, device=self.device),)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1 or 3, S, S) in [0, 1] -> (B, D) float32; maps are averaged over their positions."""
        network = self.built()
        scale, shift = (x.new_tensor(value).view(1, -1, 1, 1) for value in (self.scale, self.shift))
        x = (x * scale + shift).expand(-1, 3, -1, -1)
        output = network(x.contiguous(memory_format=torch.channels_last) if self.channels_last else x.contiguous())
        if self.layer is not None:
            output, self._kept = self._kept, torch.empty(0)
        output = F.relu(output) if self.relu else output
        return (output.flatten(2).mean(2) if output.ndim == 4 else output).float()

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        f = self(resized(batch[0], self.side))
        self.dimension = f.shape[1]
        found = torch.stack([f.new_tensor(len(f)), f.norm(dim=1).sum(), (f > 0).float().mean(1).sum()])
        self.sums += found.double().cpu()

    def on_test_epoch_end(self) -> None:
        n, norm, positive = self.sums.tolist()
        self.log_dict({"test/dimension": float(self.dimension), "test/norm": norm / n, "test/positive": positive / n})
        self.sums.zero_()


class Features(ClosedForm):
    """Every view of every image, through the backbone and to unit length, stored by row; nothing is learnt.

    Testing extracts the first batch of test images again and logs how far that is from what was stored.

    Args:
        extractor: images (B, C, S, S) in [0, 1] -> (B, D), for features that are not a network's.
        backbone: the stage with the network, instead.
        views: what is made of an image; None leaves it whole.
        side: of the views in pixels; None takes the backbone's, or the images' own.
    Raises:
        ValueError: neither or both of extractor and backbone.
    """

    solution = ("stored",)
    stored: Tensor  # (rows, V, D)

    def __init__(
        self,
        extractor: nn.Module | None = None,
        backbone: Backbone | None = None,
        views: Views | None = None,
        side: int | None = None,
    ) -> None:
        super().__init__()
        if (extractor is None) == (backbone is None):
            raise ValueError("expected either extractor, or backbone from needs: {backbone: <stage>}")
        chosen = extractor or backbone
        assert chosen is not None
        self.frozen, self.views = Frozen([chosen]), views or Patches(1)
        self.side = side or (backbone.side if backbone is not None else None)
        self.differences: list[float] = []

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) in [0, 1] -> (B, V, D)."""
        views = self.views(x, self.side or x.shape[-1])
        return torch.stack([unit(self.frozen.logits(view)[0].float()) for view in views], 1)

    def gathered(self, x: Tensor) -> Tensor:
        return self(x)

    def solve(self, x: Tensor, y: Tensor) -> None:
        if not torch.equal(y.sort().values, torch.arange(len(y), device=y.device)):
            raise ValueError("each row of the data must be served exactly once")
        self.stored = torch.empty_like(x).index_copy_(0, y, x)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        if batch_idx == 0:
            images, rows = batch[0][:8], batch[1][:8]
            self.differences.append(float((self(images) - self.stored[rows]).abs().max()))

    def on_test_epoch_end(self) -> None:
        _, views, dimension = self.stored.shape
        found = {"views": views, "dimension": dimension, "reextraction": max(self.differences)}
        self.log_dict({f"test/{name}": float(value) for name, value in found.items()})
        self.differences = []

    def pictures(self, data: Any) -> dict[str, Figure]:
        """What one image becomes."""
        if self.stored.shape[1] == 1:
            return {}
        image = next(iter(data.test_dataloader()))[0][:1].cpu()
        views = self.views(image, self.side or image.shape[-1])
        figure = Figure(figsize=(9, 3), layout="constrained")
        columns = math.ceil(len(views) / 2)
        for number, axes in enumerate(figure.subplots(2, columns).flat):
            axes.axis("off")
            if number < len(views):
                show(axes, views[number][0])
                axes.set_title(str(number + 1), fontsize=8)
        return {"views of an image": figure}


def show(axes: Any, image: Tensor) -> None:
    axes.imshow(image.permute(1, 2, 0), cmap="gray", vmin=0, vmax=1)
    axes.set(xticks=[], yticks=[])


class LinearSVM(ClosedForm):
    """CNN-SVM and CNNaug-SVM on stored features: see modules.common.linear_svm.

    Logs top1, its mean over classes (acc), and with several test views also top1_max (maximum instead of sum) and
    top1_one (first view alone); for several labels map and mauc. Percent. `cost` is the C that was used.

    Args:
        features: the stage with the export.
        classes: of classes or labels.
        cost: C, or values to choose from by cross-validation on the training rows; all views of an image stay together.
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
        self.per_class: list[float] = []  # of a test in this process

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
        cost = self.cross_validated(f, y) if len(self.grid) > 1 else self.grid[0]
        found = self.fitted(f, y, cost)
        self.weight, self.bias, self.pairs = found.weight, found.bias, found.pairs
        self.chosen = torch.tensor(float(cost), device=self.device)

    def cross_validated(self, f: Tensor, y: Tensor) -> float:
        totals = [0.0] * len(self.grid)
        for held in linear_svm.folds(y, self.folds, self.fold_seed):
            held = held.to(y.device)
            kept = torch.ones(len(y), dtype=torch.bool, device=y.device).index_fill(0, held, False)
            for number, cost in enumerate(self.grid):
                machines = self.fitted(f[kept], y[kept], cost)
                scores = machines.scores(machines.decisions(f[held]).sum(1), self.classes)
                measure = "map" if self.scheme == "multilabel" else "top1"
                totals[number] += self.measured(scores, y[held])[measure] * len(held)
        return linear_svm.best(totals, self.grid)

    def measured(self, scores: Tensor, y: Tensor) -> dict[str, float]:
        """Metrics of scores (N, classes), in percent; labels without both values among the targets are left out."""
        if self.scheme != "multilabel":
            right = (scores.argmax(1) == y).float()
            classes = [100 * float(right[y == k].mean()) for k in range(self.classes) if bool((y == k).any())]
            self.per_class = classes
            return {"top1": 100 * float(right.mean()), "acc": float(np.mean(classes))}
        from sklearn.metrics import roc_auc_score

        precisions, areas = [], []
        for k in range(self.classes):
            judged = y[:, k] >= 0
            truth, score = y[judged, k], scores[judged, k]
            if 0 < int(truth.sum()) < len(truth):
                precisions.append(100 * average_precision(ranked(score, truth), self.rule))
                areas.append(100 * float(roc_auc_score(truth.cpu().numpy(), score.cpu().numpy())))
        self.per_class = precisions
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
        """Scores (B, classes) of decisions (B, V, M), by the metrics' suffix; the sum, the method's own, has none."""
        parts = {"": decisions.sum(1)}
        if decisions.shape[1] > 1:
            parts |= {"_max": decisions.amax(1), "_one": decisions[:, 0]}
        return {name: self.machines.scores(part, self.classes) for name, part in parts.items()}

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._tested.append((self.pooled(self(batch[0])), batch[1]))

    def on_test_epoch_end(self) -> None:
        y = torch.cat([targets for _, targets in self._tested])
        scores = {name: torch.cat([found[name] for found, _ in self._tested]) for name in self._tested[0][0]}
        self._tested = []
        found = {"n": float(len(y)), "cost": float(self.chosen)}
        for name, part in reversed(scores.items()):  # the sum last: its values per class are what the picture shows
            found |= {f"{key}{name}": value for key, value in self.measured(part, y).items()}
        self.log_dict({f"test/{name}": value for name, value in found.items()})

    def pictures(self, data: Any) -> dict[str, Figure]:
        """Accuracy or average precision of each class."""
        names = data.spec.classes
        if len(self.per_class) != len(names) or len(names) > 70:
            return {}
        figure = Figure(figsize=(9, 3), layout="constrained")
        axes = figure.subplots()
        axes.bar(range(len(names)), self.per_class)
        axes.set_xticks(range(len(names)), names, rotation=45, ha="right", fontsize=7)
        what = "average precision" if self.scheme == "multilabel" else "right"
        axes.set(ylim=(0, 100), ylabel=f"{what}, %", title=f"mean {np.mean(self.per_class):.1f}")
        return {"per class": figure}


class Retrieval(ClosedForm):
    """Ranks references for every query by the distance of their features.

    Logs map, mrr (of the first relevant reference), recall4 (share of the relevant ones, at most 4, among the first
    four) and top1, in percent. References with relevance -1 are taken out of the ranking.

    Args:
        features: the stage with the export, of patches or jittered views.
        query_views, reference_views: how many of the views are used, first ones first: 1 is the whole image, 5, 14 and
            30 are the patches of h = 2, 3 and 4 levels; None takes all.
        dimensions: of the PCA, learnt on all views of the references; None leaves it out.
        whiten: divide by the standard deviations, then unit length.
        exponent: of the signed power afterwards; 1 is none.
        rule: of the average precision, see modules.common.ranking.
    Raises:
        ValueError: whitening without PCA, or no such rule.
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
        count = min(self.dimensions, len(f) - 1, f.shape[1])
        pca = PCA(count, whiten=False, svd_solver="covariance_eigh").fit(f.double().cpu().numpy())
        scale = 1 / np.sqrt(pca.explained_variance_) if self.whiten else np.ones(count)
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
