"""Dashboards as mirrors of a stage's folder: W&B and TensorBoard. metrics.csv is written in any case."""

from __future__ import annotations

import os
from typing import Any

from experiments.errors import InputError
from experiments.plan import Plan, Stage
from experiments.provenance import code_version


def group_name(plan: Plan) -> str:
    """W&B's group: paper/scale/commit, with the variant where there is one."""
    commit = (code_version()["commit"] or "uncommitted")[:8]
    return f"{plan.title}/{commit}"


def open_logger(plan: Plan, stage: Stage) -> Any | None:
    """The Lightning logger that conf/logger asks for; None for csv."""
    config = plan.config["logger"]
    if config["name"] == "csv":
        return None
    if config["name"] == "tensorboard":
        from pytorch_lightning.loggers import TensorBoardLogger

        return TensorBoardLogger(str(stage.directory), name="", version="tensorboard")
    if config["name"] == "wandb":
        return _wandb(plan, stage, config)
    raise InputError(f"logger.name={config['name']!r}: expected csv, wandb or tensorboard")


def _wandb(plan: Plan, stage: Stage, config: dict[str, Any]) -> Any:
    import wandb
    from pytorch_lightning.loggers import WandbLogger

    mode = config["mode"]
    if mode == "auto":
        mode = os.environ.get("WANDB_MODE") or ("online" if wandb.api.api_key else "offline")
    return WandbLogger(
        project=config["project"],
        entity=config["entity"],
        name=f"{plan.title}/{stage.name}/seed={stage.seed}",
        group=group_name(plan),
        job_type=stage.name,
        tags=[plan.paper, plan.scale, f"seed={stage.seed}", *([plan.variant] if plan.variant else [])],
        config={"stage": stage.config(), "seed": stage.seed, "code": code_version()},
        save_dir=str(stage.directory),
        mode=mode,
        reinit="finish_previous",
        settings=wandb.Settings(silent=True, console="off"),
    )


def close_logger(logger: Any | None) -> None:
    """End the W&B run, so that the next stage gets one of its own."""
    if logger is None:
        return
    logger.finalize("success")
    if type(logger).__name__ == "WandbLogger":
        logger.experiment.finish()
