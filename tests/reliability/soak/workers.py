"""Processes that work for others: those of a pool, those that read data, and those of another machine."""

from __future__ import annotations

import fcntl
import os
import resource
import signal
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from datamodules.common.folders import ImageFolder, Photos
from experiments.commands import cli
from experiments.config import compose
from experiments.running import training
from experiments.running.engine import Outcome
from experiments.running.plan import Plan, Stage, plan
from experiments.running.pool import Pool, Worker
from tests.reliability.soak import layouts
from tests.reliability.soak.bench import PATIENCE, Bench, Hook, Trial
from tests.reliability.soak.hostile import in_a_fork

SEVERAL = 2  # processes that share a batch


def pool_worker(bench: Bench, what: str) -> Trial:
    """A worker of a pool runs out of memory: the kernel kills it, or it gets no more (ulimit -v)."""
    this, done = bench.fresh(), []

    def kill(worker: Worker) -> None:
        os.kill(worker.process.pid, signal.SIGKILL)

    def starve(worker: Worker) -> None:
        pages = int(Path(f"/proc/{worker.process.pid}/statm").read_text(encoding="utf-8").split()[0])
        size = pages * resource.getpagesize() + 2**20
        resource.prlimit(worker.process.pid, resource.RLIMIT_AS, (size, size))

    act: Callable[[Worker], None] = kill if what == "killed" else starve

    def run(whole: Plan, report: Hook) -> Mapping[str, Outcome]:
        with Pool(SEVERAL) as pool:

            def told(event: dict[str, Any]) -> None:
                report(event)
                if event["event"] == "start" and not done:
                    done.append(event["stage"])
                    act(next(worker for worker in pool.workers if worker.task is not None))

            return pool.run([whole], told)[whole.seed]

    child = bench.start(this, run=run)
    problem = bench.ended(child, this, *((0,) if what == "killed" else (0, 1)))
    said = "tried once more" if what == "killed" else "not enough memory"
    if not problem and said not in bench.text(this) and (what == "killed" or child.exitcode):
        problem = f"it does not say {said!r}: {bench.text(this).strip().splitlines()[-1][:150]}"
    return Trial("memory", f"a worker of a pool that is {what}", problem or bench.again(this))


def reading_worker(folder: Path) -> Trial:
    """The kernel kills a process that decodes photos: one line says so."""
    layouts.photos(folder / "photos", ["train/a", "val/a"])

    def die(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def load(_: list[str]) -> int:
        Photos.__getitem__ = die  # type: ignore[method-assign]
        data = ImageFolder(str(folder / "photos"), batch_size=1, image_size=16, num_workers=1)
        data.setup()
        next(iter(data.train_dataloader()))
        return 0

    problem = in_a_fork(partial(cli.main, load, "", []), folder, 1)
    if not problem and "memory" not in (folder / "log").read_text(encoding="utf-8"):
        problem = "it does not say that memory may have run out"
    return Trial("memory", "a process that reads data is killed", problem)


def two_machines(bench: Bench) -> Trial:
    """Two machines on one folder, each of which sees its own locks alone: one line or the same results."""

    def sees_no_other() -> None:
        fcntl.flock = lambda *_: None  # type: ignore[assignment]

    this = bench.fresh()
    children = [bench.start(this, before=sees_no_other) for _ in range(2)]
    for child in children:
        child.join(PATIENCE.seconds)  # what lies there once both have ended is what counts
    problems = [bench.ended(child, this, 0, 1) for child in children]
    return Trial("concurrent", "two machines without common locks", "".join(problems) or bench.again(this))


def shares(paper: str, folder: Path) -> Trial:
    """What two processes are served of a paper's first training is together what one is served, bit by bit."""
    lines = [f"paper={paper}", "scale=smoke", "trainer=cpu", f"runs_dir={folder}"]
    whole = plan(compose.compose(compose.request(lines).overrides), 0)
    stage = next((stage for stage in whole.stages.values() if stage.fit and not stage.feeds), None)
    if stage is None:
        return Trial("shares", f"{paper}: nothing is trained on data of its own")
    alone = list(_batches(whole, stage, 0, 1))
    ranks = [list(_batches(whole, stage, rank, SEVERAL)) for rank in range(SEVERAL)]
    return Trial("shares", f"{paper}: {stage.name}", unlike(alone, ranks))


def _batches(whole: Plan, stage: Stage, rank: int, world: int) -> Iterator[Any]:
    """The first two training batches as a process of so many gets them."""
    data = training.construct_data(whole, stage)
    device = SimpleNamespace(root_device=torch.device("cpu"))
    data.trainer = SimpleNamespace(  # type: ignore[assignment]
        global_rank=rank, world_size=world, strategy=device, max_epochs=1, current_epoch=0
    )
    data.prepare_data()
    data.setup()
    loader = data.train_dataloader()
    for part in loader if isinstance(loader, list) else [loader]:
        for _, batch in zip(range(2), part, strict=False):
            yield batch


def unlike(alone: list[Any], ranks: list[list[Any]]) -> str:
    """Where the shares of a batch, put together, are not the batch; empty if nowhere."""
    if any(len(served) != len(alone) for served in ranks):
        return f"{[len(served) for served in ranks]} batches of {len(alone)}"
    for number, batch in enumerate(alone):
        for column, values in enumerate(batch):
            parts = [served[number][column] for served in ranks]
            if not isinstance(values, torch.Tensor):
                continue
            if not torch.equal(torch.cat(parts), values):
                return f"column {column} of batch {number} is another one"
    return ""
