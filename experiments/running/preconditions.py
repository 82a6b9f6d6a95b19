"""What a run needs of this machine, asked before anything else is done. Imports torch only to say what is missing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from experiments.common.errors import InputError
from experiments.identity import content
from experiments.identity.provenance import cores
from experiments.running.devices import gpus, processes, uses_gpu
from experiments.running.manifest import finished
from experiments.running.plan import Plan, Stage


def check(plans: Iterable[Plan], here: bool = True) -> None:
    """Raise InputError if an unfinished stage asks for more GPUs or cores than there are, or for data not at hand.

    Args:
        here: whether stages run on this machine; what GPUs others have is not known.
    """
    stages = [stage for plan in plans for stage in plan.stages.values() if finished(stage) is None]
    for stage in stages:
        if stage.trainer["accelerator"] in ("gpu", "cuda") and here and not gpus():
            raise InputError(
                f"stages.{stage.name}.trainer.accelerator={stage.trainer['accelerator']}: this machine has no usable "
                "GPU; use trainer=cpu or trainer=auto"
            )
        _check_devices(stage, here)
    missing = list(dict.fromkeys(_missing(stages)))
    if missing:
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise InputError(missing[0] + more)


def _check_devices(stage: Stage, here: bool) -> None:
    """Two processes may share a core, to try how they work together; more would be slow for nothing."""
    asked = processes(stage.trainer)
    on_gpu = uses_gpu(stage.trainer)
    there = gpus() if on_gpu else max(2, cores())
    if here and asked > there:
        what = "GPU" if on_gpu else "core"
        raise InputError(
            f"stages.{stage.name}.trainer.devices={stage.trainer['devices']}: this machine has "
            f"{gpus() if on_gpu else cores()} {what}s; expected at most {there}"
        )


def _missing(stages: Iterable[Stage]) -> Iterable[str]:
    """What the datamodules say that read a folder or an archive which is not there."""
    asked: set[str] = set()
    for stage in stages:
        for node in content.targets(stage.data):
            root = node.get("root")
            if not isinstance(root, str) or str(node) in asked or node.get("generated") or _is_there(Path(root)):
                continue
            asked.add(str(node))
            if content.reads_files(node) and (problem := _told(node)):
                yield f"stages.{stage.name}.data: {problem}"


def _is_there(root: Path) -> bool:
    return root.exists() or root.with_name(f"{root.name}.zip").exists()


def _told(node: Mapping[str, Any]) -> str:
    """A datamodule's own words; nothing where it cannot be built from its configuration alone."""
    from datamodules.common.base import DataModule
    from experiments.config.instantiate import build

    try:
        data = build(dict(node), "data")
    except (InputError, TypeError, ValueError):
        return ""  # the stage itself says what is wrong with it
    return data.available() if isinstance(data, DataModule) else ""
