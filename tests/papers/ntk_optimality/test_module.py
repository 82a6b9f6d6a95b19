"""The classifiers: the three limits, interpolation, the references they are compared with."""

from __future__ import annotations

import math

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
from modules.ntk_optimality.kernels import (
    DeepKernel,
    Polynomial,
    ReLU,
    hermite,
    log_kernel,
    optimal,
    ridgeless,
)
from modules.ntk_optimality.module import Bayes, DeepNetwork, Hilbert, Majority, Nearest, Pixels, SingularKernel, share
from tests.papers.ntk_optimality.helpers import DUALS, network, points, rows


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
    assert SingularKernel(optimal(2), nodes=64).kernel.pieces.shape == (4, 63)
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
    actual: dict[str, Tensor] = {}
    monkeypatch.setattr(made, "log_dict", actual.update)
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
        assert float(actual[name]) == pytest.approx(100 * float(right.double().mean()), abs=1e-4)
    assert len({round(float(actual[name]), 3) for name in expected}) == 3
    assert float(actual["test/n"]) == 100


@pytest.mark.parametrize("name", ["nearest", "majority", "hilbert", "bayes", "limit"])
def test_each_reference_is_agreed_with_under_its_name(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = points(20, 3, 0), torch.arange(20) % 2
    made = DeepNetwork(hermite(2), 40, **{name: Nearest()})  # this one becomes the nearest neighbour
    made.references[name].solve(x, y)  # type: ignore[operator]
    made.solve(x, y)
    actual: dict[str, Tensor] = {}
    monkeypatch.setattr(made, "log_dict", actual.update)
    made.test_step((x, 1 - y), 0)
    made.on_test_epoch_end()
    assert {key: float(value) for key, value in actual.items()} == {
        "test/top1": 0,
        f"test/agreement_{name}": 100,
        "test/n": 20,
    }


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
    z = torch.cat([module.keep(x) for x, _ in data.train_dataloader()])
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
            Nearest().keep(wrong)


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
