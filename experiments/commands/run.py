"""`python -m experiments.run`: one run (a paper, a scale, a seed), and what Hydra's sweeps launch."""

from __future__ import annotations

import itertools
import math
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob
from hydra.types import RunMode
from omegaconf import DictConfig

from experiments.commands import sweep
from experiments.common import failure, files, overlay
from experiments.common.errors import RunError, unknown
from experiments.config import compose, flags, frame, reading
from experiments.config.overrides import chooses_option
from experiments.running import engine
from experiments.running.manifest import finished
from experiments.running.plan import Plan, only, plan
from experiments.running.processes import requeue_when_asked

HELP = """\
Run all stages of one paper with one seed. Stages that were done before are not run again.

  python -m experiments.run paper=meal_v2 scale=smoke seed=3
  python -m experiments.run -m scale=smoke seed=0,1 stages.student.module.labels.hard=0,1
                     a grid: every combination; what does not differ runs once (here: the teachers)
  python -m experiments.run -m 'paper=glob(*)' scale=smoke
                     every paper
  python -m experiments.run -m sweep=hard_labels
                     a named sweep: conf/sweep/<paper>/<name>.yaml
  python -m experiments.run -m hydra/launcher=joblib scale=smoke seed=0,1,2,3
                     several jobs at a time
  python -m experiments.run -m hydra/launcher=submitit_slurm seed=0,1,2 trainer=gpu
                     a Slurm job for each run
  python -m experiments.run -m hydra/sweeper=optuna hydra.sweeper.n_trials=20 \\
      hydra.sweeper.direction=maximize hydra.sweeper.storage=sqlite:///runs/study.db \\
      hydra.sweeper.study_name=weights 'stages.student.module.labels.hard=interval(0,1)'
                     a search that can be continued
  python -m experiments.run --cfg job paper=meal_v2
                     show the composed configuration (with -m: the first job's)
  python -m experiments.run --config-dir D data@stages.student.data=mine
                     groups of your own, here D/data/mine.yaml
  python -m experiments.run --info | --hydra-help | --shell-completion install=bash
                     Hydra's own flags

How it runs:

  seed=N             fixes splits, initialisation, order and augmentation
  only=[a,b]         these stages and what they need, in place of all
  objective=S/M      what a search looks at, e.g. student/test/top1 (default: the main claim's
                     metric), with arithmetic as in 'student/test/top1 - continued/test/top1';
                     objective=difference is the main claim's difference
"""


@hydra.main(version_base="1.3", config_path=str(compose.CONF), config_name="config")
def _job(config: DictConfig) -> float:
    """One job. Never raises: the other jobs of a sweep go on, and the record says what happened."""
    job = HydraConfig.get()
    requeue_when_asked()  # here too: a launcher starts jobs in processes of its own
    try:
        return _run(config, job)
    except Exception as error:  # noqa: BLE001 - Hydra would print a trace and end with 1
        ERRORS.append(error)
        if job.mode == RunMode.MULTIRUN:
            reason, code = failure.explain(error, Path(job.runtime.output_dir) / failure.NAME)
            record = {"paper": config.key, "scale": config.scale, "seed": config.seed, "objective": "", "value": None}
            record |= {"overrides": list(job.overrides.task), "exit_code": code, "reason": reason}
            files.write_json(Path(job.runtime.output_dir) / "job.json", record)
        return math.nan


def _run(config: DictConfig, job: Any) -> float:
    from experiments.pages import console
    from experiments.pages.numbers import number
    from experiments.pages.progress import Board
    from experiments.running import preconditions, training

    reading.place_arm(config)  # Hydra composed it; what is composed elsewhere has its arm already
    this = _planned(config)
    objective = sweep.objective(this, needed=job.mode == RunMode.MULTIRUN)
    if any(finished(stage) is None for stage in this.stages.values()):
        preconditions.check([this])
        training.check_plan(this)
    with Board(f"{this.title} seed {this.seed}", len(this.stages)) as board:
        outcomes = engine.run(this, board)
    for name, outcome in outcomes.items():
        metrics = "  ".join(f"{m} {number(v)}" for m, v in outcome.metrics.items() if not m.endswith("/n"))
        console.say(f"{name:<20} {'' if outcome.status == 'done' else outcome.status} {metrics}")
    console.say(f"runs: {next(iter(this.stages.values())).directory.parent}")
    by_stage = {name: outcome.metrics for name, outcome in outcomes.items()}
    value = objective.value(by_stage, this.seed) if objective is not None else math.nan
    code = engine.exit_code(outcomes)
    if job.mode == RunMode.MULTIRUN:
        reason = next((f"{o.stage}: {o.reason}" for o in outcomes.values() if o.status == "failed"), "")
        sweep.record(Path(job.runtime.output_dir), list(job.overrides.task), this, value, code, reason)
    CODES.append(code)
    return value


def _planned(config: DictConfig) -> Plan:
    """The stages of one run: all, or those that `only` names and what they need."""
    whole = plan(config, config.seed)
    if config.only is None:
        return whole
    names = [config.only] if isinstance(config.only, str) else list(config.only)
    for name in names:
        if name not in whole.stages:
            raise unknown("only: stage", str(name), whole.stages)
    return only(whole, names)


CODES: list[int] = []  # of the jobs that ran in this process
ERRORS: list[Exception] = []  # of those that did not even start


def main(argv: list[str]) -> int:
    asked, lines = flags.read(argv)
    if any(asked.get(key) for key in flags.WITHOUT_CONFIGURATION):
        sys.argv = [sys.argv[0], *argv]
        _job()
        return 0
    own_groups = asked.get("config_dir")
    compose.search(str(own_groups) if own_groups is not None else None)
    name, lines = _named(lines)
    request = compose.request(lines)
    _check(request, needs_objective=bool(asked.get("multirun")))
    overrides = list(request.overrides)
    if overlay.current() is not None:
        overrides += compose.search_path()
    if asked.get("multirun") and any(asked.get(key) for key in flags.SHOW):
        del asked["multirun"]  # Hydra shows one job
        overrides = flags.first_of_each(overrides)
        print("# the first job of the sweep", file=sys.stderr)
    CODES.clear()
    ERRORS.clear()
    if not asked.get("multirun"):
        sys.argv = [sys.argv[0], *flags.written(asked), *overrides]
        _job()
        if ERRORS:
            raise ERRORS[0]
        return max(CODES, default=0)
    runs_dir = Path(next((line.split("=", 1)[1] for line in overrides if line.startswith("runs_dir=")), "runs"))
    name = name or datetime.now(UTC).strftime("%Y-%m-%d_%H-%M-%S")
    folder = runs_dir / "sweeps" / name
    sys.argv = [sys.argv[0], *flags.written(asked), *overrides, f"hydra.sweep.dir={folder}"]
    _job()
    return _finish(folder, name, runs_dir)


def _finish(folder: Path, name: str, runs_dir: Path) -> int:
    from experiments.pages import console

    record = sweep.write(folder, name, runs_dir)
    jobs = sweep.gather(folder)
    if record is None:
        raise RunError(f"no job left a record in {folder}; with submitit, see {folder}/.submitit for its output")
    console.out.print(sweep.table(record), "")
    failed = [job for job in jobs if job.exit_code]
    console.say(
        f"{len(jobs)} jobs, {len(failed)} failed; a failed job is tried again by the same command",
        f"sweep: {runs_dir / record.paper / record.scale / 'sweeps' / name}.json",
    )
    return max((job.exit_code for job in jobs), default=0)


def _named(lines: list[str]) -> tuple[str, list[str]]:
    """A sweep's name and the arguments that `sweep=name` stands for, in front of the user's own."""
    name = next((line.split("=", 1)[1] for line in lines if line.startswith("sweep=")), "")
    rest = [line for line in lines if not line.startswith("sweep=")]
    if not name:
        return "", rest
    keys = {line.split("=", 1)[0] for line in rest}
    paper = next((line.split("=", 1)[1] for line in rest if line.startswith("paper=")), compose.default("paper"))
    named = compose.sweep_file(paper, name)
    frame.check_lines(named.arguments, f"conf/sweep/{paper}/{name}.yaml: arguments")
    arguments = [line for line in named.arguments if line.split("=", 1)[0] not in keys]
    if named.jobs > 1 and "hydra/launcher" not in keys:
        count = [] if "hydra.launcher.n_jobs" in keys else [f"hydra.launcher.n_jobs={named.jobs}"]
        arguments += ["hydra/launcher=joblib", *count]
    return name, arguments + rest


def _check(request: compose.Request, needs_objective: bool = True) -> None:
    """Compose each combination of options and each other value once: no job is refused when it is its turn."""
    parsed = OverridesParser.create().parse_overrides(list(request.overrides))
    fixed: list[str] = []
    swept: list[list[str]] = []
    options: list[list[str]] = []
    for override in parsed:
        key = override.get_key_element()
        if not override.is_sweep_override():
            fixed.append(override.input_line or "")
            continue
        if isinstance(value := override.value(), Glob):
            values = [f"{key}={name}" for name in value.filter(compose.options(override.key_or_group))]
        elif override.is_choice_sweep():
            values = [f"{key}={value}" for value in override.sweep_string_iterator()]
        else:
            continue  # a range cannot name what does not exist
        (options if chooses_option(values[0]) else swept).append(values)
    fixed = [line for line in fixed if not line.startswith(("hydra/", "hydra."))]

    # Options decide which files are read: all their combinations. Values stand for themselves: each once.
    first = [values[0] for values in swept]
    for number, chosen in enumerate(itertools.product(*options)):
        each_value = [(index, value) for index, values in enumerate(swept) for value in values[1:]]
        for index, value in [(None, ""), *(each_value if number == 0 else [])]:
            others = [*first[:index], value, *first[index + 1 :]] if index is not None else first
            composed = compose.compose(compose.request([*fixed, *chosen, *others]).overrides)
            sweep.objective(_planned(composed), needs_objective)
