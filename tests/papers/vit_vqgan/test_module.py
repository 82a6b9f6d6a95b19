"""The tokenizer's step: whose gradient, which terms, when; and what its test measures."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from modules.vit_vqgan.adversarial import r1_penalty
from modules.vit_vqgan.module import Tokenizer


def test_logit_laplace_gives_two_maps_and_an_image(
    tokenizer: Callable[..., Tokenizer], step: Callable[..., Tensor]
) -> None:
    module = tokenizer(autoencoder={"maps": 2}, losses={"logit_laplace_weight": 0.1})
    maps, _, _ = module.reconstruct(torch.rand(2, 1, 8, 8))
    assert maps.shape == (2, 2, 8, 8)
    mu = torch.full((1, 2, 8, 8), math.log(0.3 / 0.7))  # sigmoid .3 stands for pixel .25
    assert torch.allclose(module.image(mu), torch.full((1, 1, 8, 8), 0.25))
    assert bool(torch.isfinite(step(module)))


def test_the_discriminators_step_leaves_the_generator_alone_and_the_other_way_round(
    gan: Callable[..., Tokenizer], step: Callable[..., Tensor]
) -> None:
    module = gan(clip=None)
    seen: list[tuple[set[str], set[str]]] = []

    def watch(loss: Tensor, optimizer: Any) -> None:
        module.zero_grad()
        loss.backward(retain_graph=True)
        names = {n for n, p in module.named_parameters() if p.grad is not None and bool(p.grad.abs().sum() > 0)}
        of_critic = {n for n in names if n.startswith("critic")}
        seen.append((of_critic, names - of_critic))

    module.minimise = watch  # type: ignore[method-assign]
    step(module)
    (in_d, in_g), (after_d, after_g) = seen
    assert not in_d
    assert in_g
    assert after_d
    assert not after_g
    assert not module.losses.perceptual


def test_weight_zero_of_the_adversarial_loss_is_the_plain_loss(
    tokenizer: Callable[..., Tokenizer], gan: Callable[..., Tokenizer], step: Callable[..., Tensor]
) -> None:
    plain = step(tokenizer())
    module = gan({"start": 5})
    assert torch.equal(step(module), plain)  # before the start, the first step is the plain arm's
    assert "adv" not in module._sums
    before = [p.clone() for p in module.critic.parameters()]  # type: ignore[union-attr]
    assert not torch.equal(step(gan({"start": 5}), batch_idx=5), plain)
    assert not torch.equal(step(gan({"start": 15}), batch_idx=5, epoch=1), plain)  # counted over epochs
    step(module, batch_idx=0, epoch=1)
    assert any(not torch.equal(a, b) for a, b in zip(before, module.critic.parameters(), strict=True))  # type: ignore[union-attr]


def test_the_loss_is_the_weighted_sum_of_its_terms(gan: Callable[..., Tokenizer], step: Callable[..., Tensor]) -> None:
    ranges: list[tuple[float, float]] = []

    class Distance(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            ranges.extend((float(each.detach().min()), float(each.detach().max())) for each in (y, x))
            return (x - y).abs().mean((1, 2, 3), keepdim=True)

    module = gan(
        autoencoder={"maps": 2},
        losses={"perceptual": Distance(), "perceptual_weight": 0.3, "logit_laplace_weight": 0.2, "l2_weight": 0.7},
    )
    step(module)
    mean = {name: float(total) / module._count for name, total in module._sums.items()}
    weighted = mean["vq"] + 0.1 * mean["adv"] + 0.3 * mean["lpips"] + 0.2 * mean["laplace"] + 0.7 * mean["l2"]
    assert mean["loss"] == pytest.approx(weighted, rel=1e-5)
    assert mean["disc"] > 0
    (low, high), *_ = ranges
    assert -1 <= low < -0.9  # LPIPS takes images in [-1, 1]
    assert 0.9 < high <= 1


def test_r1_comes_every_sixteenth_batch_with_sixteen_times_its_weight(
    gan: Callable[..., Tokenizer], step: Callable[..., Tensor]
) -> None:
    """With a plain gradient step of 1, what R1 adds to it is -gamma / 2 * 16 times its gradient at real images."""
    torch.manual_seed(1)
    x = 2 * torch.rand(4, 1, 8, 8) - 1  # what step() trains on, in [-1, 1]

    def after(batch_idx: int, gamma: float) -> Tensor:
        module = gan({"r1_gamma": gamma, "optimizer": partial(torch.optim.SGD, lr=1.0)}, clip=None)
        step(module, batch_idx)
        return torch.cat([p.detach().flatten() for p in module.critic.parameters()])  # type: ignore[union-attr]

    assert torch.equal(after(3, 0.0), after(3, 0.1))
    untouched = gan().critic
    assert untouched is not None
    r1_penalty(untouched.discriminator, x).backward()
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in untouched.parameters()]
    gradient = torch.cat([g.flatten() for g in gradients])
    assert torch.allclose(after(0, 0.1) - after(0, 0.0), -0.05 * 16 * gradient, atol=1e-5)
    assert float(gradient.abs().max()) > 1e-3


def test_gradients_are_clipped(tokenizer: Callable[..., Tokenizer], step: Callable[..., Tensor]) -> None:
    module = tokenizer(clip=1e-3)
    step(module)
    norm = torch.stack([p.grad.norm() for p in module.trained() if p.grad is not None]).norm()
    assert float(norm) == pytest.approx(1e-3, rel=1e-3)


def test_decoding_codes_is_the_reconstruction(tokenizer: Callable[..., Tokenizer]) -> None:
    module, x = tokenizer().eval(), torch.rand(3, 1, 8, 8)
    maps, codes, _ = module.reconstruct(x)
    assert torch.equal(codes, module.tokenize(x))
    assert torch.allclose(module.decode(codes), maps.clamp(0, 1), atol=1e-5)
    assert not any("extractor" in name for name in module.state_dict())


def test_a_test_measures_every_reconstruction_once(
    tokenizer: Callable[..., Tokenizer], evaluate: Callable[..., dict[str, float]]
) -> None:
    module, x = tokenizer().eval(), torch.rand(7, 1, 8, 8)
    module.evaluation.start(7)
    labels = torch.zeros(7, dtype=torch.long)
    logged = evaluate(module, (x[:5], labels[:5]), (x[5:], labels[5:]))
    with torch.inference_mode():
        codes = module.tokenize(x)
        mse = float((module.decode(codes) - x).square().mean())
        figures = module.pictures(None)
    assert logged["test/mse"] == pytest.approx(mse, rel=1e-5)
    assert logged["test/psnr"] == pytest.approx(-10 * math.log10(mse), rel=1e-5)
    assert logged["test/code_use"] == pytest.approx(100 * len(codes.unique()) / 32)
    assert logged["test/n"] == 7
    assert set(figures) == {"reconstructions", "codebook use"}
    assert figures["codebook use"].axes[0].get_ylabel() == "tokens of 7 test images"


def test_logit_laplace_and_the_decoders_maps_go_together(tokenizer: Callable[..., Tokenizer]) -> None:
    with pytest.raises(ValueError, match=r"autoencoder\.maps=1: expected 2"):
        tokenizer(losses={"logit_laplace_weight": 0.1})
    with pytest.raises(ValueError, match=r"autoencoder\.maps=2: expected 1"):
        tokenizer(autoencoder={"maps": 2})


def test_validation_measures_psnr_over_all_images(tokenizer: Callable[..., Tokenizer]) -> None:
    """Of the mean squared error of images, not the mean of batches' PSNR; the next epoch begins anew."""
    module = tokenizer().requires_grad_(False).eval()
    logged: dict[str, float] = {}
    module.log = lambda name, value, **_: logged.update({name: float(value)})  # type: ignore[method-assign]
    batches = [torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(count)) for count in (5, 2)]
    for _ in range(2):
        for x in batches:
            module.validation_step((x, torch.zeros(len(x))), 0)
        module.on_validation_epoch_end()
    x = torch.cat(batches)
    error = (module(x).clamp(0, 1) - x).square().mean()
    assert logged == {"val/psnr": pytest.approx(-10 * math.log10(float(error)), rel=1e-5)}
