"""The lookup by hand, against a library, its invariance and its gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from vector_quantize_pytorch import VectorQuantize

from modules.vit_vqgan.quantizer import Quantizer, vq_loss


def test_vq_loss_by_hand() -> None:
    """z = (3, 4), e = (1, 0): on the sphere (.6, .8) and (1, 0), squared distance .8, mean .4, times 1.25."""
    z, e = F.normalize(torch.tensor([[3.0, 4.0]])), torch.tensor([[1.0, 0.0]])
    assert float(vq_loss(z, e)) == pytest.approx(0.5)
    assert 2 * float(vq_loss(z, e)) == pytest.approx(1.0)  # the sum over dimensions


def quantizer(**options: Any) -> Quantizer:
    torch.manual_seed(0)
    return Quantizer(6, 6, 40, 4, **options)


def test_lookup_agrees_with_vector_quantize_pytorch() -> None:
    ours = quantizer()
    theirs = VectorQuantize(dim=4, codebook_size=40, use_cosine_sim=True).eval()
    theirs._codebook.embed.data.copy_(F.normalize(ours.codebook.detach(), dim=-1)[None])
    z = torch.randn(5, 30, 4)
    e = ours.project(ours.codebook)
    assert torch.equal(ours.nearest(ours.project(z), e), theirs(z)[1])
    plain = quantizer(normalise=False)
    distance = torch.cdist(z, plain.codebook.detach()[None].expand(5, -1, -1))
    assert torch.equal(plain.nearest(z, plain.project(plain.codebook)), distance.argmin(-1))


def test_normalised_lookup_does_not_see_scale() -> None:
    ours, h = quantizer(), torch.randn(2, 9, 6)
    nn.init.zeros_(ours.down.bias)
    _, codes, loss = ours(h)
    scale = torch.rand(40, 1) * 5 + 0.1
    with torch.no_grad():
        ours.codebook.mul_(scale)
    decoded, again, same = ours(7 * h)
    assert torch.equal(codes, again)
    assert torch.allclose(loss, same, atol=1e-6)
    assert torch.allclose(decoded, ours.decode(codes), atol=1e-5)
    assert torch.allclose(ours.project(ours.codebook).norm(dim=-1), torch.ones(40), atol=1e-6)


@pytest.mark.parametrize(("normalise", "over"), [(True, True), (True, False), (False, False)])
def test_gradients_of_the_quantiser(normalise: bool, over: bool) -> None:
    ours, h = quantizer(normalise=normalise, over_normalisation=over), torch.randn(1, 3, 6)
    z_e = ours.down(h).detach().requires_grad_()
    ours.down = nn.Identity()  # type: ignore[assignment]
    decoded, codes, loss = ours(z_e)
    (straight,) = torch.autograd.grad(decoded.sum(), z_e, retain_graph=True)
    unquantised = ours.up(z_e if over else ours.project(z_e)).sum()
    assert torch.allclose(straight, torch.autograd.grad(unquantised, z_e)[0])  # as if nothing had been looked up
    along = (straight * z_e.detach()).sum(-1).abs().max()
    assert over or not normalise or float(along) < 1e-5  # lengths get no gradient
    assert torch.autograd.grad(decoded.sum(), ours.codebook, retain_graph=True, allow_unused=True)[0] is None
    (moved,) = torch.autograd.grad(loss, ours.codebook, retain_graph=True)
    selected = torch.zeros(40, dtype=torch.bool).index_fill(0, codes.flatten(), True)
    assert bool((moved[~selected] == 0).all())
    assert bool((moved[selected].abs().sum(-1) > 0).all())
    ours.beta = 0.0
    (back,) = torch.autograd.grad(ours(z_e)[2], z_e)
    assert float(back.abs().max()) == 0


def test_initial_codebooks() -> None:
    torch.manual_seed(0)
    wide = Quantizer(4, 4, 1000, 8, init="uniform").codebook
    assert float(wide.detach().abs().max()) <= 1e-3
    assert float(Quantizer(4, 4, 1000, 8).codebook.detach().std()) == pytest.approx(1, abs=0.05)
    with pytest.raises(ValueError, match="init='zeros'"):
        quantizer(init="zeros")
