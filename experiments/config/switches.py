"""Switches of the trainer that make the same training faster, at the price of other rounding.

    +trainer.benchmark=true            cuDNN measures which convolution is fastest for each shape
    +trainer.matmul_precision=high     TensorFloat-32 in fp32 matrix products and convolutions (torch's word for it)
    +trainer.channels_last=true        networks of images in NHWC, of volumes in NDHWC, which tensor cores want
    +trainer.fused=true                optimisers that torch has a fused kernel for use it
    +trainer.compile=true              networks are compiled in place: checkpoints stay as they are
    +trainer.flush_denormal=true       processors take numbers below 1.2e-38 for 0; weights of units that are never
                                       active decay to such, and a step takes up to five times as long

Each is part of a stage's fingerprint and stands in its record. None is on unless a configuration says so;
experiments.config.stages.Trainer checks their values.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from experiments.common.plain import Config

SWITCHES = ("benchmark", "channels_last", "fused", "compile", "flush_denormal")
FUSED = {f"torch.optim.{name}" for name in ("Adam", "AdamW", "Adagrad", "SGD")}


def named(trainer: Mapping[str, Any]) -> list[str]:
    """Those that are on, for the record."""
    on = [key for key in SWITCHES if trainer.get(key)]
    precision = trainer.get("matmul_precision", "highest")
    return on if precision == "highest" else [*on, f"matmul_precision={precision}"]


def fused(config: Any) -> Any:
    """A module's configuration in which every optimiser that can be fused is."""
    if isinstance(config, Mapping):
        inside = {key: fused(value) for key, value in config.items()}
        return inside | ({"fused": True} if config.get("_target_") in FUSED else {})
    return [fused(value) for value in config] if isinstance(config, list | tuple) else config


def apply(trainer: Config, module: Any) -> None:
    """Take the switches out of the trainer's arguments and turn a module that was built accordingly.

    `fused` concerns the configuration, before the module is built.
    """
    import torch

    trainer.setdefault("benchmark", False)  # what an earlier stage of this process chose is not this one's
    trainer.pop("fused", None)
    torch.set_flush_denormal(trainer.pop("flush_denormal", False))
    torch.set_float32_matmul_precision(trainer.pop("matmul_precision", "highest"))
    if trainer.pop("channels_last", False):
        layouts = {4: torch.channels_last, 5: torch.channels_last_3d}  # by dimensions of the weights
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.dim() in layouts:
                tensor.data = tensor.data.contiguous(memory_format=layouts[tensor.dim()])
    if trainer.pop("compile", False):
        for child in module.children():
            if any(parameter.requires_grad for parameter in child.parameters()):
                child.compile()
