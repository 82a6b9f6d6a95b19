"""The independent checks of the deep kernels: exact values, the three limits, finite networks, libraries."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import mpmath
import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import torch
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

from datamodules.common.subsets import Subset
from datamodules.common.torchvision_sets import FashionMNIST
from datamodules.ntk_optimality import Dirichlet
from experiments import claims
from experiments.plan import Plan
from modules.ntk_optimality import kernels as deep_kernels
from modules.ntk_optimality.kernels import (
    DeepKernel,
    Dual,
    Erf,
    Polynomial,
    ReLU,
    Sine,
    hermite,
    log_kernel,
    log_singular_limit,
    optimal,
    ridgeless,
)
from modules.ntk_optimality.module import Bayes, DeepNetwork, Hilbert, Majority, Nearest, Pixels, SingularKernel, share

DUALS: dict[str, Dual] = {
    "relu": ReLU(),
    "erf": Erf(),
    "sine1": Sine(1.0),
    "sine2.676": Sine(2.676),
    "sine6.13539": Sine(6.13539),
    "sine13.8258": Sine(13.8258),
    "d1": optimal(1),
    "d2": optimal(2),
    "d4": optimal(4),
    "d8": optimal(8),
    "h2": hermite(2),
}


def he(n: int, z: Tensor) -> Tensor:
    """Normalised probabilists' Hermite polynomials."""
    below, this = torch.zeros_like(z), torch.ones_like(z)
    for k in range(n):
        below, this = this, (z * this - math.sqrt(k) * below) / math.sqrt(k + 1)
    return this


PHI: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": lambda z: math.sqrt(2) * z.relu(),
    "erf": lambda z: z.erf() / math.sqrt(2 / math.pi * math.asin(2 / 3)),
    "sine1": lambda z: z.sin() / math.sqrt(math.exp(-1) * math.sinh(1)),
    "sine2.676": lambda z: (math.sqrt(2.676) * z).sin() / math.sqrt(math.exp(-2.676) * math.sinh(2.676)),
    "d1": lambda z: (he(7, z) + he(1, z)) / math.sqrt(2),
    "d2": lambda z: (he(3, z) + he(1, z)) / math.sqrt(2),
    "d4": lambda z: 0.5 * he(3, z) + math.sqrt(0.5) * he(2, z) + 0.5 * he(1, z),
    "d8": lambda z: 0.25 * he(3, z) + math.sqrt(0.875) * he(2, z) + 0.25 * he(1, z),
    "h2": lambda z: he(2, z),
}


def exact(name: str) -> tuple[Callable, Callable]:
    """A and A' on xi itself, in mpmath, as the released code writes them."""
    mp = mpmath
    if name.startswith("sine"):
        a = mp.mpf(name[4:])
        return lambda x: mp.sinh(a * x) / mp.sinh(a), lambda x: a * mp.cosh(a * x) / mp.sinh(a)
    top = mp.asin(mp.mpf(2) / 3)
    return {
        "relu": (
            lambda x: (x * (mp.pi - mp.acos(x)) + mp.sqrt(1 - x * x)) / mp.pi,
            lambda x: 1 - mp.acos(x) / mp.pi,
        ),
        "erf": (lambda x: mp.asin(2 * x / 3) / top, lambda x: mp.mpf(2) / 3 / mp.sqrt(1 - 4 * x * x / 9) / top),
        "d1": (lambda x: (x**7 + x) / 2, lambda x: (7 * x**6 + 1) / 2),
        "d2": (lambda x: (x**3 + x) / 2, lambda x: (3 * x**2 + 1) / 2),
        "d4": (lambda x: x**3 / 4 + x**2 / 2 + x / 4, lambda x: 3 * x**2 / 4 + x + mp.mpf(1) / 4),
        "d8": (lambda x: (x**3 + 14 * x**2 + x) / 16, lambda x: (3 * x**2 + 28 * x + 1) / 16),
        "h2": (lambda x: x**2, lambda x: 2 * x),
    }[name]


def rows(values: object) -> Tensor:
    x = torch.as_tensor(np.asarray(values), dtype=torch.float64)
    return x / x.norm(dim=1, keepdim=True)


def points(n: int, coordinates: int, seed: int) -> Tensor:
    return rows(np.random.default_rng(seed).dirichlet(np.ones(coordinates), n))


def network(dual: Dual, depth: int, x: Tensor, y: Tensor, kernel: str = "nngp") -> DeepNetwork:
    made = DeepNetwork(dual, depth, kernel)
    made.solve(x, y)
    return made


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
    found = (dual.at_0, dual.slope_0, dual.slope_1, dual.order)
    assert found == pytest.approx(values, abs=6e-4, rel=1e-3, nan_ok=True)
    assert found[:3] == pytest.approx(values[:3], abs=1e-6)


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
    found = []
    for _ in range(32):
        shapes = itertools.pairwise([3, *[width] * layers, 1])
        parts = gradients([torch.randn(b, a, dtype=torch.float64) for a, b in shapes], x)
        found.append(sum(g.flatten(1) @ g.flatten(1).T for g in parts))
    empirical = torch.stack(found)  # (32, 4, 4)
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
    for kernel, found in zip(("nngp", "ntk"), fast, strict=True):
        assert torch.allclose(found, log_kernel(log_xi, DUALS[name], depth, kernel), rtol=1e-12, atol=1e-9)


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


def test_singular_kernel_classifier_is_the_stated_sum() -> None:
    x, z, y = points(80, 3, 0), points(300, 3, 1), torch.arange(80) % 5 // 3
    made = SingularKernel(optimal(2))
    made.solve(x, y)
    psi, layers = (z @ x.T).clamp(max=1), 100
    for _ in range(layers):
        psi = (psi**3 + psi) / 2
    scores = (psi * 2.0**layers) @ (2 * y - 1).double()
    assert float(scores.abs().min()) > 1e-6
    assert torch.equal(made.predicted(z), (scores >= 0).long())
    assert 20 < float((made.predicted(z) == 1).sum()) < 280
    for dual in (ReLU(), hermite(2)):
        with pytest.raises(ValueError, match="no singular limit"):
            SingularKernel(dual)


def test_both_kernels_end_in_the_singular_kernel_classifier() -> None:
    data = Dirichlet(1000, [1, 2], [2, 1], n_train=300, n_test=2000, seed=100)
    data.setup()
    (x, y), (z, _) = data.splits["train"], data.splits["test"]
    limit = SingularKernel(optimal(1))
    limit.solve(x, y)

    def agreement(depth: int, kernel: str) -> float:
        return share(network(optimal(1), depth, x, y, kernel).scores(z), 2 * limit.predicted(z) - 1)

    assert agreement(100, "nngp") > 99.5
    assert agreement(10**9, "ntk") > 99.5
    assert agreement(1000, "ntk") < 97


def test_agreement_is_with_the_reference_and_accuracy_with_the_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    x, z, y = points(60, 3, 0), points(100, 3, 1), torch.arange(60) % 5 // 3
    labels = torch.arange(100) % 3 // 2
    nearest, majority = Nearest(), Majority()
    made = DeepNetwork(optimal(2), 30, nearest=nearest, majority=majority)
    for module in (nearest, majority, made):
        module.solve(x, y)
    found: dict[str, Tensor] = {}
    monkeypatch.setattr(made, "log_dict", found.update)
    for part in (slice(0, 70), slice(70, 100)):  # batches of different size
        made.test_step((5 * z[part], labels[part]), 0)  # any length: divided by the norm
    made.on_test_epoch_end()
    theirs = torch.as_tensor(KNeighborsClassifier(1).fit(x, y).predict(z))
    ours = made.predicted(z)
    expected = {
        "test/top1": ours == labels,
        "test/agreement_nearest": ours == theirs,
        "test/agreement_majority": ours == 0,
    }
    for name, right in expected.items():
        assert float(found[name]) == pytest.approx(100 * float(right.double().mean()), abs=1e-4)
    assert len({round(float(found[name]), 3) for name in expected}) == 3
    assert float(found["test/n"]) == 100


def test_picture_against_points_shows_networks_of_that_many_points() -> None:
    data = Dirichlet(1000, [1, 2], [2, 1], n_train=600, n_test=300, seed=100)
    data.setup()
    (x, y), (z, labels) = data.splits["train"], data.splits["test"]
    bayes = Bayes([1, 2], [2, 1], 0.4)
    made = DeepNetwork(optimal(1), 100, bayes=bayes)
    made.solve(x, y)
    (axes,) = made.pictures(data)["against the number of training points"].axes
    drawn = {str(line.get_label()): np.asarray(line.get_ydata()) for line in axes.get_lines()}
    assert np.asarray(axes.get_lines()[0].get_xdata()).tolist() == [62, 125, 250, 500]
    few = network(optimal(1), 100, x[:125], y[:125])
    assert drawn["this network"][1] == pytest.approx(100 * float((few.predicted(z) == labels).double().mean()))
    assert drawn["Bayes rule"] == pytest.approx([100 * float((bayes.predicted(z) == labels).double().mean())] * 4)


def test_singular_network_predicts_as_the_hilbert_estimate() -> None:
    data = Dirichlet(1000, [1, 2], [2, 1], n_train=500, n_test=2000, seed=100)
    data.setup()
    (x, y), (z, _) = data.splits["train"], data.splits["test"]
    hilbert = Hilbert()
    hilbert.solve(x, y)
    deep, tangent = network(optimal(1), 60, x, y), network(optimal(1), 60, x, y, "ntk")
    agreement = [float((m.predicted(z) == hilbert.predicted(z)).double().mean()) for m in (deep, tangent)]
    assert agreement[0] > 0.99
    assert agreement[1] < agreement[0] - 0.02  # the NTK is still on its way, at 1 / L


def test_hilbert_estimate_is_the_stated_sum() -> None:
    x, z, y = points(50, 4, 0), points(200, 4, 1), torch.arange(50) % 3 // 2
    hilbert = Hilbert()
    hilbert.solve(x, y)
    expected = ((2 - 2 * z @ x.T) ** (-3 / 2) @ (2 * y - 1).double()).sign()
    assert torch.equal(hilbert.scores(z).sign(), expected)
    assert bool(hilbert.scores(x).isfinite().all())
    assert torch.equal(hilbert.predicted(x), y)


def test_second_hermite_polynomial_becomes_the_nearest_neighbour() -> None:
    x, z, y = points(80, 30, 0), points(300, 30, 1), torch.arange(80) % 2
    log_xi = torch.tensor([0.3, 0.99], dtype=torch.float64).log()
    assert torch.allclose(log_kernel(log_xi, hermite(2), 9, "nngp"), 2.0**9 * log_xi, rtol=1e-14)
    assert torch.allclose(log_kernel(log_xi, hermite(2), 9, "ntk"), 2.0**9 * log_xi, rtol=1e-12)  # K_L / (2^(L+1) - 1)
    theirs = torch.as_tensor(KNeighborsClassifier(1).fit(x, y).predict(z))
    nearest = Nearest()
    nearest.solve(x, y)
    assert torch.equal(nearest.predicted(z), theirs)
    assert torch.equal(network(hermite(2), 40, x, y).predicted(z), theirs)  # xi^(2^40) is far outside float64
    assert torch.equal(network(hermite(2), 40, x, y, "ntk").predicted(z), theirs)
    assert not torch.equal(network(hermite(2), 1, x, y).predicted(z), theirs)


def test_deep_relu_becomes_majority_vote() -> None:
    x, z, y = points(60, 30, 0), points(300, 30, 1), (torch.arange(60) < 35).long()
    majority = Majority()
    majority.solve(x, y)
    assert bool((majority.predicted(z) == 1).all())
    assert bool((network(ReLU(), 3000, x, y, "ntk").predicted(z) == 1).all())
    assert not bool((network(ReLU(), 3, x, y, "ntk").predicted(z) == 1).all())


def test_relu_kernel_falls_to_a_quarter_of_its_diagonal_on_images() -> None:
    data = Subset(FashionMNIST(200), 200, classes=[2, 4], per_class=[120, 80])
    data.setup()
    module = Nearest(Pixels(data.spec.mean[0], data.spec.std[0]))
    z = torch.cat([module.gathered(x) for x, _ in data.train_dataloader()])
    off = ~torch.eye(200, dtype=torch.bool)
    medians = [float(DeepKernel(ReLU(), depth, "ntk", 4096).gram(z)[off].median()) for depth in (10, 100, 1000)]
    assert medians == pytest.approx([0.50, 0.293, 0.2553], abs=0.02)


def test_without_slope_above_one_depth_does_not_end_in_a_vote() -> None:
    """A = (1 + xi) / 2: the kernel stays affine in x at every depth, and the ridgeless network linear regression."""
    x, y = points(3, 3, 2), torch.tensor([1, 0, 0])
    z = points(50, 3, 3)
    deep = network(Polynomial({0: 0.5, 1: 0.5}), 12, x, y)
    assert torch.equal(deep.predicted(x), y)
    kernel = deep.kernel.log(z, x).exp() @ deep.weights
    affine = torch.cat([z, torch.ones(50, 1)], 1)
    fitted = torch.linalg.lstsq(affine, kernel.unsqueeze(1)).solution
    assert torch.allclose(affine @ fitted, kernel.unsqueeze(1), atol=1e-5)
    assert len(deep.predicted(z).unique()) == 2


@pytest.mark.parametrize("name", ["erf", "sine2.676", "d1", "d4", "relu"])
@pytest.mark.parametrize("kernel", ["nngp", "ntk"])
def test_network_interpolates_and_ignores_order(name: str, kernel: str) -> None:
    if (name, kernel) == ("relu", "nngp"):
        pytest.skip("its kernel goes to 1 everywhere")
    x, z, y = points(60, 4, 0), points(200, 4, 1), torch.arange(60) % 5 // 3
    made = network(DUALS[name], 20, x, y, kernel)
    assert torch.equal(made.predicted(x), y)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    assert torch.equal(network(DUALS[name], 20, x[order], y[order], kernel).predicted(z), made.predicted(z))
    gram = made.kernel.gram(x)
    direct = log_kernel((x @ x.T).clamp(max=1).log(), DUALS[name], 20, kernel).exp()
    assert torch.allclose(gram, direct.fill_diagonal_(1), rtol=1e-6)
    for factor in (1.0, 1e6):  # predictions do not depend on the kernel's scale
        weights = scipy.linalg.solve(factor * gram.numpy(), (2 * y - 1).numpy(), assume_a="sym")
        scores = factor * made.kernel.log(z, x).exp() @ torch.as_tensor(weights)
        assert torch.equal((scores >= 0).long(), made.predicted(z))


def test_solve_falls_back_where_rounding_made_the_kernel_indefinite() -> None:
    k = torch.tensor([[1.0, 2.0], [2.0, 1.0]], dtype=torch.float64)
    y = torch.tensor([1.0, -1.0], dtype=torch.float64)
    assert torch.allclose(k @ ridgeless(k, y), y)


def test_bayes_rule_equals_the_densities() -> None:
    plus, minus, prior = [3, 1, 2, 1, 1], [1, 2, 2, 2, 3], 0.4
    simplex = np.random.default_rng(0).dirichlet(np.ones(5), 200)
    ratio = [
        math.log(prior / (1 - prior)) + scipy.stats.dirichlet.logpdf(s, plus) - scipy.stats.dirichlet.logpdf(s, minus)
        for s in simplex
    ]
    assert np.allclose(Bayes(plus, minus, prior).scores(rows(simplex)).numpy(), ratio)


def test_bayes_accuracy_of_the_two_coordinates_is_76_percent() -> None:
    """Densities 2 (1 - s) and 2 s meet at s = 0.4 for P(+1) = 0.4: 0.8 (0.4 - 0.08) + 0.6 (1 - 0.16) = 0.76."""
    rule = Bayes([1, 2], [2, 1], 0.4)
    assert rule.predicted(rows([[0.399, 0.601], [0.401, 0.599]])).tolist() == [1, 0]
    data = Dirichlet(1000, [1, 2], [2, 1], n_train=1, n_test=4000, seed=1)
    data.setup()
    z, y = data.splits["test"]
    assert float((rule.predicted(z) == y).double().mean()) == pytest.approx(0.76, abs=4 * math.sqrt(0.76 * 0.24 / 4000))


def test_pixels_recovers_every_grey_value() -> None:
    grey = torch.arange(256.0)
    assert torch.equal(Pixels(0.2860, 0.3530)((grey / 255 - 0.2860) / 0.3530), grey.double())


def test_points_off_the_nonnegative_sphere_are_refused() -> None:
    for wrong in (torch.tensor([[-0.1, 1.0]]), torch.zeros(1, 2)):
        with pytest.raises(ValueError, match="nonnegative"):
            Nearest().gathered(wrong)


def test_switches_name_their_values() -> None:
    with pytest.raises(ValueError, match="kernel='nt': expected 'nngp' or 'ntk'"):
        DeepNetwork(ReLU(), 3, "nt")
    with pytest.raises(ValueError, match="depth=0"):
        DeepNetwork(ReLU(), 0)
    with pytest.raises(ValueError, match="depth=1100"):
        DeepKernel(hermite(2), 1100, "nngp", 64)
    with pytest.raises(ValueError, match="sum of 1"):
        Polynomial({1: 0.5, 3: 0.6})


def test_a_solved_network_survives_saving() -> None:
    x, z, y = points(30, 3, 0), points(20, 3, 1), torch.arange(30) % 2
    made, other = network(optimal(2), 30, x, y), DeepNetwork(optimal(2), 30)
    other.load_state_dict(made.state_dict())
    assert torch.equal(other.scores(z), made.scores(z))
    assert other.points.dtype == torch.float64


def test_full_recipe_is_the_released_settings(make_plan: Callable[..., Plan]) -> None:
    full = make_plan("paper=ntk_optimality", "scale=full").stages
    depths = {"matched": 100, "rival_a": 100, "rival_b": 100, "rival_c": 100, "erf": 200, "sine_a1": 100}
    depths |= {"sine_d2": 100, "sine_d4": 50, "sine_d8": 50}
    for block in ("line", "space"):
        for name, depth in depths.items():
            stage = full[f"{block}_{name}"]
            assert (stage.module["depth"], stage.module["kernel"]) == (depth, "nngp")
            assert (stage.data["n_train"], stage.data["n_test"], stage.data["prior"]) == (10_000, 10_000, 0.4)
            assert stage.trainer["precision"] == "64-true"
    relu = full["line_relu_tiny"]
    assert (relu.module["depth"], relu.module["kernel"], relu.data["n_train"]) == (50_000, "ntk", 100)
    for variant, dimension in ((None, 2), ("full_five_coordinates", 4), ("full_nine_coordinates", 8)):
        stages = make_plan("paper=ntk_optimality", "scale=full", *([f"variant={variant}"] if variant else [])).stages
        assert stages["space_matched"].module["dual"]["dimension"] == dimension
        assert len(stages["space_bayes"].module["plus"]) == dimension + 1
        orders = {
            stages[f"space_{name}"].module["dual"]["dimension"] for name in ("matched", "rival_a", "rival_b", "rival_c")
        }
        assert orders == {1, 2, 4, 8}


@pytest.mark.parametrize("scale", ["mini", "full"])
def test_arms_of_a_block_see_the_same_points(scale: str, make_plan: Callable[..., Plan]) -> None:
    """Claims are on paired differences: the same pool and test points, and as many training points in both arms."""
    plan = make_plan("paper=ntk_optimality", f"scale={scale}")
    for block in ("line", "space", "image"):
        data = [dict(stage.data) for name, stage in plan.stages.items() if name.startswith(f"{block}_")]
        assert len(data) > 5
        for one in data:
            one.pop("n_train", None)
        assert all(one == data[0] for one in data)
    points = {name: stage.data.get("n_train") for name, stage in plan.stages.items()}
    for claim in claims.read(plan.config).claims:
        better, than = claim.better.split("/")[0], str(claim.than).split("/")[0]
        if than in points and "few" not in str(claim.than):
            assert points[better] == points[than], claim.name
    for network_, limit in (("line_matched", "line_limit"), ("line_ntk_deep", "line_limit_small")):
        assert plan.stages[network_].module["dual"] == plan.stages[limit].module["dual"]
        assert plan.stages[network_].needs["limit"] == limit
        assert points[network_] == points[limit]


@pytest.mark.parametrize(("variant", "block"), [("mnist", "image_"), ("nine_coordinates", "space_")])
def test_a_variant_judges_what_it_changes(variant: str, block: str, make_plan: Callable[..., Plan]) -> None:
    asked = claims.read(make_plan("paper=ntk_optimality", "scale=mini", f"variant={variant}").config).claims
    assert len(asked) > 1
    assert all(claim.main or claim.better.startswith(block) for claim in asked)
