"""results/<key>.json and runs/<key>/<scale>/summary.json: what `reproduce` writes and everything else reads."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock

from experiments.common import files
from experiments.common.errors import InputError
from experiments.common.paths import ROOT
from experiments.common.tables import read_rows
from experiments.config import claims, compose, expressions
from experiments.config.expressions import Table
from experiments.evidence import registration, rules, verdicts, words
from experiments.identity.provenance import code_version, hardware, versions
from experiments.running.manifest import finished
from experiments.running.plan import Plan

RESULTS = ROOT / "results"
POINTS = 60  # a stored curve has at most about this many
LOCAL = {  # of one machine or one command; they change no number
    "jobs",
    "data_dir",
    "runs_dir",
    "launcher",
    "logger",
    "checkpoint_seconds",
    "minutes",
    "most",
    "why",
    "from_record",
    "record",
    "trainer",
}
PARTS = ("scale", "variant", "seeds", "registered", "history", "claims", "published", "stages", "provenance")


def title(scale: str, variant: str | None, by_hand: bool = False) -> str:
    """An entry's name among a paper's."""
    return (f"{scale}+{variant}" if variant else scale) + (" by hand" if by_hand else "")


def personal(overrides: Sequence[str]) -> list[str]:
    """Of what the user gave, what makes it another run than the registered one."""
    keys = {line: line.lstrip("+").split("=")[0] for line in overrides}
    return [line for line, key in keys.items() if key not in LOCAL and not key.startswith(("logger.", "launcher."))]


def table(entry: Mapping[str, Any]) -> Table:
    """An entry's metrics: stage -> metric -> seed -> value."""
    seeds = entry["seeds"]
    return {
        name: {
            metric: {seed: value for seed, value in zip(seeds, values, strict=True) if value is not None}
            for metric, values in stage["metrics"].items()
        }
        for name, stage in entry["stages"].items()
        if stage["metrics"]
    }


def build(plans: Sequence[Plan], looked: int, overrides: Sequence[str], reasons: Mapping[str, str]) -> dict[str, Any]:
    """Everything known about one (paper, scale, variant), from the records of its runs, judged.

    Args:
        plans: one per seed, all stages each.
        looked: seeds, from the first, that every stage ran for; later ones may have some stages alone.
        overrides: what the user gave beyond paper, scale and variant.
        reasons: stage -> why it did not finish, for those that did not.
    """
    first = plans[0]
    stages: dict[str, Any] = {}
    for name, stage in first.stages.items():
        manifests = [finished(p.stages[name]) for p in plans]
        done = [m for m in manifests if m is not None]
        known = done[0] if done else {}
        names = list(dict.fromkeys(metric for m in done for metric in m["metrics"]))
        complete = all(m is not None for m in manifests[:looked])
        stages[name] = {
            "about": stage.about,
            "fit": stage.fit,
            "needs": stage.predecessors,
            "fingerprints": [p.stages[name].fingerprint if m else None for p, m in zip(plans, manifests, strict=True)],
            "metrics": {n: [m["metrics"].get(n) if m else None for m in manifests] for n in names} if complete else {},
            "failed": reasons.get(name, ""),
            "seconds": [m["seconds"] for m in done],
            "epochs": stage.trainer.get("max_epochs") if stage.fit else None,
            **{key: known.get(key) for key in ("parameters", "precision", "batch", "learning_rates", "peak_memory_mb")},
            **({"switches": known["switches"]} if known.get("switches") else {}),
            "data": known.get("data"),
            "content": known.get("content", ""),
            "curves": _curves(plans, name) if stage.fit and complete else {},
        }
    entry = {
        "scale": first.scale,
        "variant": first.variant,
        "about": (first.config.get("variants") or {}).get(first.variant, {}).get("about", "") if first.variant else "",
        "seeds": [p.seed for p in plans],
        "looked": looked,
        "overrides": personal(overrides),
        "stages": stages,
        "provenance": {**_provenance(plans), "seconds": round(sum(sum(s["seconds"]) for s in stages.values()), 1)},
    }
    questions = claims.read(first.config)
    by_image = {claim.name: image_outcomes(claim, first) for claim in questions.claims if claim.kind == "images"}
    return {**entry, **judge(entry, questions, by_image)}


def image_outcomes(claim: claims.Claim, plan_: Plan) -> rules.Outcomes | None:
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
    entry: Mapping[str, Any],
    questions: claims.Questions,
    outcomes: Mapping[str, rules.Outcomes | None] | None = None,
) -> dict[str, Any]:
    """The claims, checks and published numbers of an entry, from its metrics (and outcomes of single images)."""
    values, seeds, looked = table(entry), entry["seeds"], entry["looked"]
    known = outcomes or {}
    judged = [verdicts.judge(claim, values, seeds, looked, known.get(claim.name)) for claim in questions.claims]
    return {
        "claims": verdicts.find(judged),
        "checks": [verdicts.check(item, values, seeds[:looked]) for item in questions.checks],
        "published": [verdicts.compare(item, values, seeds, entry["scale"]) for item in questions.published],
    }


def seal(entry: Mapping[str, Any]) -> str:
    """A hash of all that an entry states, so that an edit by hand is noticed; whoever wants to forge it can."""
    kept = {key: value for key, value in entry.items() if key != "seal"}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:16]


def main_claim(entry: Mapping[str, Any]) -> dict[str, Any] | None:
    return next((claim for claim in entry["claims"] if claim["main"]), None)


def complete(entry: Mapping[str, Any] | None) -> bool:
    """Whether an entry answers its question: a verdict for the main claim, or for every claim where none is main."""
    if entry is None or not entry["seeds"]:
        return False
    main = main_claim(entry)
    judged = [main] if main is not None else entry["claims"]
    return all(claim["verdict"] != words.NOT_RUN for claim in judged) and any(
        stage["metrics"] for stage in entry["stages"].values()
    )


def _curves(plans: Sequence[Plan], stage: str) -> dict[str, dict[str, list[float]]]:
    """Mean, smallest and largest value over seeds, by epoch, for every logged metric that people look at."""
    runs = [read_rows(p.stages[stage].directory / "metrics.csv") for p in plans]
    names = [
        n for n in dict.fromkeys(k for rows in runs for row in rows for k in row) if n not in ("epoch", "train/lr")
    ]
    curves: dict[str, dict[str, list[float]]] = {}
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
        curves[name] = {
            "epoch": epochs,
            "mean": [round(sum(by_epoch[e]) / len(by_epoch[e]), 4) for e in epochs],
            "low": [round(min(by_epoch[e]), 4) for e in epochs],
            "high": [round(max(by_epoch[e]), 4) for e in epochs],
        }
    return curves


def _provenance(plans: Sequence[Plan]) -> dict[str, Any]:
    """When, with which code and on what the stages were trained: from their records, so that reading them again
    changes nothing. Several commits if there were several; dirty if any was."""
    records = [m for p in plans for s in p.stages.values() if (m := finished(s)) is not None]
    if not records:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        return {"written": now, "code": code_version(), "versions": versions(), "hardware": hardware()}
    latest = max(records, key=lambda m: m["finished"])
    commits = sorted({m["code"]["commit"] for m in records if m["code"]["commit"]})
    return {
        "written": latest["finished"],
        "code": {"commit": " ".join(commits) or None, "dirty": any(m["code"]["dirty"] is not False for m in records)},
        "versions": latest["versions"],
        "hardware": latest["hardware"],
        "threads": latest.get("threads"),
    }


# --- the record ------------------------------------------------------------------------------------------------------


def here() -> Path:
    """Where a run leaves what it found for a setting that is recorded: beside the record, and not in the repository."""
    return RESULTS / "here"


def read(paper: str, folder: Path | None = None) -> dict[str, Any] | None:
    """A paper's results file; None when it was never run. Raises InputError naming a file that is damaged."""
    path = (folder or RESULTS) / f"{paper}.json"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{path}: damaged ({type(error).__name__}: {str(error)[:80]}); restore it with git") from error
    if not isinstance(record, dict) or not isinstance(record.get("entries"), dict) or record.get("key") != paper:
        raise InputError(f"{path}: expected the record of {paper} with its entries; restore it with git")
    for name, entry in record["entries"].items():
        lacking = [part for part in PARTS if not isinstance(entry, dict) or part not in entry]
        if lacking:
            raise InputError(f"{path}: entry {name!r} lacks {', '.join(lacking)}; restore it with git")
    return record


def told(paper: str) -> dict[str, Any]:
    """What a record repeats of its paper's file, for those who read the record alone."""
    content = compose.paper_file(paper)
    return {
        "key": paper,
        "title": content["title"],
        "arxiv": content.get("arxiv"),
        "about": content.get("about") or "",
        "deviations": content.get("deviations") or [],
    }


def tell_again(paper: str) -> None:
    """Bring what a record repeats of its paper's file up to date; its entries stay as they are."""
    with _locked(paper) as path:
        record = read(paper)
        again = told(paper)
        if record is not None and again != {key: record.get(key) for key in again}:
            files.write_json(path, {**again, "entries": record["entries"]})


@contextlib.contextmanager
def _locked(paper: str, folder: Path | None = None) -> Iterator[Path]:
    """A record's file, which no other process writes meanwhile."""
    path = (folder or RESULTS) / f"{paper}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock")):
        yield path


def update(paper: str, name: str, change: Callable[[dict[str, Any] | None], Any], folder: Path | None = None) -> Path:
    """Read a paper's record, let `change` make the entry `name` anew from the present one, and write it, under a lock.

    Raises InputError if the file that is there is damaged: nothing is overwritten then.
    """
    with _locked(paper, folder) as path:
        record = read(paper, folder)
        entries = dict(record["entries"]) if record is not None else {}
        before = entries.get(name)
        entries[name] = change(before)
        if before is not None and entries[name] == before:
            return path
        entries[name]["seal"] = seal(entries[name])
        files.write_json(path, {**told(paper), "entries": dict(sorted(entries.items()))})
    return path


def registration_of(paper: str, name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """What register() would return now; nothing is written."""
    record = read(paper) or {"entries": {}}
    return registration.current(record["entries"].get(name), config, f"{paper}/{name}")


def register(paper: str, name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Write down under what an entry's next seeds run, before the first of them; returns the registration."""
    registered: dict[str, Any] = {}

    def change(entry: dict[str, Any] | None) -> dict[str, Any]:
        registered.update(registration.current(entry, config, f"{paper}/{name}"))
        if entry is None:
            return {**_empty(config), "registered": registered}
        if entry["registered"]["stream"] == registered["stream"]:
            return entry
        return {**entry, "next": registered}

    update(paper, name, change)
    return registered


def _empty(config: Mapping[str, Any]) -> dict[str, Any]:
    """An entry of which nothing has run."""
    blank = {
        "scale": config["scale"],
        "variant": config.get("variant"),
        "about": "",
        "seeds": [],
        "looked": 0,
        "overrides": [],
        "stages": {},
        "provenance": {
            "written": datetime.now(UTC).isoformat(timespec="seconds"),
            "code": code_version(),
            "versions": versions(),
            "hardware": hardware(),
            "seconds": 0.0,
        },
        "history": [],
        "elsewhere": [],
    }
    return {**blank, **judge(blank, claims.read(config))}


def put(new: Mapping[str, Any], stored: Mapping[str, Any] | None, registered: Mapping[str, Any]) -> dict[str, Any]:
    """The entry to keep, of the one recorded and the one that ran now.

    - unfinished: what is recorded stays.
    - another registration: the old verdicts go into the history, with the reason given.
    - the same, but stages were trained by other code: likewise, with the stages named.
    - the same code, other numbers: another machine. The record stays, ours goes beside it.
    - more seeds with the same numbers: the record goes on.
    """
    fresh = {**new, "registered": dict(registered), "history": [], "elsewhere": []}
    if stored is None or not stored["seeds"]:
        return {**fresh, "history": list(stored["history"]) if stored else []}
    if not complete(new):
        return dict(stored)
    history, elsewhere = list(stored["history"]), list(stored.get("elsewhere") or [])
    if stored["registered"]["stream"] != registered["stream"]:
        why = str(registered.get("why") or "recorded anew")
        return {**fresh, "history": [*history, registration.past(stored, why)]}
    changed = other_code(new, stored)
    if changed:
        why = f"recorded again after a change of the code of {', '.join(changed)}"
        return {**fresh, "history": [*history, registration.past(stored, why)]}
    if not same_numbers(new, stored):
        mine = from_elsewhere(new, stored)
        kept = [item for item in elsewhere if item.get("differs") != mine["differs"]]
        return {**stored, "elsewhere": [*kept, mine]}
    longer = len(new["seeds"]) >= len(stored["seeds"])
    return {**(fresh if longer else stored), "history": history, "elsewhere": elsewhere}


def other_code(new: Mapping[str, Any], stored: Mapping[str, Any]) -> list[str]:
    """The stages that a shared seed gives another fingerprint."""
    changed = []
    for name, stage in new["stages"].items():
        there = stored["stages"].get(name)
        ours = dict(zip(new["seeds"], stage["fingerprints"], strict=True))
        theirs = dict(zip(stored["seeds"], there["fingerprints"], strict=True)) if there else {}
        pairs = [(ours[s], theirs[s]) for s in ours if ours[s] and theirs.get(s)]
        if there is None or any(a != b for a, b in pairs):
            changed.append(name)
    return changed


def same_numbers(new: Mapping[str, Any], stored: Mapping[str, Any]) -> bool:
    """Whether every claim has the same differences for the seeds that both have."""
    theirs = {c["name"]: dict(zip(c["seeds"], c["per_seed"], strict=True)) for c in stored["claims"]}
    for claim in new["claims"]:
        known = theirs.get(claim["name"], {})
        for seed, value in zip(claim["seeds"], claim["per_seed"], strict=True):
            if seed in known and not math.isclose(value, known[seed], rel_tol=1e-9, abs_tol=1e-12):
                return False
    return True


def differing(new: Mapping[str, Any], stored: Mapping[str, Any]) -> dict[str, list[Any]]:
    """What of machine, packages and threads is not what an entry was recorded with: name -> [recorded, here].

    None of it is in a fingerprint, since it might change a number by rounding and mostly does not.
    """

    def facts(entry: Mapping[str, Any]) -> dict[str, Any]:
        made = entry["provenance"]
        return {**made["versions"], **made["hardware"], "threads": made.get("threads")}

    then, now = facts(stored), facts(new)
    names = [name for name in then | now if then.get(name) != now.get(name)]
    return {name: [then.get(name), now.get(name)] for name in names if None not in (then.get(name), now.get(name))}


def from_elsewhere(entry: Mapping[str, Any], stored: Mapping[str, Any]) -> dict[str, Any]:
    """What another machine found, as it stands beside the record."""
    made = entry["provenance"]
    return {
        "hardware": made["hardware"],
        "differs": differing(entry, stored),
        "commit": made["code"]["commit"],
        "at": made["written"],
        "seeds": entry["seeds"],
        "claims": {
            claim["name"]: {key: claim[key] for key in ("main", "verdict", "difference", "interval")}
            for claim in entry["claims"]
        },
    }


def write_summary(entry: Mapping[str, Any], plan_: Plan) -> Path:
    """The short form that stands beside the runs."""
    name = f"summary-{plan_.variant}.json" if plan_.variant else "summary.json"
    path = Path(plan_.config["runs_dir"]) / plan_.paper / plan_.scale / name
    short = {
        "paper": plan_.paper,
        "scale": entry["scale"],
        "variant": entry["variant"],
        "seeds": entry["seeds"],
        "stages": {name: stage["metrics"] for name, stage in entry["stages"].items()},
        "claims": [
            {key: claim[key] for key in ("name", "main", "verdict", "difference", "interval", "per_seed", "reason")}
            for claim in entry["claims"]
        ],
        "checks": entry["checks"],
        "published": entry["published"],
    }
    files.write_json(path, short)
    return path
