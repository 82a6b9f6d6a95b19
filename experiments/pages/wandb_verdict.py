"""A results entry as a W&B run of its own, beside the runs of its stages: a mirror of the record."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeGuard

from typing_extensions import TypedDict

from experiments.identity.provenance import CodeVersion
from experiments.pages import console, display
from experiments.running.loggers import Table, log_media, run_arguments
from experiments.running.plan import Plan

Scalars = dict[str, str | int | float | None]  # what is not known is None


def log_verdict(plan: Plan, entry: display.Entry) -> None:
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
    config = {"finding": finding_of(plan), **verdict_config(entry)}
    code: CodeVersion = {"commit": " ".join(entry.machine.commits) or None, "dirty": entry.machine.dirty}
    arguments = run_arguments(plan, "verdict", f"{plan.title}/verdict", [], config, code)
    try:
        run = wandb.init(dir=str(folder), **arguments)
        try:
            log_media(run, verdict_tables(entry), {})
            run.summary.update(verdict_scalars(entry))
        finally:
            run.finish()
    except wandb.Error as error:
        console.out.print(f"warning: the verdict is recorded, but W&B did not take it: {error}")


def finding_of(plan: Plan) -> str:
    """What was found over all settings of a plan's paper; empty where its file says nothing."""
    return str((plan.config.get("finding") or {}).get("text") or "")


def verdict_folder(plan: Plan) -> Path:
    """Where the verdict's W&B run is kept, beside the seeds."""
    name = f"verdict-{plan.variant}" if plan.variant else "verdict"
    return Path(plan.config["runs_dir"]) / plan.paper / plan.scale / name


class VerdictConfig(TypedDict):
    """Under what a results entry was recorded, and which claim each number in `verdict_scalars` means."""

    registration: str | None
    stream: int  # 0: seeds given by hand, or a smoke run
    scale: str
    variant: str | None
    scope: str
    seeds: Sequence[int]
    overrides: Sequence[str]
    claims: dict[str, str]  # number -> name


def verdict_config(entry: display.Entry) -> VerdictConfig:
    """Under what a results entry was recorded, and which claim each number in `verdict_scalars` means."""
    return {
        "registration": entry.registered.hash,
        "stream": entry.registered.stream,
        "scale": entry.scale,
        "variant": entry.variant,
        "scope": entry.scope,
        "seeds": entry.seeds,
        "overrides": entry.overrides,
        "claims": {number: claim.name for number, claim in _numbered(entry).items()},
    }


def _numbered(entry: display.Entry) -> dict[str, display.Claim]:
    """Claims by number, from 1; the rows of a claim that has several are 1.1, 1.2 ..."""
    numbered = {}
    for number, claim in enumerate(entry.claims, 1):
        numbered[str(number)] = claim
        for place, row in enumerate(claim.rows, 1):
            numbered[f"{number}.{place}"] = replace(row, name=f"{claim.name}: {row.name}")
    return numbered


def verdict_scalars(entry: display.Entry) -> dict[str, str | int | float]:
    """A results entry as single values: `main/<what>` and, for every claim from 1, `claim/<n>/<what>`; for every
    comparison with a rival and every outcome `claim/<n>.<k>/<what>`.

    What is not known, or not finite, is left out: a column of numbers then sorts as numbers.
    """
    values: Scalars = {}
    if entry.main is not None:
        values |= _judgement("main", entry.main)
        values |= {"main/seeds": len(entry.main.seeds), "main/needed": entry.main.needed}
    for number, claim in _numbered(entry).items():
        values |= _judgement(f"claim/{number}", claim)
    return {key: value for key, value in values.items() if isinstance(value, str) or _is_finite(value)}


def _is_finite(value: float | None) -> TypeGuard[float]:
    return value is not None and math.isfinite(value)


def _judgement(where: str, claim: display.Claim) -> Scalars:
    low, high = _ends(claim)
    values: Scalars = {"verdict": claim.verdict, "difference": claim.difference, "low": low, "high": high}
    return {f"{where}/{key}": value for key, value in values.items()}


def verdict_tables(entry: display.Entry) -> dict[str, Table]:
    """A results entry as tables: `claims` and `published`, with a column per seed for its difference.

    Published numbers have verdicts and differences at full scale only: a smaller recipe does not try to reach them.
    """
    seeds = [f"seed {seed}" for seed in entry.seeds]
    claims = [
        "claim",
        "verdict",
        "difference",
        "low",
        "high",
        "rule",
        "refuted by",
        "reason",
        *seeds,
        "recorded",
    ]
    published = [
        "stage",
        "metric",
        "published",
        "ours",
        "low",
        "high",
        "verdict",
        "dataset",
        "protocol",
        "source",
        *seeds,
        "recorded",
    ]
    return {
        "claims": (claims, [_claim_row(claim, entry) for claim in _numbered(entry).values()]),
        "published": (published, [_published_row(item, entry) for item in entry.published]),
    }


def _claim_row(claim: display.Claim, entry: display.Entry) -> list[Any]:
    lacking = [None] * (len(entry.seeds) - len(claim.per_seed))
    return [
        claim.name,
        claim.verdict,
        claim.difference,
        *_ends(claim),
        claim.rule,
        claim.refuted_by,
        claim.reason,
        *claim.per_seed,
        *lacking,
        entry.machine.written,
    ]


def _published_row(item: display.Published, entry: display.Entry) -> list[Any]:
    differences = [
        value - item.value if value is not None and entry.scale == "full" else None for value in item.per_seed
    ]
    return [
        item.stage,
        item.metric,
        item.value,
        item.ours,
        *_ends(item),
        item.verdict,
        item.dataset,
        item.protocol,
        item.source,
        *differences,
        entry.machine.written,
    ]


def _ends(judged: display.Claim | display.Published) -> list[float | None]:
    return list(judged.interval) if judged.interval else [None, None]
