"""Losses of a student that learns from what its teachers say."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def soft_target(teacher_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """p_T: the average of the teachers' softmax outputs (not of their logits). (T, B, C) -> (B, C)."""
    return (teacher_logits / temperature).softmax(-1).mean(0)


def similarity_loss(student_logits: Tensor, target: Tensor) -> Tensor:
    """L_sim, mean over the batch. student_logits (B, C), target (B, C) probabilities."""
    return -(target * F.log_softmax(student_logits, -1)).sum(-1).mean()


def entropy(target: Tensor) -> Tensor:
    """Mean entropy of (B, C) probabilities in nats; L_sim minus this is KL(p_T || p_S)."""
    return -torch.xlogy(target, target).sum(-1).mean()
