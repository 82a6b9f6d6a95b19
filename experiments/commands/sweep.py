"""What a sweep leaves: a record per job, and one table and one plot of all of them.

Hydra's launchers may run jobs in this process, in others or on other machines; each job writes `job.json` into its own
folder, and the process that started the sweep reads them all at the end.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from rich.table import Table
from rich.text import Text

from experiments.common import files
from experiments.common.errors import InputError
from experiments.config import claims, expressions
from experiments.config.comparisons import Claim
from experiments.config.expressions import Call, Expression, Metric
from experiments.evidence import sequences, sweeps
from experiments.evidence.sweeps import Job, Sweep, Swept
from experiments.pages import console
from experiments.pages.numbers import number
from experiments.running.plan import Plan

DIFFERENCE = "difference"  # objective=difference: that of the main claim


@dataclass(frozen=True)
class Objective:
    """What a search looks at: arithmetic over stage metrics.

    Attributes:
        text: as people read it.
        expression: the arithmetic.
        stages: those that it looks at.
    """

    text: str
    expression: Expression
    stages: tuple[str, ...]

    def value(self, metrics: Mapping[str, Mapping[str, float]], seed: int) -> float:
        """What it is in one run, from metrics by stage; not a number where a stage or a metric lacks."""
        table = {stage: {name: {seed: value} for name, value in named.items()} for stage, named in metrics.items()}
        try:
            return expressions.evaluate(self.expression, table, seed)
        except expressions.Missing:
            return math.nan


def objective(plan: Plan, needed: bool = True) -> Objective | None:
    """What a search looks at: `objective=`, else the first metric that the main claim is about.

    None where nothing names one and none is needed, as by a single run. Raises InputError for one that does not exist.
    """
    chosen = plan.config.get("objective")
    expression: Expression | None
    if chosen == DIFFERENCE:
        text, expression = _difference(plan)
    elif chosen is not None:
        text, expression = str(chosen), expressions.parse(chosen, "objective")
    else:
        expression = _of_claims(plan)
        text = str(expression)
    if expression is None:
        if not needed:
            return None
        raise InputError("objective: no claim names a metric to take; set objective=<stage>/<split>/<metric>")

    stages = expressions.check(expression, plan.stages, "objective")
    return Objective(text, expression, tuple(stages))


def _asked(plan: Plan) -> list[Claim]:
    """The main claim, or all where none is main."""
    questions = claims.read(plan.config)
    return [questions.main] if questions.main is not None else list(questions.claims)


def _of_claims(plan: Plan) -> Metric | None:
    """The first metric of the main claim, or of the first claim."""
    named = [metric for claim in _asked(plan) for side in claim.sides() for metric in expressions.metrics(side)]
    return next((metric for metric in named if metric.stage in plan.stages), None)


def _difference(plan: Plan) -> tuple[str, Expression]:
    """What the main claim, or the first, is judged by. Raises InputError where nothing is claimed."""
    asked = _asked(plan)
    if not asked:
        raise InputError(f"objective={DIFFERENCE}: nothing is claimed in this setting; expected a metric")
    claim = asked[0].shown()
    better, than = claim.expression()
    sides = (than, better) if claim.lower_is_better else (better, than)
    return f"{DIFFERENCE} of {claim.name!r}", Call("-", sides)


def record(folder: Path, overrides: Sequence[str], plan: Plan, value: float, exit_code: int, reason: str) -> None:
    """Write one job's record."""
    varied = [line for line in overrides if not line.startswith(("paper=", "scale=", "runs_dir=", "seed=", "variant="))]
    chosen = objective(plan)
    job = Job(
        paper=plan.paper,
        scale=plan.scale,
        seed=plan.seed,
        overrides=varied,
        objective=chosen.text if chosen is not None else "",
        value=value if math.isfinite(value) else None,
        exit_code=exit_code,
        reason=reason,
    )
    files.write_json(folder / "job.json", job.plain())


def gather(folder: Path) -> list[Job]:
    """The records of a sweep's jobs, in their order. Raises InputError for one that is something else."""
    paths = sorted(folder.glob("*/job.json"), key=lambda path: (len(path.parent.name), path.parent.name))
    return [job for path in paths if (job := sweeps.read_job(path)) is not None]


def settings(jobs: Sequence[Job]) -> list[Swept]:
    """Jobs that differ only in their seed, together: values, mean and 95% interval."""
    groups: dict[tuple[str, ...], list[Job]] = {}
    common = set.intersection(*(set(job.overrides) for job in jobs)) if jobs else set()
    for job in jobs:
        groups.setdefault(tuple(line for line in job.overrides if line not in common), []).append(job)
    return [_together(" ".join(setting) or "as configured", members) for setting, members in groups.items()]


def _together(setting: str, jobs: Sequence[Job]) -> Swept:
    """One setting over its seeds; a job without a value counts as failed, and does not enter the mean."""
    done = [(job.seed, job.value) for job in jobs if isinstance(job.seed, int) and job.value is not None]
    values = [value for _, value in done]
    estimate = sequences.t_interval(values) if values else None
    bounded = estimate is not None and math.isfinite(estimate.low)
    return Swept(
        setting=setting,
        seeds=[seed for seed, _ in done],
        values=values,
        mean=estimate.mean if estimate else None,
        interval=[estimate.low, estimate.high] if estimate and bounded else None,
        failed=[f"seed {job.seed}: {job.reason}" for job in jobs if job.exit_code],
    )


def write(folder: Path, name: str, runs_dir: Path) -> Sweep | None:
    """Join the jobs of a sweep into runs/<paper>/<scale>/sweeps/<name>.json, one file per paper and scale.

    Returns the last one written; None if no job left a record.
    """
    jobs = gather(folder)
    record: Sweep | None = None
    for paper, scale in dict.fromkeys((job.paper, job.scale) for job in jobs):
        mine = [job for job in jobs if (job.paper, job.scale) == (paper, scale)]
        record = Sweep(
            name=name,
            paper=paper,
            scale=scale,
            written=datetime.now(UTC).isoformat(timespec="seconds"),
            objective=mine[0].objective,
            settings=settings(mine),
        )
        files.write_json(runs_dir / paper / scale / "sweeps" / f"{name}.json", record.plain())
    return record


def table(record: Sweep) -> Table:
    """One line per setting, in the order of the sweep."""
    title = f"{record.paper}/{record.scale} sweep {record.name}: {record.objective}"
    right = ("seeds", "mean", "95% interval")
    rows = console.table(title, ("setting", *right, ""), right)
    for row in record.settings:
        mean = number(row.mean) if row.mean is not None else ""
        interval = " to ".join(map(number, row.interval)) if row.interval else ""
        failed = Text(f"{len(row.failed)} failed" if row.failed else "", style="red")
        rows.add_row(row.setting, str(len(row.values)), mean, interval, failed)
    return rows
