"""`reproduce from_record=true`: a record goes on where its runs are not at hand, as on another machine.

Seeds that a record holds need not run again to add further ones, provided that this code on this machine would have
given the same. One recorded seed tells: the stages of the main claim, and others that are stale, run anew, and unless
each of their numbers is the recorded one to the last bit nothing goes on.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from omegaconf import DictConfig

from experiments import results, staleness
from experiments.claims import Questions
from experiments.errors import InputError
from experiments.manifest import finished
from experiments.plan import Plan, only, plan
from experiments.provenance import code_version

Difference = tuple[str, str, float | None, float | None]  # stage, metric, recorded, now


def recorded(paper: str, title: str, registered: Mapping[str, Any]) -> dict[str, Any]:
    """The entry that goes on. Raises InputError where there is none, or it has another registration."""
    entry = (results.read(paper) or {"entries": {}})["entries"].get(title)
    if entry is None or not entry["seeds"]:
        raise InputError(f"from_record=true: {paper}/{title} has no recorded seed; leave it out to begin")
    if entry["registered"]["stream"] != registered["stream"]:
        raise InputError(f"from_record=true: {paper}/{title} has other claims or another recipe now; leave it out")
    return dict(entry)


def first_seed(config: DictConfig, paper: str, entry: Mapping[str, Any], main_stages: Iterable[str]) -> Plan:
    """What runs anew, of a record's first seed. Raises InputError where equal numbers would not mean the same."""
    precisions = {name: s["precision"] for name, s in entry["stages"].items() if s.get("precision")}
    whole = plan(config, entry["seeds"][0], precisions)
    stale = [name for name in staleness.stale(paper, entry) if name in whole.stages]
    chosen = only(whole, [*main_stages, *stale])
    comparable(chosen, entry)
    return chosen


def comparable(chosen: Plan, entry: Mapping[str, Any]) -> None:
    """Raises InputError for a stage whose numbers would not mean the same experiment, or are never equal."""
    for name, stage in chosen.stages.items():
        if staleness.other_data(stage, entry):
            raise InputError(f"{name} has other data now; make reproduce records it anew")
        if stage.exclusive:
            raise InputError(f"{name} measures time, which is never equal; make reproduce records it anew")


def confirm(entry: Mapping[str, Any], chosen: Plan, now: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """The entry with what one seed, run anew, showed. Raises InputError naming the first number that differs."""
    for stage, metric, before, after in differences(entry, chosen.seed, now):
        raise InputError(
            f"from_record=true: seed {chosen.seed} gives {stage}/{metric} {after!r} here, {before!r} is recorded; "
            "seeds of this machine cannot stand beside those: leave it out to run all of them"
        )
    return confirmed(entry, chosen, {name: len(metrics) for name, metrics in now.items()})


def join(
    entry: Mapping[str, Any], questions: Questions, further: Sequence[Plan], reasons: Mapping[str, str]
) -> dict[str, Any]:
    """A recorded entry and further seeds of its main claim, judged.

    Args:
        entry: recorded, and confirmed.
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
    whole = {
        **{key: entry[key] for key in ("scale", "variant", "about", "looked", "overrides", "confirmed")},
        "seeds": [*entry["seeds"], *(p.seed for p in further)],
        "stages": stages,
        "provenance": _provenance(entry["provenance"], manifests, stages),
    }
    outcomes = {claim["name"]: claim.get("outcomes") for claim in entry["claims"]}
    return {**whole, **results.judge(whole, questions, outcomes)}


def _provenance(
    made: Mapping[str, Any], manifests: Sequence[Mapping[str, Any]], stages: Mapping[str, Any]
) -> dict[str, Any]:
    """Of all seeds: every commit, and the machine and packages of the latest."""
    if not manifests:
        return dict(made)
    latest = max(manifests, key=lambda m: m["finished"])
    commits = {*(made["code"]["commit"] or "").split(), *(m["code"]["commit"] for m in manifests)} - {None, ""}
    dirty = made["code"]["dirty"] is not False or any(m["code"]["dirty"] is not False for m in manifests)
    return {
        "written": latest["finished"],
        "code": {"commit": " ".join(sorted(commits)) or None, "dirty": dirty},
        "versions": latest["versions"],
        "hardware": latest["hardware"],
        "threads": latest.get("threads"),
        "seconds": round(sum(sum(stage["seconds"]) for stage in stages.values()), 1),
    }


def differences(entry: Mapping[str, Any], seed: int, now: Mapping[str, Mapping[str, float]]) -> Iterator[Difference]:
    """Every number of a seed that is not to the last bit the recorded one, or that only one of the two has.

    Args:
        entry: recorded.
        seed: one of its seeds.
        now: stage -> metric -> value, as the present code gives them.
    """
    position = entry["seeds"].index(seed)
    for stage, metrics in now.items():
        recorded = {name: values[position] for name, values in entry["stages"][stage]["metrics"].items()}
        for name in dict.fromkeys([*recorded, *metrics]):
            before, after = recorded.get(name), metrics.get(name)
            nans = before is not None and after is not None and math.isnan(before) and math.isnan(after)
            if before != after and not nans:
                yield stage, name, before, after


def confirmed(entry: Mapping[str, Any], chosen: Plan, numbers: Mapping[str, int]) -> dict[str, Any]:
    """The entry with what was confirmed of each stage, over what was confirmed before."""
    at = datetime.now(UTC).isoformat(timespec="seconds")
    how = {"seed": chosen.seed, "commit": code_version()["commit"], "at": at}
    new = {
        name: {"fingerprint": chosen.stages[name].fingerprint, "numbers": count, **how}
        for name, count in numbers.items()
    }
    return {**entry, "confirmed": {**entry.get("confirmed", {}), **new}}
