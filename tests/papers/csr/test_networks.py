"""Sizes of the published networks, and what projector and prototypes do to maps."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from modules.csr.networks import ConceptNetwork, ConceptPrototypes, Projector, convnext_tiny, small_encoder


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_published_sizes() -> None:
    encoder = convnext_tiny(pretrained=False)
    assert count(encoder) == 27_818_592
    with torch.no_grad():
        assert encoder.eval()(torch.zeros(1, 3, 224, 224)).shape == (1, 768, 7, 7)


@pytest.mark.parametrize(
    ("concepts", "head", "prototypes", "last"), [(14, 10_752, 358_400, 4_203), (4, 3_072, 102_400, 1_203)]
)
def test_published_sizes_of_the_rest(concepts: int, head: int, prototypes: int, last: int) -> None:
    assert count(ConceptNetwork(nn.Identity(), 768, concepts)) == head
    layer = ConceptPrototypes(768, concepts)
    assert layer.vectors.numel() == prototypes
    assert count(nn.Linear(layer.vectors.shape[:2].numel(), 3)) == last


def test_concept_logits_are_the_maps_means() -> None:
    net = ConceptNetwork(small_encoder((4, 5), (2, 1), (3, 3)), 5, 3).eval()
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        features = net.encoder(x)
        pooled = features.mean((2, 3)) @ net.head.weight[:, :, 0, 0].T
        assert torch.allclose(net(x), pooled, atol=1e-6)
    assert net.head.bias is None


def test_similarity_maps_are_cosines_and_constant_where_features_are() -> None:
    layer = ConceptPrototypes(6, 3, 4, 5).eval()
    with torch.no_grad():
        maps = layer(3 * torch.randn(2, 6, 4, 5))
        assert maps.shape == (2, 3, 4, 4, 5)
        assert float(maps.abs().max()) <= 1 + 1e-6
        flat = layer(torch.randn(1, 6, 1, 1).expand(1, 6, 4, 4))
        assert torch.allclose(flat, flat[..., :1, :1].expand_as(flat), atol=1e-6)


def test_scores_are_the_maps_largest_values() -> None:
    layer = ConceptPrototypes(6, 3, 4, 5).eval()
    features = torch.randn(2, 6, 3, 5)
    with torch.no_grad():
        assert torch.allclose(layer.scores(features), layer(features).flatten(3).amax(3), atol=1e-6)
        one = layer.cosines(features[1, :, 2, 3][None])
        assert torch.allclose(layer(features)[1, :, :, 2, 3], one[0], atol=1e-6)


def test_projected_vectors_have_length_one() -> None:
    projector = Projector(6, 5)
    assert torch.allclose(projector(torch.randn(7, 2, 6)).norm(dim=-1), torch.ones(7, 2), atol=1e-6)


def test_placed_prototypes_are_projected_vectors() -> None:
    layer = ConceptPrototypes(6, 3, 4, 5)
    vectors = torch.randn(3, 4, 6)
    running = {name: buffer.clone() for name, buffer in layer.projector.named_buffers()}
    layer.place(vectors)
    assert all(torch.equal(buffer, running[name]) for name, buffer in layer.projector.named_buffers())
    own = layer.cosines(vectors.flatten(0, 1)).view(3, 4, 3, 4)
    assert torch.allclose(torch.einsum("kmkm->km", own), torch.ones(3, 4), atol=1e-5)


def test_low_precision_keeps_cosines_exact() -> None:
    layer = ConceptPrototypes(6, 3, 4, 5).eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert layer.cosines(torch.randn(3, 6)).dtype == torch.float32


def test_an_encoder_needs_a_stride_and_a_kernel_for_each_width() -> None:
    with pytest.raises(ValueError, match="shorter than"):
        small_encoder((8, 8), (4, 2), (5,))
