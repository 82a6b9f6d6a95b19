"""What a setting is judged by: the claims, checks and published numbers of its paper's file. Imports no torch."""

from __future__ import annotations

import fnmatch
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from experiments.common.errors import InputError, unknown
from experiments.config import compose, expressions
from experiments.config.comparisons import Check, Claim
from experiments.config.published import Published
from experiments.config.written import read as read_as

T = TypeVar("T")
MOST = 8  # claims of a paper in one setting: one main and seven others


@dataclass(frozen=True)
class Questions:
    """All that one setting is judged by, and the stages of the main claim."""

    claims: Sequence[Claim]
    checks: Sequence[Check]
    published: Sequence[Published]
    main_stages: Sequence[str] = field(default=())

    @property
    def main(self) -> Claim | None:
        return next((claim for claim in self.claims if claim.main), None)


def applies(item: Claim | Check | Published, scale: str, variant: str | None) -> bool:
    """Whether an item is about a setting; smoke is judged by what mini is judged by."""
    return fits(item.scale, "mini" if scale == "smoke" else scale) and fits(item.variant, variant or "default")


def fits(wanted: str | Sequence[str] | None, name: str) -> bool:
    """Whether a scale's or variant's name is one of those wanted: a name, a pattern, or several; nothing: any."""
    patterns = [wanted] if isinstance(wanted, str) else list(wanted or ["*"])
    return any(fnmatch.fnmatch(name, pattern) for pattern in patterns)


def read(config: Mapping[str, Any]) -> Questions:
    """The claims, checks and published numbers of a resolved configuration's setting.

    A claim about a stage that the setting takes away (`~stages.name`) falls away with it.

    Raises InputError naming the item for unknown keys, stages and words, and for claims of which none or several are
    main, or that are too many.
    """
    scale, variant = str(config["scale"]), config.get("variant")
    stages = list(config["stages"])
    elsewhere = compose.known_stages(str(config["key"]))

    asked = []  # of this setting, also about stages that it takes away
    claims = []
    for index, claim in enumerate(_items(Claim, config, "claims")):
        _check_claim(claim, f"claims.{index}")
        if not applies(claim, scale, variant):
            continue
        asked.append(claim)
        if set(stages_of(claim, stages, elsewhere)) <= set(stages):
            claims.append(claim)

    checks = []
    for index, check in enumerate(_items(Check, config, "checks")):
        where = f"checks.{index}.holds"
        expressions.comparison(check.holds, where)
        if not applies(check, scale, variant):
            continue
        if set(_stages_of(check.holds, stages, where, elsewhere)) <= set(stages):
            checks.append(check)

    _check_together(asked, claims, scale)
    main = next((claim for claim in claims if claim.main), None)
    main_stages = stages_of(main, stages) if main is not None else ()
    return Questions(claims, checks, published(config), main_stages)


def _check_claim(claim: Claim, where: str) -> None:
    """Raises InputError for arithmetic that cannot be read, whether or not the setting asks the claim."""
    claim.sides(where)
    for key in ("requires", "requires_each"):
        for text in getattr(claim, key):
            expressions.comparison(text, f"{where}.{key}")
    if claim.dead:
        _check_dead(claim, f"{where}.dead")


def _check_together(asked: Sequence[Claim], claims: Sequence[Claim], scale: str) -> None:
    """Raises InputError where not exactly one claim is main, or claims are too many.

    Args:
        asked: of the setting.
        claims: those of them whose stages the setting has.
    """
    if asked and scale != "smoke" and not any(claim.main for claim in asked):
        raise InputError(f"claims: none of {len(asked)} in this setting has main: true; expected it of one")
    mains = [repr(claim.name) for claim in claims if claim.main]
    if len(mains) > 1:
        raise InputError(f"claims: {' and '.join(mains)} are both main; one is")
    if len(claims) > MOST:
        raise InputError(f"claims: {len(claims)} in one setting, at most {MOST}; what is no evidence belongs in checks")


def _check_dead(claim: Claim, where: str) -> None:
    """Raises InputError for a limit that cannot be read, or where what would decide is what the claim compares."""
    expressions.comparison(f"arm/{claim.dead}", where)
    metric = watched(claim)
    if any(item.name == metric for side in claim.sides(where) for item in expressions.metrics(side)):
        raise InputError(f"{where}: {metric} is what the claim compares; a seed never starts again for its outcome")


def watched(claim: Claim) -> str:
    """The training metric by which an arm of a claim with `dead` counts as dead."""
    return claim.dead.split(" ")[0]


def check_reported(
    questions: Questions, scale: str, stages: Sequence[str], stage: str, metrics: Collection[str]
) -> None:
    """Raises InputError for a claim, check or published number about a metric that a stage does not report.

    Args:
        questions: of the setting.
        scale: at full scale every published number is looked for; elsewhere those that are judged there, the exact.
        stages: all of the setting.
        stage: one that finished.
        metrics: what it reports, as <split>/<metric>.
    """
    for item, metric in _metrics_of(questions, scale):
        if stage in expressions.fitting(metric, stages) and metric.name not in metrics:
            raise unknown(f"{item}: {stage}: metric", metric.name, metrics)
    for claim in questions.claims:
        trains = any(name.startswith("train/") for name in metrics)
        if claim.dead and trains and stage in claim.arms(stages) and watched(claim) not in metrics:
            raise unknown(f"claim {claim.name!r}: dead: {stage}: metric", watched(claim), metrics)


def _metrics_of(questions: Questions, scale: str) -> Iterator[tuple[str, expressions.Metric]]:
    """Every metric that is named, and by what."""
    for claim in questions.claims:
        yield from ((f"claim {claim.name!r}", metric) for metric in claim.metrics())
    for check in questions.checks:
        left, _, right = expressions.comparison(check.holds, check.name)
        for side in (left, right):
            yield from ((f"check {check.name!r}", metric) for metric in expressions.metrics(side))
    for item in questions.published:
        if scale == "full" or item.kind == "exact":
            yield f"published {item.stage}/{item.metric}", expressions.Metric(item.stage, item.metric)


def _items(kind: type[T], config: Mapping[str, Any], key: str) -> list[T]:
    """What a configuration lists under a key. Raises InputError naming the item and what is wrong with it."""
    listed = config.get(key) or []
    if not isinstance(listed, list):
        raise InputError(f"{key}={listed!r:.200}: expected a list")
    return [read_as(kind, item, f"{key}.{index}") for index, item in enumerate(listed)]


def published(config: Mapping[str, Any]) -> list[Published]:
    """The numbers the paper reports for what a setting runs; below full scale, those of its main setting."""
    scale, variant = str(config["scale"]), config.get("variant")
    items = _items(Published, config, "published")
    about = variant if scale == "full" or any(item.scale for item in items) else None
    return [item for item in items if applies(replace(item, variant=item.variant or "default"), scale, about)]


def stages_of(claim: Claim, stages: Sequence[str], elsewhere: Sequence[str] = ()) -> list[str]:
    """The stages that a claim and its preconditions look at."""
    needed = [s for side in claim.sides() for s in expressions.check(side, stages, claim.name, elsewhere)]
    for text in claim.preconditions():
        needed += _stages_of(text, stages, claim.name, elsewhere)
    return list(dict.fromkeys(needed))


def _stages_of(comparison: str, stages: Sequence[str], where: str, elsewhere: Sequence[str] = ()) -> list[str]:
    left, _, right = expressions.comparison(comparison, where)
    return [stage for side in (left, right) for stage in expressions.check(side, stages, where, elsewhere)]
