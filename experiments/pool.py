"""Stages of several seeds at a time, each in a worker process: a worker that is killed costs its stage alone."""

from __future__ import annotations

import multiprocessing
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing import connection
from types import TracebackType
from typing import Any

from experiments import engine
from experiments.engine import Outcome
from experiments.manifest import Report
from experiments.plan import Plan, Stage
from experiments.processes import (
    TRIES,
    end_as_interrupted,
    end_with_parent,
    how_it_ended,
    leave_requeueing_to_the_parent,
    told_to_end,
)


@dataclass
class Worker:
    """A process that runs one stage after another, and what it is running."""

    process: Any
    channel: connection.Connection
    task: tuple[Plan, Stage] | None = None


class Pool:
    """Runs the stages of plans in the order of their graph, as many at a time as there are workers.

    Workers start when they are first needed and stay until the end of the `with` block, so that what they have imported
    serves all stages. A single worker is this process itself.

    Args:
        count: of workers.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.workers: list[Worker] = []

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Workers end with their channel once idle. Ctrl-C in a terminal reaches them too; SIGTERM is passed on."""
        for worker in self.workers:
            if told_to_end():  # the channel stays open: one that breaks while a stage reports would end it unsaved
                worker.process.terminate()
            else:
                worker.channel.close()
        for worker in self.workers:
            worker.process.join()
            worker.channel.close()

    def run(self, plans: Sequence[Plan], report: Report) -> dict[int, dict[str, Outcome]]:
        """What became of every stage, by seed. Stages of earlier seeds come first where the graph leaves a choice."""
        if self.count == 1:
            return {plan.seed: engine.run(plan, report) for plan in plans}
        outcomes: dict[int, dict[str, Outcome]] = {plan.seed: {} for plan in plans}
        waiting = [(plan, stage) for plan in plans for stage in plan.stages.values()]
        died: Counter[tuple[int, str]] = Counter()

        def end(plan: Plan, outcome: Outcome) -> None:
            outcomes[plan.seed][outcome.stage] = outcome
            report({"event": "stage", "seed": plan.seed, **vars(outcome)})

        while waiting or any(worker.task for worker in self.workers):
            waiting = self._hand_out(waiting, outcomes, end)
            busy = [worker for worker in self.workers if worker.task is not None]
            for channel in connection.wait([worker.channel for worker in busy], timeout=1.0):
                worker = next(worker for worker in busy if worker.channel is channel)
                assert worker.task is not None
                plan, stage = worker.task
                message = _receive(worker)
                if message is None:
                    died[plan.seed, stage.name] += 1
                    reason = self._bury(worker)
                    if died[plan.seed, stage.name] < TRIES:
                        text = f"{stage.name} of seed {plan.seed}: {reason}; it is tried once more"
                        report({"event": "warning", "text": text})
                        waiting.insert(0, (plan, stage))
                    else:
                        end(plan, Outcome(stage.name, "failed", reason=f"{reason}, {TRIES} times", exit_code=1))
                elif isinstance(message, Outcome):
                    worker.task = None
                    end(plan, message)
                else:
                    report(message)
        return {plan.seed: {name: outcomes[plan.seed][name] for name in plan.stages} for plan in plans}

    def _hand_out(
        self, waiting: list[tuple[Plan, Stage]], outcomes: dict[int, dict[str, Outcome]], end: Any
    ) -> list[tuple[Plan, Stage]]:
        """Give idle workers the first stages whose predecessors are done; returns what still waits."""
        kept = []
        for plan, stage in waiting:
            before = [outcomes[plan.seed].get(name) for name in stage.predecessors if name in plan.stages]
            if any(outcome is not None and outcome.status != "done" for outcome in before):
                lost = [outcome.stage for outcome in before if outcome is not None and outcome.status != "done"]
                end(plan, Outcome(stage.name, "skipped", reason=f"needs {', '.join(lost)}"))
            elif any(outcome is None for outcome in before) or not self._start(plan, stage):
                kept.append((plan, stage))
        return kept

    def _start(self, plan: Plan, stage: Stage) -> bool:
        """Whether a worker took the stage."""
        worker = next((worker for worker in self.workers if worker.task is None), None)
        if worker is None and len(self.workers) < self.count:
            worker = _hire(int(plan.config["threads"]))
            self.workers.append(worker)
        if worker is None:
            return False
        worker.task = (plan, stage)
        worker.channel.send(worker.task)
        return True

    def _bury(self, worker: Worker) -> str:
        """Take a dead worker off the list; returns how it ended."""
        self.workers.remove(worker)
        worker.channel.close()
        worker.process.join()
        return how_it_ended(worker.process.exitcode or 0)


def _receive(worker: Worker) -> Outcome | dict[str, Any] | None:
    """An event, the outcome of the worker's stage, or None from a dead one."""
    try:
        message: Outcome | dict[str, Any] = worker.channel.recv()
    except (EOFError, ConnectionResetError):
        return None
    return message


def _hire(threads: int) -> Worker:
    """Start a process whose libraries use so many threads."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    os.environ["OMP_NUM_THREADS"] = str(threads)
    process = context.Process(target=_work, args=(theirs, os.getpid()))
    process.start()
    theirs.close()  # so that the channel ends with the process
    return Worker(process, ours)


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
