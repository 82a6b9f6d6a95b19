"""What a doctor does to maps and scores, by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from modules.csr.evaluation import macro_f1
from modules.csr.interaction import Doctor, importance, pixels_of, reject, strongest, weigh

MAP = torch.tensor([[0.9, 0.2], [0.4, -0.3]]).view(1, 1, 1, 2, 2)


def test_a_box_moves_the_score() -> None:
    weights = torch.tensor([[[0.0, 0.2], [1.0, 0.2]]])
    assert float(strongest(MAP)) == pytest.approx(0.9)
    assert float(strongest(weigh(MAP, weights))) == pytest.approx(0.4)


def test_importance_of_cells() -> None:
    positive = torch.zeros(1, 4, 4, dtype=torch.bool)
    negative = positive.clone()
    positive[0, 1:4, 0] = True  # touches both cells of the left column
    negative[0, 0, :] = True  # and the upper row
    assert importance(positive, negative, 0.2, (2, 2)).tolist() == [[[0.0, 0.0], [1.0, pytest.approx(0.2)]]]


def test_full_importance_changes_nothing() -> None:
    maps = 2 * torch.rand(3, 4, 5, 2, 2) - 1
    assert torch.equal(weigh(maps, torch.ones(3, 2, 2)), maps)
    everywhere = importance(torch.ones(3, 8, 8, dtype=torch.bool), torch.zeros(3, 8, 8, dtype=torch.bool), 0.2, (2, 2))
    assert torch.equal(everywhere, torch.ones(3, 2, 2))
    one_box = torch.zeros(3, 8, 8, dtype=torch.bool)
    one_box[:, :2, :2] = True
    assert torch.equal(importance(one_box, torch.zeros_like(one_box), 1.0, (2, 2)), torch.ones(3, 2, 2))


def test_no_doctor_raises_a_score() -> None:
    maps = 2 * torch.rand(50, 2, 3, 3, 3) - 1
    maps[:10] -= 1  # all below 0
    weights = torch.rand(50, 3, 3)
    assert (strongest(weigh(maps, weights)) <= strongest(maps)).all()


def test_without_any_concept_the_bias_is_left() -> None:
    head = nn.Linear(6, 3)
    scores = reject(torch.rand(2, 2, 3), torch.ones(2, 2, dtype=torch.bool))
    assert torch.equal(head(scores.flatten(1)), head.bias.expand(2, 3))
    kept = reject(torch.ones(1, 2, 3), torch.tensor([[False, True]]))
    assert kept.tolist() == [[[1.0] * 3, [0.0] * 3]]


def test_the_gate_is_the_margin() -> None:
    logits = torch.tensor([[0.5, 0.3, 0.2], [0.6, 0.3, 0.1], [0.34, 0.33, 0.33]]).log()
    assert Doctor(gate=0.3).looks_at(logits).tolist() == [True, False, True]
    assert Doctor(gate=0.301).looks_at(logits).tolist() == [True, True, True]


@pytest.mark.parametrize(("alpha", "gate"), [(1.0, 0.3), (-0.1, 0.3), (0.2, 1.5)])
def test_a_doctor_out_of_range(alpha: float, gate: float) -> None:
    with pytest.raises(ValueError, match=rf"alpha={alpha}, gate={gate}: expected"):
        Doctor(alpha, gate)


def test_boxes_by_what_they_show() -> None:
    boxes = torch.tensor([[[0.0, 0.0, 2.0, 1.0], [0.0, 1.0, 1.0, 2.0], [1.0, 1.0, 2.0, 2.0]]])
    of_concept, negative = pixels_of(boxes, torch.tensor([[1, 2, -1]]), 2, (2, 2))
    assert of_concept.int().tolist() == [[[[0, 0], [0, 0]], [[1, 1], [0, 0]]]]
    assert negative.int().tolist() == [[[0, 0], [1, 0]]]


def test_macro_f1_by_hand() -> None:
    confusion = torch.tensor([[3, 1, 0], [1, 1, 0], [0, 0, 0]])
    assert float(macro_f1(confusion)) == pytest.approx(100 * (6 / 8 + 2 / 4) / 2)
    assert float(macro_f1(torch.zeros(3, 3))) == 0.0
    from sklearn.metrics import f1_score

    y = [0, 0, 0, 0, 1, 1]
    predicted = [0, 0, 0, 1, 0, 1]
    assert float(macro_f1(confusion)) == pytest.approx(100 * f1_score(y, predicted, average="macro"))
