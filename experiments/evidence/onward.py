"""`reproduce from_record=true`: a record goes on where its runs are not at hand, as on another machine.

A seed's difference is between arms that one machine trained with one code, and seeds are interchangeable: further ones
may come from elsewhere, as long as claims, recipe, data and the code of every stage are the recorded ones, which their
registration, contents and fingerprints tell. The entry says which seeds ran where.

The other claims may come later than the main claim's last seed, and then join for the seeds of the first look.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from experiments.common.errors import InputError
from experiments.config.claims import Questions
from experiments.evidence import assembly, merge, restarts, results, staleness
from experiments.evidence.ran import Code, Hardware, Joined, Provenance, StageRecord
from experiments.evidence.records import Entry, Registration
from experiments.running.manifest import Manifest, finished
from experiments.running.plan import Plan


def recorded(paper: str, title: str, registered: Registration, main_stages: Iterable[str]) -> Entry:
    """The entry that goes on. Raises InputError where there is none, or further seeds would not belong to it."""
    entry = results.entry(paper, title)
    if entry is None or not entry.seeds:
        raise InputError(f"from_record=true: {paper}/{title} has no recorded seed; leave it out to begin")
    results.check_seals({title: entry}, paper)
    if merge.is_another(registered, entry.registered):
        raise InputError(f"from_record=true: {paper}/{title} has other claims or another recipe now; leave it out")
    wanted = set(main_stages)
    if stale := [name for name in staleness.stale(paper, entry) if name in wanted or name not in entry.stages]:
        raise InputError(
            f"from_record=true: {stale[0]} is stale, its code or data changed since: confirm the record first "
            f"(make confirm PAPER={paper}), or leave it out to run all seeds"
        )
    return entry


def join(
    entry: Entry,
    questions: Questions,
    further: Sequence[Plan],
    reasons: Mapping[str, str],
    tries: Mapping[int, Sequence[Plan]] | None = None,
    place: Sequence[str] = (),
) -> Entry:
    """A recorded entry and further seeds of its main claim, judged.

    Args:
        entry: recorded.
        questions: what it is judged by.
        further: a plan per further seed, all stages each.
        reasons: stage -> why it did not finish, for those that did not.
        tries: of the further seeds, those that started again.
        place: of the further seeds, see Joined.
    """
    stages: dict[str, StageRecord] = {}
    manifests: list[Manifest] = []
    for name, stage in entry.stages.items():
        own = [finished(plan.stages[name]) for plan in further]
        stages[name] = _longer(stage, own, reasons.get(name, stage.failed))
        manifests += [manifest for manifest in own if manifest is not None]

    joined = list(entry.joined)
    if manifests:
        latest = max(manifests, key=lambda manifest: manifest["finished"])
        hardware = Hardware(**latest["hardware"])
        seeds = [p.seed for p in further]
        joined.append(Joined(seeds=seeds, hardware=hardware, versions=latest["versions"], place=list(place)))
    longer = entry.model_copy(
        update={
            "seeds": [*entry.seeds, *(p.seed for p in further)],
            "stages": stages,
            "provenance": _provenance(entry.provenance, manifests, stages),
            "restarts": [*entry.restarts, *restarts.gather(tries or {})],
            "joined": joined,
            "next": None,
            "history": [],
            "elsewhere": [],
            "seal": "",
        }
    )
    outcomes = {claim.name: claim.outcomes for claim in entry.claims}
    return assembly.judge(longer, questions, outcomes)


def join_others(entry: Entry, found: Entry, questions: Questions) -> Entry:
    """A recorded entry whose main claim went on alone, and what its first seeds gave for the other claims, judged.

    Args:
        entry: recorded; returned as it is where `found` has no stage that it lacks, or other seeds.
        found: the same code and numbers, for the first of the recorded seeds.
    """
    count = len(found.seeds)
    lacking = [name for name, stage in found.stages.items() if stage.metrics and not entry.stages[name].metrics]
    if not (found.complete() and lacking) or found.seeds != entry.seeds[:count] or found.looked != entry.looked:
        return entry

    further: list[Manifest | None] = [None] * (len(entry.seeds) - count)
    stages = dict(entry.stages)
    for name in lacking:
        stages[name] = _longer(found.stages[name], further, found.stages[name].failed)
    seconds, cpu_seconds = assembly.times(stages)
    runs = (entry.provenance, found.provenance)
    commits = {commit for item in runs for commit in (item.code.commit or "").split()}
    code = Code(commit=" ".join(sorted(commits)) or None, dirty=any(item.code.dirty is not False for item in runs))
    written = max(item.written for item in runs)
    provenance = entry.provenance.model_copy(
        update={"written": written, "code": code, "seconds": seconds, "cpu_seconds": cpu_seconds}
    )
    whole = entry.model_copy(update={"stages": stages, "provenance": provenance, "seal": ""})
    of_images = {claim.name: claim.outcomes for item in (entry, found) for claim in item.claims if claim.outcomes}
    return assembly.judge(whole, questions, of_images)


def _longer(stage: StageRecord, manifests: Sequence[Manifest | None], failed: str) -> StageRecord:
    """A stage with what further seeds gave; None for those that it did not run for."""

    def column(key: str) -> list[Any]:
        return [manifest.get(key) if manifest is not None else None for manifest in manifests]

    metrics = {
        name: values + [manifest["metrics"].get(name) if manifest is not None else None for manifest in manifests]
        for name, values in stage.metrics.items()
    }
    before = stage.cpu_seconds or [None] * len(stage.seconds)
    cpu_seconds = [*before, *column("cpu_seconds")]
    return stage.model_copy(
        update={
            "fingerprints": [*stage.fingerprints, *column("fingerprint")],
            "metrics": metrics,
            "seconds": [*stage.seconds, *column("seconds")],
            "cpu_seconds": cpu_seconds if any(value is not None for value in cpu_seconds) else [],
            "failed": failed,
            "under": sorted({*stage.under, *assembly.under(m for m in manifests if m is not None)}),
        }
    )


def _provenance(first: Provenance, manifests: Sequence[Manifest], stages: Mapping[str, StageRecord]) -> Provenance:
    """That of the first seeds, with every commit, the time of the latest and the seconds of all."""
    if not manifests:
        return first
    commits = {*(first.code.commit or "").split(), *(m["code"]["commit"] or "" for m in manifests)} - {""}
    seconds, cpu_seconds = assembly.times(stages)
    dirty = first.code.dirty is not False or any(m["code"]["dirty"] is not False for m in manifests)
    return first.model_copy(
        update={
            "written": max(m["finished"] for m in manifests),
            "code": Code(commit=" ".join(sorted(commits)) or None, dirty=dirty),
            "seconds": seconds,
            "cpu_seconds": cpu_seconds,
        }
    )
