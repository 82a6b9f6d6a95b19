"""Rotated classes and the prototypes of old ones."""

from __future__ import annotations

import pytest
import torch

from modules.napa_vq.prototypes import FeatureMoments, draw_mixed_prototypes, draw_noisy_prototypes, rotate


def test_prototypes_that_are_not_mixed(monkeypatch: pytest.MonkeyPatch) -> None:
    """g = 1 and a graph without edges both leave plain replay; other draws stay between a class and its neighbour."""
    torch.manual_seed(0)
    known, edges = torch.randn(24, 3), torch.eye(24)
    p, c = draw_mixed_prototypes(known, edges, 4, 50)
    assert torch.allclose(p, known[c], atol=1e-6)
    assert set(c.tolist()) == {0, 4, 8, 12}
    edges[:16:4, 17] = 0.01  # any strength joins
    p, c = draw_mixed_prototypes(known, edges, 4, 50)
    share = (p - known[c]).norm(dim=1) / (known[17] - known[c]).norm(dim=1)
    assert 0 < int((share > 1e-3).sum()) < 50
    assert float(share.max()) <= 0.5
    monkeypatch.setattr(torch, "rand", lambda *shape, **_: torch.ones(*shape))
    p, c = draw_mixed_prototypes(known, edges, 4, 50)
    assert torch.allclose(p, known[c], atol=1e-6)
    p, c = draw_noisy_prototypes(known, torch.tensor(0.0), 4, 50)
    assert torch.equal(p, known[c])


def test_rotations_become_classes() -> None:
    x = torch.arange(8.0).view(2, 1, 2, 2)
    images, labels = rotate(x, torch.tensor([3, 0]))
    assert labels.tolist() == [12, 13, 14, 15, 0, 1, 2, 3]
    assert torch.equal(images[1, 0], torch.tensor([[1.0, 3], [0, 2]]))
    assert torch.equal(images[4], x[1])


def test_moments_of_features_are_those_of_each_class() -> None:
    moments = FeatureMoments(3, 4, torch.device("cpu"))
    f = torch.randn(40, 4)
    y = torch.arange(40) % 2  # class 2 has no image
    moments.update(f[:10], y[:10])
    moments.update(f[10:], y[10:])
    mean, variance = moments.compute()
    for c in (0, 1):
        assert torch.allclose(mean[c].float(), f[y == c].mean(0), atol=1e-6)
        assert torch.allclose(variance[c].float(), f[y == c].var(0), atol=1e-5)
    assert float(mean[2].abs().max()) == float(variance[2].abs().max()) == 0
