"""Dashboards as mirrors of a stage's folder: W&B, TensorBoard, Trackio, MLflow. metrics.csv is written in any case."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.common.errors import InputError, missing_package, unknown
from experiments.common.plain import Arguments
from experiments.identity.provenance import CodeVersion, code_version
from experiments.running.manifest import finished
from experiments.running.plan import Plan, Stage

Table = tuple[list[str], list[list[Any]]]  # column names, rows
PACKAGES = {"csv": None, "wandb": "wandb", "tensorboard": "tensorboard", "trackio": "trackio", "mlflow": "mlflow"}

ABSOLUTE = re.compile(r"""([=,\[\s'"]|file://)(~?/[^\s,'"\])}]+)""")  # a path from the root, inside a text


def group_name(plan: Plan, code: CodeVersion) -> str:
    """W&B's group: paper/scale/commit, with the variant where there is one.

    Args:
        plan: of any seed.
        code: the code version that trained; an entry's may name several commits, separated by spaces.
    """
    commits = [commit[:8] for commit in (code["commit"] or "").split()] or ["uncommitted"]
    return f"{plan.title}/{commits[0] if len(commits) == 1 else 'several-commits'}"


def training_code(stage: Stage) -> CodeVersion:
    """The code version that trained a stage: the recorded one where it has finished, else the present one."""
    manifest = finished(stage)
    return manifest["code"] if manifest is not None else code_version()


def label(plan: Plan) -> str:
    """The plan's title as every run's config holds it under `title`, for filters: their grammar knows no escapes."""
    return re.sub(r"[^\w./+-]", "_", plan.title)


def logged_in() -> bool:
    """Whether W&B finds credentials on this machine. Asks nobody and sends nothing."""
    import wandb

    return bool(wandb.api.api_key)


def mode(config: Mapping[str, Any]) -> str:
    """W&B's mode for a logger configuration: its own, else WANDB_MODE, else online for those who are logged in."""
    if config["mode"] != "auto":
        return str(config["mode"])
    return os.environ.get("WANDB_MODE") or ("online" if logged_in() else "offline")


def check(config: Mapping[str, Any]) -> None:
    """Raise InputError for a logger that does not exist, and for one whose package is not installed.

    Args:
        config: as conf/logger composes it.
    """
    if config["name"] not in PACKAGES:
        raise unknown("logger.name", str(config["name"]), PACKAGES)
    package = PACKAGES[config["name"]]
    if package is not None and importlib.util.find_spec(package) is None:
        missing = ModuleNotFoundError(f"No module named {package!r}", name=package)
        raise InputError(f"logger={config['name']}: {missing_package(missing)}")


def open_logger(plan: Plan, stage: Stage) -> Any | None:
    """The Lightning logger that conf/logger asks for; None for csv. Raises InputError as check() does."""
    config = plan.config["logger"]
    check(config)
    if config["name"] == "csv":
        return None
    if config["name"] == "trackio":
        return _trackio(plan, stage)
    if config["name"] == "mlflow":
        return _mlflow(plan, stage)
    if config["name"] == "tensorboard":
        from pytorch_lightning.loggers import TensorBoardLogger

        return TensorBoardLogger(str(stage.directory), name="", version="tensorboard")
    if not isinstance(config["checkpoints"], bool):
        raise InputError(f"logger.checkpoints={config['checkpoints']!r}: expected true or false")
    return _wandb(plan, stage)


def run_name(plan: Plan, stage: Stage) -> str:
    """Of a stage's run on a dashboard."""
    return f"{plan.title}/{stage.name}/seed={stage.seed}"


def _trackio(plan: Plan, stage: Stage) -> Any:
    from experiments.running.trackio_logger import TrackioLogger

    code = training_code(stage)
    config = without_paths({"title": label(plan), "stage": stage.config(), "seed": stage.seed, "code": code})
    logger = plan.config["logger"]
    group = group_name(plan, code)
    return TrackioLogger(logger["project"], run_name(plan, stage), group, config, logger["space"])


def _mlflow(plan: Plan, stage: Stage) -> Any:
    from pytorch_lightning.loggers import MLFlowLogger

    logger = plan.config["logger"]
    code = training_code(stage)
    store = f"file:{Path(plan.config['runs_dir']).resolve() / 'mlruns'}"
    told = {"paper": plan.paper, "scale": plan.scale, "stage": stage.name, "seed": str(stage.seed)}
    told |= {"fingerprint": stage.fingerprint, "group": group_name(plan, code)}
    mirror = MLFlowLogger(
        experiment_name=logger["project"],
        run_name=run_name(plan, stage),
        tracking_uri=logger["tracking_uri"] or os.environ.get("MLFLOW_TRACKING_URI") or store,
        tags=told | ({"variant": plan.variant} if plan.variant else {}),
    )
    mirror.log_hyperparams(without_paths(stage.config()))
    return mirror


def _wandb(plan: Plan, stage: Stage) -> Any:
    from pytorch_lightning.loggers import WandbLogger

    name = run_name(plan, stage)
    config = {"stage": stage.config(), "seed": stage.seed}
    arguments = run_arguments(plan, stage.name, name, [f"seed={stage.seed}"], config, training_code(stage))
    return WandbLogger(save_dir=str(stage.directory), **arguments)


def run_arguments(
    plan: Plan, job: str, name: str, tags: list[str], config: Mapping[str, Any], code: CodeVersion
) -> Arguments:
    """What every W&B run of a plan is started with; `code` is the version that trained what the run shows."""
    import wandb

    logger = plan.config["logger"]
    return {
        "project": logger["project"],
        "entity": logger["entity"],
        "name": name,
        "group": group_name(plan, code),
        "job_type": job,
        "tags": [plan.paper, plan.scale, *tags, *([plan.variant] if plan.variant else [])],
        "config": without_paths({"title": label(plan), **config, "code": dict(code)}),
        "mode": mode(logger),
        "reinit": "finish_previous",
        "settings": wandb.Settings(silent=True, console="off"),
    }


def without_paths(value: Any) -> Any:
    """The same with the last part alone of each absolute path: a dashboard is read where this machine is not known."""
    if isinstance(value, Mapping):
        return {key: without_paths(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_paths(item) for item in value]
    if isinstance(value, str) and value.startswith(("/", "~/")):
        return f".../{Path(value).name}"
    if isinstance(value, str):  # an override holds one behind `key=` or in a list
        return ABSOLUTE.sub(lambda found: f"{found[1]}.../{Path(found[2]).name}", value)
    return value


def close_logger(logger: Any | None) -> None:
    """End the run on the dashboard, so that the next stage gets one of its own."""
    if logger is None:
        return
    logger.finalize("success")
    if _is(logger, "WandbLogger"):
        logger.experiment.finish()
    elif _is(logger, "TrackioLogger"):
        logger.close()


def _is(logger: Any | None, name: str) -> bool:
    return type(logger).__name__ == name  # by name: importing Lightning only to look would cost seconds


def log_pictures(logger: Any | None, stage: Stage, metrics: Mapping[str, float]) -> None:
    """Add a tested stage's pictures to its run, and on W&B a table of its test metrics; TensorBoard gets neither."""
    if logger is None:
        return
    rows = [[stage.name, stage.seed, metric, float(value)] for metric, value in metrics.items()]
    pictures = {path.stem: path for path in sorted((stage.directory / "pictures").glob("*.png"))}
    if _is(logger, "TrackioLogger"):
        logger.log_pictures(pictures)
    elif _is(logger, "MLFlowLogger"):
        for path in pictures.values():
            logger.experiment.log_artifact(logger.run_id, str(path), "pictures")
    if not _is(logger, "WandbLogger"):
        return
    log_media(logger.experiment, {"metrics": (["stage", "seed", "metric", "value"], rows)} if rows else {}, pictures)


def log_checkpoint(logger: Any | None, plan: Plan, stage: Stage) -> None:
    """Add a trained stage's last checkpoint to its W&B run, as an artifact of type model named by `artifact_name`.

    Nothing unless logger.checkpoints asks for it; nothing for other loggers.
    """
    if not _is(logger, "WandbLogger") or not plan.config["logger"]["checkpoints"]:
        return
    assert logger is not None
    import wandb
    from pytorch_lightning.utilities import rank_zero_only

    path = stage.directory / "last.ckpt"
    if getattr(rank_zero_only, "rank", 0) or not path.is_file():  # a stage that is only tested has none
        return
    about = {"seed": stage.seed, "fingerprint": stage.fingerprint, "code": training_code(stage)}
    artifact = wandb.Artifact(artifact_name(plan, stage), type="model", description=stage.about, metadata=about)
    # Immutable: sent from where it lies, without a copy. Nobody writes a finished stage's checkpoint again.
    artifact.add_file(str(path), policy="immutable", skip_cache=True)
    logger.experiment.log_artifact(artifact)


def artifact_name(plan: Plan, stage: Stage) -> str:
    """The name of a stage's checkpoint on W&B. The fingerprint tells seeds and variants apart."""
    return f"{plan.paper}-{plan.scale}-{stage.name}-{stage.fingerprint}"


def log_media(run: Any, tables: Mapping[str, Table], pictures: Mapping[str, Path]) -> None:
    """The one way in which tables and images reach a W&B run; the key of a picture is pictures/<name>."""
    import wandb

    media: Arguments = {name: wandb.Table(columns=[*cols], data=rows) for name, (cols, rows) in tables.items()}
    media |= {f"pictures/{name}": wandb.Image(str(path), caption=name) for name, path in pictures.items()}
    if media:
        run.log(media)
