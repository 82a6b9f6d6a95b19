"""Stages of several seeds at a time, in worker processes or elsewhere: one that is killed costs its stage alone."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import connection
from types import TracebackType
from typing import Any, Self

from experiments.common.errors import InputError
from experiments.running import engine
from experiments.running.engine import Outcome
from experiments.running.manifest import Event, Report
from experiments.running.plan import Plan, Stage
from experiments.running.processes import (
    TRIES,
    end_as_interrupted,
    end_with_parent,
    how_it_ended,
    leave_requeueing_to_the_parent,
    told_to_end,
)


@dataclass(frozen=True)
class Lost:
    """A stage whose process ended without an outcome, and how."""

    reason: str


Message = Outcome | Lost | Event


class Scheduler(ABC):
    """Runs the stages of plans in the order of their graph, as many at a time as find a place.

    Where stages run is what subclasses say: in processes of this machine, as jobs of a cluster.
    """

    def __enter__(self) -> Self:
        return self

    @abstractmethod
    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """End what still runs."""

    @abstractmethod
    def _start(self, plan: Plan, stage: Stage) -> bool:
        """Run a stage whose predecessors are done; False if there is no place for it yet."""

    @abstractmethod
    def _running(self) -> bool:
        """Whether anything was started that has not ended."""

    @abstractmethod
    def _messages(self) -> Iterator[tuple[Plan, Stage, Message]]:
        """What came from running stages; waits a second or so for it."""

    def run(self, plans: Sequence[Plan], report: Report) -> dict[int, dict[str, Outcome]]:
        """What became of every stage, by seed. Stages of earlier seeds come first where the graph leaves a choice."""
        outcomes: dict[int, dict[str, Outcome]] = {plan.seed: {} for plan in plans}
        waiting = [(plan, stage) for plan in plans for stage in plan.stages.values()]
        died: Counter[tuple[int, str]] = Counter()

        def end(plan: Plan, outcome: Outcome) -> None:
            outcomes[plan.seed][outcome.stage] = outcome
            report(outcome.event(plan.seed))

        while waiting or self._running():
            waiting = self._hand_out(waiting, outcomes, end)
            for plan, stage, message in self._messages():
                if isinstance(message, Outcome):
                    end(plan, message)
                elif isinstance(message, Lost):
                    died[plan.seed, stage.name] += 1
                    if died[plan.seed, stage.name] < TRIES:
                        text = f"{stage.name} of seed {plan.seed}: {message.reason}; it is tried once more"
                        report({"event": "warning", "text": text})
                        waiting.insert(0, (plan, stage))
                    else:
                        reason = f"{message.reason}, {TRIES} times"
                        end(plan, Outcome(stage.name, "failed", reason=reason, exit_code=1))
                else:
                    report(message)
        return {plan.seed: {name: outcomes[plan.seed][name] for name in plan.stages} for plan in plans}

    def _hand_out(
        self, waiting: list[tuple[Plan, Stage]], outcomes: dict[int, dict[str, Outcome]], end: Any
    ) -> list[tuple[Plan, Stage]]:
        """Start the first stages whose predecessors are done; returns what still waits."""
        still_waiting = []
        for plan, stage in waiting:
            before = [outcomes[plan.seed].get(name) for name in stage.predecessors if name in plan.stages]
            if any(outcome is not None and outcome.status != "done" for outcome in before):
                lost = [outcome.stage for outcome in before if outcome is not None and outcome.status != "done"]
                end(plan, Outcome(stage.name, "skipped", reason=f"needs {', '.join(lost)}"))
            elif any(outcome is None for outcome in before) or not self._start(plan, stage):
                still_waiting.append((plan, stage))
        return still_waiting


@dataclass
class Worker:
    """A process that runs one stage after another, its GPUs, and what it is running."""

    process: Any
    channel: connection.Connection
    gpus: tuple[str, ...] | None
    task: tuple[Plan, Stage] | None = None


class Pool(Scheduler):
    """Worker processes of this machine.

    They start when they are first needed and stay until the end of the `with` block, so that what they have imported
    serves all stages. A single worker is this process itself.

    Args:
        count: of workers.
        gpus: names of the GPUs of each worker, as in CUDA_VISIBLE_DEVICES; more workers than entries share them.
            None: all workers see all.
    """

    def __init__(self, count: int, gpus: Sequence[tuple[str, ...]] | None = None) -> None:
        self.count = count
        self.gpus = gpus
        self.workers: list[Worker] = []

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Workers end with their channel once idle. Ctrl-C in a terminal reaches them too; SIGTERM is passed on."""
        for worker in self.workers:
            mistaken = kind is not None and issubclass(kind, InputError)
            # The channel stays open: one that breaks while a stage reports would end it unsaved.
            if told_to_end() or mistaken:
                worker.process.terminate()
            else:
                worker.channel.close()
        for worker in self.workers:
            worker.process.join()
            worker.channel.close()

    def run(self, plans: Sequence[Plan], report: Report) -> dict[int, dict[str, Outcome]]:
        if self.count == 1:
            return {plan.seed: engine.run(plan, report) for plan in plans}
        return super().run(plans, report)

    def _start(self, plan: Plan, stage: Stage) -> bool:
        worker = next((worker for worker in self.workers if worker.task is None), None)
        if worker is None and len(self.workers) < self.count:
            worker = _hire(int(plan.config["threads"]), self._free_gpus())
            self.workers.append(worker)
        if worker is None:
            return False
        worker.task = (plan, stage)
        worker.channel.send(worker.task)
        return True

    def _free_gpus(self) -> tuple[str, ...] | None:
        """Those that the fewest workers use."""
        if not self.gpus:
            return None
        users = Counter(worker.gpus for worker in self.workers)
        return min(self.gpus, key=lambda names: users[names])

    def _running(self) -> bool:
        return any(worker.task for worker in self.workers)

    def _messages(self) -> Iterator[tuple[Plan, Stage, Message]]:
        busy = [worker for worker in self.workers if worker.task is not None]
        for channel in connection.wait([worker.channel for worker in busy], timeout=1.0):
            worker = next(worker for worker in busy if worker.channel is channel)
            assert worker.task is not None
            plan, stage = worker.task
            message = _receive(worker)
            if message is None:
                yield plan, stage, Lost(self._bury(worker))
            else:
                if isinstance(message, Outcome):
                    worker.task = None
                yield plan, stage, message

    def _bury(self, worker: Worker) -> str:
        """Take a dead worker off the list; returns how it ended."""
        self.workers.remove(worker)
        worker.channel.close()
        worker.process.join()
        return how_it_ended(worker.process.exitcode or 0)


def _receive(worker: Worker) -> Outcome | Event | None:
    """An event, the outcome of the worker's stage, or None from a dead one."""
    try:
        message: Outcome | Event = worker.channel.recv()
    except (EOFError, ConnectionResetError):
        return None
    return message


def _hire(threads: int, gpus: tuple[str, ...] | None) -> Worker:
    """Start a process whose libraries use so many threads and see these GPUs."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    os.environ["OMP_NUM_THREADS"] = str(threads)
    process = context.Process(target=_work, args=(theirs, os.getpid()))
    with _seeing(gpus):
        process.start()
    theirs.close()  # so that the channel ends with the process
    return Worker(process, ours, gpus)


@contextlib.contextmanager
def _seeing(gpus: tuple[str, ...] | None) -> Iterator[None]:
    """Processes started meanwhile see these GPUs alone."""
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    if gpus is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
    try:
        yield
    finally:
        if gpus is not None and before is None:
            del os.environ["CUDA_VISIBLE_DEVICES"]
        elif gpus is not None and before is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = before


def _work(channel: connection.Connection, parent: int) -> None:
    end_with_parent(parent)
    end_as_interrupted()
    leave_requeueing_to_the_parent()
    try:
        while True:
            plan, stage = channel.recv()
            channel.send(engine.attempt(plan, stage, channel.send))
    except (EOFError, KeyboardInterrupt, BrokenPipeError):
        return
