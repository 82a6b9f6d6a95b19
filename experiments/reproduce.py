"""`make reproduce`: all stages of a paper over its seeds, then verdicts, results/<key>.json and the report page."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from omegaconf import DictConfig

from experiments import cli, compose, engine, loggers, results
from experiments.devices import processes, uses_gpu
from experiments.errors import InputError
from experiments.plan import Plan, plan
from experiments.processes import end_with_parent
from experiments.provenance import cores

HELP = """\
Train a paper's method and its baselines over several seeds and compute whether its claims hold.

  python -m experiments.reproduce paper=meal_v2                    the embedded default, minutes on two cores
  python -m experiments.reproduce paper=meal_v2 scale=smoke        does everything run? (seconds)
  python -m experiments.reproduce paper=meal_v2 scale=full dry=true   builds the published recipe, steps once
  python -m experiments.reproduce paper=meal_v2 'seeds=[0,1,2]' variant=clean
  python -m experiments.reproduce paper=all scale=smoke

What is done is not run again; an interrupted command continues. Besides:

  seeds=[0,1,2]      the seeds to run (quote it in a shell)
  jobs=2             seeds trained at the same time (default: one per core on a CPU)
"""


def main(argv: list[str]) -> int:
    papers = compose.papers() if "paper=all" in argv else [None]
    rest = [a for a in argv if a != "paper=all"]
    codes = []
    for paper in papers:
        codes.append(_paper(rest if paper is None else [f"paper={paper}", *rest]))
    return max(codes)


def _paper(argv: list[str]) -> int:
    request = compose.request(argv)
    config = compose.compose(request.overrides)
    if config.dry:
        from experiments import dry

        return dry.main(config)
    code = _entry(request, config)
    always = [
        n for n, v in (config.get("variants") or {}).items() if v.get("always") and v.get("scale") == request.scale
    ]
    if request.variant is None:
        for name in always:
            again = compose.request([*argv, f"variant={name}"])
            code = max(code, _entry(again, compose.compose(again.overrides)))
    _finish(request.paper, config)
    return code


def _entry(request: compose.Request, config: DictConfig) -> int:
    """One (paper, scale, variant) over all its seeds; prints its tables and writes its record."""
    from experiments import console

    seeds = list(config.seeds)
    if not seeds or len(set(seeds)) != len(seeds) or not all(isinstance(s, int) for s in seeds):
        raise InputError(f"seeds={seeds}: expected different whole numbers, as in 'seeds=[0,1,2]'")
    plans = [plan(config, seed) for seed in seeds]
    began = time.monotonic()
    open_plans = [p for p in plans if any(engine.finished(s) is None for s in p.stages.values())]
    outcomes: dict[int, dict[str, engine.Outcome]] = {}
    if open_plans:
        from experiments import training

        training.check_plan(plans[0])
        with console.Board(plans[0].title, len(plans[0].stages) * len(open_plans)) as board:
            outcomes = _run(open_plans, jobs(config, len(open_plans)), board)
    reasons = {
        name: f"seed {seed}: {outcome.reason}"
        for seed, done in outcomes.items()
        for name, outcome in done.items()
        if outcome.status != "done"
    }
    found = results.entry(plans, request.given, reasons)
    title = plans[0].title
    console.out.print(console.stage_table(found, title), "")
    console.out.print(console.claim_table(found, title), "")
    if found["published"]:
        console.out.print(console.published_table(found, title), "")
    path = results.write(found, plans[0])
    loggers.log_verdict(plans[0], found)
    trained = sum(1 for done in outcomes.values() for o in done.values() if o.status == "done" and not o.cached)
    console.out.print(
        f"{trained} stages run, {len(plans) * len(plans[0].stages)} in all, {time.monotonic() - began:.0f} s"
    )
    if path is not None:
        console.out.print(f"results: {path.relative_to(compose.ROOT)}")
    return max((engine.exit_code(done) for done in outcomes.values()), default=0)


def _finish(paper: str, config: DictConfig) -> None:
    from experiments import console, report

    if results.read(paper) is not None:
        page = next(p for p in report.build([paper]) if p.stem == paper)
        console.out.print(f"report:  {page.relative_to(compose.ROOT)}")


def jobs(config: DictConfig, seeds: int) -> int:
    """How many seeds to train at the same time."""
    if config.jobs != "auto":
        if not isinstance(config.jobs, int) or config.jobs < 1:
            raise InputError(f"jobs={config.jobs}: expected auto or a whole number from 1")
        return min(config.jobs, seeds)
    return 1 if uses_gpu(config.trainer) or processes(config.trainer) > 1 else min(cores(), seeds)


def _run(plans: Sequence[Plan], count: int, report: engine.Report) -> dict[int, dict[str, engine.Outcome]]:
    """Run every plan; several at a time in processes of their own when count > 1."""
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


def _gather(waiting: dict[Any, int], events: Any, report: engine.Report) -> dict[int, dict[str, engine.Outcome]]:
    import queue

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


if __name__ == "__main__":
    sys.exit(cli.main(main, HELP))
