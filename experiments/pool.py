"""Several plans at a time, each in a process of its own."""

from __future__ import annotations

import multiprocessing
import os
import queue
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from experiments import engine
from experiments.manifest import Report
from experiments.plan import Plan
from experiments.processes import end_with_parent
from experiments.provenance import cores


def run(plans: Sequence[Plan], count: int, report: Report) -> dict[int, dict[str, engine.Outcome]]:
    """Run every plan; several at a time in processes of their own when count > 1. Returns outcomes by seed."""
    if count == 1:
        return {p.seed: engine.run(p, report) for p in plans}
    context = multiprocessing.get_context("spawn")
    # One thread each: threads that wait for each other on busy cores cost far more than they bring.
    os.environ["OMP_NUM_THREADS"] = str(max(1, cores() // count))
    events: Any = context.Queue()
    pool = ProcessPoolExecutor(count, mp_context=context, initializer=_start_worker, initargs=(events,))
    try:
        waiting = {pool.submit(_work, p): p.seed for p in plans}
        return _gather(waiting, events, report)
    finally:  # after Ctrl-C too: the workers got it as well and are saving
        pool.shutdown(wait=True, cancel_futures=True)


def _gather(waiting: dict[Any, int], events: Any, report: Report) -> dict[int, dict[str, engine.Outcome]]:
    def drain(timeout: float) -> None:
        try:
            report(events.get(timeout=timeout))
            while True:
                report(events.get_nowait())
        except queue.Empty:
            return

    outcomes = {}
    while waiting:
        drain(0.2)
        for future in [f for f in waiting if f.done()]:
            outcomes[waiting.pop(future)] = future.result()
    drain(0.05)
    return outcomes


_events: Any = None  # of a worker: where it reports


def _start_worker(events: Any) -> None:
    global _events
    _events = events
    end_with_parent()


def _work(plan_: Plan) -> dict[str, engine.Outcome]:
    try:
        return engine.run(plan_, _events.put)
    except KeyboardInterrupt:
        return {}
