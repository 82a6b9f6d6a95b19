"""The learning-rate schedule of ViT-VQGAN's stage 2 (arXiv 2110.04627)."""

from __future__ import annotations

from modules.common.schedules import Position


def exponential_tail(position: Position, warmup_epochs: float, decay_epoch: float, final: float) -> float:
    """Linear warm-up from 0 to 1, constant, and from `decay_epoch` on exponentially down to `final` at the end."""
    done = position.epoch + position.step / position.steps_per_epoch
    if done < warmup_epochs:
        return (done + 1 / position.steps_per_epoch) / warmup_epochs
    return float(final ** max(0.0, (done - decay_epoch) / (position.max_epochs - decay_epoch)))
