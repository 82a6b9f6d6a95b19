"""How activations grow with the scale of residuals."""

from __future__ import annotations

import pytest
import torch

from modules.inception_v4 import architectures
from modules.inception_v4.growth import Growth


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
