"""Seeds in which a network has learnt nothing: all compared arms start again together, at most twice. Imports no torch.

A main claim may register when an arm counts as dead, `dead: train/top1 < 12`: a training metric and a limit, the same
for every arm that it compares. Where one is dead, every stage of the main claim starts again with another seed, which
follows from the first one; the claim is judged by the last try, whether or not that is alive. What the first tries
alone would say stands beside, and the record holds every try.

The rule looks at no test metric and at all arms alike, so that arms that do equally well stay equal. What is judged is
the difference between networks that are above the limit: where stability itself is the claim, no limit is registered.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence

from experiments.config import expressions
from experiments.config.claims import watched
from experiments.config.comparisons import Claim
from experiments.config.expressions import Missing, Table
from experiments.evidence import rules, verdicts
from experiments.evidence.judged import JudgedClaim
from experiments.evidence.records import Restart
from experiments.evidence.words import NOT_RUN
from experiments.running.manifest import finished
from experiments.running.plan import AGAIN, Plan

MOST = 2  # further tries of one seed


def seed(of: int, attempt: int) -> int:
    """The seed of a further try, which is known no sooner than the first try's.

    Args:
        of: the first try's.
        attempt: from 1.
    """
    digest = hashlib.sha256(f"try {attempt} after {of}".encode()).hexdigest()
    return AGAIN + int(digest[:7], 16)


def seeds(of: int) -> list[int]:
    """Of all further tries that a seed may have."""
    return [seed(of, attempt) for attempt in range(1, MOST + 1)]


def dead_arms(claim: Claim, stages: Iterable[str], table: Table, seed: int) -> list[str]:
    """The compared arms that are dead in one try; an arm that is not trained cannot be.

    Args:
        stages: all that the try has.
        seed: that it ran with.

    Raises Missing where an arm did not finish, or where none of them reports the metric.
    """
    arms = claim.arms(stages)
    for arm in arms:
        if not any(seed in column for column in table.get(arm, {}).values()):
            raise Missing(f"{arm} did not finish for seed {seed}")
    trained = [arm for arm in arms if watched(claim) in table[arm]]
    if not trained:
        raise Missing(f"none of {', '.join(arms)} reports {watched(claim)}")

    dead = []
    for arm in trained:
        left, sign, right = expressions.comparison(f"{arm}/{claim.dead}", claim.name)
        sides = [expressions.evaluate(side, table, seed) for side in (left, right)]
        if expressions.COMPARE[sign](*sides):
            dead.append(arm)
    return dead


def starts_again(claim: Claim, stages: Iterable[str], table: Table, seed: int) -> bool:
    """Whether an arm is dead in a try; not where that cannot be told."""
    try:
        return bool(dead_arms(claim, stages, table, seed))
    except Missing:
        return False


# --- from runs -------------------------------------------------------------------------------------------------------


def table_of(plan: Plan) -> Table:
    """What the finished stages of a run report: stage -> metric -> seed -> value."""
    manifests = {name: finished(stage) for name, stage in plan.stages.items()}
    return {
        name: {metric: {plan.seed: value} for metric, value in manifest["metrics"].items()}
        for name, manifest in manifests.items()
        if manifest is not None
    }


def gather(tries: Mapping[int, Sequence[Plan]]) -> list[Restart]:
    """What further tries gave, from the records of their runs.

    Args:
        tries: by the seed that started again, in order.
    """
    return [_gathered(plan) for plans in tries.values() for plan in plans]


def _gathered(plan: Plan) -> Restart:
    manifests = {name: finished(stage) for name, stage in plan.stages.items()}
    done = {name: manifest for name, manifest in manifests.items() if manifest is not None}
    assert plan.try_of is not None
    return Restart(
        of=plan.try_of,
        attempt=plan.attempt,
        seed=plan.seed,
        fingerprints={name: stage.fingerprint if name in done else None for name, stage in plan.stages.items()},
        seconds={name: done[name]["seconds"] if name in done else None for name in plan.stages},
        metrics={name: dict(done[name]["metrics"]) if name in done else {} for name in plan.stages},
        under=sorted({str(manifest["registered"] or "none") for manifest in done.values()}),
    )


# --- from a record ---------------------------------------------------------------------------------------------------


def last(tries: Sequence[Restart]) -> dict[int, Restart]:
    """Of each seed that started again its last try."""
    return {item.of: item for item in sorted(tries, key=lambda item: item.attempt)}


def replace(table: Table, tries: Sequence[Restart]) -> Table:
    """A table in which each seed that started again has the values of its last try."""
    values = {stage: {metric: dict(column) for metric, column in by.items()} for stage, by in table.items()}
    for of, item in last(tries).items():
        for stage, metrics in item.metrics.items():
            for column in values.get(stage, {}).values():
                column.pop(of, None)
            for metric, value in metrics.items():
                values.setdefault(stage, {}).setdefault(metric, {})[of] = value
    return values


def judge(
    claim: Claim,
    table: Table,
    seeds: Sequence[int],
    looked: int,
    tries: Sequence[Restart] = (),
    outcomes: rules.Outcomes | None = None,
) -> JudgedClaim:
    """verdicts.judge() of the last tries, and beside it that of the first ones.

    A claim that says nothing of dead arms is judged by the first tries alone.

    Args:
        table: of the first tries.
        tries: further ones.
    The others are those of verdicts.judge.
    """
    first = verdicts.judge(claim, table, seeds, looked, outcomes)
    if not claim.dead:
        return first
    arms = claim.arms(table)
    if arms and not any(watched(claim) in table[arm] for arm in arms):
        reason = f"dead: none of {', '.join(arms)} reports {watched(claim)}"
        return first.model_copy(update={"verdict": NOT_RUN, "reason": reason, "needed": None, "evidence": None})
    if not tries:
        return first

    dead = {of for of, item in last(tries).items() if starts_again(claim, item.metrics, item.table(), item.seed)}
    restarted = {item.of for item in tries}
    judged = verdicts.judge(claim, replace(table, tries), seeds, looked, outcomes)
    return judged.model_copy(
        update={
            "restarted": [of for of in seeds if of in restarted],
            "still_dead": [of for of in seeds if of in dead],
            "without_restarts": first.short(),
        }
    )


def problems(
    claim: Claim | None, stages: Iterable[str], table: Table, seeds: Sequence[int], tries: Sequence[Restart]
) -> Iterator[str]:
    """What of further tries does not follow from the rule: tries too many, too few, or with other seeds.

    Args:
        claim: the main claim.
        stages: all of the entry.
        table: of the first tries.
    """
    if claim is None or not claim.dead:
        yield from (f"seed {item.of} started again, and no rule says when" for item in tries)
        return
    names = list(stages)
    yield from (f"seed {item.of} started again and is none of the record's" for item in tries if item.of not in seeds)
    for of in seeds:
        own = [item for item in tries if item.of == of]
        if [item.attempt for item in own] != list(range(1, len(own) + 1)) or len(own) > MOST:
            yield f"seed {of}: tries {[item.attempt for item in own]}; expected them in order, at most {MOST}"
            continue
        for item in own:
            if item.seed != seed(of, item.attempt):
                yield f"seed {of}: try {item.attempt} ran with seed {item.seed}, not {seed(of, item.attempt)}"
        states = [starts_again(claim, names, table, of)]
        states += [starts_again(claim, item.metrics, item.table(), item.seed) for item in own]
        for count, dead in enumerate(states):
            if count < len(own) and not dead:
                yield f"seed {of} started again although no arm was dead ({claim.dead}) in try {count}"
            elif count == len(own) < MOST and dead:
                yield f"seed {of}: an arm was dead ({claim.dead}), and it did not start again"
