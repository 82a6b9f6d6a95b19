"""What a registration refuses before anything is fixed."""

from __future__ import annotations

import re

import pytest

from experiments.commands import register
from experiments.common.errors import InputError
from experiments.config import compose

REFUSED = {
    "stages.*.data.train_size=null": "vary.images: None is no number",
    "tune.keys=[stages.*.module.optimizer.rate]": "tune.keys: stages.*.module.optimizer.rate: no stage has this",
}


@pytest.mark.parametrize("line", ["stages.*.data.train_size=11000", *REFUSED])
def test_grids_and_recipes_that_could_not_be_drawn_again_are_refused(line: str) -> None:
    config = compose.compose(compose.request(["paper=vit_vqgan", line]).overrides)
    resolved = compose.resolve(config, 0)
    if line not in REFUSED:
        register._check_knobs(config, resolved, "vit_vqgan")
        return
    with pytest.raises(InputError, match=re.escape(REFUSED[line])):
        register._check_knobs(config, resolved, "vit_vqgan")
