"""The independent checks of ViT-VQGAN: hand-computed values, published sizes, gradient facts, causality."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from vector_quantize_pytorch import VectorQuantize

from datamodules.vit_vqgan import FFHQ, CelebAHQ, Faces
from experiments.plan import Plan
from modules.common.schedules import Position
from modules.vit_vqgan.adversarial import StyleDiscriminator, r1_penalty
from modules.vit_vqgan.autoencoder import Size, ViTAutoencoder
from modules.vit_vqgan.codebook_use import CodebookUse
from modules.vit_vqgan.factored_adam import FactoredAdam
from modules.vit_vqgan.module import EPSILON, Quantizer, Tokenizer, logit_laplace, vq_loss
from modules.vit_vqgan.vim import LinearProbe, Vim, exponential_tail

TINY = Size(dim=16, blocks=2, heads=2, mlp_dim=32, head_width=8)
BASE = Size(768, 12, 12, 3072)


class Pooled(nn.Module):
    """An extractor of means, for tests that need one."""

    suffix, features, classes = "_pooled", 4, 4

    def describe(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        pooled = F.adaptive_avg_pool2d(pixels, 2).flatten(1)[:, :4]
        return pooled, 5 * pooled


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def tokenizer(**options: Any) -> Tokenizer:
    torch.manual_seed(0)
    given: dict[str, Any] = {
        "image_size": 8,
        "channels": 1,
        "patch": 2,
        "encoder": TINY,
        "decoder": TINY,
        "codes": 32,
        "lookup_dim": 4,
        "adversarial_weight": 0.0,
        "perceptual_weight": 0.0,
        "optimizer": partial(torch.optim.AdamW, lr=1e-3),
        **options,
    }
    return Tokenizer(Pooled(), **given)


def vim(classes: int | None = 3, **options: Any) -> Vim:
    torch.manual_seed(0)
    return Vim(tokenizer().eval(), Pooled(), TINY, classes, **options)


def step(module: Tokenizer, batch_idx: int = 0, epoch: int = 0) -> Tensor:
    """One training step outside a Trainer."""
    made = module.configure_optimizers()
    trainer = SimpleNamespace(num_training_batches=10, current_epoch=epoch, strategy=None)
    module._trainer = trainer  # type: ignore[assignment]
    module.optimizers = lambda *a, **k: made  # type: ignore[method-assign,assignment]
    module.manual_backward = lambda loss, *a, **k: loss.backward()  # type: ignore[method-assign]
    torch.manual_seed(1)
    return module.training_step((torch.rand(4, 1, 8, 8), torch.zeros(4, dtype=torch.long)), batch_idx)


# Sizes


@pytest.mark.parametrize(
    ("size", "trunk", "total"),
    [
        (Size(512, 8, 8, 2048), 25_207_808, 50_908_195),
        (BASE, 85_028_352, 170_664_483),
        (Size(1280, 32, 16, 5120), 587_614_720, None),
    ],
)
def test_tanh_blocks_without_output_mlp_are_the_reimplementations_sizes(
    size: Size, trunk: int, total: int | None
) -> None:
    """thuanz123/enhancing-transformers has fixed positions and 3 output biases where ours are 192."""
    with torch.device("meta"):
        vit = ViTAutoencoder(256, 3, 8, size, size, activation="tanh", output_mlp=False)
        quantizer = Quantizer(size.dim, size.dim, 8192, 32)
    assert parameters(vit.encoder) == parameters(vit.decoder) == trunk
    ours = parameters(vit) + parameters(quantizer) - vit.encoder_positions.numel() - vit.decoder_positions.numel()
    if total is not None:
        assert ours - (192 - 3) == total


def test_base_transformer_has_about_91_million_parameters_with_its_output_mlp() -> None:
    with torch.device("meta"):
        vit = ViTAutoencoder(256, 3, 8, BASE, BASE)
    encoder = parameters(vit.patches) + vit.encoder_positions.numel() + parameters(vit.encoder)
    assert encoder == 90_685_440
    assert not any(isinstance(layer, nn.Tanh) for layer in vit.encoder[0].modules())
    assert sum(isinstance(layer, nn.Tanh) for layer in vit.modules()) == 2  # once at either end


@pytest.mark.parametrize(
    ("size", "count"), [(Size(1536, 24, 16, 6144, 96), 706_657_280), (Size(2048, 36, 32, 8192), 1_848_422_400)]
)
def test_vim_sizes(size: Size, count: int) -> None:
    """About 705 M and 1.85 B with standard blocks; the paper reports 650 M and 1697 M."""
    with torch.device("meta"):
        made = Vim(SimpleNamespace(side=32, codes_count=8192, eval=nn.Identity), Pooled(), size, 1000)  # type: ignore[arg-type]
    assert parameters(made) == count


def test_shapes_at_published_size() -> None:
    with torch.device("meta"):
        vit, quantizer = ViTAutoencoder(256, 3, 8, BASE, BASE), Quantizer(768, 768, 8192, 32)
        h = vit.encode(torch.zeros(2, 3, 256, 256))
        assert quantizer.down(h).shape == (2, 1024, 32)
        assert vit.decode(quantizer.decode(torch.zeros(2, 1024, dtype=torch.long))).shape == (2, 3, 256, 256)
    assert 1024 * math.log2(8192) == 13_312  # bits of an image


def bare() -> ViTAutoencoder:
    """8x8 pixels in patches of 4, and nothing but the patching: tokens are pixels."""
    vit = ViTAutoencoder(8, 1, 4, Size(16, 1, 2, 32, 8), Size(16, 1, 2, 32, 8))
    for name in ("patches", "encoder", "decoder", "to_pixels"):
        setattr(vit, name, nn.Identity())
    nn.init.zeros_(vit.encoder_positions)
    nn.init.zeros_(vit.decoder_positions)
    return vit


def test_patches_are_raster_ordered_and_put_back() -> None:
    vit, x = bare(), torch.arange(64.0).view(1, 1, 8, 8)
    tokens = vit.encode(x)
    assert torch.equal(tokens, F.unfold(x, 4, stride=4).transpose(1, 2))
    assert torch.equal(vit.decode(tokens), x)


def test_a_constant_image_is_rebuilt_as_one_patch_repeated_but_for_positions() -> None:
    module, x = tokenizer().eval(), torch.full((1, 1, 8, 8), 0.3)
    assert not torch.allclose(module.reconstruct(x)[0][..., :2, :2], module.reconstruct(x)[0][..., 2:4, 2:4])
    nn.init.zeros_(module.vit.encoder_positions)
    nn.init.zeros_(module.vit.decoder_positions)
    maps, codes, _ = module.reconstruct(x)
    assert len(codes.unique()) == 1
    assert torch.allclose(maps, maps[..., :2, :2].repeat(1, 1, 4, 4), atol=1e-6)


# Quantiser


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
    e = ours.looked_up(ours.codebook)
    assert torch.equal(ours.nearest(ours.looked_up(z), e), theirs(z)[1])
    plain = quantizer(normalise=False)
    distance = torch.cdist(z, plain.codebook.detach()[None].expand(5, -1, -1))
    assert torch.equal(plain.nearest(z, plain.looked_up(plain.codebook)), distance.argmin(-1))


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
    assert torch.allclose(ours.looked_up(ours.codebook).norm(dim=-1), torch.ones(40), atol=1e-6)


@pytest.mark.parametrize("normalise", [True, False])
def test_gradients_of_the_quantiser(normalise: bool) -> None:
    ours, h = quantizer(normalise=normalise), torch.randn(1, 3, 6)
    z_e = ours.down(h).detach().requires_grad_()
    ours.down = nn.Identity()  # type: ignore[assignment]
    decoded, codes, loss = ours(z_e)
    (straight,) = torch.autograd.grad(decoded.sum(), z_e, retain_graph=True)
    assert torch.allclose(straight, ours.up.weight.sum(0).expand_as(z_e))  # as if nothing had been looked up
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
    with pytest.raises(ValueError, match="codebook_init='zeros'"):
        quantizer(init="zeros")


# Losses and the tokenizer's step


def test_logit_laplace_by_hand_and_as_a_density() -> None:
    zero = torch.zeros(())
    assert float(logit_laplace(torch.tensor(0.5), zero, zero)) == pytest.approx(-0.6931, abs=1e-4)
    assert float(logit_laplace(torch.tensor(1.0), zero, zero)) == pytest.approx(0.4824, abs=1e-4)
    mapped = torch.linspace(1e-5, 1 - 1e-5, 200_001, dtype=torch.float64)
    x = (mapped - EPSILON) / (1 - 2 * EPSILON)
    mu, log_b = torch.tensor(0.3, dtype=torch.float64), torch.tensor(-0.4, dtype=torch.float64)
    density = torch.stack([torch.exp(-logit_laplace(part, mu, log_b)) for part in x[::50]])
    assert float(torch.trapezoid(density, mapped[::50])) == pytest.approx(1, abs=1e-3)


def test_logit_laplace_gives_two_maps_and_an_image() -> None:
    module = tokenizer(logit_laplace_weight=0.1)
    maps, _, _ = module.reconstruct(torch.rand(2, 1, 8, 8))
    assert maps.shape == (2, 2, 8, 8)
    mu = torch.full((1, 2, 8, 8), math.log(0.3 / 0.7))  # sigmoid .3 stands for pixel .25
    assert torch.allclose(module.image(mu), torch.full((1, 1, 8, 8), 0.25))
    assert bool(torch.isfinite(step(module)))


def test_arms_start_alike_whatever_their_lookup() -> None:
    one, other = tokenizer(init_seed=3), tokenizer(init_seed=3, lookup_dim=16, normalise=False)
    apart = tokenizer(init_seed=4)
    weights = [torch.cat([p.flatten() for p in m.vit.parameters()]) for m in (one, other, apart)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def gan(**options: Any) -> Tokenizer:
    torch.manual_seed(0)
    d = StyleDiscriminator(8, 1, capacity=64, widest=8)
    return tokenizer(adversarial_weight=0.1, discriminator=d, **options)


def test_the_discriminators_step_leaves_the_generator_alone_and_the_other_way_round() -> None:
    module = gan(clip=None)
    seen: list[tuple[set[str], set[str]]] = []

    def watch(optimizer: Any, loss: Tensor) -> None:
        module.zero_grad()
        loss.backward(retain_graph=True)
        names = {n for n, p in module.named_parameters() if p.grad is not None and bool(p.grad.abs().sum() > 0)}
        seen.append(({n for n in names if n.startswith("discriminator")}, {n for n in names if n[:2] in ("vi", "qu")}))

    module._step = watch  # type: ignore[method-assign]
    step(module)
    (in_d, in_g), (after_d, after_g) = seen
    assert not in_d
    assert in_g
    assert after_d
    assert not after_g
    assert not module.perceptual


def test_weight_zero_of_the_adversarial_loss_is_the_plain_loss() -> None:
    plain = step(tokenizer())
    module = gan(adversarial_start=5)
    assert torch.equal(step(module), plain)  # before the start, the first step is the plain arm's
    assert "adv" not in module._sums
    before = [p.clone() for p in module.discriminator.parameters()]  # type: ignore[union-attr]
    assert not torch.equal(step(gan(adversarial_start=5), batch_idx=5), plain)
    assert not torch.equal(step(gan(adversarial_start=15), batch_idx=5, epoch=1), plain)  # counted over epochs
    step(module, batch_idx=0, epoch=1)
    assert any(not torch.equal(a, b) for a, b in zip(before, module.discriminator.parameters(), strict=True))  # type: ignore[union-attr]


def test_the_loss_is_the_weighted_sum_of_its_terms() -> None:
    ranges: list[tuple[float, float]] = []

    class Distance(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            ranges.append((float(y.min()), float(y.max())))
            return (x - y).abs().mean((1, 2, 3), keepdim=True)

    module = gan(perceptual=Distance(), perceptual_weight=0.3, logit_laplace_weight=0.2, l2_weight=0.7)
    step(module)
    mean = {name: float(total) / module._count for name, total in module._sums.items()}
    weighted = mean["vq"] + 0.1 * mean["adv"] + 0.3 * mean["lpips"] + 0.2 * mean["laplace"] + 0.7 * mean["l2"]
    assert mean["loss"] == pytest.approx(weighted, rel=1e-5)
    assert mean["disc"] > 0
    (low, high), *_ = ranges
    assert -1 <= low < -0.9  # LPIPS takes images in [-1, 1]
    assert 0.9 < high <= 1


def test_r1_comes_every_sixteenth_batch_with_sixteen_times_its_weight() -> None:
    """With a plain gradient step of 1, what R1 adds to it is -gamma / 2 * 16 times its gradient at real images."""
    torch.manual_seed(1)
    x = 2 * torch.rand(4, 1, 8, 8) - 1  # what step() trains on, in [-1, 1]

    def after(batch_idx: int, gamma: float) -> Tensor:
        module = gan(r1_gamma=gamma, clip=None, discriminator_optimizer=partial(torch.optim.SGD, lr=1.0))
        step(module, batch_idx)
        return torch.cat([p.detach().flatten() for p in module.discriminator.parameters()])  # type: ignore[union-attr]

    assert torch.equal(after(3, 0.0), after(3, 0.1))
    before = gan().discriminator
    assert before is not None
    r1_penalty(before, x).backward()
    parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in before.parameters()]
    gradient = torch.cat([part.flatten() for part in parts])
    assert torch.allclose(after(0, 0.1) - after(0, 0.0), -0.05 * 16 * gradient, atol=1e-5)
    assert float(gradient.abs().max()) > 1e-3


def test_gradients_are_clipped() -> None:
    module = tokenizer(clip=1e-3)
    step(module)
    norm = torch.stack([p.grad.norm() for p in module.trained() if p.grad is not None]).norm()
    assert float(norm) == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"adversarial_weight": 0.1}, "discriminator=None"),
        ({"perceptual_weight": 0.1}, "perceptual=None"),
        ({"patch": 3}, "image_size=8 is no multiple of patch=3"),
    ],
)
def test_what_does_not_fit_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tokenizer(**options)


def test_decoding_codes_is_the_reconstruction() -> None:
    module, x = tokenizer().eval(), torch.rand(3, 1, 8, 8)
    maps, codes, _ = module.reconstruct(x)
    assert torch.equal(codes, module.codes(x))
    assert torch.allclose(module.decode(codes), maps.clamp(0, 1), atol=1e-5)
    assert not any("extractor" in name for name in module.state_dict())


def measured(module: Tokenizer | Vim, *batches: tuple[Tensor, Tensor]) -> dict[str, float]:
    """What a test on these batches logs."""
    logged: dict[str, float] = {}
    module._trainer = SimpleNamespace(global_rank=0, world_size=1)  # type: ignore[assignment]
    module.log_dict = lambda found: logged.update({k: float(v) for k, v in found.items()})  # type: ignore[method-assign,assignment]
    torch.manual_seed(2)
    with torch.inference_mode():
        module.on_test_epoch_start()
        module.on_test_start()
        for number, batch in enumerate(batches):
            module.test_step(batch, number)
        module.on_test_epoch_end()
    return logged


def test_a_test_measures_every_reconstruction_once() -> None:
    module, x = tokenizer().eval(), torch.rand(7, 1, 8, 8)
    module.use = CodebookUse(32, 7)
    labels = torch.zeros(7, dtype=torch.long)
    found = measured(module, (x[:5], labels[:5]), (x[5:], labels[5:]))
    with torch.inference_mode():
        codes = module.codes(x)
        mse = float((module.decode(codes) - x).square().mean())
        figures = module.pictures(None)
    assert found["test/mse"] == pytest.approx(mse, rel=1e-5)
    assert found["test/psnr"] == pytest.approx(-10 * math.log10(mse), rel=1e-5)
    assert found["test/code_use"] == pytest.approx(100 * len(codes.unique()) / 32)
    assert found["test/n"] == 7
    assert set(figures) == {"reconstructions", "codebook use"}
    assert figures["codebook use"].axes[0].get_ylabel() == "tokens of 7 test images"


# Stage 2


def test_vim_is_causal_and_starts_from_the_class() -> None:
    module, codes = vim().eval(), torch.randint(32, (2, 16))
    labels = torch.tensor([0, 2])
    logits = module(codes, labels)
    changed = codes.clone()
    changed[:, 5] = (changed[:, 5] + 1) % 32
    again = module(changed, labels)
    assert torch.allclose(logits[:, :6], again[:, :6], atol=1e-6)
    assert not torch.allclose(logits[:, 6], again[:, 6], atol=1e-6)
    assert not torch.allclose(logits[:, 0], module(codes, labels - labels)[:, 0][[1, 0]], atol=1e-6)
    unconditional = vim(classes=None).eval()
    assert torch.equal(unconditional(codes, labels), unconditional(codes, labels.flip(0)))


def test_an_untrained_vim_knows_nothing() -> None:
    torch.manual_seed(0)
    named: Any = SimpleNamespace(side=4, codes_count=8192, eval=nn.Identity)
    wide = Vim(named, Pooled(), Size(256, 1, 4, 256), None).eval()
    codes = torch.randint(8192, (8, 16))
    loss = F.cross_entropy(wide(codes, torch.zeros(8, dtype=torch.long)).transpose(1, 2), codes)
    assert float(loss.detach()) == pytest.approx(math.log(8192), abs=0.25)


def test_sampling_with_a_cache_is_sampling_from_the_whole_forward() -> None:
    module = vim(temperature=0.7).eval()
    labels, noise = torch.tensor([0, 1, 2, 1]), torch.rand(4, 16, generator=torch.Generator().manual_seed(0))
    codes = module.sample(labels, noise).clone()
    for j in range(16):
        below = (module(codes[:, : j + 1], labels)[:, -1] / 0.7).softmax(-1).cumsum(-1)
        assert torch.equal((below <= noise[:, j : j + 1]).sum(-1).clamp(max=31), codes[:, j])


def test_samples_follow_the_model() -> None:
    """20,000 draws of the first token against its probabilities."""
    module, n = vim(classes=None).eval(), 20_000
    noise = torch.rand(n, 1, generator=torch.Generator().manual_seed(0))
    drawn = torch.bincount(module.sample(torch.zeros(n, dtype=torch.long), noise)[:, 0], minlength=32) / n
    expected = module(torch.zeros(1, 1, dtype=torch.long), torch.zeros(1, dtype=torch.long))[0, 0].softmax(-1)
    assert float((drawn - expected).abs().max()) < 4 * math.sqrt(0.25 / n)


def test_an_images_sample_depends_on_its_number_alone() -> None:
    module = vim().eval()
    labels = torch.tensor([0, 1, 2])
    together = module.images(labels, torch.tensor([4, 9, 11]))
    assert together.shape == (3, 1, 8, 8)
    assert torch.allclose(together[1:2], module.images(labels[1:2], torch.tensor([9])), atol=1e-6)


def test_a_test_of_vim_averages_over_tokens_and_samples_each_images_class() -> None:
    module, x = vim().eval(), torch.rand(7, 1, 8, 8)
    labels = torch.tensor([2, 2, 1, 2, 2, 1, 1])
    asked: list[tuple[int, int]] = []
    draw = module.images

    def watched(classes: Tensor, numbers: Tensor) -> Tensor:
        asked.extend(zip(classes.tolist(), numbers.tolist(), strict=True))
        return draw(classes, numbers)

    module.images = watched  # type: ignore[method-assign]
    found = measured(module, (x[:5], labels[:5]), (x[5:], labels[5:]))
    assert asked == [(int(label), number) for number, label in enumerate(labels)]
    assert found["test/nll"] == pytest.approx(float(module.losses((x, labels)).detach().mean()), rel=1e-5)
    assert found["test/n"] == 7
    assert {label: len(kept) for label, kept in module._gallery.items()} == {0: 0, 1: 3, 2: 4}
    names = SimpleNamespace(spec=SimpleNamespace(classes=("a", "b", "c")))
    (axes,) = module.pictures(names)["generated images"].axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["b", "c"]


def test_vim_trains_its_own_weights_alone() -> None:
    module = vim()
    loss = module.training_step((torch.rand(2, 1, 8, 8), torch.tensor([0, 1])), 0)
    loss.backward()
    assert all(p.grad is not None for p in module.parameters())
    assert not any("tokenizer" in name for name in module.state_dict())
    assert all(p.grad is None for p in module.tokenizer.networks[0].parameters())


def test_fewer_tokens_cut_training_and_samples() -> None:
    module = vim(tokens=6).eval()
    assert module.codes(torch.rand(2, 1, 8, 8)).shape == (2, 6)
    assert module.images(torch.tensor([0]), torch.tensor([0])).shape == (1, 1, 8, 8)
    assert module(*module.example((1, 8, 8))).shape == (1, 6, 32)


def test_probe_sees_the_average_of_a_block_and_no_class() -> None:
    frozen = vim().eval()
    probe = LinearProbe(frozen, 5, block=1, blocks=[1, 2], optimizer=partial(torch.optim.SGD, lr=0.1))
    x = torch.rand(3, 1, 8, 8)
    h = frozen.embed(frozen.codes(x))
    features = frozen.blocks[0](h).mean(1)
    assert torch.allclose(probe(x), probe.network["1"](features), atol=1e-6)
    assert parameters(probe) == 2 * (16 * 5 + 5)
    probe.training_step((x, torch.tensor([0, 1, 4])), 0).backward()
    assert all(p.grad is not None for p in probe.parameters())
    assert all(p.grad is None for p in frozen.parameters())
    with pytest.raises(ValueError, match="expected 3 among them"):
        LinearProbe(frozen, 5, block=3, blocks=[1, 2])


# Schedule and optimiser


def test_exponential_tail_of_the_published_recipe() -> None:
    schedule = partial(exponential_tail, warmup_epochs=4, decay_epoch=64, final=0.0222)
    assert schedule(Position(0, 0, 1252, 360)) == pytest.approx(1 / (4 * 1252))
    assert schedule(Position(4, 0, 1252, 360)) == schedule(Position(63, 1251, 1252, 360)) == 1
    assert 4.5e-4 * schedule(Position(359, 1251, 1252, 360)) == pytest.approx(1e-5, rel=1e-2)
    assert schedule(Position(212, 0, 1252, 360)) == pytest.approx(0.0222**0.5)


def test_factored_adam_is_adam_where_nothing_is_lost() -> None:
    """Vectors, and matrices whose squared gradient is an outer product; bfloat16 keeps the powers of two used here."""
    torch.manual_seed(0)
    vector, matrix = torch.randn(6), torch.randn(4, 3)
    pairs = [(p.clone().requires_grad_(), p.clone().requires_grad_()) for p in (vector, matrix)]
    options: dict[str, Any] = {"lr": 0.1, "betas": (0.5, 0.96), "weight_decay": 0.05}
    ours, theirs = FactoredAdam([a for a, _ in pairs], **options), torch.optim.AdamW([b for _, b in pairs], **options)
    for sign in (1.0, 1.0, -1.0, 1.0):
        for a, b in pairs:
            rank_one = torch.outer(torch.tensor([1.0, 2, 4, 8]), torch.tensor([1.0, -2, 4]))
            b.grad = sign * (rank_one if a.ndim > 1 else torch.tensor([1.0, 2, 0.5, 4, -1, 8]))
            a.grad = b.grad.clone()
        ours.step()
        theirs.step()
    for a, b in pairs:
        assert torch.allclose(a, b, atol=1e-5)


def test_factored_adam_keeps_rows_and_columns_and_repeats_after_a_reload() -> None:
    torch.manual_seed(0)
    p = torch.randn(50, 40, requires_grad=True)
    gradients = torch.randn(6, 50, 40)
    first = FactoredAdam([p], lr=0.01)
    kept: dict[str, Any] = {}
    for number, gradient in enumerate(gradients):
        if number == 3:
            kept = {"p": p.detach().clone(), "state": first.state_dict()}
            state = first.state[p]
            assert sum(v.numel() for k, v in state.items() if k in ("rows", "columns")) == 90
            assert state["momentum"].dtype is torch.bfloat16
            kept["state"] = torch.load(_stored(kept["state"]), weights_only=True)
        p.grad = gradient
        first.step()
    again = kept["p"].requires_grad_()
    second = FactoredAdam([again], lr=0.01)
    second.load_state_dict(kept["state"])
    for gradient in gradients[3:]:
        again.grad = gradient
        second.step()
    assert torch.equal(again, p)


def _stored(state: Any) -> Any:
    import io

    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return file


def test_full_recipe_is_the_published_one(make_plan: Callable[..., Plan]) -> None:
    full = make_plan("paper=vit_vqgan", "scale=full").stages
    module = full["tokenizer"].module
    assert (module["codes"], module["lookup_dim"], module["beta"], module["normalise"]) == (8192, 32, 0.25, True)
    assert (module["adversarial_weight"], module["perceptual_weight"], module["l2_weight"]) == (0.1, 0.1, 1.0)
    assert (module["r1_gamma"], module["r1_every"], module["adversarial_start"]) == (10.0, 16, 0)
    assert full["tokenizer"].data["batch_size"] == 256
    assert round(1_281_167 / 256 * full["tokenizer"].trainer["max_epochs"], -4) == 500_000
    assert round(1_281_167 / 1024 * full["vim"].trainer["max_epochs"], -4) == 450_000
    assert full["vim"].module["optimizer"]["betas"] == [0.9, 0.96]
    large = make_plan("paper=vit_vqgan", "scale=full", "variant=vim_large").stages
    assert large["vim"].module["size"]["blocks"] == 36
    assert large["tokenizer"].module["decoder"]["dim"] == 1280
    faces = make_plan("paper=vit_vqgan", "scale=full", "variant=celeba_hq").stages
    assert {name for name, stage in faces.items() if stage.fit} == {"tokenizer", "vim_unconditional"}


@pytest.mark.parametrize(("variant", "kind"), [("celeba_hq", CelebAHQ), ("ffhq", FFHQ)])
def test_faces_are_trained_for_the_steps_of_imagenet(
    variant: str, kind: type[Faces], make_plan: Callable[..., Plan]
) -> None:
    spec = kind("nowhere", 4, 256, generated=True).spec  # as a dry run makes it
    assert (spec.shape, spec.classes) == ((3, 256, 256), ("face",))
    images = spec.sizes["train"]
    stages = make_plan("paper=vit_vqgan", "scale=full", f"variant={variant}").stages
    for name, batch, steps, warmup in (
        ("tokenizer", 256, 500_000, 50_000),
        ("vim_unconditional", 1024, 450_000, 5_000),
    ):
        per_epoch = math.ceil(images / batch)
        assert per_epoch * stages[name].trainer["max_epochs"] == pytest.approx(steps, rel=1e-3)
        assert per_epoch * stages[name].module["schedule"]["warmup_epochs"] == pytest.approx(warmup, rel=5e-3)
    assert per_epoch * stages["vim_unconditional"].module["schedule"]["decay_epoch"] == pytest.approx(80_000, rel=1e-3)


def test_arms_of_mini_differ_only_in_their_lookup(make_plan: Callable[..., Plan]) -> None:
    mini = make_plan("paper=vit_vqgan", "scale=mini").stages
    lookups = {"lookup_dim", "normalise", "codebook_init"}
    for name in ("vanilla", "vanilla_normal", "low_dim", "low_dim_uniform", "l2_only"):
        paper, arm = mini["tokenizer"], mini[name]
        assert {k for k in arm.module if arm.module[k] != paper.module[k]} <= lookups
        assert (arm.data, arm.trainer) == (paper.data, paper.trainer)
    for name, only in (("low_dim", "normalise"), ("l2_only", "lookup_dim")):  # one thing at a time
        assert {k for k in mini[name].module if mini[name].module[k] != mini["tokenizer"].module[k]} == {only}
    for one, other in (("vim_unconditional", "vim_vanilla"), ("probe", "probe_vanilla")):
        assert mini[one].module == mini[other].module
        assert (mini[one].data, mini[one].trainer) == (mini[other].data, mini[other].trainer)
