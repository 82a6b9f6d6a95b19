"""What becomes of a record when its setting ran again. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Collection

from experiments.evidence import registration
from experiments.evidence.part import Fact
from experiments.evidence.ran import Provenance
from experiments.evidence.records import Elsewhere, Entry, Registration, Replication
from experiments.evidence.replication import word


def put(new: Entry, stored: Entry | None, registered: Registration, same: Collection[str] = ()) -> Entry:
    """The entry to keep, of the one recorded and the one that ran now.

    Args:
        same: stages whose code is known to be the recorded one, whatever their fingerprints say of where they ran, see
            staleness.unchanged_elsewhere().

    - unfinished, or without a stage that is recorded: what is recorded stays.
    - another registration: the old verdicts go into the history, with the reason given.
    - the same, but stages were trained by other code: likewise, with the stages named.
    - the same code, other numbers: another machine. The record stays, ours goes beside it.
    - more seeds with the same numbers: the record goes on.
    """
    fresh = new.model_copy(update={"registered": registered, "history": [], "elsewhere": []})
    if stored is None or not stored.seeds:
        return fresh.model_copy(update={"history": list(stored.history) if stored else []})
    if not new.complete():
        return stored

    if is_another(registered, stored.registered):
        earlier = registration.past(stored, registered.why or "recorded anew")
        return fresh.model_copy(update={"history": [*stored.history, earlier]})
    changed = [name for name in other_code(new, stored) if name not in same]
    if changed:
        why = f"recorded again after a change of the code of {', '.join(changed)}"
        return fresh.model_copy(update={"history": [*stored.history, registration.past(stored, why)]})

    if not same_numbers(new, stored):
        mine = from_elsewhere(new, stored)
        others = [item for item in stored.elsewhere if item.differs != mine.differs]
        return stored.model_copy(update={"elsewhere": [*others, mine]})
    if len(new.seeds) < len(stored.seeds) or _lacks(new, stored):
        return stored
    carried = {"history": list(stored.history), "elsewhere": list(stored.elsewhere)}
    return fresh.model_copy(update={**carried, "replication": _compared(stored.replication, fresh)})


def _lacks(new: Entry, stored: Entry) -> bool:
    """Whether a stage has numbers in the record and none now, as after only=main where other stages' runs are gone."""
    told = {name for name, stage in new.stages.items() if stage.metrics}
    return any(stage.metrics and name not in told for name, stage in stored.stages.items())


def _compared(replication: Replication | None, entry: Entry) -> Replication | None:
    """A replication beside the main claim as it stands now."""
    main = entry.main_claim()
    if replication is None or main is None:
        return replication
    return replication.model_copy(update={"word": word(main, replication.claim)})


def is_another(registered: Registration, recorded: Registration) -> bool:
    """Whether seeds ran under another registration than the recorded one."""
    if registered.filed or recorded.filed:
        return registered.hash != recorded.hash
    return registered.stream != recorded.stream


def other_code(new: Entry, stored: Entry) -> list[str]:
    """The stages that a shared seed gives another fingerprint, unless that code was confirmed to be the same."""
    changed = []
    for name, stage in new.stages.items():
        there = stored.stages.get(name)
        ours = dict(zip(new.seeds, stage.fingerprints, strict=True))
        theirs = dict(zip(stored.seeds, there.fingerprints, strict=True)) if there else {}
        differs = any(ours[s] != theirs[s] for s in ours if ours[s] and theirs.get(s))
        shown = stored.confirmed.get(name)
        confirmed = shown is not None and ours.get(shown.seed) == shown.fingerprint
        if there is None or (differs and not confirmed):
            changed.append(name)
    return changed


def same_numbers(new: Entry, stored: Entry) -> bool:
    """Whether every claim has the same differences for the seeds that both have."""
    theirs = {claim.name: claim for claim in stored.claims}
    for claim in new.claims:
        for name, column in claim.differences().items():
            there = theirs[claim.name].differences().get(name, []) if claim.name in theirs else []
            stored_values = dict(zip(theirs[claim.name].seeds, there, strict=False)) if there else {}
            for seed, value in zip(claim.seeds, column, strict=False):
                if seed in stored_values and not math.isclose(value, stored_values[seed], rel_tol=1e-9, abs_tol=1e-12):
                    return False
    return True


def differing(new: Provenance, stored: Provenance) -> dict[str, list[Fact]]:
    """What of machine, packages and threads is not what an entry was recorded with: name -> [recorded, here].

    None of it is in a fingerprint, since it might change a number by rounding and mostly does not.
    """

    def facts(provenance: Provenance) -> dict[str, Fact]:
        return {**provenance.versions, **provenance.hardware.plain(), "threads": provenance.threads}

    then, now = facts(stored), facts(new)
    names = [name for name in then | now if then.get(name) != now.get(name)]
    return {name: [then.get(name), now.get(name)] for name in names if None not in (then.get(name), now.get(name))}


def from_elsewhere(found: Entry, stored: Entry) -> Elsewhere:
    """What another machine found, as it stands beside the record."""
    return Elsewhere(
        hardware=found.provenance.hardware,
        differs=differing(found.provenance, stored.provenance),
        commit=found.provenance.code.commit,
        at=found.provenance.written,
        seeds=found.seeds,
        claims=found.verdicts(),
    )
