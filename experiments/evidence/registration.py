"""What is fixed before an entry's first seed: claims, recipe and rule, as a hash, and the seeds that follow from it.

Seeds below 1000 are for pilots and play: they are never recorded. A registration is a file (see registrations), and its
seeds follow from the file's hash. Under the earlier rule it stood in the record alone, and number k of an entry had the
seeds 1000 k, 1000 k + 1, ... in order. In both, nobody chooses among them. Imports no torch.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from typing_extensions import TypedDict

from experiments.common.errors import InputError
from experiments.common.plain import Config, Plain
from experiments.config import claims
from experiments.evidence import sequences, verdicts
from experiments.evidence.records import Entry, HistoryItem, Registration
from experiments.identity.fingerprint import NOT_IDENTITY
from experiments.identity.provenance import code_version
from experiments.running.plan import PILOTS, REGISTERED, SEEDS

PLACE = {"accelerator", "devices", "num_nodes", "strategy", "sync_batchnorm"}  # where a stage runs, not what it does


def seed(registered: Registration, index: int) -> int:
    """The index-th seed, from 0, of a registration. Raises InputError for more than there are."""
    if not registered.filed:
        return PILOTS * registered.stream + index
    if not 0 <= index < SEEDS or registered.hash is None:
        raise InputError(f"seed number {index + 1}: a registration has {SEEDS}")
    if re.fullmatch("[0-9a-f]{12}", registered.hash) is None:
        raise InputError(f"registration {registered.hash[:60]!r}: expected a hash of twelve hex digits")
    return REGISTERED + int(registered.hash[:6], 16) * SEEDS + index


def digest(config: Mapping[str, Any]) -> str:
    """Twelve hex digits for claims, resolved recipe and decision rule.

    Args:
        config: resolved for any seed; numbers that follow from the seed must be written as its interpolation.
    """
    content = {**statement(config), "rule": [verdicts.RULE, sequences.ALPHA, sequences.G]}
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:12]


class Statement(TypedDict):
    """Claims and resolved recipe, without what says where a stage runs."""

    claims: list[Plain]  # each as Claim.content() gives it
    stages: dict[str, Config]
    trainer: list[str]  # lines of the variant's


def statement(config: Mapping[str, Any]) -> Statement:
    """What a setting is registered by."""
    return {
        "claims": [claim.content() for claim in claims.read(config).claims],
        "stages": {name: _recipe(stage) for name, stage in config["stages"].items()},
        "trainer": _variant_trainer(config),
    }


def _recipe(value: Any) -> Any:
    """A stage without what says where it runs, each target by its own name alone: a definition may move."""
    if isinstance(value, Mapping):
        recipe = {k: _recipe(v) for k, v in value.items() if k not in NOT_IDENTITY | PLACE | {"dry", "exclusive"}}
        return recipe | ({"_target_": str(recipe["_target_"]).rpartition(".")[2]} if "_target_" in recipe else {})
    if isinstance(value, list | tuple):
        return [_recipe(item) for item in value]
    return value


def _variant_trainer(config: Mapping[str, Any]) -> list[str]:
    """What a variant sets for all trainers; the user's own choice of a trainer is no part of the recipe."""
    about = (config.get("variants") or {}).get(config.get("variant")) or {}
    return [line for line in about.get("overrides") or [] if str(line).startswith("trainer.")]


def by_hand(config: Mapping[str, Any]) -> Registration:
    """What stands in place of a registration where seeds or settings were chosen by whoever runs them."""
    code = code_version()
    at = datetime.now(UTC).isoformat(timespec="seconds")
    return Registration(hash=digest(config), at=at, commit=code["commit"], dirty=code["dirty"], stream=0, by_hand=True)


def earlier(entry: Entry | None, config: Mapping[str, Any]) -> Registration | None:
    """The registration of the earlier rule under which an entry goes on; None where claims or recipe are others now."""
    if entry is None:
        return None
    now = digest(config)
    for registered in (entry.next, entry.registered):
        if registered is not None and registered.binds(now) and not registered.seen and not registered.filed:
            return registered
    return None


def past(entry: Entry, why: str) -> HistoryItem:
    """What stays of an entry in its history."""
    return HistoryItem(
        registered=entry.registered,
        seeds=entry.seeds,
        verdicts=entry.verdicts(),
        commit=entry.provenance.code.commit,
        at=entry.provenance.written,
        why=why,
    )


def check_seeds(seeds: Any) -> list[int]:
    """A list of seeds given by hand. Raises InputError unless they are different whole numbers."""
    if isinstance(seeds, str) or not isinstance(seeds, Iterable):
        raise InputError(f"seeds={seeds}: expected a list of different whole numbers, as in 'seeds=[0,1,2]'")
    values = list(seeds)
    whole = all(isinstance(s, int) and not isinstance(s, bool) for s in values)
    if not values or len(set(values)) != len(values) or not whole:
        raise InputError(f"seeds={values}: expected different whole numbers, as in 'seeds=[0,1,2]'")
    return values


def told_of_one(seeds: Sequence[int]) -> str:
    """What to say of a single seed given by hand: seeds=[5] is the seed number 5, not five of them; else nothing."""
    if len(seeds) > 1 or not 1 < seeds[0] <= 32:
        return ""
    several = ",".join(map(str, range(seeds[0])))
    return f"one seed by hand, number {seeds[0]}; {seeds[0]} of them would be 'seeds=[{several}]'"
