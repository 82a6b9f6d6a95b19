"""Wide and Deep Neural Networks Achieve Optimality for Classification (Radhakrishnan, Belkin, Uhler; PNAS 2023).

arXiv 2204.14126. An infinitely wide network trained by gradient flow on the squared loss is a kernel machine; as its
depth L grows, the activation alone decides whether it becomes 1-nearest neighbour, majority vote or a singular kernel
classifier, and the last is Bayes-optimal when the order of the singularity fits the dimension. Inputs lie on the unit
sphere with nonnegative coordinates, xi = x.x' in [0, 1]; phi is scaled to E phi(z)^2 = 1; labels are -1 and +1.

    A(xi) = E[phi(u) phi(v)], (u, v) normal with correlation xi                                    dual activation
    S_0 = xi,  S_L = A(S_{L-1})                                                                                NNGP
    K_0 = xi,  K_L = S_L + K_{L-1} A'(S_{L-1})                                                                  NTK
    m(x) = sign(y^T K(X, X)^{-1} K(X, x))                                                       ridgeless predictor
    optimal in d = coordinates - 1 dimensions:  -log A'(0) / log A'(1) = d / 2

The released experiment uses the NNGP, the theorems the NTK; `kernel` says which. The NNGP reaches the singular limit
geometrically. The NTK carries a factor L + 1 and reaches it like 1 / ((1 - xi) L): L must be far above 1 / (1 - xi) of
neighbouring points. How kernels of such depths are computed, and where that differs from the released code:
modules/ntk_optimality/kernels.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from torch import Tensor, nn

from modules.common.closed_form import ClosedForm
from modules.common.metrics import Classification
from modules.ntk_optimality.kernels import DeepKernel, Dual, log_singular_limit, optimal, ridgeless

LIMIT = 10_000  # layers of the NNGP after which S_L / A'(0)^L is psi to rounding


class Pixels:
    """Grey values out of normalised images: exact, since they are whole numbers.

    Args:
        mean, std: what the datamodule normalised with.
        peak: the value of white.
    """

    def __init__(self, mean: float, std: float, peak: int = 255) -> None:
        self.mean, self.std, self.peak = mean, std, peak

    def __call__(self, x: Tensor) -> Tensor:
        return ((x.double() * self.std + self.mean) * self.peak).round()


class SphereClassifier(ClosedForm):
    """Two classes on the sphere, label 0 for -1 and 1 for +1; reports top-1 and agreements, both in percent.

    Args:
        pixels: recovers nonnegative coordinates first; None where the data has them.
        references: classifiers by name; the share of test points on which both say the same is agreement_<name>.
    """

    def __init__(
        self, pixels: Pixels | None = None, references: Mapping[str, SphereClassifier | None] | None = None
    ) -> None:
        super().__init__()
        self.pixels = pixels
        self.references = {name: module.eval() for name, module in (references or {}).items() if module is not None}
        self.accuracy = Classification(2, ["top1"])
        self.agreements = nn.ModuleDict({name: Classification(2, ["top1"]) for name in self.references})

    def scores(self, z: Tensor) -> Tensor:
        """A number per row on the sphere, not negative for +1. (B, D) -> (B,)."""
        raise NotImplementedError

    def keep(self, x: Tensor) -> Tensor:
        """(B, ...) -> (B, D) float64 rows of length 1. Raises ValueError off the nonnegative part of the sphere."""
        z = (x if self.pixels is None else self.pixels(x)).flatten(1).double()
        if bool((z < 0).any()) or not bool((z > 0).any(1).all()):
            raise ValueError("the kernels are those of nonnegative inputs, not all 0; give pixels or other data")
        return z / z.norm(dim=1, keepdim=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.scores(self.keep(x))

    def example(self, shape: tuple[int, ...]) -> tuple[Any, ...]:
        return (torch.ones(1, *shape, device=self.device),)

    def predicted(self, z: Tensor) -> Tensor:
        return (self.scores(z) >= 0).long()

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        z = self.keep(batch[0])
        ours = self.predicted(z)
        votes = nn.functional.one_hot(ours, 2)  # scores may be far outside float32: only their sign is counted
        self.accuracy.update(votes, batch[1])
        for name, reference in self.references.items():
            measure = self.agreements[name]
            assert isinstance(measure, Classification)
            measure.update(votes, reference.to(z.device).predicted(z))

    def on_test_epoch_end(self) -> None:
        scores = self.accuracy.compute()
        self.accuracy.reset()
        for name, measure in self.agreements.items():
            assert isinstance(measure, Classification)
            scores[f"agreement_{name}"] = measure.compute()["top1"]
            measure.reset()
        self.log_dict({f"test/{name}": value for name, value in scores.items()})


class Bayes(SphereClassifier):
    """The rule that knows both Dirichlet densities: the simplex point of x on the sphere is x / sum(x).

    Args:
        plus, minus: Dirichlet parameters of the classes +1 and -1.
        prior: P(+1).
    """

    exponents: Tensor
    constant: Tensor

    def __init__(self, plus: Sequence[float], minus: Sequence[float], prior: float) -> None:
        super().__init__()
        a, b = (torch.tensor(value, dtype=torch.float64) for value in (plus, minus))
        self.register_buffer("exponents", a - b)
        constant = a.sum().lgamma() - a.lgamma().sum() - b.sum().lgamma() + b.lgamma().sum()
        self.register_buffer("constant", constant + math.log(prior / (1 - prior)))

    def scores(self, z: Tensor) -> Tensor:
        return torch.xlogy(self.exponents, z / z.sum(1, keepdim=True)).sum(1) + self.constant


class Majority(SphereClassifier):
    """The class with more training points, wherever x is."""

    solution = ("vote",)
    vote: Tensor

    def solve(self, x: Tensor, y: Tensor) -> None:
        self.vote = (2 * y - 1).sum().double()

    def scores(self, z: Tensor) -> Tensor:
        return self.vote.expand(len(z))


class WithPoints(SphereClassifier):
    """Keeps the training set: `points` (N, D) and `labels` (N,), -1 or +1 in float64."""

    solution: tuple[str, ...] = ("points", "labels")
    points: Tensor
    labels: Tensor

    def solve(self, x: Tensor, y: Tensor) -> None:
        self.points, self.labels = x, (2 * y - 1).double()

    def distances(self, z: Tensor) -> Tensor:
        return torch.cdist(z, self.points, compute_mode="donot_use_mm_for_euclid_dist")  # (B, N)


class Nearest(WithPoints):
    """1-nearest neighbour."""

    def scores(self, z: Tensor) -> Tensor:
        return self.labels[self.distances(z).argmin(1)]


class Hilbert(WithPoints):
    """Hilbert kernel estimate, sum_i y_i / ||x - x_i||^d: consistent in d dimensions (Devroye et al. 1998).

    d is the number of coordinates minus 1.
    """

    def scores(self, z: Tensor) -> Tensor:
        weights = self.distances(z).clamp_(min=1e-150).log_().mul_(1 - z.shape[1])
        return weights.sub_(weights.amax(1, keepdim=True)).exp_() @ self.labels


class DeepNetwork(WithPoints):
    """An infinitely wide network of `depth` hidden layers after training, by its kernel.

    Args:
        dual: the activation's dual.
        depth: L.
        kernel: "nngp" or "ntk".
        nodes: see DeepKernel.
        pixels: see SphereClassifier.
        nearest, majority, hilbert, bayes, limit: references to agree with; the pictures need them too.
    Raises:
        ValueError: depth or kernel has no such value.
    """

    solution = ("points", "labels", "weights")
    weights: Tensor

    def __init__(
        self,
        dual: Dual,
        depth: int,
        kernel: str = "nngp",
        nodes: int = 8192,
        pixels: Pixels | None = None,
        nearest: SphereClassifier | None = None,
        majority: SphereClassifier | None = None,
        hilbert: SphereClassifier | None = None,
        bayes: SphereClassifier | None = None,
        limit: SphereClassifier | None = None,
    ) -> None:
        references = {"nearest": nearest, "majority": majority, "hilbert": hilbert, "bayes": bayes, "limit": limit}
        super().__init__(pixels, references)
        if kernel not in ("nngp", "ntk"):
            raise ValueError(f"kernel={kernel!r}: expected 'nngp' or 'ntk'")
        if depth < 1:
            raise ValueError(f"depth={depth}: expected at least 1")
        self.dual, self.depth, self.kind, self.nodes = dual, depth, kernel, nodes
        self._kernel: DeepKernel | None = None

    @property
    def kernel(self) -> DeepKernel:
        if self._kernel is None:
            self._kernel = DeepKernel(self.dual, self.depth, self.kind, self.nodes)
        return self._kernel

    def solve(self, x: Tensor, y: Tensor) -> None:
        super().solve(x, y)
        k = self.kernel.gram(x)
        self.weights = ridgeless(k, self.labels)
        self.track(len(x), top1=torch.tensor(share(k @ self.weights, self.labels)))

    def scores(self, z: Tensor) -> Tensor:
        return self.kernel.scores(z, self.points, self.weights)

    def pictures(self, data: Any) -> dict[str, Figure]:
        """The limits against depth; with the Bayes rule at hand, against n or, of few points, the singular case.

        Drawn where a reference is given; other depths are solved for small training sets only.
        """
        if not self.references:
            return {}
        x, y = (torch.cat(columns).to(self.device) for columns in zip(*data.test_dataloader(), strict=True))
        z, sign = self.keep(x)[:1000], (2 * y - 1)[:1000]
        figures = {}
        if len(self.points) <= 500:
            figures["against depth"] = self._against_depth(z, sign)
        if "bayes" in self.references and len(self.points) > 500:
            figures["against the number of training points"] = self._against_points(z, sign)
        elif "bayes" in self.references:
            figures["singularity of the limit kernel"] = self._singularity()
            if z.shape[1] == 2:
                figures["decisions along the quarter circle"] = self._decisions()
        return figures

    def _against_depth(self, z: Tensor, sign: Tensor) -> Figure:
        depths = sorted({self.depth, *(d for d in (1, 2, 4, 7, 10, 15, 30, 100, 300, 1000) if d < self.depth)})
        targets = {"accuracy": sign}
        for name, module in self.references.items():
            targets[f"agreement with {name}"] = 2 * module.to(z.device).predicted(z) - 1
        lines: dict[str, list[float]] = {name: [] for name in targets}
        for depth in list(depths):
            kernel = DeepKernel(self.dual, depth, self.kind, 2048)
            k = kernel.gram(self.points)
            weights = torch.linalg.solve_ex(k, self.labels).result
            if share(k @ weights, self.labels) < 100:  # close to singular: rounding, not the method, would be shown
                depths.remove(depth)
                continue
            for name, target in targets.items():
                lines[name].append(share(kernel.scores(z, self.points, weights), target))
        return drawn(depths, lines, f"depth L of the {self.kind.upper()}")

    def _against_points(self, z: Tensor, sign: Tensor) -> Figure:
        sizes = [n for n in (62, 125, 250, 500, 1000, 2000) if n <= len(self.points)]
        rivals = {"1-nearest neighbour": Nearest(), "Hilbert estimate": Hilbert()}
        lines: dict[str, list[float]] = {name: [] for name in ("this network", *rivals)}
        for n in sizes:
            x, y = self.points[:n], self.labels[:n]
            lines["this network"].append(share(self.kernel.scores(z, x, ridgeless(self.kernel.gram(x), y)), sign))
            for name, rival in rivals.items():
                rival.points, rival.labels = x, y
                lines[name].append(share(rival.scores(z), sign))
        best = share(self.references["bayes"].to(z.device).scores(z), sign)
        return drawn(sizes, {**lines, "Bayes rule": [best] * len(sizes)}, "training points n")

    def _singularity(self) -> Figure:
        gap = torch.logspace(-8, -0.01, 300, dtype=torch.float64)  # 1 - xi
        figure = Figure(figsize=(9, 3), layout="constrained")
        axes = figure.subplots()
        for dimension in (1, 2, 4, 8):
            psi = log_singular_limit(torch.log1p(-gap), optimal(dimension)).exp()
            axes.loglog(gap, psi, label=f"optimal for d = {dimension}: slope -{dimension / 2:g}")
        if not math.isnan(self.dual.order):
            own = log_singular_limit(torch.log1p(-gap), self.dual).exp()
            axes.loglog(gap, own, "k:", linewidth=3, label=f"this network: slope -{self.dual.order / 2:.3g}")
        axes.set(xlabel="1 - xi", ylabel="psi(xi)", ylim=(1e-3, 1e20))
        axes.legend(fontsize=8)
        return figure

    def _decisions(self) -> Figure:
        angle = torch.linspace(0, math.pi / 2, 2000, dtype=torch.float64, device=self.device)
        circle = torch.stack([angle.cos(), angle.sin()], 1).clamp(min=0)
        rows = {"this network": self.scores(circle)}
        rows |= {name: module.to(circle.device).scores(circle) for name, module in self.references.items()}
        figure = Figure(figsize=(9, 3), layout="constrained")
        axes = figure.subplots(len(rows) + 1, 1, sharex=True)
        for label, colour in ((-1, "tab:blue"), (1, "tab:orange")):
            x = self.points[self.labels == label].cpu()
            axes[0].vlines(torch.atan2(x[:, 1], x[:, 0]), label, label + 2, colors=colour, linewidth=0.4)
        options = {"extent": (0, math.pi / 2, 0, 1), "aspect": "auto", "interpolation": "nearest", "vmin": 0, "vmax": 1}
        for axis, scores in zip(axes[1:], rows.values(), strict=True):
            axis.imshow((scores >= 0).double().cpu()[None], cmap=ListedColormap(["tab:blue", "tab:orange"]), **options)
        for axis, name in zip(axes, ("training points", *rows), strict=True):
            axis.set_yticks([])
            axis.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8)
        axes[-1].set_xlabel("angle on the quarter circle; orange is class +1, upper ticks are its training points")
        return figure


class SingularKernel(DeepNetwork):
    """What a network becomes at infinite depth where 2 alpha exists: sign(sum_i y_i psi(x.x_i)), nothing to solve.

    Args:
        dual, nodes: see DeepNetwork.
    Raises:
        ValueError: the activation's limit is not singular.
    """

    def __init__(self, dual: Dual, nodes: int = 8192) -> None:
        if math.isnan(dual.order):
            raise ValueError(f"{type(dual).__name__} has no singular limit: A(0) = 0 and 0 < A'(0) < 1 are needed")
        super().__init__(dual, LIMIT, "nngp", nodes)  # a constant times psi, which leaves the sign as it is

    def solve(self, x: Tensor, y: Tensor) -> None:
        WithPoints.solve(self, x, y)
        self.weights = self.labels.clone()


def share(scores: Tensor, target: Tensor) -> float:
    """Percent of rows whose sign is `target` (-1 or +1)."""
    return 100 * float((torch.where(scores >= 0, 1, -1) == target).double().mean())


def drawn(x: Sequence[float], lines: Mapping[str, Sequence[float]], label: str) -> Figure:
    """Percentages over a logarithmic axis."""
    figure = Figure(figsize=(9, 3), layout="constrained")
    axes = figure.subplots()
    for name, values in lines.items():
        axes.plot(x, values, "o-", label=name)
    axes.set(xscale="log", xlabel=label, ylabel="% of test points")
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure
