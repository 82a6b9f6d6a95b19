"""A replication: the main claim judged anew on fresh seeds that each draw a recipe of their own. Imports no torch.

What is estimated is the mean over the declared ranges: a recipe and its seed are one draw. The stream follows from the
hash of the registration that is replicated, and so does what each seed draws. One replication a registration:
continued, never begun anew.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence

from experiments.config import expressions, vary
from experiments.config.claims import Questions, watched
from experiments.config.comparisons import Claim
from experiments.config.expressions import Table
from experiments.config.trials import Knob
from experiments.evidence import registration, restarts
from experiments.evidence.judged import JudgedClaim
from experiments.evidence.records import Entry, Registration, Replication
from experiments.evidence.words import DECIDED
from experiments.running.manifest import finished
from experiments.running.plan import Plan

Metrics = dict[str, dict[str, list[float | None]]]  # stage -> metric -> one value for each seed

REPLICATED, NOT_REPLICATED, OPEN, NOT_APPLICABLE = "replicated", "not replicated", "open", "not applicable"


def basis(replicated: Registration) -> Registration:
    """What the seeds of a replication follow from: a hash of the registration's own."""
    assert replicated.hash is not None
    digest = hashlib.sha256(f"replication of {replicated.hash}".encode()).hexdigest()[:12]
    return replicated.model_copy(update={"hash": digest, "filed": True})


def draw(knobs: Mapping[str, Knob], replicated: Registration, seed: int) -> vary.Drawn:
    """What each knob is for one seed."""
    return vary.draw(knobs, str(basis(replicated).hash), seed)


def word(recorded: JudgedClaim, claim: JudgedClaim) -> str:
    """Whether a verdict came again."""
    if claim.kinds() <= {"exact", "folds", "images"}:
        return NOT_APPLICABLE
    if claim.verdict not in DECIDED:
        return OPEN
    return REPLICATED if claim.verdict == recorded.verdict else NOT_REPLICATED


def build(
    plans: Sequence[Plan],
    drawn: Sequence[vary.Drawn],
    claim: Claim,
    recorded: JudgedClaim,
    replicated: str,
    tries: Mapping[int, Sequence[Plan]] | None = None,
    before: Replication | None = None,
) -> Replication:
    """A replication from the records of its runs.

    Args:
        plans: one per seed, the main claim's stages each.
        drawn: of each seed, what its knobs are.
        claim: the main claim.
        recorded: what the registration's own seeds said of it.
        replicated: hash of that registration.
        tries: by seed, further ones of the same recipe, where an arm was dead.
        before: a recorded replication whose seeds are the first of these plans, and whose runs are not at hand.
    """
    seeds = [p.seed for p in plans]
    metrics = _asked_metrics(plans[len(before.seeds) :] if before else plans, claim)
    if before is not None:
        metrics = _longer(before, metrics, len(seeds) - len(before.seeds))
    again = [*(before.restarts if before else []), *restarts.gather(tries or {})]
    judged = restarts.judge(claim, table(seeds, metrics), seeds, len(seeds), again)
    return Replication(
        registered=replicated,
        seeds=seeds,
        drawn=[dict(values) for values in drawn],
        metrics=metrics,
        claim=judged,
        word=word(recorded, judged),
        restarts=again,
    )


def _asked_metrics(plans: Sequence[Plan], claim: Claim) -> Metrics:
    """What a claim or its preconditions name of each run that is done."""
    metrics: Metrics = {}
    for name in plans[0].stages if plans else ():
        manifests = [finished(p.stages[name]) for p in plans]
        for metric in dict.fromkeys(key for m in manifests if m for key in m["metrics"]):
            if _is_asked(claim, name, metric):
                metrics.setdefault(name, {})[metric] = [m["metrics"].get(metric) if m else None for m in manifests]
    return metrics


def _longer(before: Replication, further: Metrics, count: int) -> Metrics:
    """The recorded metrics with those of that many further seeds; None where one side has no value."""
    longer: Metrics = {}
    for stage in dict.fromkeys([*before.metrics, *further]):
        recorded, found = before.metrics.get(stage, {}), further.get(stage, {})
        longer[stage] = {
            metric: [
                *recorded.get(metric, [None] * len(before.seeds)),
                *found.get(metric, [None] * count),
            ]
            for metric in dict.fromkeys([*recorded, *found])
        }
    return longer


def _is_asked(claim: Claim, stage: str, metric: str) -> bool:
    """Whether a claim or its preconditions name a stage's metric."""
    if claim.dead and metric == watched(claim) and claim.arms([stage]):
        return True
    return any(item.name == metric and expressions.fitting(item, [stage]) for item in claim.metrics())


def table(seeds: Sequence[int], metrics: Mapping[str, Mapping[str, Sequence[float | None]]]) -> Table:
    """stage -> metric -> seed -> value."""
    return {
        stage: {
            metric: {seed: value for seed, value in zip(seeds, values, strict=True) if value is not None}
            for metric, values in by_metric.items()
        }
        for stage, by_metric in metrics.items()
    }


def problems(entry: Entry, questions: Questions, knobs: Mapping[str, Knob]) -> Iterator[str]:
    """What of an entry's replication does not follow: seeds, what they drew, the verdict and the word.

    Args:
        questions: what the entry was judged by.
        knobs: those that were registered.
    """
    found = entry.replication
    main = entry.main_claim()
    if found is None or main is None or questions.main is None:
        return
    if found.registered != entry.registered.hash:
        yield f"replication: of registration {found.registered}, not of {entry.registered.hash}"
        return
    own = basis(entry.registered)
    if found.seeds != [registration.seed(own, index) for index in range(len(found.seeds))]:
        yield f"replication: seeds {found.seeds} are not the first of its stream"
    for seed, drawn in zip(found.seeds, found.drawn, strict=False):
        if drawn != draw(knobs, entry.registered, seed):
            yield f"replication: seed {seed} did not draw {drawn}"
    values = table(found.seeds, found.metrics)
    for line in restarts.problems(questions.main, values, values, found.seeds, found.restarts):
        yield f"replication: {line}"
    judged = restarts.judge(questions.main, values, found.seeds, len(found.seeds), found.restarts)
    if judged.model_dump() != found.claim.model_dump():
        yield "replication: its verdict does not follow from its seeds"
    if found.word != word(main, judged):
        yield f"replication: {found.word!r} does not follow from its verdict"
