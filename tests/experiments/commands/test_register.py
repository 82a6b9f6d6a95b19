"""What a registration refuses before anything is fixed."""

from __future__ import annotations

import pytest

from experiments.commands import register
from experiments.common.errors import InputError
from experiments.config import compose


@pytest.mark.parametrize(("size", "told"), [("11000", None), ("null", "vary.images: None is no number")])
def test_recipes_that_a_replication_could_not_draw_are_refused(size: str, told: str | None) -> None:
    lines = ["paper=vit_vqgan", f"stages.*.data.train_size={size}"]
    config = compose.compose(compose.request(lines).overrides)
    resolved = compose.resolve(config, 0)
    if told is None:
        register._check_vary(config, resolved, "vit_vqgan")
        return
    with pytest.raises(InputError, match=told):
        register._check_vary(config, resolved, "vit_vqgan")
