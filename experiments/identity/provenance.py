"""Where a number comes from: code version, packages, hardware. Imports no torch."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import NotRequired

from typing_extensions import TypedDict

from experiments.common import overlay
from experiments.common.paths import ROOT

PACKAGES = ("torch", "torchvision", "pytorch-lightning", "torchmetrics", "timm", "hydra-core", "numpy", "scipy")
CODE = ("conf", "experiments", "modules", "datamodules", "pyproject.toml")


class CodeVersion(TypedDict):
    """A commit, None where git does not say, and whether code or configuration differed from it."""

    commit: str | None
    dirty: bool | None


class Machine(TypedDict):
    """What a stage ran on; `gpus` where torch saw any."""

    cpu: str
    cores: int
    system: str
    gpus: NotRequired[list[str]]


def _git(*arguments: str, root: Path = ROOT) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


@lru_cache
def code_version() -> CodeVersion:
    """The commit, and whether the code or configuration differed from it."""
    status = _git("status", "--porcelain", "--", *CODE)
    return {"commit": _git("rev-parse", "HEAD"), "dirty": None if status is None else bool(status)}


def commits() -> dict[str, str | None]:
    """The commits of the suite and of the open overlay; None where there is no repository with one."""
    return {"suite": _git("rev-parse", "HEAD"), "overlay": _git("rev-parse", "HEAD", root=overlay.home())}


@lru_cache
def versions() -> dict[str, str]:
    facts = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            facts[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return facts


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def cores() -> int:
    """CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def hardware() -> Machine:
    """CPU, cores and, once torch is imported, GPUs."""
    facts: Machine = {
        "cpu": _processor(),
        "cores": cores(),
        "system": f"{platform.system()} {platform.machine()}",
    }
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        facts["gpus"] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return facts
