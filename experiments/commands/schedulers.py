"""What runs the stages of a command: workers of this machine or a cluster, and how many stages at the same time."""

from __future__ import annotations

import contextlib
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from experiments.common.errors import InputError
from experiments.common.plain import Config
from experiments.identity.provenance import cores
from experiments.running.devices import gpu_groups, processes, uses_gpu
from experiments.running.pool import Pool, Scheduler


class Schedulers(contextlib.ExitStack):
    """Open until the command ends: workers that have imported torch serve its further papers too."""

    def __init__(self) -> None:
        super().__init__()
        self._open: dict[str, Scheduler] = {}

    def of(self, config: DictConfig, most: int) -> Scheduler:
        """The scheduler that a configuration asks for, for up to `most` stages."""
        local = runs_here(config)
        count = jobs(config, most) if local else 0
        gpus = gpu_groups(config.trainer) if local and uses_gpu(config.trainer) and count > 1 else None
        launcher = dict(OmegaConf.to_container(config.launcher, resolve=True))  # type: ignore[arg-type]
        wanted = str((count, gpus, launcher, config.jobs, config.runs_dir))
        if wanted not in self._open:
            self._open[wanted] = self.enter_context(Pool(count, gpus) if local else _cluster(config, launcher))
        return self._open[wanted]


def _cluster(config: DictConfig, launcher: Config) -> Scheduler:
    from experiments.running import cluster

    return cluster.open_cluster(launcher, config.jobs, Path(config.runs_dir).resolve() / "jobs")


def runs_here(config: DictConfig) -> bool:
    """Whether stages run on this machine."""
    return bool(config.launcher.name == "local")


def jobs(config: DictConfig, most: int) -> int:
    """How many stages, of which there are `most`, to train at the same time on this machine."""
    if config.jobs != "auto":
        if not isinstance(config.jobs, int) or config.jobs < 1:
            raise InputError(f"jobs={config.jobs}: expected auto or a whole number from 1")
        return min(int(config.jobs), most)
    if uses_gpu(config.trainer):
        return min(max(1, len(gpu_groups(config.trainer))), most)
    return 1 if processes(config.trainer) > 1 else min(cores(), most)
