"""What teachers say, as a target: by hand, and against torch's divergence."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from modules.common.distillation import entropy, similarity_loss, soft_target

TEACHERS = torch.tensor([[[2.0, 0, 0]], [[0, 4.0, 0]]])  # (T, B, C) = (2, 1, 3)


def test_soft_target_averages_probabilities_not_logits() -> None:
    assert torch.allclose(soft_target(TEACHERS), torch.tensor([[0.4023, 0.5356, 0.0621]]), atol=1e-4)
    assert torch.allclose(TEACHERS.mean(0).softmax(-1), torch.tensor([[0.2447, 0.6652, 0.0900]]), atol=1e-4)


def test_similarity_loss_value_and_gradient() -> None:
    target = soft_target(TEACHERS)
    z = torch.tensor([[1.0, 2.0, 0.0]], requires_grad=True)
    loss = similarity_loss(z, target)
    value = float(loss.detach())
    assert value == pytest.approx(0.9341, abs=1e-4)
    assert float(entropy(target)) == pytest.approx(0.8733, abs=1e-4)
    assert value - float(entropy(target)) == pytest.approx(0.0608, abs=1e-4)
    (gradient,) = torch.autograd.grad(loss, z)
    assert torch.allclose(gradient, torch.tensor([[-0.1576, 0.1297, 0.0279]]), atol=1e-4)


def test_student_equal_to_the_teacher_has_no_gradient() -> None:
    z = torch.tensor([[1.0, 2.0, 0.0]], requires_grad=True)
    target = soft_target(z.detach()[None])
    loss = similarity_loss(z, target)
    (gradient,) = torch.autograd.grad(loss, z)
    assert float(loss.detach()) == pytest.approx(float(entropy(target)), abs=1e-6)
    assert float(gradient.abs().max()) < 1e-6


def test_over_a_batch_the_excess_is_torchs_divergence() -> None:
    logits, teachers = torch.randn(6, 4), torch.randn(3, 6, 4)
    target = soft_target(teachers, temperature=2.0)
    assert torch.allclose(target, torch.stack([F.softmax(each / 2, -1) for each in teachers]).mean(0))
    divergence = F.kl_div(logits.log_softmax(-1), target, reduction="batchmean")
    assert torch.allclose(similarity_loss(logits, target) - entropy(target), divergence, atol=1e-6)
    certain = torch.eye(4)[[0, 2]]
    assert float(entropy(certain)) == 0  # 0 log 0 is 0
