"""The one-number control by hand."""

from __future__ import annotations

import torch

from modules.aria.number import NumberDetector, OneNumber
from modules.common.sharpness import energy


def test_one_number_learns_its_threshold() -> None:
    sharp, flat = torch.rand(20, 3, 8, 8), 0.1 * torch.rand(20, 3, 8, 8)
    stage = NumberDetector()
    stage.seen = [(energy(torch.cat([sharp, flat])), torch.tensor([0] * 20 + [1] * 20))]
    stage.finish()
    assert isinstance(stage.network, OneNumber)
    assert bool((stage.network(flat) > 0).all())
    assert bool((stage.network(sharp) < 0).all())
    assert stage.state_dict().keys() >= {"network.cut", "network.side"}
    cut, pictures = float(stage.network.cut), torch.cat([flat, sharp])
    assert torch.allclose(stage.network(pictures)[:, 0], cut - energy(pictures), atol=1e-5)  # the further, the surer
