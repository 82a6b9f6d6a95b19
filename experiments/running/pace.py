"""How fast a stage trains on the device at hand: real batches, timed for a few seconds.

The batch is the published one, or the largest at which a step fits a bound of time and of memory; which one it was is
said. A step is timed with what the loop does around it. Batches are timed by themselves: made in this process they come
on top of a step, decoded by workers they come beside it. On one thread of a CPU the thread's own time counts:
hours are those of a core to itself. Whatever a recipe's `dry` cuts, because it only repeats, is cut here only if the
whole takes too long, and then the hours are at least so many.
"""

from __future__ import annotations

import contextlib
import math
import signal
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from datamodules.common.base import DataModule
from experiments.common.errors import RunError
from experiments.common.plain import Config
from experiments.config.switches import SWITCHES
from experiments.config.switches import apply as apply_switches
from experiments.identity.provenance import hardware
from experiments.running import process_memory
from experiments.running.callbacks import Quick
from experiments.running.devices import decide_precision, uses_gpu
from experiments.running.plan import Stage
from modules.common.module import StageModule

WARM = 1  # batches before the clock starts
FEWEST = 3  # that are timed; one, if it takes longer than all of them may
GROWTH = 8  # a larger batch is at most so many times the last one, whose pace foretells it
PROBE = 10  # a size on the way to the last one is timed for so much less
SHARE = 0.5  # of the free memory that a larger batch may be expected to take


@dataclass(frozen=True)
class Pace:
    """What was measured of a stage's training.

    Attributes:
        batch: images per step.
        step, load: seconds of a step with what the loop does around it, and of making its batch; the latter 0 where
            that is not known.
        beside: whether batches are made by workers, beside the steps.
        memory: bytes at this batch.
        memory_published: bytes at the published batch; expected, where that is another one.
        device: what computed.
        real: whether the batches were those of the dataset.
        shortened: whether the recipe's `dry` cuts something, so that a real step takes longer.
        epoch: images of an epoch, which may draw each several times; of a stand-in it says nothing.
    """

    batch: int
    step: float
    load: float
    beside: bool
    memory: int
    memory_published: int
    device: str
    real: bool
    shortened: bool
    epoch: int = 0

    @property
    def seconds(self) -> float:
        """Of one step and its batch."""
        return max(self.step, self.load) if self.beside else self.step + self.load

    def hours(self, published: int, steps: int) -> float:
        """Of so many steps with batches of the published size, as fast as these images."""
        return self.seconds / self.batch * published * steps / 3600


class Clock(Quick):
    """The seconds of each step; ends training after `seconds`, what lies between short steps included."""

    def __init__(self, seconds: float, now: Callable[[], float] = time.perf_counter) -> None:
        self.limit = seconds
        self._now = now
        self.steps: list[float] = []
        self.cycles: list[float] = []  # from the end of one step to the end of the next: its batch and the loop too
        self._seen = 0
        self.batches = 0  # of an epoch
        self._ended = math.nan
        self._began = 0.0
        self._first = math.inf

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any, batch_idx: int) -> None:
        wait()
        self._began = self._now()
        if self._seen == WARM:
            self._first = self._began

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        wait()
        self._seen += 1
        self.batches = int(trainer.num_training_batches)
        several = self.batches > 2
        ended = self._now()
        if self._seen > WARM and not (several and trainer.is_last_batch):  # the last one may be smaller
            self.steps.append(ended - self._began)
            self.cycles.append(ended - self._ended)
        self._ended = ended
        slow = bool(self.steps) and self.steps[-1] >= self.limit
        if slow or (len(self.steps) >= FEWEST and ended - self._first >= self.limit):
            trainer.should_stop = True


def clock(stage: Stage) -> Callable[[], float]:
    """The time of one thread's own work, which others on the machine do not lengthen; else that of the wall."""
    alone = not uses_gpu(stage.trainer) and torch.get_num_threads() == 1
    return time.process_time if alone else time.perf_counter


@contextlib.contextmanager
def within(seconds: float) -> Iterator[None]:
    """Raise RunError in a block that takes longer. A thread other than the first one has no limit.

    TimeoutError would be an OSError, which whoever reads a file takes for damage to it.
    """

    def expire(*_: Any) -> None:
        raise RunError(f"a step takes too long to be timed: given up after {seconds:.0f} s")

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def wait() -> None:
    """A GPU works on what it was asked for a while ago."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def device_name(trainer: Config) -> str:
    """The GPU, or the processor and how many of its threads computed."""
    if uses_gpu(trainer):
        return torch.cuda.get_device_name()
    threads = torch.get_num_threads()
    return f"{hardware()['cpu']}, {threads} thread{'s' if threads > 1 else ''}"


def measure(
    stage: Stage,
    module: StageModule,
    data_at: Callable[[int], DataModule],
    seconds: float,
    smallest: int,
    real: bool,
    shortened: bool,
) -> Pace:
    """Time a stage's training at its published batch, or the largest that fits. Its weights are as before afterwards.

    Args:
        data_at: the stage's datamodule for a number of images per step.
        seconds: to time at the last size; a step may take as long as that, a larger batch is not tried then.
        smallest: images per step to begin with.
        real, shortened: see Pace.
    """
    published = int(stage.data["batch_size"])
    before = {name: value.detach().clone() for name, value in module.state_dict().items()}
    batch = min(smallest, published)
    told: list[tuple[int, int]] = []  # images per step, bytes
    try:
        while True:
            data = data_at(batch)
            if stage.reference_batch:
                module.lr_scale = batch / stage.reference_batch
            limit = seconds if batch == published else seconds / PROBE
            timer = _time_steps(stage, module, data, limit)
            step, memory = statistics.median(timer.steps), process_memory.peak()
            told.append((batch, memory))
            following = _larger(batch, published, step, seconds, told)
            if following == batch:
                break
            batch = following
        if batch < published and FEWEST * step < seconds:
            timer = _time_steps(stage, module, data, seconds)
        load, beside = _time_batches(data, seconds / 2, clock(stage))
        step = statistics.median(timer.steps)
        if not beside:  # else a step may wait for its batch, which is told apart
            step = max(step, statistics.median(timer.cycles) - load)
    finally:
        module.load_state_dict(before)
    return Pace(
        batch=batch,
        step=step,
        load=load,
        beside=beside,
        memory=told[-1][1],
        memory_published=_expected(told, published),
        device=device_name(stage.trainer),
        real=real,
        shortened=shortened,
        epoch=timer.batches * batch,
    )


def _time_steps(stage: Stage, module: StageModule, data: DataModule, seconds: float) -> Clock:
    """A clock that has seen enough steps."""
    timer = Clock(seconds, clock(stage))
    arguments = {key: stage.trainer[key] for key in (*SWITCHES, "matmul_precision") if key in stage.trainer}
    apply_switches(arguments, module)
    process_memory.forget_peak()
    trainer = pl.Trainer(
        accelerator="gpu" if uses_gpu(stage.trainer) else "cpu",
        devices=1,
        precision=decide_precision(stage.trainer),  # type: ignore[arg-type]
        max_epochs=10**6,
        max_steps=-1,
        limit_val_batches=0,
        logger=False,
        callbacks=[timer],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        **arguments,
    )
    trainer.fit(module, datamodule=data)
    return timer


def _time_batches(data: DataModule, seconds: float, now: Callable[[], float]) -> tuple[float, bool]:
    """Seconds to make a batch, and whether workers do; 0 of stand-ins for files, which are not decoded."""
    workers = int(getattr(data, "num_workers", 0) or 0)
    if workers and data.generated:
        return 0.0, True
    taken: list[float] = []
    now = time.perf_counter if workers else now  # what workers take is waited for
    began = now()
    for number, _ in enumerate(iter(data.train_dataloader())):
        if number >= WARM:
            taken.append(now() - began)
        if sum(taken) >= seconds:
            break
        began = now()
    return (statistics.median(taken) if taken else 0.0), workers > 0


def _larger(batch: int, published: int, step: float, seconds: float, told: list[tuple[int, int]]) -> int:
    """The next size to try: as much larger as time and memory allow, by what was seen; the same where nothing is."""
    factor = min(GROWTH, seconds / max(step, 1e-9))
    following = min(published, math.floor(batch * factor))
    free = free_memory()
    while following > batch and len(told) > 1 and _expected(told, following) > SHARE * free:
        following //= 2
    return max(batch, following)


def _expected(told: list[tuple[int, int]], batch: int) -> int:
    """Bytes at another size, along the line through the smallest and the largest that were measured."""
    (first, least), (last, most) = told[0], told[-1]
    if last == first or batch == last:
        return most if batch == last else round(most * max(1.0, batch / last))
    return round(most + (batch - last) * max(0.0, (most - least) / (last - first)))


def free_memory() -> int:
    """Bytes that may be had, of the GPU where there is one."""
    if torch.cuda.is_available():
        return int(torch.cuda.get_device_properties(0).total_memory)
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return 4 * 2**30
