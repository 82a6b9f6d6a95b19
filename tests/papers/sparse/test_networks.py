"""G, D and C: sizes, shapes, and which parts a mode reaches."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from modules.sparse.networks import AttentionGate, Critic, Translator, efficientnet_b3


def size(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize(("classes", "expected"), [(2, 8_177_029), (8, 8_183_563), (11, 8_186_830)])
def test_parameters_of_the_generator(classes: int, expected: int) -> None:
    assert size(Translator(classes)) == expected


@pytest.mark.parametrize(("classes", "expected"), [(2, 44_737_472), (8, 44_786_624)])
def test_parameters_of_the_discriminator(classes: int, expected: int) -> None:
    assert size(Critic(classes)) == expected


def test_parameters_of_the_classifier() -> None:
    assert size(efficientnet_b3(8, pretrained=False)) == 10_708_528


def test_shapes_at_128_pixels() -> None:
    x, z = torch.rand(2, 3, 128, 128), torch.tensor([0, 7])
    generator = Translator(8)
    discriminator = Critic(8)
    with torch.no_grad():
        assert generator(x, z).shape == x.shape
        assert generator.classify(x).shape == (2, 8)
        scores, logits = discriminator(x)
    assert {part.negative_slope for part in discriminator.body if isinstance(part, nn.LeakyReLU)} == {0.01}
    assert scores.shape == (2, 1, 2, 2)
    assert logits.shape == (2, 8)


def reached(network: nn.Module) -> set[str]:
    """Parts whose every parameter has a gradient; a part is reached whole or not at all."""
    parts = set()
    for name, part in network.named_children():
        has = {p.grad is not None for p in part.parameters()}
        assert len(has) == 1, name
        if has.pop():
            parts.add(name)
    return parts


def test_each_mode_reaches_its_parts_alone() -> None:
    shared = {"encoder", "bottleneck"}
    x, z = torch.rand(2, 1, 16, 16), torch.tensor([0, 3])
    generator = Translator(4, channels=1, widths=[4, 8, 8])
    generator.classify(x).sum().backward()
    assert reached(generator) == shared | {"first_plain", "tail"}
    generator.zero_grad()
    generator(x, z).sum().backward()
    assert reached(generator) == shared | {"first_asked", "decoder", "last"}


def test_the_asked_class_matters_from_the_start_but_for_weights_of_zero() -> None:
    x = torch.rand(2, 1, 16, 16)
    generator = Translator(4, channels=1, widths=[4, 8, 8]).eval()
    zeros, ones = (torch.full((2,), label) for label in (0, 1))
    with torch.no_grad():
        assert not torch.equal(generator(x, zeros), generator(x, ones))
        generator.first_asked[0].weight[:, 1:] = 0
        assert torch.equal(generator(x, zeros), generator(x, ones))


def test_a_closed_gate_lets_nothing_pass_and_an_open_one_everything() -> None:
    gate = AttentionGate(3, 5)
    g, s = torch.randn(2, 3, 4, 4), torch.randn(2, 5, 4, 4)
    nn.init.zeros_(gate.psi.weight)
    for bias, share in {-200.0: 0.0, 0.0: 0.5, 200.0: 1.0}.items():
        nn.init.constant_(gate.psi.bias, bias)
        assert torch.allclose(gate(g, s), share * s)


def test_the_translation_has_no_activation_at_its_end() -> None:
    generator = Translator(2, channels=1, widths=[4, 8])
    nn.init.constant_(generator.last.bias, -5.0)
    with torch.no_grad():
        assert float(generator(torch.rand(2, 1, 8, 8), torch.tensor([0, 1])).mean()) < -1


def test_a_side_that_cannot_be_halved() -> None:
    with pytest.raises(ValueError, match="side=20: expected a multiple of 8, which 3 widths halve"):
        Critic(2, widths=[4, 8, 8], side=20)


def test_pretrained_weights_are_checked_read_as_plain_tensors_and_keep_a_new_last_layer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from torchvision import models

    stored = models.efficientnet_b3(weights=None).state_dict()
    asked: dict[str, Any] = {}

    def fetch(url: str, **options: Any) -> dict[str, torch.Tensor]:
        asked.update(options, url=url)
        return stored

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", fetch)
    network = efficientnet_b3(5)
    assert asked.pop("url").startswith("https://download.pytorch.org/models/efficientnet_b3")
    assert asked == {"check_hash": True, "weights_only": True}
    ours = network.state_dict()
    assert all(torch.equal(value, stored[name]) for name, value in ours.items() if not name.startswith("classifier"))
    assert ours["classifier.1.weight"].shape == (5, 1536)
