"""Feature extractors at published size."""

from __future__ import annotations

import pytest
import torch

from modules.napa_vq.networks import resnet


def test_backbone_at_published_size() -> None:
    with torch.device("meta"):
        cifar, photos = resnet("cifar"), resnet("imagenet")
        assert cifar(torch.empty(2, 3, 32, 32)).shape == photos(torch.empty(2, 3, 224, 224)).shape == (2, 512)
    counts = [sum(p.numel() for p in net.parameters()) for net in (cifar, photos)]
    assert counts[0] == 11_689_512 - 513_000 - (9_408 - 1_728) == 11_168_832
    assert counts[1] == 11_689_512 - 513_000
    assert 11_307_956 - counts[0] == 139_124  # what the released module builds and never uses
    with pytest.raises(ValueError, match="stem='wide': expected cifar or imagenet"):
        resnet("wide")
