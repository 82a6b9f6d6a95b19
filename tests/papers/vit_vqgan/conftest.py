"""Small modules of ViT-VQGAN and one training step, for all tests of the paper."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modules.vit_vqgan.adversarial import Critic, StyleDiscriminator
from modules.vit_vqgan.autoencoder import Size, ViTAutoencoder
from modules.vit_vqgan.losses import ReconstructionLosses
from modules.vit_vqgan.module import Tokenizer
from modules.vit_vqgan.quantizer import Quantizer
from modules.vit_vqgan.vim import Vim

TINY = Size(dim=16, blocks=2, heads=2, mlp_dim=32, head_width=8)


class Pooled(nn.Module):
    """An extractor of means, for tests that need one."""

    suffix, features, classes = "_pooled", 4, 4

    def describe(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        pooled = F.adaptive_avg_pool2d(pixels, 2).flatten(1)[:, :4]
        return pooled, 5 * pooled


@pytest.fixture
def extractor() -> nn.Module:
    return Pooled()


@pytest.fixture
def tokenizer() -> Callable[..., Tokenizer]:
    """A tokenizer of 8x8 images in 16 tokens of 32 codes; options by part, always with the same initial weights."""

    def build(
        autoencoder: dict[str, Any] | None = None,
        quantizer: dict[str, Any] | None = None,
        losses: dict[str, Any] | None = None,
        **options: Any,
    ) -> Tokenizer:
        torch.manual_seed(0)
        sizes = {"image_size": 8, "channels": 1, "patch": 2, "encoder": TINY, "decoder": TINY}
        return Tokenizer(
            Pooled(),
            ViTAutoencoder(**{**sizes, **(autoencoder or {})}),
            Quantizer(TINY.dim, TINY.dim, **{"codes": 32, "lookup_dim": 4, **(quantizer or {})}),
            ReconstructionLosses(**{"perceptual_weight": 0.0, **(losses or {})}),
            **{"optimizer": partial(torch.optim.AdamW, lr=1e-3), **options},
        )

    return build


@pytest.fixture
def gan(tokenizer: Callable[..., Tokenizer]) -> Callable[..., Tokenizer]:
    """The same tokenizer with a critic that has these options."""

    def build(critic: dict[str, Any] | None = None, **options: Any) -> Tokenizer:
        torch.manual_seed(0)
        discriminator = StyleDiscriminator(8, 1, capacity=64, widest=8)
        return tokenizer(critic=Critic(discriminator, **(critic or {})), **options)

    return build


@pytest.fixture
def vim(tokenizer: Callable[..., Tokenizer]) -> Callable[..., Vim]:
    """A Transformer over that tokenizer's codes."""

    def build(classes: int | None = 3, **options: Any) -> Vim:
        frozen = tokenizer().eval()
        torch.manual_seed(0)
        return Vim(frozen, Pooled(), TINY, classes, **options)

    return build


@pytest.fixture
def step() -> Callable[..., Tensor]:
    """One training step outside a Trainer."""

    def run(module: Tokenizer, batch_idx: int = 0, epoch: int = 0) -> Tensor:
        optimizers = module.configure_optimizers()
        trainer = SimpleNamespace(num_training_batches=10, current_epoch=epoch, strategy=None)
        module._trainer = trainer  # type: ignore[assignment]
        module.optimizers = lambda *a, **k: optimizers  # type: ignore[method-assign,assignment]
        module.manual_backward = lambda loss, *a, **k: loss.backward()  # type: ignore[method-assign]
        torch.manual_seed(1)
        return module.training_step((torch.rand(4, 1, 8, 8), torch.zeros(4, dtype=torch.long)), batch_idx)

    return run


@pytest.fixture
def evaluate() -> Callable[..., dict[str, float]]:
    """What a test on these batches logs."""

    def run(module: Tokenizer | Vim, *batches: tuple[Tensor, Tensor]) -> dict[str, float]:
        logged: dict[str, float] = {}
        module._trainer = SimpleNamespace(global_rank=0, world_size=1)  # type: ignore[assignment]
        module.log_dict = lambda values: logged.update({k: float(v) for k, v in values.items()})  # type: ignore[method-assign,assignment]
        torch.manual_seed(2)
        with torch.inference_mode():
            module.on_test_epoch_start()
            module.on_test_start()
            for number, batch in enumerate(batches):
                module.test_step(batch, number)
            module.on_test_epoch_end()
        return logged

    return run
