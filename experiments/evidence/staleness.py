"""Whether a record is still what the present code would write. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence

from omegaconf import DictConfig

from experiments.common.errors import InputError
from experiments.common.memory import EVERYTHING, remember
from experiments.config import compose
from experiments.evidence import registration, results
from experiments.evidence.records import Entry
from experiments.identity import content
from experiments.running import plan


def stale(paper: str, entry: Entry) -> list[str]:
    """The stages whose code or configuration changed since an entry was recorded; ["all"] if it no longer composes,
    ["claims"] if they are other ones now.

    Composing takes a while, so answers are remembered until code or configuration changes that concerns the paper.
    """
    mark = results.seal(entry)
    return list(remember("stale", paper, mark, EVERYTHING, lambda: _stale(paper, entry)))


def _stale(paper: str, entry: Entry) -> list[str]:
    if not entry.seeds:
        return []
    lines = [f"paper={paper}", f"scale={entry.scale}", *entry.overrides, *entry.place]
    if entry.variant:
        lines.append(f"variant={entry.variant}")
    try:
        config: DictConfig = compose.compose(compose.request(lines).overrides)
        precisions = {name: stage.precision for name, stage in entry.stages.items() if stage.precision}
        of_any, *plans = plan.plan_each(config, [0, *entry.seeds], precisions)
        declared = registration.digest(of_any.config)
    except InputError:
        return ["all"]
    changed = [
        name
        for name, stage in plans[0].stages.items()
        if other_data(stage, entry) or (_other_code(name, plans, entry) and not _confirmed(name, plans, entry))
    ]
    lost = [name for name in entry.stages if name not in plans[0].stages]
    other = ["claims"] if not changed and not lost and not entry.registered.binds(declared) else []
    return changed + lost + other


def other_data(stage: plan.Stage, entry: Entry) -> bool:
    """Whether a stage's data files are not those it was recorded with."""
    recorded = entry.stages.get(stage.name)
    return content.differs(stage.data, recorded.content if recorded is not None else "")


def _other_code(name: str, plans: Sequence[plan.Plan], entry: Entry) -> bool:
    """Whether a stage's code or configuration is not what it ran with; so it is also where it never ran."""
    recorded = entry.stages[name].fingerprints if name in entry.stages else []
    if not any(recorded):
        return True

    now = [p.stages[name].fingerprint for p in plans]
    return any(mark and mark != other for mark, other in zip(recorded, now, strict=False))


def _confirmed(name: str, plans: Sequence[plan.Plan], entry: Entry) -> bool:
    """Whether the present code gave a recorded seed's numbers anew, see `make confirm`; seeds share their code."""
    shown = entry.confirmed.get(name)
    return shown is not None and any(p.stages[name].fingerprint == shown.fingerprint for p in plans)
