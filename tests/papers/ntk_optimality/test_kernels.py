"""The deep kernels: exact values, recursion, closed forms, finite networks at initialisation, libraries."""

from __future__ import annotations

import itertools
import math

import mpmath
import numpy as np
import pytest
import torch
from torch import Tensor

from modules.ntk_optimality import kernels as deep_kernels
from modules.ntk_optimality.kernels import (
    FARTHEST,
    DeepKernel,
    Erf,
    Polynomial,
    Sine,
    log_kernel,
    log_singular_limit,
    optimal,
)
from tests.papers.ntk_optimality.helpers import DUALS, PHI, exact, points


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("relu", {1: (0.608998, 0.942331), 2: (0.683906, 1.351480), 3: (0.738128, 1.737845), 10: (0.897647, 4.108352)}),
        ("erf", {1: (0.465704, 0.950204), 2: (0.432609, 1.345828), 3: (0.400919, 1.685006), 10: (0.225036, 2.693238)}),
        (
            "sine1",
            {1: (0.443409, 0.923168), 2: (0.389791, 1.253828), 3: (0.340143, 1.489131), 10: (0.117341, 1.435963)},
        ),
        ("d2", {1: (0.3125, 0.75), 2: (0.171509, 0.656372), 3: (0.088277, 0.445424), 10: (0.000697, 0.008473)}),
    ],
)
def test_values_at_one_half(name: str, values: dict[int, tuple[float, float]]) -> None:
    """(S_L, K_L) at xi = 0.5 by depth, computed with the neural_tangents library; K_L(1) = sum of A'(1)^k."""
    dual, half = DUALS[name], torch.tensor([0.5], dtype=torch.float64).log()
    for depth, (s, k) in values.items():
        diagonal = sum(dual.slope_1**i for i in range(depth + 1))
        assert float(log_kernel(half, dual, depth, "nngp").exp()) == pytest.approx(s, abs=1e-6)
        assert float(log_kernel(half, dual, depth, "ntk").exp()) * diagonal == pytest.approx(k, abs=1e-6)


@pytest.mark.parametrize("kernel", ["nngp", "ntk"])
@pytest.mark.parametrize("name", DUALS)
def test_recursion_equals_brute_force(name: str, kernel: str) -> None:
    """Against 200-digit arithmetic on xi itself, from points that almost coincide to almost orthogonal ones."""
    with mpmath.workdps(200):
        a, slope = exact(name)
        for depth in (1, 6, 40):
            for gap in ("1e-15", "1e-7", "0.01", "0.4", "0.999999"):
                xi = 1 - mpmath.mpf(gap)
                s, k, k1 = xi, xi, mpmath.mpf(1)
                for _ in range(depth):
                    k, s = a(s) + k * slope(s), a(s)
                    k1 = 1 + k1 * slope(mpmath.mpf(1))
                expected = float(mpmath.log(k / k1 if kernel == "ntk" else s))
                log_xi = torch.tensor([float(mpmath.log(xi))], dtype=torch.float64)
                assert float(log_kernel(log_xi, DUALS[name], depth, kernel)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("name", DUALS)
def test_table_equals_the_recursion(name: str) -> None:
    angles = torch.cat([torch.zeros(1), torch.logspace(-7, math.log10(math.pi / 2 - 1e-3), 400)]).double()
    circle = torch.stack([angles.cos(), angles.sin()], 1)
    log_xi = -2 * torch.sin(angles[1:] / 2) ** 2
    for kernel, depth in (("nngp", 8), ("ntk", 8), ("nngp", 60)):
        ours = DeepKernel(DUALS[name], depth, kernel, 8192).log(circle[:1], circle[1:])[0]
        assert torch.allclose(ours, log_kernel(log_xi.log1p(), DUALS[name], depth, kernel), rtol=1e-8, atol=0)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("erf", (0, 0.913583, 1.225700, 0.888)),
        ("sine1", (0, 0.850918, 1.313035, 1.186)),
        ("sine2.676", (0, 0.370175, 2.701482, 2)),
        ("sine6.13539", (0, 0.026565, 6.135448, 4)),
        ("sine13.8258", (0, 2.737e-5, 13.8258, 8)),
        ("d1", (0, 0.5, 4, 1)),
        ("d2", (0, 0.5, 2, 2)),
        ("d4", (0, 0.25, 2, 4)),
        ("d8", (0, 0.0625, 2, 8)),
        ("relu", (0.318310, 0.5, 1, math.nan)),
        ("h2", (0, 0, 2, math.nan)),
    ],
)
def test_taxonomy_numbers(name: str, values: tuple[float, ...]) -> None:
    dual = DUALS[name]
    actual = (dual.at_0, dual.slope_0, dual.slope_1, dual.order)
    assert actual == pytest.approx(values, abs=6e-4, rel=1e-3, nan_ok=True)
    assert actual[:3] == pytest.approx(values[:3], abs=1e-6)


def test_the_dual_of_erf_is_an_arcsine() -> None:
    dual, top = Erf(), math.asin(2 / 3)
    half = torch.tensor([0.5], dtype=torch.float64).log()
    assert float(dual.log_value(half).exp()) == pytest.approx(math.asin(1 / 3) / top, rel=1e-12)
    assert (dual.slope_0, dual.slope_1) == pytest.approx((2 / 3 / top, 2 / math.sqrt(5) / top), rel=1e-12)


def test_an_activation_with_a_mean_has_no_singular_limit() -> None:
    dual = Polynomial({0: 0.25, 1: 0.25, 3: 0.5})
    assert (dual.at_0, dual.slope_0, dual.slope_1) == (0.25, 0.25, 1.75)
    assert math.isnan(dual.order)


def test_optimal_activations_meet_the_condition_in_every_dimension() -> None:
    for dimension in range(1, 40):
        assert optimal(dimension).order == pytest.approx(dimension)
    assert Sine(1e-3).order == pytest.approx(1, abs=1e-3)  # A'(0) ~ 1 - a^2/6, A'(1) ~ 1 + a^2/3
    assert optimal(2).squares == {1: 0.5, 3: 0.5}


@pytest.mark.parametrize("name", DUALS)
def test_slope_is_the_derivative(name: str) -> None:
    dual = DUALS[name]
    log_xi = torch.tensor([1e-3, 0.2, 0.49, 0.51, 0.9, 0.97, 0.999], dtype=torch.float64).log().requires_grad_()
    value = dual.log_value(log_xi)
    (derivative,) = torch.autograd.grad(value.sum(), log_xi)  # d log A / d log xi
    slope = derivative * value.exp() / log_xi.exp()
    assert torch.allclose(slope, dual.log_slope(log_xi).exp() * dual.slope_1, rtol=1e-9)


@pytest.mark.parametrize("name", ["relu", "erf", "sine1", "sine2.676", "d2", "d4", "d8", "h2"])
def test_dual_by_monte_carlo(name: str) -> None:
    source = torch.Generator().manual_seed(0)
    u, w = torch.randn(2, 2_000_000, generator=source, dtype=torch.float64)
    for xi in (0.0, 0.3, 0.8):
        v = xi * u + math.sqrt(1 - xi * xi) * w
        expected = (
            DUALS[name].at_0 if xi == 0 else float(DUALS[name].log_value(torch.tensor([xi]).double().log()).exp())
        )
        product = PHI[name](u) * PHI[name](v)
        assert float(product.mean()) == pytest.approx(expected, abs=5 * float(product.std()) / math.sqrt(len(u)))
    assert float(PHI[name](u).square().mean()) == pytest.approx(1, abs=0.03)


def test_dual_of_the_seventh_hermite_polynomial_by_quadrature() -> None:
    """Its tails are too heavy for sampling; Gauss-Hermite with 32 nodes is exact for polynomials of this degree."""
    z, weight = np.polynomial.hermite_e.hermegauss(32)
    u, w = (torch.as_tensor(part.ravel()) for part in np.meshgrid(z, z))
    p = torch.as_tensor(np.outer(weight, weight).ravel() / weight.sum() ** 2)
    for xi in (0.1, 0.5, 0.95):
        v = xi * u + math.sqrt(1 - xi * xi) * w
        expected = float(optimal(1).log_value(torch.tensor([xi]).double().log()).exp())
        assert float((p * PHI["d1"](u) * PHI["d1"](v)).sum()) == pytest.approx((xi**7 + xi) / 2, abs=1e-10)
        assert expected == pytest.approx((xi**7 + xi) / 2, rel=1e-7)


@pytest.mark.parametrize(("name", "layers", "width"), [("d2", 1, 4096), ("erf", 1, 1024), ("erf", 3, 512)])
def test_a_finite_network_has_the_kernel_at_initialisation(name: str, layers: int, width: int) -> None:
    """The empirical NTK of networks without biases, over 32 initialisations: right within its standard error."""
    torch.manual_seed(0)
    x = points(4, 3, seed=1)

    def output(weights: list[Tensor], one: Tensor) -> Tensor:
        h = weights[0] @ one
        for matrix in weights[1:]:
            h = matrix @ PHI[name](h) / math.sqrt(width)
        return h.squeeze()

    gradients = torch.func.vmap(torch.func.grad(output), (None, 0))
    actual = []
    for _ in range(32):
        shapes = itertools.pairwise([3, *[width] * layers, 1])
        parts = gradients([torch.randn(b, a, dtype=torch.float64) for a, b in shapes], x)
        actual.append(sum(g.flatten(1) @ g.flatten(1).T for g in parts))
    empirical = torch.stack(actual)  # (32, 4, 4)
    error = empirical.std(0) / math.sqrt(32)
    diagonal = sum(DUALS[name].slope_1 ** i for i in range(layers + 1))
    expected = diagonal * log_kernel((x @ x.T).clamp(max=1).log(), DUALS[name], layers, "ntk").exp()
    assert bool(((empirical.mean(0) - expected).abs() < 4 * error).all())
    assert float(error.max()) < 0.03 * diagonal


@pytest.mark.parametrize("name", ["erf", "sine1", "sine2.676", "d1", "d2", "d4", "d8"])
def test_the_limit_is_koenigs_function_with_the_stated_singularity(name: str) -> None:
    dual = DUALS[name]
    log_xi = torch.tensor([0.01, 0.1, 0.5, 0.9, 0.999], dtype=torch.float64).log()
    psi, after = (log_singular_limit(v, dual, 200) for v in (log_xi, dual.log_value(log_xi)))
    assert torch.allclose(after, psi + math.log(dual.slope_0), atol=1e-7 if name in ("erf", "sine1") else 1e-10)
    assert float(log_singular_limit(torch.tensor([-40.0]).double(), dual)) == pytest.approx(
        -40, abs=1e-9
    )  # psi'(0) = 1
    gap = torch.logspace(-9, -1, 100, dtype=torch.float64)
    bounded = (log_singular_limit((-gap).log1p(), dual, 400) + dual.order / 2 * gap.log()).exp()
    assert float(bounded.max() / bounded.min()) < 3


@pytest.mark.parametrize("name", ["erf", "sine1", "sine13.8258", "d1", "d2", "d8"])
def test_layers_added_in_closed_form_equal_layers_one_by_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    log_xi = torch.tensor([1e-12, 1e-3, 0.5, 0.99, 1 - 1e-9], dtype=torch.float64)
    log_xi = torch.cat([(-log_xi).log1p(), torch.tensor([-60.0]).double()])
    depth = 1500
    fast = [log_kernel(log_xi, DUALS[name], depth, kernel) for kernel in ("nngp", "ntk")]
    monkeypatch.setattr(deep_kernels, "LINEAR", -math.inf)
    for kernel, actual in zip(("nngp", "ntk"), fast, strict=True):
        assert torch.allclose(actual, log_kernel(log_xi, DUALS[name], depth, kernel), rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize("name", ["erf", "sine2.676", "d2", "d8"])
def test_far_points_alone_take_the_closed_form_from_the_first_layer_on(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of few layers the NTK's diagonal is far from the power that it becomes."""
    log_xi = torch.tensor([-60.0, -80.0]).double()
    fast = [log_kernel(log_xi, DUALS[name], depth, "ntk") for depth in (1, 3)]
    monkeypatch.setattr(deep_kernels, "LINEAR", -math.inf)
    slow = [log_kernel(log_xi, DUALS[name], depth, "ntk") for depth in (1, 3)]
    assert all(torch.allclose(a, b, rtol=1e-12) for a, b in zip(fast, slow, strict=True))


@pytest.mark.parametrize("kernel", ["nngp", "ntk"])
def test_the_table_ends_at_orthogonal_points(kernel: str) -> None:
    corner = torch.eye(2, dtype=torch.float64)
    ours = DeepKernel(optimal(2), 3, kernel, 512).log(corner[:1], corner[1:])
    expected = log_kernel(torch.tensor([-FARTHEST], dtype=torch.float64).log1p(), optimal(2), 3, kernel)
    assert float(ours) == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize("name", ["erf", "sine2.676", "d1", "d2", "d8"])
def test_tangent_kernel_has_the_same_limit_at_one_over_depth(name: str) -> None:
    """K_L / ((L + 1) A'(0)^L) -> psi, the slower the closer the points."""
    dual = DUALS[name]
    log_xi = torch.tensor([0.5, 0.1, 1e-3], dtype=torch.float64).neg().log1p()
    psi = log_singular_limit(log_xi, dual, 400)

    def error(depth: int) -> Tensor:
        diagonal = mpmath.log(sum(mpmath.mpf(dual.slope_1) ** k for k in range(depth + 1)))
        k = log_kernel(log_xi, dual, depth, "ntk") + float(diagonal)
        return (k - math.log(depth + 1) - depth * math.log(dual.slope_0) - psi).expm1()

    coarse, fine = error(20_000), error(40_000)
    assert torch.allclose(coarse / fine, torch.full_like(coarse, 2.0), rtol=0.01)
    assert bool((fine > 0).all())
    assert float(fine[2]) > 10 * float(fine[1]) > 20 * float(fine[0])
    assert float(fine[2]) < 0.2
