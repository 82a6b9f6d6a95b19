"""The schedule of stage 2."""

from __future__ import annotations

from functools import partial

import pytest

from modules.common.schedules import Position
from modules.vit_vqgan.schedules import exponential_tail


def test_exponential_tail_of_the_published_recipe() -> None:
    schedule = partial(exponential_tail, warmup_epochs=4, decay_epoch=64, final=0.0222)
    assert schedule(Position(0, 0, 1252, 360)) == pytest.approx(1 / (4 * 1252))
    assert schedule(Position(4, 0, 1252, 360)) == schedule(Position(63, 1251, 1252, 360)) == 1
    assert 4.5e-4 * schedule(Position(359, 1251, 1252, 360)) == pytest.approx(1e-5, rel=1e-2)
    assert schedule(Position(212, 0, 1252, 360)) == pytest.approx(0.0222**0.5)
