"""What a run needs of this machine, asked before anything else is done. Imports torch only to say what is missing."""

from __future__ import annotations

from collections.abc import Iterable

from experiments.common.errors import InputError
from experiments.identity.provenance import cores
from experiments.running import loggers, needs
from experiments.running.devices import gpus, processes, uses_gpu
from experiments.running.manifest import finished
from experiments.running.plan import Plan, Stage


def check(plans: Iterable[Plan], here: bool = True) -> None:
    """Raise InputError if an unfinished stage asks for more GPUs or cores than there are, or for data, weights
    or packages that are not at hand, a dashboard's among them. What can be fetched is fetched now, before anything is
    registered or trained.

    Args:
        here: whether stages run on this machine; what GPUs others have is not known, and they fetch for themselves.
    """
    plans = list(plans)
    for plan in plans[:1]:
        loggers.check(plan.config["logger"])
    stages = [stage for plan in plans for stage in plan.stages.values() if finished(stage) is None]
    for stage in stages:
        if stage.trainer["accelerator"] in ("gpu", "cuda") and here and not gpus():
            raise InputError(
                f"stages.{stage.name}.trainer.accelerator={stage.trainer['accelerator']}: this machine has no usable "
                "GPU; use trainer=cpu or trainer=auto"
            )
        _check_devices(stage, here)
    missing = list(needs.missing(stages, here))
    if missing:
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise InputError(missing[0] + more)


def _check_devices(stage: Stage, here: bool) -> None:
    """Two processes may share a core, to try how they work together; more would be slow for nothing. Two on one GPU
    cannot work together at all: NCCL waits or ends with an error of its own."""
    named = stage.trainer["devices"]
    if isinstance(named, list | tuple) and len(set(named)) < len(named):
        raise InputError(
            f"stages.{stage.name}.trainer.devices={list(named)}: expected each device once; two processes on one GPU "
            "cannot exchange gradients"
        )
    asked = processes(stage.trainer)
    on_gpu = uses_gpu(stage.trainer)
    there = gpus() if on_gpu else max(2, cores())
    if here and asked > there:
        what = "GPU" if on_gpu else "core"
        raise InputError(
            f"stages.{stage.name}.trainer.devices={stage.trainer['devices']}: this machine has "
            f"{gpus() if on_gpu else cores()} {what}s; expected at most {there}"
        )
