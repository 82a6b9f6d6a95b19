"""A results entry as a W&B run of its own, beside the runs of its stages: a mirror of the record."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

from experiments.evidence.records import Entry, JudgedClaim, PublishedResult
from experiments.pages import console
from experiments.running.loggers import Table, log_media, run_arguments
from experiments.running.plan import Plan


def log_verdict(plan: Plan, entry: Entry) -> None:
    """Mirror a results entry as a W&B run of its own (job_type `verdict`); nothing unless the logger is wandb.

    Its tables hold everything, its summary what the runs table can sort and filter, its config the registration.
    When W&B does not take it, a warning says so: the record in results/ and runs/ does not depend on it. Raises OSError
    when the folder cannot be written.
    """
    if plan.config["logger"]["name"] != "wandb":
        return
    import wandb

    folder = verdict_folder(plan)
    shutil.rmtree(folder / "wandb", ignore_errors=True)  # a verdict replaces the one before: only the last is sent
    folder.mkdir(parents=True, exist_ok=True)
    config = verdict_config(entry)
    code = entry.provenance.code.model_dump()
    arguments = run_arguments(plan, "verdict", f"{plan.title}/verdict", [], config, code)
    try:
        run = wandb.init(dir=str(folder), **arguments)
        try:
            log_media(run, verdict_tables(entry), {})
            run.summary.update(verdict_scalars(entry))
        finally:
            run.finish()
    except wandb.Error as error:
        console.out.print(f"warning: the verdict is recorded, but W&B did not take it: {error}", markup=False)


def verdict_folder(plan: Plan) -> Path:
    """Where the verdict's W&B run is kept, beside the seeds."""
    name = f"verdict-{plan.variant}" if plan.variant else "verdict"
    return Path(plan.config["runs_dir"]) / plan.paper / plan.scale / name


def verdict_config(entry: Entry) -> dict[str, Any]:
    """Under what a results entry was recorded, and which claim each number in `verdict_scalars` means."""
    return {
        "registration": entry.registered.hash,
        "stream": entry.registered.stream,  # 0: seeds given by hand, or a smoke run
        "scale": entry.scale,
        "variant": entry.variant,
        "seeds": entry.seeds,
        "overrides": entry.overrides,
        "claims": {str(number): claim.name for number, claim in enumerate(entry.claims, 1)},
    }


def verdict_scalars(entry: Entry) -> dict[str, str | int | float]:
    """A results entry as single values: `main/<what>` and, for every claim from 1, `claim/<n>/<what>`.

    What is not known, or not finite, is left out: a column of numbers then sorts as numbers.
    """
    values: dict[str, Any] = {}
    main = entry.main_claim()
    if main is not None:
        values |= _judgement("main", main)
        values |= {"main/seeds": len(main.seeds), "main/needed": main.needed}
    for number, claim in enumerate(entry.claims, 1):
        values |= _judgement(f"claim/{number}", claim)
    return {key: value for key, value in values.items() if isinstance(value, str) or _finite(value)}


def _judgement(where: str, claim: JudgedClaim) -> dict[str, Any]:
    low, high = _ends(claim)
    named = {"verdict": claim.verdict, "difference": claim.difference, "low": low, "high": high}
    return {f"{where}/{key}": value for key, value in named.items()}


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def verdict_tables(entry: Entry) -> dict[str, Table]:
    """A results entry as tables: `claims` and `published`, with a column per seed for its difference.

    Published numbers have verdicts and differences at full scale only: a smaller recipe does not try to reach them.
    """
    seeds = [f"seed {seed}" for seed in entry.seeds]
    rest = [None] * len(seeds)
    recorded = entry.provenance.written
    claims = []
    for claim in entry.claims:
        shown = [claim.name, claim.verdict, claim.difference]
        rule = [claim.rule, claim.refuted_by, claim.reason]
        claims.append([*shown, *_ends(claim), *rule, *[*claim.per_seed, *rest][: len(seeds)], recorded])
    full, where = entry.scale == "full", ("dataset", "protocol", "source")
    published = []
    for item in entry.published:
        stage = entry.stages.get(item.stage)
        ours = (stage.metrics.get(item.metric) if stage is not None else None) or [None] * len(seeds)
        differences = [None if value is None or not full else value - item.value for value in ours]
        shown = [item.stage, item.metric, item.value, item.ours]
        verdict = item.verdict if full or item.kind == "exact" else "not judged"
        published.append(
            [*shown, *_ends(item), verdict, *(getattr(item, key) for key in where), *differences, recorded]
        )
    return {
        "claims": (
            ["claim", "verdict", "difference", "low", "high", "rule", "refuted by", "reason", *seeds, "recorded"],
            claims,
        ),
        "published": (
            ["stage", "metric", "published", "ours", "low", "high", "verdict", *where, *seeds, "recorded"],
            published,
        ),
    }


def _ends(judged: JudgedClaim | PublishedResult) -> list[float | None]:
    low, high = judged.interval or (None, None)
    return [low, high]
