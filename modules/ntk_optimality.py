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

How it is computed, and where that differs from the released code (models.py):
- xi^(2^L) and A'(0)^L leave float64 and 1 - xi of close points drowns in rounding. So 1 - xi is taken from
  ||x - x'||^2 / 2, the recursion runs on log S, log K with log1p / expm1, and kernels are divided by their diagonal,
  which changes no prediction. The code iterates on xi itself.
- a kernel matrix is one scalar function of xi at many points: it is tabulated (a cubic spline of log(-log K) over
  log(-log xi)) instead of recomputed for every pair at every depth.
- K(X, X) is solved by Cholesky where it is numerically positive definite, else by LU as in the code.
- the released experiment uses the NNGP, the theorems the NTK; `kernel` says which. The NNGP reaches the singular limit
  geometrically. The NTK carries a factor L + 1 and reaches it like 1 / ((1 - xi) L): L must be far above 1 / (1 - xi)
  of neighbouring points. Once every S is so small that A is linear to rounding, the remaining layers are added in
  closed form, so that such depths cost no more than a few hundred layers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from scipy.interpolate import CubicSpline
from torch import Tensor, nn

from modules.common.closed_form import ClosedForm
from modules.common.metrics import Classification

CLOSEST, FARTHEST = 1e-20, 1 - 1e-16  # what 1 - xi is held between; equal points need a finite logarithm
LINEAR = -50.0  # log S below which A(S) = A'(0) S and A'(S) = A'(0) in float64
LIMIT = 10_000  # layers of the NNGP after which S_L / A'(0)^L is psi to rounding
BLOCK = 2**18  # kernel entries computed at a time: temporaries stay in the processor's cache


class Dual:
    """A dual activation A: `log_value` is log A(xi), `log_slope` log A'(xi) / A'(1). Both take log xi <= 0 and keep
    their relative accuracy where they approach 0, that is for close points.

    Attributes:
        at_0, slope_0, slope_1: A(0), A'(0), A'(1).
    """

    at_0: float
    slope_0: float
    slope_1: float

    def log_value(self, log_xi: Tensor) -> Tensor:
        raise NotImplementedError

    def log_slope(self, log_xi: Tensor) -> Tensor:
        raise NotImplementedError

    @property
    def order(self) -> float:
        """2 alpha: the limit kernel grows like 1 / ||x - x'||^(2 alpha). NaN where the limit is not singular."""
        singular = self.at_0 == 0 and 0 < self.slope_0 < 1
        return -2 * math.log(self.slope_0) / math.log(self.slope_1) if singular else math.nan


def log_power_sum(log_xi: Tensor, weights: Mapping[int, float]) -> Tensor:
    """log sum_n w_n xi^n for weights that sum to 1."""
    lowest = min(weights)
    rest = torch.zeros_like(log_xi)
    for power, weight in weights.items():
        if power != lowest:
            rest += weight * torch.expm1((power - lowest) * log_xi)
    return lowest * log_xi + rest.log1p_()


class Polynomial(Dual):
    """phi = sum_n a_n h_n with normalised Hermite polynomials h_n, so A(xi) = sum_n a_n^2 xi^n.

    Args:
        squares: a_n^2 by n; they sum to 1.
    """

    def __init__(self, squares: Mapping[int, float]) -> None:
        self.squares = {power: value for power, value in squares.items() if value > 0}
        if not math.isclose(sum(self.squares.values()), 1.0):
            raise ValueError(f"squares={dict(squares)}: expected a sum of 1, so that A(1) = 1")
        self.at_0, self.slope_0 = self.squares.get(0, 0.0), self.squares.get(1, 0.0)
        self.slope_1 = sum(power * value for power, value in self.squares.items())
        self.slopes = {power - 1: power * value / self.slope_1 for power, value in self.squares.items() if power}

    def log_value(self, log_xi: Tensor) -> Tensor:
        return log_power_sum(log_xi, self.squares)

    def log_slope(self, log_xi: Tensor) -> Tensor:
        return log_power_sum(log_xi, self.slopes)


def hermite(degree: int) -> Polynomial:
    """phi = h_degree, A = xi^degree; from degree 2 on the limit is 1-nearest neighbour."""
    return Polynomial({degree: 1.0})


def optimal(dimension: int) -> Polynomial:
    """The paper's activation that is Bayes-optimal in `dimension` d (the code's name counts coordinates, d + 1).

    d = 1: A = (xi^7 + xi) / 2; else A = 2^(-d/2) (xi^3 + xi) + (1 - 2^(1-d/2)) xi^2, with A'(1) = 2.
    """
    if dimension < 1:
        raise ValueError(f"dimension={dimension}: expected at least 1")
    outer = 2 ** (-dimension / 2)
    return Polynomial({1: 0.5, 7: 0.5} if dimension == 1 else {1: outer, 2: 1 - 2 * outer, 3: outer})


class Sine(Dual):
    """phi proportional to sin(sqrt(a) z): A = sinh(a xi) / sinh(a)."""

    def __init__(self, a: float) -> None:
        if not 0 < a < 300:
            raise ValueError(f"a={a}: expected a number between 0 and 300")
        self.a, self.at_0 = a, 0.0
        self.slope_0, self.slope_1 = a / math.sinh(a), a / math.tanh(a)

    def log_value(self, log_xi: Tensor) -> Tensor:
        gap, u = -torch.expm1(log_xi), self.a * log_xi.clamp(min=-300).exp()
        near = 2 * torch.cosh(self.a * (1 - gap / 2)) * torch.sinh(self.a * gap / 2) / math.sinh(self.a)  # 1 - A
        return torch.where(
            gap < 0.5 / self.slope_1, torch.log1p(-near), log_xi + torch.log(self.slope_0 * u.sinh() / u)
        )

    def log_slope(self, log_xi: Tensor) -> Tensor:
        gap, u = -torch.expm1(log_xi), self.a * log_xi.exp()
        near = 2 * torch.sinh(self.a * (1 - gap / 2)) * torch.sinh(self.a * gap / 2) / math.cosh(self.a)
        return torch.where(gap < 0.5 / self.slope_1, torch.log1p(-near), torch.log(u.cosh() / math.cosh(self.a)))


class Erf(Dual):
    """phi proportional to erf: A = asin(2 xi / 3) / asin(2 / 3)."""

    def __init__(self) -> None:
        self.top, self.at_0 = math.asin(2 / 3), 0.0
        self.slope_0, self.slope_1 = 2 / 3 / self.top, 2 / 3 / math.sqrt(5 / 9) / self.top

    def log_value(self, log_xi: Tensor) -> Tensor:
        gap, b = -torch.expm1(log_xi), 2 / 3 * log_xi.clamp(min=-300).exp()
        sine = 4 / 9 * gap * (2 - gap) / (2 / 3 * (1 - b * b).sqrt() + math.sqrt(5 / 9) * b)  # of asin(2/3) - asin(b)
        near = torch.log1p(-sine.asin() / self.top)
        return torch.where(gap < 0.5, near, log_xi + torch.log(self.slope_0 * b.asin() / b))

    def log_slope(self, log_xi: Tensor) -> Tensor:
        return -0.5 * torch.log1p(-0.8 * torch.expm1(2 * log_xi))


class ReLU(Dual):
    """phi = sqrt(2) max(z, 0): A = (sin t + (pi - t) cos t) / pi with t = arccos xi, and A' = 1 - t / pi."""

    at_0, slope_0, slope_1 = 1 / math.pi, 0.5, 1.0

    def log_value(self, log_xi: Tensor) -> Tensor:
        gap = -torch.expm1(log_xi)
        t = 2 * (gap / 2).sqrt().asin()
        bend = torch.where(t < 0.01, t**3 / 3 * (1 - t**2 / 10 + t**4 / 280), t.sin() - t * t.cos())
        return torch.log1p(bend / math.pi - gap)

    def log_slope(self, log_xi: Tensor) -> Tensor:
        return torch.log1p(-2 / math.pi * (-torch.expm1(log_xi) / 2).sqrt().asin())


def log_kernel(log_xi: Tensor, dual: Dual, depth: int, kernel: str) -> Tensor:
    """log of the NNGP S_L(xi) or of the NTK K_L(xi) / K_L(1), from log xi in float64.

    With w = 1 / K_L(1) the normalised NTK R_L is w S_L + (1 - w) R_{L-1} A'(S_{L-1}) / A'(1). Where A(0) = 0 and
    A'(0) > 0, all S fall below LINEAR in the end; l more layers then give A'(0)^l S and A'(0)^l (K + l S).
    """
    s, r, log_diagonal = log_xi, log_xi, 0.0
    singular = not math.isnan(dual.order)
    for layer in range(depth):
        if singular and float(s.max()) < LINEAR:
            left, fallen = depth - layer, (depth - layer) * math.log(dual.slope_0)
            k = torch.logaddexp(r + log_diagonal, s + math.log(left)) + fallen
            total = (depth + 1) * math.log(dual.slope_1)  # K_L(1) = (A'(1)^(L+1) - 1) / (A'(1) - 1)
            log_diagonal = total + math.log1p(-math.exp(-total)) - math.log(dual.slope_1 - 1)
            s, r = s + fallen, k - log_diagonal
            break
        if kernel == "ntk":
            passed = r + dual.log_slope(s)
            grown = log_diagonal + math.log(dual.slope_1)
            log_diagonal = max(grown, 0.0) + math.log1p(math.exp(-abs(grown)))  # K_L(1) = 1 + A'(1) K_{L-1}(1)
            w, log_rest = math.exp(-log_diagonal), grown - log_diagonal
            s = dual.log_value(s)
            near = torch.log1p(w * torch.expm1(s) + math.exp(log_rest) * torch.expm1(passed))
            far = torch.logaddexp(s - log_diagonal, passed + log_rest)
            r = torch.where(torch.minimum(s, passed) > -0.5, near, far)
        else:
            s = dual.log_value(s)
    return r if kernel == "ntk" else s


def log_singular_limit(log_xi: Tensor, dual: Dual, depth: int = 200) -> Tensor:
    """log psi(xi), psi = lim S_L / A'(0)^L: Koenigs' function, psi(A(xi)) = A'(0) psi(xi), psi'(0) = 1."""
    return log_kernel(log_xi, dual, depth, "nngp") - depth * math.log(dual.slope_0)


class DeepKernel:
    """The kernel of a network of some depth between rows on the sphere, through a table of `nodes` values.

    Args:
        dual, depth, kernel: see log_kernel.
        nodes: of the spline; 8,192 leave a relative error of about 2e-10 in K at most.
    Raises:
        ValueError: the depth takes log K out of float64.
    """

    def __init__(self, dual: Dual, depth: int, kernel: str, nodes: int) -> None:
        self.low, self.high = math.log(CLOSEST), math.log(-math.log1p(-FARTHEST))
        self.nodes, self.step = nodes, (self.high - self.low) / (nodes - 1)
        t = torch.linspace(self.low, self.high, nodes, dtype=torch.float64)  # log(-log xi)
        values = torch.log(-log_kernel(-t.exp(), dual, depth, kernel))
        if not bool(values.isfinite().all()):
            raise ValueError(f"depth={depth}: log K leaves float64; take a smaller one")
        pieces = torch.as_tensor(CubicSpline(t.numpy(), values.numpy()).c)  # (4, nodes - 1), highest power first
        powers = torch.arange(3, -1, -1, dtype=torch.float64).unsqueeze(1)
        self.pieces = pieces * self.step**powers  # of the place within a piece, 0 to 1

    def log(self, x: Tensor, z: Tensor) -> Tensor:
        """log K between rows, at most 0. (N, D), (M, D) -> (N, M)."""
        gap = torch.cdist(x, z, compute_mode="donot_use_mm_for_euclid_dist").square_().mul_(0.5)  # 1 - xi
        t = gap.clamp_(CLOSEST, FARTHEST).neg_().log1p_().neg_().log_()
        place = t.sub_(self.low).div_(self.step).clamp_(0, self.nodes - 1.000001)
        piece = place.long()
        place -= piece
        pieces = self.pieces = self.pieces.to(x.device)
        value = pieces[0].take(piece)
        for coefficients in pieces[1:]:
            value.mul_(place).add_(coefficients.take(piece))
        return value.exp_().neg_()

    def gram(self, x: Tensor) -> Tensor:
        """K(X, X) with ones on its diagonal, half of it computed. (N, D) -> (N, N)."""
        n = len(x)
        k = x.new_empty(n, n)
        rows = max(1, BLOCK // n)
        for start in range(0, n, rows):
            block = self.log(x[start : start + rows], x[start:]).exp_()
            k[start : start + rows, start:] = block
            k[start:, start : start + rows] = block.T
        k.fill_diagonal_(1.0)
        return k

    def scores(self, x: Tensor, z: Tensor, weights: Tensor) -> Tensor:
        """sum_i w_i K(x, z_i), each row scaled by its largest kernel, which keeps the sign. (B, D) -> (B,)."""
        found = [
            (part.sub_(part.amax(1, keepdim=True)).exp_() @ weights)
            for part in (self.log(rows, z) for rows in x.split(max(1, BLOCK // len(z))))
        ]
        return torch.cat(found)


def ridgeless(k: Tensor, y: Tensor) -> Tensor:
    """K^{-1} y for (N, N) and (N,)."""
    factor, failed = torch.linalg.cholesky_ex(k)
    return torch.linalg.solve(k, y) if int(failed) else torch.cholesky_solve(y.unsqueeze(1), factor).squeeze(1)


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

    def gathered(self, x: Tensor) -> Tensor:
        """(B, ...) -> (B, D) float64 rows of length 1. Raises ValueError off the nonnegative part of the sphere."""
        z = (x if self.pixels is None else self.pixels(x)).flatten(1).double()
        if bool((z < 0).any()) or not bool((z > 0).any(1).all()):
            raise ValueError("the kernels are those of nonnegative inputs, not all 0; give pixels or other data")
        return z / z.norm(dim=1, keepdim=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.scores(self.gathered(x))

    def example(self, shape: tuple[int, ...]) -> tuple[Any, ...]:
        return (torch.ones(1, *shape, device=self.device),)

    def predicted(self, z: Tensor) -> Tensor:
        return (self.scores(z) >= 0).long()

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        z = self.gathered(batch[0])
        ours = self.predicted(z)
        votes = nn.functional.one_hot(ours, 2)  # scores may be far outside float32: only their sign is counted
        self.accuracy.update(votes, batch[1])
        for name, reference in self.references.items():
            measure = self.agreements[name]
            assert isinstance(measure, Classification)
            measure.update(votes, reference.to(z.device).predicted(z))

    def on_test_epoch_end(self) -> None:
        found = self.accuracy.compute()
        self.accuracy.reset()
        for name, measure in self.agreements.items():
            assert isinstance(measure, Classification)
            found[f"agreement_{name}"] = measure.compute()["top1"]
            measure.reset()
        self.log_dict({f"test/{name}": value for name, value in found.items()})


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
        x, y = (torch.cat(parts).to(self.device) for parts in zip(*data.test_dataloader(), strict=True))
        z, sign = self.gathered(x)[:1000], (2 * y - 1)[:1000]
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
