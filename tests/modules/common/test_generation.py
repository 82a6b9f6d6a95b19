"""Distances and scores against torch-fidelity and scipy, the discriminator's facts, LPIPS against its own package."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor, nn
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric

from modules.common.extractors import InceptionV3
from modules.common.fid import FrechetDistance, frechet_distance
from modules.common.frozen import Frozen
from modules.common.inception_score import InceptionScore
from modules.common.networks import ConvNet
from modules.vit_vqgan.adversarial import (
    EqualizedConv,
    StyleDiscriminator,
    discriminator_loss,
    generator_loss,
    r1_penalty,
)
from modules.vit_vqgan.codebook_use import CodebookUse
from modules.vit_vqgan.features import FeatureClassifier
from modules.vit_vqgan.perceptual import lpips_vgg
from modules.vit_vqgan.pixels import grid, uniforms

LN2 = math.log(2)


def features(n: int, d: int, seed: int, shift: float = 0.0) -> Tensor:
    """Correlated and non-negative, as features after a ReLU."""
    source = torch.Generator().manual_seed(seed)
    mixing = torch.randn(d, d, generator=torch.Generator().manual_seed(7)) / d**0.5
    return (torch.randn(n, d, generator=source) @ mixing + 0.3 + shift).relu()


def measured(real: Tensor, fake: Tensor, batch: int = 100) -> float:
    metric = FrechetDistance(real.shape[1])
    for part in real.split(batch):
        metric.update(part, real=True)
    for part in fake.split(batch):
        metric.update(part, real=False)
    return float(metric.compute())


# 500 images in 768 dimensions: rank-deficient covariances, the case in which roots of matrices go wrong
@pytest.mark.parametrize(("n", "d"), [(2000, 64), (1500, 768), (500, 768)])
def test_frechet_distance_agrees_with_torch_fidelity(n: int, d: int) -> None:
    real, fake = features(n, d, 0), features(n, d, 1, 0.1)
    statistics = [fid_features_to_statistics(x.double()) for x in (real, fake)]
    reference = fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]
    assert measured(real, fake) == pytest.approx(reference, rel=1e-3)


def test_frechet_distance_agrees_with_the_root_of_the_matrix() -> None:
    (m1, s1), (m2, s2) = ((x.mean(0), torch.cov(x.T)) for x in (features(900, 64, s).double() for s in (2, 3)))
    root = scipy.linalg.sqrtm((s1 @ s2).numpy()).real
    reference = float((m1 - m2).square().sum() + s1.trace() + s2.trace()) - 2 * float(np.trace(root))
    assert float(frechet_distance(m1, s1, m2, s2)) == pytest.approx(reference, rel=1e-6)


def test_frechet_distance_limits() -> None:
    x = features(300, 16, 4)
    assert measured(x, x) == pytest.approx(0, abs=1e-6)
    assert measured(x, x + 0.5) == pytest.approx(16 * 0.25, rel=1e-5)  # a shift alone: its squared length
    assert measured(x, x.flip(0), batch=7) == pytest.approx(0, abs=1e-6)
    one = FrechetDistance(16)
    one.update(x[:1], real=True)
    one.update(x[:1], real=False)
    assert math.isnan(float(one.compute()))


def test_frechet_distance_of_one_dimension_by_hand() -> None:
    """N(0, 1) and N(3, 4): 9 + (1 - 2)^2."""
    tensors = ([0.0], [[1.0]], [3.0], [[4.0]])
    assert float(frechet_distance(*(torch.tensor(t, dtype=torch.float64) for t in tensors))) == pytest.approx(10.0)


def test_frechet_distance_adds_over_processes() -> None:
    """Its states are sums: two halves measured apart and added are the whole."""
    real, fake = features(200, 32, 5), features(200, 32, 6)
    halves = [FrechetDistance(32), FrechetDistance(32)]
    for index, half in enumerate(halves):
        half.update(real[index::2], real=True)
        half.update(fake[index::2], real=False)
    for name in halves[0]._defaults:
        assert halves[0]._reductions[name] is torchmetrics_sum()
        setattr(halves[0], name, getattr(halves[0], name) + getattr(halves[1], name))
    assert float(halves[0].compute()) == pytest.approx(measured(real, fake), rel=1e-9)


def torchmetrics_sum() -> object:
    from torchmetrics.utilities import dim_zero_sum

    return dim_zero_sum


@pytest.mark.parametrize("splits", [1, 10])
def test_inception_score_agrees_with_torch_fidelity(splits: int) -> None:
    logits = torch.randn(1000, 20, generator=torch.Generator().manual_seed(0)) * 3
    metric = InceptionScore(20, splits)
    for numbers in torch.randperm(1000, generator=torch.Generator().manual_seed(1)).split(64):
        metric.update(logits[numbers], numbers)
    ordered = torch.cat([logits[part::splits] for part in range(splits)])
    reference = isc_features_to_metric(ordered, splits=splits, shuffle=False)["inception_score_mean"]
    assert float(metric.compute()) == pytest.approx(reference, rel=1e-6)


def test_inception_score_limits() -> None:
    alike, apart = InceptionScore(5, 1), InceptionScore(5, 1)
    alike.update(torch.zeros(10, 5), torch.arange(10))
    apart.update(torch.eye(5) * 100, torch.arange(5))
    assert float(alike.compute()) == pytest.approx(1)
    assert float(apart.compute()) == pytest.approx(5)


def test_codebook_use_counts_batches_of_256_images_whatever_the_loaders_are() -> None:
    source = torch.Generator().manual_seed(0)
    codes = torch.randint(64, (600, 4), generator=source)
    use = CodebookUse(64, 600)
    batches = [(use.group(torch.arange(600)) == number).nonzero().flatten() for number in range(3)]
    assert [len(batch) for batch in batches] == [256, 256, 88]
    codes[batches[1]] = 3  # the second batch uses one code; the last 88 images are no whole batch
    codes[batches[2]] = 5
    for numbers in torch.randperm(600, generator=source).split(50):
        use.update(codes[numbers], numbers)
    found = use.compute()
    expected = 50 * (len(codes[batches[0]].unique()) + 1) / 64
    assert float(found["code_use"]) == pytest.approx(expected)
    share = torch.bincount(codes.flatten(), minlength=64).double() / 2400
    entropy = -sum(float(p) * math.log(float(p)) for p in share if p > 0)
    assert float(found["perplexity"]) == pytest.approx(math.exp(entropy))


def test_codebook_use_sees_all_classes_of_a_sorted_test_set() -> None:
    """50 classes of 50 images, each with two codes of its own: 256 consecutive images would use 6 of 50 classes'."""
    codes = 2 * torch.arange(50).repeat_interleave(50)[:, None] + torch.tensor([0, 1])
    use = CodebookUse(100, 2500)
    use.update(codes, torch.arange(2500))
    assert float(use.compute()["code_use"]) > 95


def test_codebook_use_of_uniform_codes_is_complete() -> None:
    """262,144 tokens over 8192 codes leave a code unused with probability (1 - 1/8192)^262144 = e^-32."""
    codes = torch.randint(8192, (256, 1024), generator=torch.Generator().manual_seed(0))
    use = CodebookUse(8192, 256)
    use.update(codes, torch.arange(256))
    found = use.compute()
    assert float(found["code_use"]) == 100
    assert 8000 < float(found["perplexity"]) <= 8192
    few = CodebookUse(8192, 100)
    few.update(codes[:100], torch.arange(100))  # no whole batch: what there is
    assert float(few.compute()["code_use"]) == pytest.approx(100 * len(codes[:100].unique()) / 8192)


def test_inception_builds_without_network_and_gives_what_torch_fidelity_does() -> None:
    torch.manual_seed(0)
    extractor = InceptionV3(pretrained=False).eval()
    assert (extractor.suffix, extractor.features, extractor.classes) == ("", 2048, 1008)
    pixels = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        found, logits = extractor.describe(pixels)
        theirs = extractor.network((pixels * 255).round().to(torch.uint8))
    assert found.shape == (1, 2048)
    assert logits.shape == (1, 1008)
    assert torch.equal(found, theirs[0])
    assert not any(p.requires_grad for p in extractor.parameters())


def classifier(**options: object) -> FeatureClassifier:
    net = ConvNet(1, 8, [4, 6], [1, 2], 3, grid=1)
    return FeatureClassifier(net, 3, **{"suffix": "_convnet", **options})  # type: ignore[arg-type]


def test_a_classifiers_features_are_what_enters_its_last_layer() -> None:
    made = classifier().eval()
    made.trainer = SimpleNamespace(datamodule=SimpleNamespace(spec=SimpleNamespace(mean=(0.3,), std=(0.5,))))  # type: ignore[assignment]
    made.setup("fit")
    pixels = torch.rand(2, 1, 8, 8)
    found, logits = made.describe(pixels)
    assert found.shape == (2, made.features) == (2, 6)
    assert torch.allclose(logits, made.network(pixels))
    assert torch.allclose(made((pixels - 0.3) / 0.5), logits, atol=1e-5)
    assert "pixel_mean" not in made.state_dict()
    with pytest.raises(ValueError, match="plain `fid` means Inception-v3"):
        classifier(suffix="")


def test_what_is_kept_aside_is_frozen_and_no_child() -> None:
    class Holder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.aside = Frozen([nn.Linear(2, 2)])

    holder = Holder()
    assert not list(holder.parameters())
    assert not any(p.requires_grad for n in holder.aside.on(torch.device("cpu")) for p in n.parameters())


def test_lpips_agrees_with_its_authors_package() -> None:
    theirs_package = pytest.importorskip("lpips")
    torch.manual_seed(0)
    ours = lpips_vgg(pretrained=False)
    theirs = theirs_package.LPIPS(net="vgg", pnet_rand=True, verbose=False)
    theirs.net.load_state_dict(ours.net.state_dict())
    x, y = torch.rand(2, 2, 3, 32, 32) * 2 - 1
    assert torch.allclose(ours(x, y), theirs(x, y), atol=1e-6)
    assert float(ours(x, x).abs().max()) == 0
    assert not any(p.requires_grad for p in ours.parameters())


@pytest.mark.parametrize(("size", "count"), [(1024, 29_012_513), (256, 28_864_129)])
def test_discriminator_has_the_published_size(size: int, count: int) -> None:
    """29,012,513 at 1024 is what StyleGAN2's released code prints for config F."""
    with torch.device("meta"):
        assert sum(p.numel() for p in StyleDiscriminator(size).parameters()) == count


@pytest.mark.parametrize(("size", "last"), [(32, 4), (28, 3), (16, 4)])
def test_discriminator_takes_sides_that_are_no_powers_of_two(size: int, last: int) -> None:
    d = StyleDiscriminator(size, 1, capacity=64, widest=8)
    assert d.blocks(torch.zeros(2, 1, size, size)).shape[-1] == last
    assert d(torch.randn(6, 1, size, size)).shape == (6,)


def test_blurred_downsampling_keeps_a_constant_and_removes_the_highest_frequency() -> None:
    conv = EqualizedConv(1, 1, 1, down=True, bias=False, activate=False)
    nn.init.ones_(conv.weight)
    constant, stripes = torch.ones(1, 1, 8, 8), torch.tensor([1.0, -1.0]).repeat(4).expand(1, 1, 8, 8)
    assert torch.allclose(conv(constant)[..., 1:-1, 1:-1], torch.ones(1, 1, 2, 2))
    assert torch.allclose(conv(stripes)[..., 1:-1, 1:-1], torch.zeros(1, 1, 2, 2), atol=1e-6)


def test_minibatch_deviation_sees_groups_of_consecutive_images() -> None:
    """Several processes hold consecutive shares: the logits of a group do not depend on the others'."""
    torch.manual_seed(0)
    d, x = StyleDiscriminator(8, 1, capacity=64, widest=8), torch.randn(8, 1, 8, 8)
    assert torch.allclose(d(x)[:4], d(x[:4]), atol=1e-6)
    assert not torch.allclose(d(x)[:2], d(x[:2]), atol=1e-6)


def test_logistic_losses_by_hand() -> None:
    zero = torch.zeros(4)
    assert float(discriminator_loss(zero, zero)) == pytest.approx(LN2)
    assert float(generator_loss(zero)) == pytest.approx(LN2)
    assert float(discriminator_loss(zero + 50, zero - 50)) == pytest.approx(0, abs=1e-6)
    assert float(generator_loss(zero - 3)) == pytest.approx(math.log(1 + math.exp(3)))
    assert float(discriminator_loss(zero - 1, zero + 2)) == pytest.approx(
        (math.log(1 + math.e) + math.log(1 + math.exp(2))) / 2
    )


def test_r1_of_a_linear_discriminator_is_its_squared_weights() -> None:
    d = nn.Sequential(nn.Flatten(), nn.Linear(4, 1), nn.Flatten(0))
    penalty = r1_penalty(d, torch.randn(3, 1, 2, 2))
    assert float(penalty.detach()) == pytest.approx(float(d[1].weight.detach().square().sum()), rel=1e-6)
    penalty.backward()
    assert torch.allclose(d[1].weight.grad, 2 * d[1].weight)


def test_noise_belongs_to_an_images_number() -> None:
    numbers = torch.tensor([5, 0, 17])
    assert torch.equal(uniforms(3, numbers, 4)[1], uniforms(3, torch.tensor([0]), 4)[0])
    assert torch.equal(uniforms(3, numbers, 4), uniforms(3, numbers, 6)[:, :4])
    assert not torch.equal(uniforms(3, numbers, 4), uniforms(4, numbers, 4))
    many = uniforms(0, torch.arange(500), 8)
    assert abs(float(many.mean()) - 0.5) < 0.02
    assert abs(float(torch.corrcoef(torch.stack([many[:-1, 0], many[1:, 0]]))[0, 1])) < 0.15  # neighbours are unrelated


def test_a_grid_shows_every_image() -> None:
    figure = grid([torch.zeros(3, 1, 4, 4), torch.ones(2, 1, 4, 4)], ["a", "b"])
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b"]
    shown = np.asarray(axes.images[0].get_array())
    assert shown.shape == (12, 18)
    assert (shown[:4] == 0).sum() == 3 * 16
