"""An entry of a record, put together from what its runs left behind, and judged."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from experiments.common.tables import read_rows
from experiments.config import claims, expressions
from experiments.config.comparisons import Claim
from experiments.evidence import naming, registration, restarts, rules, verdicts
from experiments.evidence.ran import Code, Curve, Dataset, Hardware, Provenance, StageRecord
from experiments.evidence.records import Entry, Registration
from experiments.identity.provenance import code_version, hardware, versions
from experiments.running.manifest import Manifest, finished
from experiments.running.plan import Plan

POINTS = 60  # a stored curve has at most about this many


def build(
    plans: Sequence[Plan],
    looked: int,
    overrides: Sequence[str],
    reasons: Mapping[str, str],
    registered: Registration | None = None,
    tries: Mapping[int, Sequence[Plan]] | None = None,
    recorded: Mapping[str, StageRecord] | None = None,
) -> Entry:
    """Everything known about one (paper, scale, variant), from the records of its runs, judged.

    Args:
        plans: one per seed, all stages each.
        looked: seeds, from the first, that every stage ran for; later ones may have some stages alone.
        overrides: what the user gave beyond paper, scale and variant.
        reasons: stage -> why it did not finish, for those that did not.
        registered: under what the seeds ran; None where whoever ran them chose them.
        tries: by seed, further ones with all stages of the main claim, where an arm was dead.
        recorded: stages whose numbers come from a record of the same seeds instead of from runs, see `of_seeds`.
    """
    first = plans[0]
    from_record = recorded or {}
    stages = {
        name: from_record.get(name) or _stage(plans, name, looked, reasons.get(name, "")) for name in first.stages
    }
    variant = (first.config.get("variants") or {}).get(first.variant, {}) if first.variant else {}
    entry = Entry(
        scale=first.scale,
        variant=first.variant,
        about=variant.get("about", ""),
        seeds=[p.seed for p in plans],
        looked=looked,
        overrides=naming.personal(overrides),
        place=naming.place(overrides),
        registered=registered or registration.by_hand(first.config),
        claims=[],
        checks=[],
        published=[],
        stages=stages,
        provenance=_provenance(plans, stages),
        restarts=restarts.gather(tries or {}),
        history=[],
        elsewhere=[],
    )
    questions = claims.read(first.config)
    asked_by_image = [claim for claim in questions.claims if rules.RULES[claim.kind].by_image]
    by_image = {claim.name: image_outcomes(claim, first) for claim in asked_by_image}
    return judge(entry, questions, by_image)


def _stage(plans: Sequence[Plan], name: str, looked: int, failed: str) -> StageRecord:
    """One stage over all seeds; without metrics where a seed of the first look did not finish."""
    stage = plans[0].stages[name]
    manifests = [finished(p.stages[name]) for p in plans]
    done = [m for m in manifests if m is not None]
    first: Mapping[str, Any] = done[0] if done else {}
    names = list(dict.fromkeys(metric for m in done for metric in m["metrics"]))
    complete = all(m is not None for m in manifests[:looked])

    cpu_seconds = [m.get("cpu_seconds") if m else None for m in manifests]
    return StageRecord(
        about=stage.about,
        fit=stage.fit,
        needs=stage.predecessors,
        fingerprints=[p.stages[name].fingerprint if m else None for p, m in zip(plans, manifests, strict=True)],
        metrics={n: [m["metrics"].get(n) if m else None for m in manifests] for n in names} if complete else {},
        failed=failed,
        seconds=[m["seconds"] if m else None for m in manifests],
        cpu_seconds=cpu_seconds if any(value is not None for value in cpu_seconds) else [],
        epochs=stage.trainer.get("max_epochs") if stage.fit else None,
        parameters=first.get("parameters"),
        precision=first.get("precision"),
        batch=first.get("batch"),
        learning_rates=first.get("learning_rates"),
        peak_memory_mb=first.get("peak_memory_mb"),
        switches=first.get("switches") or [],
        data=Dataset(**first["data"]) if first.get("data") else None,
        content=first.get("content") or "",
        under=under(done),
        curves=_curves(plans, name) if stage.fit and complete else {},
    )


def of_seeds(stage: StageRecord, positions: Sequence[int]) -> StageRecord:
    """What is recorded of a stage for some of an entry's seeds, by their positions in it; without curves."""
    per_seed = {name: [getattr(stage, name)[i] for i in positions] for name in ("fingerprints", "seconds")}
    per_seed["cpu_seconds"] = [stage.cpu_seconds[i] for i in positions] if stage.cpu_seconds else []
    metrics = {name: [values[i] for i in positions] for name, values in stage.metrics.items()}
    return stage.model_copy(update={**per_seed, "metrics": metrics, "curves": {}})


def under(manifests: Iterable[Manifest]) -> list[str]:
    """The registrations that manifests name, or `none`; nothing of those from before they named any."""
    return sorted({str(m["registered"] or "none") for m in manifests if "registered" in m})


def times(stages: Mapping[str, StageRecord]) -> tuple[float, float | None]:
    """Seconds of all stages and seeds: by the wall clock, and of CPU time, None unless it was measured everywhere."""
    seconds = round(sum(stage.total_seconds() for stage in stages.values()), 1)
    ran = any(value is not None for stage in stages.values() for value in stage.seconds)

    cpu = [stage.total_cpu_seconds() for stage in stages.values()]
    measured = [value for value in cpu if value is not None]
    if not ran or len(measured) < len(cpu):
        return seconds, None
    return seconds, round(sum(measured), 1)


def image_outcomes(claim: Claim, plan_: Plan) -> rules.Outcomes | None:
    """The differences of single images that two fixed networks make; None where a stage left no outcomes."""
    import numpy as np

    def array(metric: expressions.Metric) -> Any:
        path = plan_.stages[metric.stage].directory / "artifacts" / f"{metric.name.replace('/', '-')}.npy"
        try:
            return np.load(path, allow_pickle=False).astype(float)
        except (OSError, ValueError) as error:
            raise expressions.Missing(str(error)) from error

    try:
        better, than = (expressions.over_images(side, array) for side in claim.expression())
        values, counts = np.unique(np.round(better - than, 9), return_counts=True)
    except (expressions.Missing, ValueError):
        return None
    return list(zip(values.tolist(), counts.tolist(), strict=True))


def judge(
    entry: Entry, questions: claims.Questions, outcomes: Mapping[str, rules.Outcomes | None] | None = None
) -> Entry:
    """An entry with its claims, checks and published numbers judged anew, from its metrics.

    Args:
        outcomes: claim -> the differences of single images, of kind "images".
    """
    values, seeds = entry.table(), entry.seeds
    by_image = outcomes or {}
    judged = [
        restarts.judge(claim, values, seeds, entry.looked, entry.restarts, by_image.get(claim.name))
        for claim in questions.claims
    ]
    return entry.model_copy(
        update={
            "claims": verdicts.find(judged),
            "checks": [verdicts.check(item, values, seeds[: entry.looked]) for item in questions.checks],
            "published": [verdicts.compare(item, values, seeds, entry.scale) for item in questions.published],
        }
    )


def asked(entry: Entry) -> claims.Questions:
    """What an entry was judged by, as its record states it."""
    recorded = [claim.claim() for claim in entry.claims]
    return claims.Questions(recorded, entry.checks_asked(), [item.published() for item in entry.published])


def judged_now(entry: Entry) -> Entry:
    """An entry judged by its own questions and by the rules as they are now."""
    return judge(entry, asked(entry), {claim.name: claim.outcomes for claim in entry.claims})


def _curves(plans: Sequence[Plan], stage: str) -> dict[str, Curve]:
    """Mean, smallest and largest value over seeds, by epoch, for every logged metric that people look at."""
    runs = [read_rows(p.stages[stage].directory / "metrics.csv") for p in plans]
    names = [
        n for n in dict.fromkeys(k for rows in runs for row in rows for k in row) if n not in ("epoch", "train/lr")
    ]
    curves: dict[str, Curve] = {}
    for name in names:
        if name.endswith("/n") or name in ("val/top5", "val/ece"):
            continue
        by_epoch: dict[float, list[float]] = {}
        for rows in runs:
            for row in rows:
                if name in row:
                    by_epoch.setdefault(row["epoch"], []).append(row[name])
        epochs = sorted(by_epoch)
        epochs = sorted({*epochs[:: max(1, len(epochs) // POINTS)], *epochs[-1:]})
        curves[name] = Curve(
            epoch=epochs,
            mean=[round(sum(by_epoch[e]) / len(by_epoch[e]), 4) for e in epochs],
            low=[round(min(by_epoch[e]), 4) for e in epochs],
            high=[round(max(by_epoch[e]), 4) for e in epochs],
        )
    return curves


def _provenance(plans: Sequence[Plan], stages: Mapping[str, StageRecord]) -> Provenance:
    """When, with which code and on what the stages were trained: from their records, so that reading them again
    changes nothing. Several commits if there were several; dirty if any was."""
    manifests = [m for p in plans for s in p.stages.values() if (m := finished(s)) is not None]
    if not manifests:
        return _nowhere()
    latest = max(manifests, key=lambda m: m["finished"])
    commits = sorted({commit for m in manifests if (commit := m["code"]["commit"])})
    dirty = any(m["code"]["dirty"] is not False for m in manifests)
    seconds, cpu_seconds = times(stages)
    return Provenance(
        written=latest["finished"],
        code=Code(commit=" ".join(commits) or None, dirty=dirty),
        versions=_versions(manifests),
        hardware=Hardware(**latest["hardware"]),
        threads=latest.get("threads"),
        seconds=seconds,
        cpu_seconds=cpu_seconds,
    )


def _versions(manifests: Sequence[Manifest]) -> dict[str, str]:
    """Of each package the version that stages ran with; several, the latest first, where it was replaced meanwhile."""
    met: dict[str, list[str]] = {}
    for manifest in sorted(manifests, key=lambda m: str(m["finished"]), reverse=True):
        for name, version in manifest["versions"].items():
            met.setdefault(name, []).append(version)
    return {name: " and ".join(dict.fromkeys(versions)) for name, versions in met.items()}


def _nowhere() -> Provenance:
    """Of an entry of which nothing has run: this moment, this code, this machine."""
    return Provenance(
        written=datetime.now(UTC).isoformat(timespec="seconds"),
        code=Code(**code_version()),
        versions=versions(),
        hardware=Hardware(**hardware()),
        seconds=0.0,
    )
