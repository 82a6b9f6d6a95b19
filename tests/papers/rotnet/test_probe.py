"""Probes: what they train, what they leave alone, how they start."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from modules.common.schedules import Position
from modules.rotnet import heads, networks
from modules.rotnet.module import RotNet
from modules.rotnet.probe import Probe

SGD = partial(torch.optim.SGD, lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_the_supervised_network_is_a_nin_of_three_blocks() -> None:
    source = RotNet(networks.nin(), heads.pooled)
    module = Probe(source, 10, {"block2": heads.conv_block}, tuned=True, init="library")
    assert parameters(module) == sum(p.numel() for p in module.trained()) == 1_005_642


def test_a_frozen_probe_leaves_the_trunk_as_it_was(
    small: Callable[..., RotNet], probe: Callable[..., Probe], labelled: Any
) -> None:
    source = small()
    before = {name: tensor.clone() for name, tensor in source.trunk.state_dict().items()}
    module = probe(source, optimizer=SGD).train()
    optimizer = module.configure_optimizers()
    assert isinstance(optimizer, torch.optim.Optimizer)
    module.training_step(labelled, 0).backward()
    optimizer.step()
    after = source.trunk.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)  # weights and batch statistics
    assert all(p.grad is None for p in source.trunk.parameters())
    assert module.frozen is not None
    assert not any(layer.training for layer in module.frozen.networks[0].modules())
    assert not any("trunk" in name for name in module.state_dict())
    assert all(p.grad is not None for p in module.parameters())


def test_heads_trained_jointly_are_heads_trained_alone(
    small: Callable[..., RotNet], probe: Callable[..., Probe], labelled: Any
) -> None:
    jointly, exclusive = probe(small()), probe(small(), [2])
    for module in (jointly, exclusive):
        module.training_step(labelled, 0).backward()
    pairs = list(zip(jointly.heads["block2"].parameters(), exclusive.heads["block2"].parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in pairs)  # the same initial weights
    assert all(a.grad is not None and b.grad is not None and torch.allclose(a.grad, b.grad) for a, b in pairs)


def test_a_tuned_probe_trains_the_blocks_below_it_alone(
    small: Callable[..., RotNet], probe: Callable[..., Probe], labelled: Any
) -> None:
    source = small()
    frozen, tuned = probe(source, [2]), probe(source, [2], tuned=True)
    tuned.training_step(labelled, 0).backward()
    assert parameters(tuned) - parameters(frozen) == sum(parameters(block) for block in list(source.trunk)[:2])
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in tuned.trunk.parameters())
    assert all(p.grad is None for p in source.trunk[2].parameters())


def test_the_random_state_of_construction_decides_on_the_heads(
    small: Callable[..., RotNet], probe: Callable[..., Probe]
) -> None:
    """Whichever blocks are probed, and whatever trunk: arms that start with one random state share their heads."""

    def weight(seed: int, source: RotNet, *blocks: int) -> Tensor:
        torch.manual_seed(seed)
        return probe(source, blocks).heads["block2"][1].weight  # type: ignore[index, return-value]

    first = weight(3, small(), 1, 2, 3)
    assert torch.equal(first, weight(3, small(7), 1, 2, 3))
    assert torch.equal(first, weight(3, small(), 2))
    assert not torch.equal(first, weight(4, small(), 1, 2, 3))


@pytest.mark.parametrize(
    ("blocks", "options", "message"),
    [
        ([4], {}, "heads.block4: there is no such block; expected some of block1, block2, block3"),
        ([1, 2, 3], {"tuned": True}, "heads has 3 entries; expected one"),
    ],
)
def test_wrong_heads_are_named(
    blocks: list[int], options: dict[str, Any], message: str, small: Callable[..., RotNet], probe: Callable[..., Probe]
) -> None:
    with pytest.raises(ValueError, match=message):
        probe(small(), blocks, **options)


def test_heads_start_from_states_of_their_own(
    small: Callable[..., RotNet], probe: Callable[..., Probe], monkeypatch: pytest.MonkeyPatch
) -> None:
    """60 heads, 60 states."""
    source, seeds = small(), []
    monkeypatch.setattr(torch, "manual_seed", seeds.append)
    for _ in range(20):
        probe(source)
    assert len(set(seeds)) == len(seeds) == 60


def test_a_probe_keeps_its_schedule(small: Callable[..., RotNet], probe: Callable[..., Probe]) -> None:
    def quarter(position: Position) -> float:
        return 0.25

    assert probe(small(), optimizer=SGD, schedule=quarter).schedule is quarter
