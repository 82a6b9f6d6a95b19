"""What this machine computes with, and what `auto` means on it. Imports no torch."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from functools import lru_cache
from importlib import util
from pathlib import Path
from typing import Any

from experiments.common.plain import Config


@lru_cache
def gpus() -> int:
    """NVIDIA GPUs that the installed torch can use, judged without importing it."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return 0
    spec = util.find_spec("torch")
    if spec is None or spec.origin is None or not (Path(spec.origin).parent / "lib" / "libtorch_cuda.so").exists():
        return 0
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    there = len([path for path in Path("/dev").glob("nvidia*") if path.name.removeprefix("nvidia").isdigit()])
    return min(there, len(visible.split(","))) if visible is not None else there


def uses_gpu(trainer: Mapping[str, Any]) -> bool:
    """Whether a trainer configuration means GPUs on this machine."""
    return trainer["accelerator"] in ("gpu", "cuda") or (trainer["accelerator"] == "auto" and gpus() > 0)


def settle_accelerator(trainer: Mapping[str, Any]) -> Config:
    """A trainer configuration in which `auto` means what it means here: a CUDA GPU or the CPU.

    On a Mac, Lightning would take MPS, whose results were compared with nothing here.
    """
    is_open = trainer["accelerator"] == "auto" and sys.platform == "darwin"
    return {**trainer, "accelerator": "cpu"} if is_open else dict(trainer)


def gpu_groups(trainer: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """This machine's GPUs in groups of as many as a trainer configuration takes; those left over stay idle."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",")[: gpus()] if visible is not None else [str(number) for number in range(gpus())]
    size = processes(trainer)
    return [tuple(names[at : at + size]) for at in range(0, len(names) - size + 1, size)]


def decide_precision(trainer: Mapping[str, Any]) -> str:
    """A trainer's precision with `auto` decided: bf16-mixed on a GPU, else fp32."""
    if trainer["precision"] != "auto":
        return str(trainer["precision"])
    return "bf16-mixed" if uses_gpu(trainer) else "32-true"


def processes(trainer: Mapping[str, Any]) -> int:
    """How many devices a trainer configuration asks for on this machine."""
    devices = trainer["devices"]
    if isinstance(devices, int) and devices > 0:
        return devices
    if isinstance(devices, list | tuple):
        return len(devices)
    return max(1, gpus()) if uses_gpu(trainer) else 1
