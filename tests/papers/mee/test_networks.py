"""Published sizes, spectral norms and the resampling."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from modules.mee.dcgan import DiscriminatorBody, Generator
from modules.mee.networks import DenseBody, DenseGenerator, Embedding, resample


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def test_published_sizes_on_cifar10() -> None:
    """The released discriminator has 131,072 more, in a layer that nothing uses."""
    generator, embedding = Generator(32, 64, 128), Embedding(DiscriminatorBody(32, 128), 16)
    assert parameters(generator) == 3_153_664
    assert parameters(embedding) == 3_020_800 - 131_072 == 2_889_728
    images = generator(torch.randn(2, 64))
    assert images.shape == (2, 3, 32, 32)
    assert float(images.detach().abs().max()) <= 1
    mean, log_variance = embedding.distribution(images)
    assert mean.shape == log_variance.shape == (2, 16)


@pytest.mark.parametrize(("size", "start"), [(8, 4), (8, 2), (16, 4), (256, 4)])
def test_sizes_of_images(size: int, start: int) -> None:
    with torch.device("meta"):
        images = Generator(size, 10, 8, start=start)(torch.zeros(2, 10))
        body = DiscriminatorBody(size, 8, start=start)
        assert images.shape == (2, 3, size, size)
        assert body(images).shape == (2, body.features)


def test_wrong_sizes() -> None:
    for size, start in ((28, 4), (4, 4), (2, 4)):
        with pytest.raises(ValueError, match=f"size={size}: expected start={start} times 2, 4, 8"):
            Generator(size, 8, 8, start=start)
        with pytest.raises(ValueError, match=f"size={size}"):
            DiscriminatorBody(size, 8, start=start)


def norms(network: nn.Module) -> list[float]:
    """Spectral norm of every layer's weight, as a matrix of outputs by the rest."""
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    return [float(torch.linalg.matrix_norm(layer.weight.detach().flatten(1), 2)) for layer in layers]


@pytest.mark.parametrize("body", [DiscriminatorBody(16, 8), DenseBody([32, 32])])
def test_every_layer_of_the_discriminator_is_spectrally_normalised(body: nn.Module) -> None:
    embedding = Embedding(body, 4)
    x = torch.randn(4, *((3, 16, 16) if isinstance(body, DiscriminatorBody) else (2,)))
    for _ in range(50):
        embedding(x)  # a power iteration each
    assert norms(embedding) == pytest.approx([1.0] * 3, abs=0.02)


def test_initial_weights() -> None:
    generator, body = Generator(32, 64, 64), DiscriminatorBody(32, 64)
    kernels = [layer.weight for layer in generator if isinstance(layer, nn.ConvTranspose2d)]
    assert [float(k.detach().std()) for k in kernels] == pytest.approx([0.02] * 4, rel=0.1)
    originals = [layer.parametrizations.weight.original for layer in body if isinstance(layer, nn.Conv2d)]
    assert [float(k.detach().std()) for k in originals] == pytest.approx([0.02] * 3, rel=0.1)
    head = Embedding(body, 8).head.parametrizations.weight.original.detach()
    assert torch.allclose(head @ head.T, torch.eye(16), atol=1e-5)


def codes(embedding: Embedding, x: Tensor, eps: Tensor) -> Tensor:
    return resample(*embedding.distribution(x), eps)


def test_codes_are_drawn_and_without_noise_fixed() -> None:
    embedding = Embedding(DiscriminatorBody(8, 8), 4).eval()
    x = torch.randn(5, 3, 8, 8)
    assert not torch.equal(codes(embedding, x, torch.randn(5, 4)), codes(embedding, x, torch.randn(5, 4)))
    still = codes(embedding, x, torch.zeros(5, 4))
    assert torch.equal(still, embedding(x))
    assert torch.equal(still, codes(embedding, x, torch.zeros(5, 4)))
    one = codes(embedding, x, torch.ones(5, 4))
    assert torch.allclose(one - still, (embedding.distribution(x)[1] / 2).exp())


def test_codes_without_resampling_have_no_noise() -> None:
    embedding = Embedding(DenseBody([8]), 4, resampling=False)
    x = torch.randn(5, 2)
    mean, log_variance = embedding.distribution(x)
    assert torch.equal(resample(mean, log_variance, torch.randn(5, 4)), mean)
    resample(mean, log_variance, torch.randn(5, 4)).sum().backward()
    assert all(bool(p.grad.isfinite().all()) for p in embedding.parameters() if p.grad is not None)


def test_codes_are_not_rounded_to_half_precision() -> None:
    embedding = Embedding(DiscriminatorBody(8, 8), 4)
    with torch.autocast("cpu", torch.bfloat16):
        mean, log_variance = embedding.distribution(torch.randn(5, 3, 8, 8))
    assert mean.dtype == log_variance.dtype == torch.float32


def test_points() -> None:
    generator, body = DenseGenerator(64, [64, 64]), DenseBody([64, 32])
    points = generator(torch.randn(7, 64))
    assert points.shape == (7, 2)
    assert body(points).shape == (7, 32)
    assert body.features == 32
