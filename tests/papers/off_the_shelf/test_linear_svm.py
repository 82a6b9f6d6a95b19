"""Linear SVMs against scikit-learn's own predictions and solutions known in closed form."""

from __future__ import annotations

import pytest
import torch
from sklearn.svm import SVC, LinearSVC
from torch import Tensor

from modules.off_the_shelf.linear_svm import best, binary, fit, folds


def clouds(classes: int = 5, count: int = 60, seed: int = 0) -> tuple[Tensor, Tensor]:
    source = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, 6, generator=source)
    y = torch.arange(count) % classes
    return centres[y] + 1.2 * torch.randn(count, 6, generator=source), y


@pytest.mark.parametrize(("loss", "weight"), [("hinge", 0.4), ("squared_hinge", 0.8 / 1.8)])
def test_two_points_by_hand(loss: str, weight: float) -> None:
    """x = +-1, y = +-1, C = 0.2: w = min(1, 2 C) for the hinge, 4 C / (1 + 4 C) for its square."""
    x = torch.tensor([[1.0], [-1.0]]).double().numpy()
    w, b = binary(x, x @ x.T, x[:, 0] > 0, 0.2, loss)
    assert float(w[0]) == pytest.approx(weight, abs=1e-3)
    assert b == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("c", [0.05, 2.0])
def test_one_against_one_votes_as_libsvm_does(c: float) -> None:
    (x, y), (z, _) = clouds(), clouds(count=400, seed=1)
    machines = fit(x, y, 5, c, "hinge", "one_vs_one")
    theirs = SVC(C=c, kernel="linear", decision_function_shape="ovo").fit(x.numpy(), y.numpy())
    decisions = machines.decisions(z)
    assert torch.allclose(decisions, torch.tensor(theirs.decision_function(z.numpy())).float(), atol=0.01)
    clear = (decisions.abs() > 0.01).all(1)  # the solvers stop at a tolerance of 0.001
    assert float(clear.float().mean()) > 0.9
    ours = machines.scores(decisions, 5).argmax(1)
    assert torch.equal(ours[clear], torch.tensor(theirs.predict(z.numpy()))[clear])
    assert machines.weight.shape == (10, 6)


def test_one_against_all_is_liblinear() -> None:
    (x, y), (z, _) = clouds(), clouds(count=400, seed=1)
    machines = fit(x, y, 5, 0.5, "squared_hinge", "one_vs_all")
    theirs = LinearSVC(C=0.5, dual=False).fit(x.numpy(), y.numpy())
    scores = machines.scores(machines.decisions(z), 5)
    assert torch.allclose(scores, torch.tensor(theirs.decision_function(z.numpy())).float(), atol=1e-3)


@pytest.mark.parametrize(("classes", "machines"), [(67, 2211), (102, 5151), (200, 19900)])
def test_number_of_machines(classes: int, machines: int) -> None:
    x = torch.zeros(0, 2)
    assert len(fit(x, torch.zeros(0, dtype=torch.long), classes, 1.0, "squared_hinge", "one_vs_one").pairs) == machines


def test_labels_that_say_nothing_are_left_out() -> None:
    x, y = clouds(2, 40)
    known = torch.stack([y, 1 - y], 1)
    known[30:, 0] = -1
    machines = fit(x, known, 2, 1.0, "hinge", "multilabel")
    alone = fit(x[:30], y[:30, None], 1, 1.0, "hinge", "multilabel")
    assert torch.allclose(machines.weight[0], alone.weight[0], atol=1e-5)
    assert not torch.allclose(machines.weight[1], -alone.weight[0], atol=1e-3)


def test_a_label_with_one_sign_is_answered_with_it() -> None:
    x, _ = clouds()
    machines = fit(x, torch.tensor([[1, 0]]).expand(60, 2), 2, 1.0, "squared_hinge", "multilabel")
    assert machines.decisions(x).unique(dim=0).tolist() == [[1.0, -1.0]]


def test_every_row_is_held_out_once_and_classes_are_dealt_evenly() -> None:
    y = torch.arange(90) % 3
    parts = folds(y, 3, 0)
    assert torch.cat(parts).sort().values.tolist() == list(range(90))
    assert all(y[part].bincount().tolist() == [10, 10, 10] for part in parts)
    assert not torch.equal(parts[0], folds(y, 3, 1)[0])
    assert best([0.5, 0.7, 0.7], [1.0, 2.0, 3.0]) == 2.0


def test_options_are_named() -> None:
    x, y = clouds()
    with pytest.raises(ValueError, match="loss='log': expected one of hinge, squared_hinge"):
        fit(x, y, 5, 1.0, "log", "one_vs_all")
    with pytest.raises(ValueError, match="scheme='ova': expected one of one_vs_one, one_vs_all, multilabel"):
        fit(x, y, 5, 1.0, "hinge", "ova")
