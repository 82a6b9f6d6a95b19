"""A Lightning logger for Trackio, which has none: metrics by step in its own folder, one run a stage and seed."""

from __future__ import annotations

import contextlib
import io
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import trackio
from pytorch_lightning.loggers.logger import Logger, rank_zero_experiment
from pytorch_lightning.utilities.rank_zero import rank_zero_only


class TrackioLogger(Logger):
    """Opened by the first metric, ended by close(): fitting and testing a stage are one run.

    Args:
        project: of Trackio's dashboard.
        run: its name there; a stage that goes on continues the run.
        group: runs that belong together.
        config: what the run was made with.
        space: a Hugging Face Space to log to; None stays on this machine, in the folder that TRACKIO_DIR names.
    """

    def __init__(self, project: str, run: str, group: str, config: Mapping[str, Any], space: str | None) -> None:
        super().__init__()
        self._arguments: dict[str, Any] = {
            **{"project": project, "name": run, "group": group, "config": dict(config), "space_id": space},
            **{"resume": "allow", "embed": False, "auto_log_gpu": False, "auto_log_cpu": False},
        }
        self._run: Any = None

    @property
    def name(self) -> str:
        return str(self._arguments["project"])

    @property
    def version(self) -> str:
        return str(self._arguments["name"])

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """Trackio's run."""
        if self._run is None:
            with contextlib.redirect_stdout(io.StringIO()):  # it greets, in every stage
                self._run = trackio.init(**self._arguments)
        return self._run

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.experiment.log(dict(metrics), step=step)

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Nothing: the run's config has them."""

    @rank_zero_only
    def log_pictures(self, pictures: Mapping[str, Path]) -> None:
        """Pictures under pictures/<name>."""
        if pictures:
            images = {f"pictures/{name}": trackio.Image(str(path), caption=name) for name, path in pictures.items()}
            self.experiment.log(images)

    @rank_zero_only
    def close(self) -> None:
        """End the run: what was logged is in Trackio's folder, or on its way to the Space."""
        if self._run is not None:
            with contextlib.redirect_stdout(io.StringIO()):
                self._run.finish()
            self._run = None
