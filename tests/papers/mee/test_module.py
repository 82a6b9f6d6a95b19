"""The training step: which network a step changes, what the terms share, and the arms' limit cases."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from modules.mee.dcgan import DiscriminatorBody, Generator
from modules.mee.entropy import Entropy
from modules.mee.evaluation import RingScores
from modules.mee.losses import Mixing
from modules.mee.module import MaEMGAN
from modules.mee.neighbours import Shift
from modules.mee.networks import Embedding


def gan(**options: Any) -> MaEMGAN:
    """A small GAN of 8x8 images; the same weights each time."""
    torch.manual_seed(0)
    generator, embedding = Generator(8, 8, 8, start=2), Embedding(DiscriminatorBody(8, 8, start=2), 4)
    return MaEMGAN(generator, embedding, RingScores(), optimizer=torch.optim.Adam, **options)


def full(**options: Any) -> MaEMGAN:
    return gan(mixing=Mixing(), neighbours=Shift(), entropy=Entropy(4, size=32, ramp=0), **options)


class Training:
    """Steps of a module without Lightning's loops."""

    def __init__(self, module: MaEMGAN, monkeypatch: pytest.MonkeyPatch, epoch: int = 0) -> None:
        self.module = module
        self.steps: list[str] = []
        optimizers = module.configure_optimizers()
        monkeypatch.setattr(module, "optimizers", lambda: optimizers)
        monkeypatch.setattr(module, "manual_backward", lambda loss: loss.backward())
        monkeypatch.setattr(type(module), "current_epoch", property(lambda _: epoch))

    def step(self, x: Tensor, batch_idx: int) -> None:
        torch.manual_seed(batch_idx)
        self.module.training_step(SimpleNamespace(x=x), batch_idx)


def weights(network: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in network.parameters()]


def changed(network: nn.Module, before: list[Tensor]) -> bool:
    moved = {not torch.equal(p, old) for p, old in zip(network.parameters(), before, strict=True)}
    assert len(moved) == 1, "some weights of a network moved and others did not"
    return moved.pop()


def test_the_generator_steps_once_in_three(monkeypatch: pytest.MonkeyPatch) -> None:
    module = full()
    training = Training(module, monkeypatch)
    for batch_idx in range(4):
        old = weights(module.generator), weights(module.embedding)
        training.step(torch.randn(16, 3, 8, 8), batch_idx)
        assert changed(module.embedding, old[1])
        assert changed(module.generator, old[0]) == (batch_idx % 3 == 0)
    assert all(p.requires_grad for p in module.parameters())


def test_a_step_of_the_generator_leaves_no_gradient_in_the_discriminator() -> None:
    module = full()
    module.embedding.requires_grad_(False)
    module.generator_loss(torch.randn(16, 8)).backward()
    assert all(p.grad is None for p in module.embedding.parameters())
    assert all(p.grad is not None and bool(p.grad.any()) for p in module.generator.parameters())


def test_a_step_of_the_discriminator_leaves_no_gradient_in_the_generator(monkeypatch: pytest.MonkeyPatch) -> None:
    module = full()
    Training(module, monkeypatch).step(torch.randn(16, 3, 8, 8), 1)
    assert all(p.grad is None for p in module.generator.parameters())


def test_each_arm_has_its_terms() -> None:
    x, fake = torch.randn(16, 3, 8, 8), torch.randn(16, 3, 8, 8)
    terms = {"mixing": Mixing(), "neighbours": Shift(), "entropy": Entropy(4, size=32, ramp=0)}
    for chosen, expected in {
        (): {"maf"},
        ("mixing",): {"maf", "disomap"},
        ("mixing", "neighbours"): {"maf", "disomap", "dlle"},
        ("mixing", "neighbours", "entropy"): {"maf", "disomap", "dlle", "entropy"},
    }.items():
        module = gan(**{name: terms[name] for name in chosen})
        object.__setattr__(module, "_current", 0)
        module._trainer = SimpleNamespace(current_epoch=0)  # type: ignore[assignment]
        assert set(module.critic_terms(x, fake)) == expected


def trained(monkeypatch: pytest.MonkeyPatch, **options: Any) -> dict[str, Tensor]:
    module = gan(mixing=Mixing(), **options)
    training = Training(module, monkeypatch)
    source = torch.Generator().manual_seed(1)
    for batch_idx in range(5):
        training.step(torch.randn(16, 3, 8, 8, generator=source), batch_idx)
    return {**module.generator.state_dict(), **module.embedding.state_dict()}


def test_an_entropy_without_weight_is_maf_gan_bit_for_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    baseline = trained(monkeypatch)
    without = trained(monkeypatch, entropy=Entropy(4, weight=0.0, size=32))
    within_ramp = trained(monkeypatch, entropy=Entropy(4, weight=0.1, size=32, ramp=10))  # epoch 0 weighs nothing
    with_it = trained(monkeypatch, entropy=Entropy(4, weight=0.1, size=32, ramp=0))
    assert all(torch.equal(value, without[name]) for name, value in baseline.items())
    assert all(torch.equal(value, within_ramp[name]) for name, value in baseline.items())
    assert not all(torch.equal(value, with_it[name]) for name, value in baseline.items())


def test_codes_of_a_step_are_drawn_apart() -> None:
    module = gan()
    x = torch.randn(16, 3, 8, 8)
    first, second = module.codes(x, x)
    assert first.shape == second.shape == (16, 4)
    assert not torch.equal(first, second)


def test_a_copy_of_a_module_keeps_its_modes() -> None:
    module = copy.deepcopy(full())
    assert all(part.training for part in module.modules())


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match="critic_steps=0: expected 1 or more"):
        gan(critic_steps=0)
