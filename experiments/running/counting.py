"""How large a network is: its parameters, and the multiply-adds of one image. Built without memory, on torch's `meta`.

Counted are convolutions and matrix products, attention's among them; activations and pooling are not. Norms are
counted where that is asked for, at fvcore's rates, which many papers' numbers hold: 2 for each element of a batch norm
in evaluation, 5 of a layer or group norm.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, flop_registry, register_flop_formula, sdpa_flop_count

from experiments.common.errors import InputError
from experiments.config.instantiate import build
from experiments.config.recipes import merge

_cpu_attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
if _cpu_attention not in flop_registry:  # torch counts the operations of attention on GPUs alone

    @register_flop_formula(_cpu_attention)
    def _attention_flops(q: Any, k: Any, v: Any, *_: Any, **__: Any) -> int:
        return sdpa_flop_count(q, k, v)


def _rate(operations: int) -> Callable[..., int]:
    """Of each element of the first input, in torch's unit: half a multiply-add."""

    def count(shape: Sequence[int], *_: Any, **__: Any) -> int:
        return 2 * operations * math.prod(shape)

    return count


NORMS = {
    torch.ops.aten.native_batch_norm: _rate(2),
    torch.ops.aten._native_batch_norm_legit_no_training: _rate(2),
    torch.ops.aten.native_layer_norm: _rate(5),
    torch.ops.aten.native_group_norm: _rate(5),
}


def multiply_adds(network: nn.Module, *inputs: Any, norms: bool = False) -> int:
    """Of one forward pass; torch counts a multiply-add as two operations."""
    training_mode = network.training
    trained = [p for p in network.parameters() if p.requires_grad]
    for p in trained:  # the counter follows the gradient of whatever a submodule is called with, and there is none
        p.requires_grad_(False)
    with torch.inference_mode(), FlopCounterMode(display=False, custom_mapping=NORMS if norms else None) as counter:
        network.eval()(*inputs)
    for p in trained:
        p.requires_grad_(True)
    network.train(training_mode)
    return counter.get_total_flops() // 2


def offline(config: Any) -> Any:
    """The same configuration with `pretrained: false` everywhere: nothing is fetched."""
    if isinstance(config, dict):
        return {key: False if key == "pretrained" else offline(value) for key, value in config.items()}
    return [offline(item) for item in config] if isinstance(config, list) else config


def build_on_meta(config: Mapping[str, Any], place: str, changed: Mapping[str, Any]) -> nn.Module:
    """The network that a resolved configuration describes at a place, without memory for its weights.

    Args:
        place: such as stages.student.module.network.
        changed: merged over what is said there.
    Raises:
        InputError: nothing is described there.
    """
    node = OmegaConf.select(OmegaConf.create({"stages": dict(config["stages"])}), place)
    if not OmegaConf.is_dict(node) or "_target_" not in node:
        raise InputError(f"counted: network={place}: expected where a network is described, with its _target_")
    described: Any = OmegaConf.to_container(node)
    with torch.device("meta"):
        network = build(offline(merge(described, dict(changed))), place)
    if not isinstance(network, nn.Module):
        raise InputError(f"counted: network={place}: builds a {type(network).__name__}, expected a network")
    return network


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def multiply_adds_of_image(network: nn.Module, shape: Sequence[int], norms: bool = False) -> int:
    """Of one image (C, H, W), for a network that was built without memory."""
    return multiply_adds(network, torch.empty((1, *shape), device="meta"), norms=norms)
