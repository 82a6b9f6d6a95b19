"""Kernels of infinitely wide networks from the dual of their activation, however deep, between points on the sphere.

    A(xi) = E[phi(u) phi(v)], (u, v) normal with correlation xi                                    dual activation
    S_0 = xi,  S_L = A(S_{L-1})                                                                                NNGP
    K_0 = xi,  K_L = S_L + K_{L-1} A'(S_{L-1})                                                                  NTK

How they are computed, and where that differs from the code released with arXiv 2204.14126 (models.py):
- xi^(2^L) and A'(0)^L leave float64 and 1 - xi of close points drowns in rounding. So 1 - xi is taken from
  ||x - x'||^2 / 2, the recursion runs on log S, log K with log1p / expm1, and kernels are divided by their diagonal,
  which changes no prediction. The code iterates on xi itself.
- a kernel matrix is one scalar function of xi at many points: it is tabulated (a cubic spline of log(-log K) over
  log(-log xi)) instead of recomputed for every pair at every depth.
- K(X, X) is solved by Cholesky where it is numerically positive definite, else by LU as in the code.
- once every S is so small that A is linear to rounding, the remaining layers are added in closed form: 10^9 layers cost
  no more than a few hundred.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from scipy.interpolate import CubicSpline
from torch import Tensor

CLOSEST, FARTHEST = 1e-20, 1 - 1e-16  # what 1 - xi is held between; equal points need a finite logarithm
LINEAR = -50.0  # log S below which A(S) = A'(0) S and A'(S) = A'(0) in float64
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
        sums = [
            (part.sub_(part.amax(1, keepdim=True)).exp_() @ weights)
            for part in (self.log(rows, z) for rows in x.split(max(1, BLOCK // len(z))))
        ]
        return torch.cat(sums)


def ridgeless(k: Tensor, y: Tensor) -> Tensor:
    """K^{-1} y for (N, N) and (N,)."""
    factor, failed = torch.linalg.cholesky_ex(k)
    return torch.linalg.solve(k, y) if int(failed) else torch.cholesky_solve(y.unsqueeze(1), factor).squeeze(1)
