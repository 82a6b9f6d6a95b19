"""Whether a record is still what the present code would write. Imports no torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig

from experiments import compose, content, plan, registration
from experiments.errors import InputError
from experiments.memory import EVERYTHING, remember


def stale(paper: str, entry: Mapping[str, Any]) -> list[str]:
    """The stages whose code or configuration changed since an entry was recorded; ["all"] if it no longer composes,
    ["claims"] if they are other ones now.

    Composing takes a while, so answers are remembered until code or configuration changes that concerns the paper.
    """
    mark = hashlib.sha256(json.dumps([paper, entry], sort_keys=True).encode()).hexdigest()[:16]
    return list(remember("stale", paper, mark, EVERYTHING, lambda: _stale(paper, entry)))


def _stale(paper: str, entry: Mapping[str, Any]) -> list[str]:
    if not entry["seeds"]:
        return []
    lines = [f"paper={paper}", f"scale={entry['scale']}", *entry["overrides"]]
    if entry["variant"]:
        lines.append(f"variant={entry['variant']}")
    try:
        config: DictConfig = compose.compose(compose.request(lines).overrides)
        precisions = {name: stage["precision"] for name, stage in entry["stages"].items() if stage.get("precision")}
        plans = plan.plan_each(config, entry["seeds"], precisions)
        declared = registration.digest(compose.resolve(config, 0))
    except InputError:
        return ["all"]
    changed = []
    for name in plans[0].stages:
        recorded = entry["stages"].get(name, {}).get("fingerprints", [None])
        now = [p.stages[name].fingerprint for p in plans]
        if content.differs(plans[0].stages[name].data, entry["stages"].get(name, {}).get("content") or ""):
            changed.append(name)  # the same code on other data
        elif not any(recorded) or any(mark and mark != other for mark, other in zip(recorded, now, strict=False)):
            changed.append(name)
    lost = [name for name in entry["stages"] if name not in plans[0].stages]
    other = ["claims"] if not changed and not lost and declared != entry["registered"]["hash"] else []
    return changed + lost + other
