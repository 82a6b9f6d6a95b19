"""results/<key>.json and runs/<key>/<scale>/summary.json: what `reproduce` writes and everything else reads."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from experiments import claims, compose, files, plan
from experiments.engine import finished
from experiments.errors import InputError
from experiments.plan import Plan
from experiments.provenance import code_version, hardware, versions
from experiments.tables import read_rows

RESULTS = compose.ROOT / "results"
REMEMBERED = compose.ROOT / "runs" / "stale.json"
POINTS = 60  # a stored curve has at most about this many
LOCAL = ("jobs", "data_dir", "runs_dir", "logger", "checkpoint_seconds")  # of one machine; they change no number


def tabulate(plans: Sequence[Plan]) -> dict[str, dict[str, list[float]]]:
    """stage -> metric -> one value per seed; only stages that finished for every seed."""
    table: dict[str, dict[str, list[float]]] = {}
    for name in plans[0].stages:
        manifests = [finished(p.stages[name]) for p in plans]
        done = [m["metrics"] for m in manifests if m is not None]
        if len(done) == len(plans):
            table[name] = {metric: [m[metric] for m in done] for metric in done[0] if all(metric in m for m in done)}
    return table


def _curves(plans: Sequence[Plan], stage: str) -> dict[str, dict[str, list[float]]]:
    """Mean, smallest and largest value over seeds, by epoch, for every logged metric that people look at."""
    runs = [read_rows(p.stages[stage].directory / "metrics.csv") for p in plans]
    names = [
        n for n in dict.fromkeys(k for rows in runs for row in rows for k in row) if n not in ("epoch", "train/lr")
    ]
    found: dict[str, dict[str, list[float]]] = {}
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
        found[name] = {
            "epoch": epochs,
            "mean": [round(sum(by_epoch[e]) / len(by_epoch[e]), 4) for e in epochs],
            "low": [round(min(by_epoch[e]), 4) for e in epochs],
            "high": [round(max(by_epoch[e]), 4) for e in epochs],
        }
    return found


def entry(plans: Sequence[Plan], overrides: Sequence[str], reasons: Mapping[str, str]) -> dict[str, Any]:
    """Everything known about one (paper, scale, variant), from the records of its runs.

    Args:
        plans: one per seed.
        overrides: what the user gave beyond paper, scale and variant.
        reasons: stage -> why it did not finish, for those that did not.
    """
    first = plans[0]
    table = tabulate(plans)
    stages: dict[str, Any] = {}
    for name, stage in first.stages.items():
        manifests = [m for p in plans if (m := finished(p.stages[name])) is not None]
        known = manifests[0] if manifests else {}
        stages[name] = {
            "about": stage.about,
            "fit": stage.fit,
            "needs": stage.predecessors,
            "fingerprints": [p.stages[name].fingerprint for p in plans],
            "metrics": table.get(name, {}),
            "failed": reasons.get(name, ""),
            "seconds": [m["seconds"] for m in manifests],
            "epochs": stage.trainer.get("max_epochs") if stage.fit else None,
            **{key: known.get(key) for key in ("parameters", "precision", "batch", "learning_rates", "peak_memory_mb")},
            "data": known.get("data"),
            "curves": _curves(plans, name) if stage.fit and name in table else {},
        }
    seeds = len(plans)
    total = sum(sum(stage["seconds"]) for stage in stages.values())
    return {
        "scale": first.scale,
        "variant": first.variant,
        "about": (first.config.get("variants") or {}).get(first.variant, {}).get("about", "") if first.variant else "",
        "seeds": [p.seed for p in plans],
        "overrides": [line for line in overrides if line.lstrip("+").split("=")[0] not in LOCAL],
        "claims": [claims.judge(claim, table, seeds) for claim in plan.claims(first.config)],
        "published": [claims.compare(item, table, seeds, first.scale) for item in plan.published(first.config)],
        "stages": stages,
        "provenance": {**_provenance(plans), "seconds": round(total, 1)},
    }


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
    }


def summary(found: Mapping[str, Any], paper: str) -> dict[str, Any]:
    """The short form that stands beside the runs."""
    return {
        "paper": paper,
        "scale": found["scale"],
        "variant": found["variant"],
        "seeds": found["seeds"],
        "stages": {name: stage["metrics"] for name, stage in found["stages"].items()},
        "claims": [
            {key: claim[key] for key in ("name", "verdict", "difference", "interval", "per_seed", "reason")}
            for claim in found["claims"]
        ],
        "published": found["published"],
    }


def title(scale: str, variant: str | None) -> str:
    return f"{scale}+{variant}" if variant else scale


def write(found: Mapping[str, Any], plan_: Plan) -> Path | None:
    """Write the summary, and (mini and full only) the paper's results file; returns the latter's path."""
    name = f"summary-{plan_.variant}.json" if plan_.variant else "summary.json"
    files.write_json(Path(plan_.config["runs_dir"]) / plan_.paper / plan_.scale / name, summary(found, plan_.paper))
    if plan_.scale == "smoke":
        return None
    path = RESULTS / f"{plan_.paper}.json"
    stored = files.read_json(path) or {}
    entries = {**stored.get("entries", {}), title(plan_.scale, plan_.variant): found}
    config = plan_.config
    files.write_json(
        path,
        {
            "key": plan_.paper,
            "title": config["title"],
            "arxiv": config.get("arxiv"),
            "about": config.get("about", ""),
            "deviations": config.get("deviations") or [],
            "entries": dict(sorted(entries.items())),
        },
    )
    return path


def read(paper: str) -> dict[str, Any] | None:
    """A paper's results file; None when it was never run."""
    return files.read_json(RESULTS / f"{paper}.json")


def stale(paper: str, found: Mapping[str, Any]) -> list[str]:
    """The stages whose code or configuration changed since an entry was recorded; ["all"] if it no longer composes.

    Composing takes half a second an entry, so answers are remembered until any code or configuration file changes.
    """
    state = _state()
    mark = hashlib.sha256(json.dumps([paper, found], sort_keys=True).encode()).hexdigest()[:16]
    known = files.read_json(REMEMBERED) or {}
    answers = known.get("answers", {}) if known.get("state") == state else {}
    if mark not in answers:
        answers = {**answers, mark: _stale(paper, found)}
        with contextlib.suppress(OSError):  # a checkout that cannot be written to only answers more slowly
            files.write_json(REMEMBERED, {"state": state, "answers": answers})
    return answers[mark]


@lru_cache
def _state() -> str:
    """A hash of all that a fingerprint can depend on; read once per process."""
    digest = hashlib.sha256()
    for folder, pattern in (("conf", "*.yaml"), ("experiments", "*.py"), ("modules", "*.py"), ("datamodules", "*.py")):
        for path in sorted((compose.ROOT / folder).rglob(pattern)):
            digest.update(f"{path.relative_to(compose.ROOT)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _stale(paper: str, found: Mapping[str, Any]) -> list[str]:
    lines = [f"paper={paper}", f"scale={found['scale']}", *found["overrides"]]
    if found["variant"]:
        lines.append(f"variant={found['variant']}")
    try:
        config: DictConfig = compose.compose(compose.request(lines).overrides)
        precisions = {name: stage.get("precision") for name, stage in found["stages"].items()}
        now = plan.plan(config, found["seeds"][0], precisions)
    except InputError:
        return ["all"]
    changed = [
        n for n, s in now.stages.items() if found["stages"].get(n, {}).get("fingerprints", [""])[0] != s.fingerprint
    ]
    return changed + [name for name in found["stages"] if name not in now.stages]
