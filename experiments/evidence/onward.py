"""`reproduce from_record=true`: a record goes on where its runs are not at hand, as on another machine.

A seed's difference is between arms that one machine trained with one code, and seeds are interchangeable: further ones
may come from elsewhere, as long as claims, recipe, data and the code of every stage are the recorded ones, which their
registration, contents and fingerprints tell. The entry says which seeds ran where.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from experiments.common.errors import InputError
from experiments.config.claims import Questions
from experiments.evidence import results, staleness
from experiments.running.manifest import finished
from experiments.running.plan import Plan


def recorded(paper: str, title: str, registered: Mapping[str, Any], main_stages: Iterable[str]) -> dict[str, Any]:
    """The entry that goes on. Raises InputError where there is none, or further seeds would not belong to it."""
    entry = (results.read(paper) or {"entries": {}})["entries"].get(title)
    if entry is None or not entry["seeds"]:
        raise InputError(f"from_record=true: {paper}/{title} has no recorded seed; leave it out to begin")
    if entry["registered"]["stream"] != registered["stream"]:
        raise InputError(f"from_record=true: {paper}/{title} has other claims or another recipe now; leave it out")
    wanted = set(main_stages)
    if stale := [name for name in staleness.stale(paper, entry) if name in wanted or name not in entry["stages"]]:
        raise InputError(
            f"from_record=true: {stale[0]} is stale, its code or data changed since: confirm the record first "
            f"(make confirm PAPER={paper}), or leave it out to run all seeds"
        )
    return dict(entry)


def join(
    entry: Mapping[str, Any], questions: Questions, further: Sequence[Plan], reasons: Mapping[str, str]
) -> dict[str, Any]:
    """A recorded entry and further seeds of its main claim, judged.

    Args:
        entry: recorded.
        questions: what it is judged by.
        further: a plan per further seed, all stages each.
        reasons: stage -> why it did not finish, for those that did not.
    """
    stages, manifests = {}, []
    for name, stage in entry["stages"].items():
        made = [finished(p.stages[name]) for p in further]
        manifests += [m for m in made if m is not None]
        stages[name] = {
            **stage,
            "fingerprints": stage["fingerprints"]
            + [p.stages[name].fingerprint if m else None for p, m in zip(further, made, strict=True)],
            "metrics": {
                metric: values + [m["metrics"].get(metric) if m else None for m in made]
                for metric, values in stage["metrics"].items()
            },
            "seconds": stage["seconds"] + [m["seconds"] for m in made if m],
            "failed": reasons.get(name, stage["failed"]),
        }
    kept = ("scale", "variant", "about", "looked", "overrides", "confirmed", "joined")
    whole = {
        **{key: entry[key] for key in kept if key in entry},
        "seeds": [*entry["seeds"], *(p.seed for p in further)],
        "stages": stages,
        "provenance": _provenance(entry["provenance"], manifests, stages),
    }
    if manifests:
        latest = max(manifests, key=lambda m: m["finished"])
        here = {"seeds": [p.seed for p in further], **{key: latest[key] for key in ("hardware", "versions")}}
        whole["joined"] = [*entry.get("joined", []), here]
    outcomes = {claim["name"]: claim.get("outcomes") for claim in entry["claims"]}
    return {**whole, **results.judge(whole, questions, outcomes)}


def _provenance(
    made: Mapping[str, Any], manifests: Sequence[Mapping[str, Any]], stages: Mapping[str, Any]
) -> dict[str, Any]:
    """That of the first seeds, with every commit, the time of the latest and the seconds of all."""
    if not manifests:
        return dict(made)
    commits = {*(made["code"]["commit"] or "").split(), *(m["code"]["commit"] for m in manifests)} - {None, ""}
    dirty = made["code"]["dirty"] is not False or any(m["code"]["dirty"] is not False for m in manifests)
    return {
        **made,
        "written": max(m["finished"] for m in manifests),
        "code": {"commit": " ".join(sorted(commits)) or None, "dirty": dirty},
        "seconds": round(sum(sum(stage["seconds"]) for stage in stages.values()), 1),
    }
