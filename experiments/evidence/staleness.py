"""Whether a record is still what the present code would write. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence

from omegaconf import DictConfig

from experiments.common.errors import InputError
from experiments.common.memory import EVERYTHING, remember
from experiments.config import claims, compose
from experiments.evidence import registration, results
from experiments.evidence.records import Entry
from experiments.identity import content
from experiments.running import plan

UNNAMED = ("all", "claims")  # what is said in place of stages


def stale(paper: str, entry: Entry) -> list[str]:
    """The stages whose code or configuration changed since an entry was recorded, or that it does not hold; ["all"] if
    it no longer composes, ["claims"] if they are other ones now.

    Composing takes a while, so answers are remembered until code or configuration changes that concerns the paper.
    """
    return list(_remembered(paper, entry)["all"])


def of_main(paper: str, entry: Entry) -> list[str]:
    """What of it the main verdict rests on: the stages that it compares and those that they need, ["all"] or
    ["claims"]. What a recording of the main claim alone leaves out makes its verdict no older."""
    return list(_remembered(paper, entry)["main"])


def of_others(paper: str, entry: Entry) -> list[str]:
    """The other stages among them."""
    main = of_main(paper, entry)
    return [name for name in stale(paper, entry) if name not in main]


def of_recorded(paper: str, entry: Entry) -> list[str]:
    """Those of stale() that the entry holds a run of: what was never run has no number to be confirmed."""
    return [name for name in stale(paper, entry) if name in UNNAMED or _has_run(name, entry)]


def unchanged_elsewhere(paper: str, stored: Entry | None, new: Entry) -> list[str]:
    """The stages of a record whose code is the present one, where the new entry ran in another place (on another
    trainer or device): their fingerprints differ by the place alone."""
    if stored is None or not stored.seeds or new.place == stored.place:
        return []
    changed = stale(paper, stored)
    if "all" in changed:
        return []
    return [name for name in stored.stages if name not in changed]


def _has_run(name: str, entry: Entry) -> bool:
    return name in entry.stages and any(entry.stages[name].fingerprints)


def _remembered(paper: str, entry: Entry) -> dict[str, list[str]]:
    mark = results.seal(entry)
    answer: dict[str, list[str]] = remember("staleness", paper, mark, EVERYTHING, lambda: _found(paper, entry))
    return answer


def _found(paper: str, entry: Entry) -> dict[str, list[str]]:
    if not entry.seeds:
        return _of_both([])
    lines = [f"paper={paper}", f"scale={entry.scale}", *entry.overrides]
    if entry.variant:
        lines.append(f"variant={entry.variant}")
    precisions = {name: stage.precision for name, stage in entry.stages.items() if stage.precision}
    plans = []
    try:
        for seed in sorted({entry.seeds[0], entry.seeds[-1]}):  # a record goes on with unchanged code alone
            config: DictConfig = compose.compose(compose.request([*lines, *_place_of(seed, entry)]).overrides)
            of_any, of_seed = plan.plan_each(config, [0, seed], precisions)
            plans.append(of_seed)
        declared = registration.digest(of_any.config)
    except InputError:
        return _of_both(["all"])
    changed = [
        name
        for name, stage in plans[0].stages.items()
        if other_data(stage, entry) or (_other_code(name, plans, entry) and not _confirmed(name, plans, entry))
    ]
    changed += [name for name in entry.stages if name not in plans[0].stages]
    other = [] if entry.registered.binds(declared) else ["claims"]

    main_stages = claims.read(of_any.config).main_stages
    if not main_stages:
        return _of_both(changed or other)
    rested = plan.only(plans[0], main_stages).stages
    return {"all": changed or other, "main": [name for name in changed if name in rested] or other}


def _place_of(seed: int, entry: Entry) -> list[str]:
    """Where a seed ran: further ones may have joined from another place."""
    return next((joined.place for joined in entry.joined if seed in joined.seeds), entry.place)


def _of_both(found: list[str]) -> dict[str, list[str]]:
    return {"all": found, "main": found}


def other_data(stage: plan.Stage, entry: Entry) -> bool:
    """Whether a stage's data files are not those it was recorded with."""
    recorded = entry.stages.get(stage.name)
    return content.differs(stage.data, recorded.content if recorded is not None else "")


def _other_code(name: str, plans: Sequence[plan.Plan], entry: Entry) -> bool:
    """Whether a stage's code or configuration is not what it ran with; so it is also where it never ran."""
    if not _has_run(name, entry):
        return True

    recorded = dict(zip(entry.seeds, entry.stages[name].fingerprints, strict=False))
    return any((mark := recorded.get(p.seed)) and mark != p.stages[name].fingerprint for p in plans)


def _confirmed(name: str, plans: Sequence[plan.Plan], entry: Entry) -> bool:
    """Whether the present code gave a recorded seed's numbers anew, see `make confirm`; seeds share their code."""
    shown = entry.confirmed.get(name)
    return shown is not None and any(p.stages[name].fingerprint == shown.fingerprint for p in plans)
