"""What the engine hangs on every training: the record, the seeds of each step, and progress."""

from __future__ import annotations

import math
import os
import signal
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, Checkpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO
from pytorch_lightning.profilers import PassThroughProfiler
from torch import Tensor

from datamodules.common.base import DataError, Spec, seed_torch, stream
from experiments.common.errors import RunError
from experiments.common.files import read_json, replacing, sha256, write_json
from experiments.common.tables import write_rows
from experiments.running.manifest import SPENT
from experiments.running.processes import cpu_seconds, end_as_interrupted, end_with_parent

LOOK_EVERY = 50  # steps between looks at the loss, and at the clock when several processes must agree


STEP_HOOKS = (
    "on_train_batch_start",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_train_batch_end",
)


class NoProfiler(PassThroughProfiler):
    """Lightning's default makes a generator for each of fifty calls in a step."""

    def profile(self, action_name: str) -> Any:
        return _NOTHING


_NOTHING = nullcontext()


class Quick(Callback):
    """A callback whose hooks of a step are called only where it has them: Lightning passes over those that are None."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for hook in STEP_HOOKS:
            if getattr(cls, hook) in (getattr(Callback, hook), None):
                setattr(cls, hook, None)


class StepSeed(Quick):
    """Sets the random state from (seed, epoch, batch) before every step, so that a resumed run repeats it.

    The same on every process: what is drawn per image is drawn for the global batch and cut (see SharedDropout).
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any, batch_idx: int) -> None:
        seed_torch(stream("step", self.seed, trainer.current_epoch, batch_idx))

    def on_test_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        seed_torch(stream("test", self.seed))


class CheckData(Quick):
    """Refuses data in memory that is not what its datamodule declares, before a loss meets it."""

    def setup(self, trainer: pl.Trainer, module: pl.LightningModule, stage: str) -> None:
        check_data(trainer.datamodule)  # type: ignore[attr-defined]


def check_data(data: Any) -> None:
    """Look at what a datamodule that is set up holds in memory, and at its sources.

    Raises DataError for images of another shape, a label that is no class, or more images than labels.
    """
    while data is not None:
        for name, split in (getattr(data, "splits", None) or {}).items():
            columns = split if isinstance(split, Mapping) else dict(zip("xy", split, strict=False))
            if {"x", "y"} <= set(columns):
                _check_split(f"{type(data).__name__}, {name}", columns["x"], columns["y"], data.spec)
        data = getattr(data, "source", None)


def _check_split(where: str, images: Tensor, labels: Tensor, spec: Spec) -> None:
    if len(images) != len(labels):
        raise DataError(f"{where}: {len(images)} images and {len(labels)} labels")
    if images.ndim == 1 + len(spec.shape) and tuple(images.shape[1:]) != tuple(spec.shape):
        raise DataError(f"{where}: images of {tuple(images.shape[1:])}; expected {tuple(spec.shape)}")
    if labels.ndim == 1 and not labels.is_floating_point() and len(labels):
        low, high = int(labels.min()), int(labels.max())
        if low < -1 or high >= len(spec.classes):  # -1: an image without a label
            raise DataError(f"{where}: labels from {low} to {high}; expected 0 to {len(spec.classes) - 1}")


class StopAfter(Quick):
    """Ends training after so many batches, however many optimisers step on each; the last epoch may be cut short."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.current_epoch * int(trainer.num_training_batches) + batch_idx + 1 >= self.steps:
            trainer.should_stop = True


class EndWithParent(Quick):
    """Where a stage runs on several processes, none of them outlives the one that started it."""

    def on_fit_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if trainer.world_size > 1:
            end_with_parent()

    def on_test_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.on_fit_start(trainer, module)


class Progress(Quick):
    """Reports how far a training is, a few times a second."""

    def __init__(self, report: Callable[[float], None]) -> None:
        self.report, self._last = report, 0.0

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        now = time.monotonic()
        if now - self._last > 0.25 and trainer.is_global_zero:
            self._last = now
            assert trainer.max_epochs is not None
            batches = max(1, int(trainer.num_training_batches))
            done = trainer.current_epoch + (batch_idx + 1) / batches
            steps = getattr(module, "max_steps", None)
            self.report(done / (steps / batches if steps is not None else trainer.max_epochs))

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        now = time.monotonic()
        if now - self._last > 0.25 and trainer.is_global_zero:
            self._last = now
            self.report((batch_idx + 1) / max(1, sum(int(n) for n in trainer.num_test_batches)))


class PlainCheckpoints(TorchCheckpointIO):
    """Writes equal checkpoints as equal bytes.

    Pickle writes a text that it has met before as a reference to the first. Whether two equal texts are one object
    depends on whether a run was stopped in between; here they always are, and no two containers are.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        super().save_checkpoint(_plain(checkpoint), path, storage_options)


def _plain(value: Any) -> Any:
    """A copy of all containers around the same tensors, equal texts as one object."""
    if isinstance(value, str):
        return sys.intern(str(value))
    if type(value) in (dict, OrderedDict):
        copy = type(value)((_plain(key), _plain(item)) for key, item in value.items())
        if isinstance(value, OrderedDict):  # torch keeps the versions of a network's parts there
            vars(copy).update(_plain(vars(value)))
        return copy
    return type(value)(map(_plain, value)) if type(value) in (list, tuple) else value


class Recorder(Checkpoint, Quick):
    """Keeps metrics.csv and last.ckpt: both whole at any moment, and in step with each other.

    A checkpoint holds nothing of the machine or the clock, so that equal runs leave equal bytes. What a stage has taken
    so far is in SPENT beside it, until the stage ends.

    Args:
        directory: the stage's folder.
        seconds: save at least this often (at epoch ends and, in long epochs, between batches).
        fingerprint: the stage's, kept in the checkpoint: training goes on from its own alone.
    Raises:
        RunError: the loss is not finite.
        KeyboardInterrupt: Ctrl-C, after the step was finished and saved; a second Ctrl-C does not wait.
    """

    def __init__(self, directory: Path, seconds: float, fingerprint: str) -> None:
        self.directory, self.seconds, self.fingerprint = directory, seconds, fingerprint
        self.rows: list[dict[str, float]] = []
        self.digest = (
            ""  # of the checkpoint that this process saved last, or went on from: another may replace the file
        )
        self.elapsed = 0.0  # training time of all attempts
        self.cpu_before = 0.0  # CPU seconds of the attempts before this one, until each was last saved
        self._cpu_began = cpu_seconds()
        self._began = self._saved = time.monotonic()
        self._validated = self._stop = False
        self._handler: Any = None
        self._sums: torch.Tensor | None = None  # of an unfinished epoch, a row for each of several processes

    @property
    def path(self) -> Path:
        return self.directory / "last.ckpt"

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows, "fingerprint": self.fingerprint, "sums": self._sums}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows = list(state_dict["rows"])
        self._sums = state_dict.get("sums")
        spent = read_json(self._spent)
        if isinstance(spent, dict) and spent.get("fingerprint") == self.fingerprint:
            self.elapsed = float(spent["elapsed"])
            self.cpu_before = float(spent["cpu_seconds"])

    @property
    def _spent(self) -> Path:
        return self.directory / SPENT

    def _write_spent(self) -> None:
        elapsed = self.elapsed + time.monotonic() - self._began
        cpu = self.cpu_before + cpu_seconds() - self._cpu_began
        write_json(self._spent, {"fingerprint": self.fingerprint, "elapsed": elapsed, "cpu_seconds": cpu})

    def is_own(self, checkpoint: Mapping[str, Any]) -> bool:
        """Whether a checkpoint's content was saved by this very stage, of this seed."""
        own = (checkpoint.get("callbacks") or {}).get(self.state_key) or {}
        return own.get("fingerprint") == self.fingerprint

    def on_train_start(self, trainer: pl.Trainer, module: Any) -> None:
        self._began = self._saved = time.monotonic()
        self._follow(trainer, module)
        if trainer.world_size > 1:
            _take_sums(trainer, self._sums)
        if trainer.world_size == 1 and threading.current_thread() is threading.main_thread():
            self._handler = signal.signal(signal.SIGINT, self._interrupt)
            end_as_interrupted()  # in place of Lightning's handler, which may end the training before anything is saved

    def _follow(self, trainer: pl.Trainer, module: Any) -> None:
        """Look after each batch once the module is through with it.

        Lightning calls a module's own hook after those of callbacks: what the hook changes (averaged weights) would be
        missing in what is saved.
        """
        own = module.on_train_batch_end

        def on_train_batch_end(outputs: Any, batch: Any, batch_idx: int) -> None:
            own(outputs, batch, batch_idx)
            self._after_batch(trainer, outputs, batch_idx)

        module.on_train_batch_end = on_train_batch_end

    def _interrupt(self, number: int, frame: Any) -> None:
        if self._stop:
            raise KeyboardInterrupt
        self._stop = True

    def _restore(self, module: Any) -> None:
        module.__dict__.pop("on_train_batch_end", None)
        if self._handler is not None:
            signal.signal(signal.SIGINT, self._handler)
            self._handler = None

    def on_validation_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._validated = True

    def _after_batch(self, trainer: pl.Trainer, outputs: Any, batch_idx: int) -> None:
        last = batch_idx + 1 >= trainer.num_training_batches
        if batch_idx % LOOK_EVERY == 0 or last:  # the last before validation, which would only say that logits hold NaN
            self._check(trainer, outputs, batch_idx)
        if last:
            return  # the end of the epoch saves
        if self._stop or self._due(trainer, batch_idx):
            self._save(trainer)
        if self._stop:
            raise KeyboardInterrupt

    def _check(self, trainer: pl.Trainer, outputs: Any, batch_idx: int) -> None:
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if isinstance(loss, torch.Tensor) and not bool(torch.isfinite(loss).all()):
            self._not_finite(trainer, float(loss.detach().sum()), f"epoch {trainer.current_epoch}, step {batch_idx}")

    @staticmethod
    def _not_finite(trainer: pl.Trainer, value: float, where: str) -> None:
        group = trainer.optimizers[0].param_groups[0] if trainer.optimizers else {"lr": math.nan}
        rate = group.get("initial_lr", group["lr"])
        raise RunError(f"the loss is {value} at {where}; its learning rate is {rate:g}, a lower one is the usual cure")

    def _due(self, trainer: pl.Trainer, batch_idx: int) -> bool:
        if trainer.world_size == 1:
            return time.monotonic() - self._saved >= self.seconds
        if batch_idx % LOOK_EVERY:
            return False
        return bool(trainer.strategy.broadcast(time.monotonic() - self._saved >= self.seconds))

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        row: dict[str, float] = {"epoch": trainer.current_epoch}
        for name, value in sorted(trainer.callback_metrics.items()):  # Lightning's order depends on where a run went on
            if self._validated or not name.startswith("val/"):
                row[name] = float(value)
        self._validated = False
        self.rows.append(row)
        loss = row.get("train/loss", 0.0)
        if not math.isfinite(loss):
            self._not_finite(trainer, loss, f"epoch {trainer.current_epoch}")
        assert trainer.max_epochs is not None
        last = trainer.should_stop or trainer.current_epoch + 1 >= trainer.max_epochs
        if last or self._stop or self._due(trainer, 0):
            self._save(trainer)
        if self._stop and not last:
            raise KeyboardInterrupt

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.elapsed += time.monotonic() - self._began
        self._restore(module)
        if self._stop:
            raise KeyboardInterrupt

    def on_exception(self, trainer: pl.Trainer, module: pl.LightningModule, exception: BaseException) -> None:
        self._restore(module)

    def _save(self, trainer: pl.Trainer) -> None:
        if trainer.world_size == 1:
            with replacing(self.path) as temporary:
                trainer.save_checkpoint(temporary)
                self.digest = sha256(temporary)
            write_rows(self.directory / "metrics.csv", self.rows)
            self._write_spent()
        else:
            temporary = self.path.with_name(f".{self.path.name}.part")
            self._sums = _gather_sums(trainer)
            trainer.save_checkpoint(temporary)
            if trainer.is_global_zero:
                self.digest = sha256(temporary)
                os.replace(temporary, self.path)
                write_rows(self.directory / "metrics.csv", self.rows)
                self._write_spent()
            trainer.strategy.barrier()
        self._saved = time.monotonic()


def _gather_sums(trainer: pl.Trainer) -> torch.Tensor:
    """What the module of each process has summed of an epoch so far (StageModule.track), and its count: a row each.

    Apart, because sums come out the same to the last bit only if they are added in the same order.
    """
    module: Any = trainer.lightning_module
    own = [*module._sums.values(), torch.tensor(float(module._count), device=module.device)]
    row = torch.stack([value.double() for value in own])
    table = trainer.strategy.all_gather(row)
    return table.reshape(trainer.world_size, -1).cpu()


def _take_sums(trainer: pl.Trainer, table: torch.Tensor | None) -> None:
    """Go on from this process's own sums; a checkpoint's module has those of the first."""
    module: Any = trainer.lightning_module
    names = list(module._sums)
    if table is None or table.shape != (trainer.world_size, len(names) + 1):
        module._sums, module._count = {}, 0
        return
    *sums, count = table[trainer.global_rank].to(module.device)
    module._sums = {name: value.to(module._sums[name].dtype) for name, value in zip(names, sums, strict=True)}
    module._count = int(count)
