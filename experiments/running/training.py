"""Fits and tests one stage with Lightning."""

from __future__ import annotations

import hashlib
import io
import logging
import os
import pickle
import random
import signal
import subprocess
import sys
import time
import traceback
import warnings
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch.multiprocessing import ProcessExitedException

from datamodules.common.base import DataModule, Fed, seed_torch, stream
from experiments.common import files, tracing
from experiments.common.errors import CodeError, InputError, KilledError, RunError, explain, is_foreseen
from experiments.common.paths import ROOT
from experiments.common.tables import read_rows, write_rows
from experiments.config import switches
from experiments.config.instantiate import build, check
from experiments.config.written import Whole, read
from experiments.running import hits, loggers, process_memory, readings
from experiments.running.callbacks import (
    CheckData,
    EndWithParent,
    NoProfiler,
    PlainCheckpoints,
    Progress,
    Recorder,
    StepSeed,
    StopAfter,
)
from experiments.running.devices import processes
from experiments.running.manifest import Damaged, Report, finished, from_json, silent, to_json
from experiments.running.plan import PILOTS, REGISTERED, SEEDS, Plan, Stage, fill
from experiments.running.processes import cpu_seconds, how_it_ended
from modules.common.distributed import synced
from modules.common.module import StageModule


def quiet() -> None:
    """Lightning's advice is for people who configure it by hand; here the engine does."""
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    logging.getLogger("lightning_fabric").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    warnings.filterwarnings("ignore", module="lightning_fabric")
    warnings.filterwarnings("ignore", module="torchmetrics")


def seed_all(purpose: str, *numbers: int) -> None:
    """Python's, numpy's and torch's random states for one purpose."""
    value = stream(purpose, *numbers)
    random.seed(value)
    np.random.seed(value % 2**32)
    seed_torch(value)


def check_plan(plan: Plan) -> None:
    """Compare the configuration of every stage with what its targets take, before anything trains.

    Raises InputError naming the key and the nearest valid one.
    """
    for stage in plan.stages.values():
        check(stage.module, f"stages.{stage.name}.module", tuple(stage.needs))
        check(stage.data, f"stages.{stage.name}.data", tuple(stage.feeds))
        if "batch_size" not in stage.data:
            continue
        where = f"stages.{stage.name}.data.batch_size"
        batch = read(Whole, stage.data["batch_size"], where)
        if batch % processes(stage.trainer):
            raise InputError(
                f"{where}={batch}: the global batch must be a multiple of the {processes(stage.trainer)} devices"
            )


def load(plan: Plan, name: str) -> StageModule:
    """A finished stage's module with its weights. Raises Damaged if its checkpoint cannot be read."""
    stage = plan.stages[name]
    module = construct(plan, stage)
    if not stage.fit:
        return module
    path = stage.directory / "last.ckpt"
    manifest = finished(stage)
    if manifest is None:
        raise Damaged(name, "it has not finished")  # another process may be in the middle of it
    try:
        state, digest = read_checkpoint(path)
        if digest != manifest.get("checkpoint"):
            raise ValueError("not the file that the manifest was written for")
        module.load_state_dict(state["state_dict"])
    except FileNotFoundError as error:
        (stage.directory / "manifest.json").unlink(missing_ok=True)
        raise Damaged(name, f"{path} is missing") from error
    except UNREADABLE as error:
        set_aside(path)
        (stage.directory / "manifest.json").unlink(missing_ok=True)
        raise Damaged(name, f"{path} is damaged or another's ({type(error).__name__})") from error
    return module


UNREADABLE = (RuntimeError, LookupError, EOFError, ValueError, pickle.UnpicklingError, zipfile.BadZipFile, TypeError)


def read_checkpoint(path: Path) -> tuple[dict[str, Any], str]:
    """A checkpoint's content, plain values only, and its SHA-256. Raises one of UNREADABLE if a bit of it has changed.

    The file is read once: on a folder that another machine writes into, it may be another one a moment later.
    """
    written = path.read_bytes()
    with zipfile.ZipFile(io.BytesIO(written)) as stored:  # torch.load does not look at the checksums in the file
        if broken := stored.testzip():
            raise zipfile.BadZipFile(f"{broken} fails its checksum")
    content = torch.load(io.BytesIO(written), map_location="cpu", weights_only=True)
    return content, hashlib.sha256(written).hexdigest()


def set_aside(path: Path) -> None:
    """Keep a damaged file for whoever wants to look, out of the way."""
    path.replace(path.with_name(path.name + ".damaged"))


def construct(plan: Plan, stage: Stage, **overrides: Any) -> StageModule:
    """Build a stage's module with its predecessors' modules, from the seed of (run, stage)."""
    partners = fill(stage.needs, partial(load, plan))
    seed_all("construction", stage.seed, zlib.crc32((stage.start_like or stage.name).encode()))
    return construct_from(stage, partners)


def construct_data(plan: Plan, stage: Stage) -> DataModule:
    """Build a stage's datamodule with the finished stages that feed it."""
    feeds = fill(stage.feeds, partial(Stored, plan))
    try:
        data = build(stage.data, f"stages.{stage.name}.data", **feeds)
    except (ValueError, TypeError) as error:
        raise InputError(f"stages.{stage.name}.data: {error}{tracing.lead_to_slip(error)}") from error
    assert isinstance(data, DataModule)
    readings.share(data)
    return data


class Stored(Fed):
    """A finished stage of this run that feeds a datamodule; its module is loaded once somebody asks for it."""

    def __init__(self, plan: Plan, name: str) -> None:
        self.__dict__.update(arrays=artifacts(plan.stages[name]), _load=partial(load, plan, name))

    @cached_property
    def module(self) -> StageModule:  # type: ignore[override]
        loaded: StageModule = self.__dict__["_load"]()
        return loaded


def construct_from(stage: Stage, partners: Mapping[str, Any]) -> StageModule:
    """Build a stage's module from its configuration and the modules it needs."""
    where = f"stages.{stage.name}.module"
    try:
        module = build(stage.module, where, **partners)
    except (ValueError, TypeError) as error:  # what a constructor says of its arguments is a message to the user
        raise InputError(f"{where}: {error}{tracing.lead_to_slip(error)}") from error
    if not isinstance(module, StageModule):
        raise InputError(f"{where}._target_: {stage.module['_target_']} is no StageModule")
    return module


def trainer_arguments(stage: Stage) -> dict[str, Any]:
    """The stage's trainer configuration. Raises InputError if it asks for a GPU where there is none."""
    if stage.trainer["accelerator"] in ("gpu", "cuda") and not torch.cuda.is_available():
        raise InputError("trainer.accelerator=gpu: this machine has no usable GPU; use trainer=cpu or trainer=auto")
    return dict(stage.trainer)


def train(plan: Plan, stage: Stage, report: Report = silent) -> dict[str, Any]:
    """Fit (resuming if there is a checkpoint) and test a stage in this process or process group.

    Returns metrics, checkpoint and artifacts by their checksums, seconds, cpu_seconds, fit_seconds, peak_memory_mb,
    parameters, batch, learning_rates, data, precision, switches, threads.
    """
    check_plan(plan)
    process_memory.keep_freed_blocks()
    process_memory.forget_peak()
    torch.set_num_threads(plan.config["threads"])  # sums of many numbers depend on it
    began, cpu_began = time.monotonic(), cpu_seconds()
    fused = replace(stage, module=switches.fused(stage.module)) if stage.trainer.get("fused") else stage
    module = construct(plan, fused)
    data = construct_data(plan, stage)
    arguments = trainer_arguments(stage)
    switches.apply(arguments, module)
    module.max_steps = arguments.pop("max_steps", None)
    stops = []
    if module.max_steps is not None:
        arguments["max_epochs"] = module.max_steps  # never more epochs than batches
        stops = [StopAfter(module.max_steps)]
    batch = data.batch_size * arguments.get("accumulate_grad_batches", 1)
    module.lr_scale = batch / stage.reference_batch if stage.reference_batch else 1.0
    rates = _rates(module) if stage.fit else []
    if arguments.get("sync_batchnorm") and not torch.cuda.is_available():
        arguments["sync_batchnorm"] = False  # torch's needs GPUs; ours does not
        synced(module)
    if module.partial_backward and str(arguments["strategy"]).startswith("ddp") and processes(arguments) > 1:
        arguments["strategy"] += "_find_unused_parameters_true"
    keeper = hits.KeepHits()
    recorder = Recorder(stage.directory, float(plan.config["checkpoint_seconds"]), stage.fingerprint)

    def progress(fraction: float) -> None:
        report({"event": "progress", "seed": plan.seed, "stage": stage.name, "fraction": fraction})

    checksums: dict[str, str] = {}
    logger = loggers.open_logger(plan, stage)
    trainer = pl.Trainer(
        **arguments,
        default_root_dir=str(stage.directory),
        logger=logger or False,
        profiler=NoProfiler(),
        plugins=[PlainCheckpoints()],
        callbacks=[EndWithParent(), CheckData(), StepSeed(stage.seed), Progress(progress), keeper, *stops, recorder],
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )
    try:
        if stage.fit:
            _fit(trainer, module, data, recorder, report)
        rows = recorder.rows or read_rows(stage.directory / "metrics.csv")  # forked processes kept them to themselves
        metrics = _last_epoch(rows) if stage.fit else {}
        metrics |= _test(trainer, module, data) if stage.test else {}
        data.setup("test")  # with forked processes it was set up in them alone
        _count(metrics, data, stage)
        if trainer.is_global_zero:
            if shows_pictures(plan):
                _draw(module, data, stage)
            checksums = write_artifacts(stage, module.artifacts())
            answers = keeper.hits(metrics.get(hits.METRIC)) if stage.test else None
            if answers is not None:
                hits.write(stage.directory, answers)
        loggers.log_pictures(logger, stage, metrics)
        loggers.log_checkpoint(logger, plan, stage)
    finally:
        loggers.close_logger(logger)
    spec = data.spec
    return {
        "metrics": metrics,
        "checkpoint": (recorder.digest or files.sha256(recorder.path)) if stage.fit else None,  # "": forked processes
        "artifacts": checksums,
        "seconds": round(max(recorder.elapsed, time.monotonic() - began), 2),
        "cpu_seconds": round(recorder.cpu_before + cpu_seconds() - cpu_began, 2),
        "fit_seconds": round(recorder.elapsed, 3),
        "peak_memory_mb": round(process_memory.peak() / 2**20),
        "batch": {"global": batch, "devices": trainer.world_size, "reference": stage.reference_batch},
        "learning_rates": rates,
        "precision": arguments["precision"],
        "switches": switches.named(stage.trainer),
        "threads": torch.get_num_threads(),
        "parameters": sum(p.numel() for p in module.parameters()),
        "data": {key: getattr(spec, key) for key in ("name", "source", "identity", "split")}
        | {"sizes": {**spec.sizes}},
    }


def _rates(module: StageModule) -> list[float]:
    """Each parameter group's learning rate at the start."""
    configured = module.configure_optimizers()
    optimizers = configured if isinstance(configured, list | tuple) else [configured]
    return [group["lr"] for optimizer in optimizers for group in optimizer.param_groups]


def _fit(trainer: pl.Trainer, module: StageModule, data: DataModule, recorder: Recorder, report: Report) -> None:
    """Train to the end, from the last checkpoint where there is one that can be read."""
    checkpoint = recorder.path if recorder.path.exists() else None
    if checkpoint is not None:
        wrong = ""
        try:
            content, digest = read_checkpoint(checkpoint)
            if recorder.is_own(content):
                recorder.digest = digest
            else:
                wrong = "is of another stage or seed"
        except UNREADABLE as error:
            wrong = f"is damaged ({type(error).__name__})"
        if wrong:
            report({"event": "warning", "text": f"{checkpoint} {wrong}; set aside, starting over"})
            if trainer.is_global_zero:
                set_aside(checkpoint)
            checkpoint = None
    try:
        trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True if checkpoint else None)
    except SystemExit as ended:  # how Lightning leaves after Ctrl-C
        raise KeyboardInterrupt from ended
    if trainer.is_global_zero and recorder.rows:  # a kill between checkpoint and table would have lost the table
        write_rows(recorder.directory / "metrics.csv", recorder.rows)


def _test(trainer: pl.Trainer, module: StageModule, data: DataModule) -> dict[str, float]:
    handler = signal.getsignal(signal.SIGINT)
    try:
        tested = trainer.test(module, datamodule=data, verbose=False)
    except SystemExit as ended:  # Lightning after Ctrl-C, which it then ignores for good
        signal.signal(signal.SIGINT, handler)
        raise KeyboardInterrupt from ended
    return {name: float(value) for part in tested for name, value in part.items()}


def _last_epoch(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """What the last epoch of training logged, for claims and their preconditions."""
    last = rows[-1] if rows else {}
    return {name: value for name, value in last.items() if name not in ("epoch", "train/lr")}


def _count(metrics: Mapping[str, float], data: DataModule, stage: Stage) -> None:
    """Raise RunError unless every test image was counted once; the data is set up, its sizes may be known only then."""
    counted, expected = metrics.get("test/n"), data.spec.sizes["test"]
    if counted is not None and counted != expected and data.spec.source == "real":
        raise RunError(f"{stage.name}: tested on {counted:g} images, but the test set has {expected}")


def _draw(module: StageModule, data: DataModule, stage: Stage) -> None:
    """Save the module's pictures beside its metrics; one seed is enough to look at."""
    with torch.inference_mode():
        figures = module.eval().pictures(data)
    for name, figure in figures.items():
        with files.replacing(stage.directory / "pictures" / f"{name}.png") as temporary:
            figure.savefig(temporary, format="png", dpi=120)


def shows_pictures(plan: Plan) -> bool:
    """One seed is enough to look at: the first of its stream, or of those given."""
    by_hand = plan.config.get("seeds")
    if by_hand:
        return bool(plan.seed == by_hand[0])
    return plan.seed % (SEEDS if plan.seed >= REGISTERED else PILOTS) == 0


def write_artifacts(stage: Stage, arrays: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Write what a stage makes for later ones as artifacts/<name>.npy; returns name -> SHA-256 of the file."""
    checksums = {}
    for name, array in arrays.items():
        path = stage.directory / "artifacts" / f"{name}.npy"
        with files.replacing(path) as temporary, temporary.open("wb") as out:
            np.save(out, np.ascontiguousarray(array), allow_pickle=False)
        checksums[name] = files.sha256(path)
    return checksums


def artifacts(stage: Stage) -> dict[str, np.ndarray]:
    """What a finished stage made, memory-mapped. Raises Damaged if a file is missing or not what was written."""
    manifest = finished(stage)
    if manifest is None:
        raise Damaged(stage.name, "it has not finished")
    arrays = {}
    for name, checksum in (manifest.get("artifacts") or {}).items():
        path = stage.directory / "artifacts" / f"{name}.npy"
        if not path.is_file() or files.sha256(path) != checksum:
            (stage.directory / "manifest.json").unlink(missing_ok=True)
            raise Damaged(stage.name, f"{path} is missing or not what was written")
        arrays[name] = np.load(path, mmap_mode="r", allow_pickle=False)
    return arrays


RANK_ERRORS = {"killed": KilledError, "input": InputError, "run": RunError, "code": CodeError}  # by what ended it


def in_own_processes(plan: Plan, stage: Stage) -> dict[str, Any]:
    """Run a stage on several devices as a process group of its own, from its resolved configuration.

    No rank sees Hydra or a sweeper, so that all train the same hyper-parameters. Raises RunError with the reason, as a
    KilledError where one of the processes was killed.
    """
    request, answer = stage.directory / "request.json", stage.directory / "answer.json"
    files.write_text(request, to_json(plan, stage))
    answer.unlink(missing_ok=True)
    # The processes are ours, not Slurm's tasks, which Lightning would count instead.
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("SLURM_NTASKS", "SLURM_STEP"))
    }
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment |= {"REPRISE_PARENT": str(os.getpid()), "OMP_NUM_THREADS": str(plan.config["threads"])}
    with (stage.directory / "processes.log").open("w", encoding="utf-8") as log:
        command = [sys.executable, "-m", "experiments.running.rank", str(request), str(answer)]
        code = subprocess.run(command, env=environment, stdout=log, stderr=log, check=False).returncode
    result = files.read_json(answer)
    request.unlink(missing_ok=True)
    answer.unlink(missing_ok=True)
    if result is None and code < 0:
        raise KilledError(f"{stage.name}: {how_it_ended(code)}")
    if result is None:
        raise RunError(f"{stage.name}: its processes ended with code {code}; see {stage.directory / 'processes.log'}")
    if "error" in result:
        failed: Exception = RANK_ERRORS[result["kind"]](result["error"])
        failed.add_note(result["trace"])
        raise failed
    return result


def run_rank(request: Path, answer: Path) -> None:
    """Train and test the stage of a request (see to_json); rank 0 writes the result, any rank its error."""
    quiet()
    plan, stage = from_json(request.read_text(encoding="utf-8"))
    try:
        result = train(plan, stage)
    except ProcessExitedException as error:
        reason = f"{stage.name}: {how_it_ended(error.exit_code)}"
        files.write_json(answer, {"error": reason, "kind": "killed", "trace": traceback.format_exc()})
        raise
    except Exception as error:
        reason, code = explain(error)
        kind = "input" if code == InputError.exit_code else "run" if is_foreseen(error) else "code"
        files.write_json(answer, {"error": reason, "kind": kind, "trace": traceback.format_exc()})
        raise
    if int(os.environ.get("LOCAL_RANK", "0")) == 0:
        files.write_json(answer, result)
