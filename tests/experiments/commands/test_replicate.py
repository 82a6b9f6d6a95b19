"""What a replication tells of its draws before it trains them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from experiments.commands.replicate import tiny_batches
from experiments.running.plan import Plan


@pytest.mark.parametrize(("images", "told"), [(640, False), (641, True), (643, True), (644, False)])
def test_a_last_batch_of_a_few_images_is_told(images: int, told: bool, make_plan: Callable[..., Plan]) -> None:
    plan = make_plan("paper=noprop", f"stages.*.data.train_size={images}", "stages.*.data.batch_size=64")
    told_of = [f"seed 0: the last batch of an epoch holds {images % 64}; a batch norm's statistics suffer"]
    assert tiny_batches([plan]) == (told_of if told else [])
