"""How activations grow with the scale of residuals."""

from __future__ import annotations

import pytest
import torch

from modules.inception_v4 import architectures
from modules.inception_v4.growth import Growth
from modules.inception_v4.networks import Residual
from tests.papers.inception_v4.helpers import batch, quiet, small


def test_what_is_logged_is_the_spread_after_the_last_block_over_that_after_the_stem() -> None:
    """The same weights with each s, in the mean over two batches, written out from the network's own maps."""
    module = Growth(small, [1.0, 0.1])
    logged = quiet(module)
    expected: dict[str, list[float]] = {name: [] for name in ("stem", "last_1", "last_0.1", "growth_1", "growth_0.1")}
    for seed in (1, 2):
        x, y = batch(seed=seed)
        module.test_step((x, y), 0)
        for scale in (1.0, 0.1):
            network = small().train()
            for block in network.modules():
                if isinstance(block, Residual):
                    block.scale = scale
            maps = network.maps(x)  # of the stem, then of each grid
            stem, last = float(maps[0].detach().std()), float(maps[2].detach().std())
            expected[f"last_{scale:g}"].append(last)
            expected[f"growth_{scale:g}"].append(last / stem)
        expected["stem"].append(stem)
    module.on_test_epoch_end()
    assert logged == {f"test/{name}": pytest.approx(sum(v) / 2, rel=1e-4) for name, v in expected.items()}
    assert logged["test/growth_1"] > logged["test/growth_0.1"]


@pytest.mark.slow
def test_activations_grow_without_scaling() -> None:
    """Check 7 at full size: after the last block over after the stem, 3.60 / 0.80, 1.45 / 0.80 and 1.05 / 0.80."""
    torch.manual_seed(0)
    module = Growth(architectures.inception_resnet_v2, [1.0, 0.3, 0.1])
    x = torch.randn(2, 3, 299, 299)
    with torch.no_grad():
        module.test_step((x, torch.zeros(2)), 0)
    values = {name: float(metric.compute()) for name, metric in module.sums.items()}
    assert values["stem"] == pytest.approx(0.80, rel=0.15)
    assert [values[f"last_{s}"] for s in ("1", "0.3", "0.1")] == pytest.approx([3.60, 1.45, 1.05], rel=0.15)
    assert values["growth_1"] == pytest.approx(4.5, rel=0.2)
    assert values["growth_0.3"] == pytest.approx(1.81, rel=0.2)
    assert values["growth_0.1"] == pytest.approx(1.31, rel=0.2)
