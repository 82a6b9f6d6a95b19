"""What a paper's file claims, checks and publishes, read and checked before anything runs. Imports no torch."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from experiments.common.errors import InputError, typed, unknown
from experiments.config import compose, expressions
from experiments.config.expressions import Expression

KINDS = ("normal", "share", "bounded", "exact", "folds", "images")
ASKED_BY = ("paper", "suite")
MOST = 8  # claims of a paper in one setting: one main and seven others


@dataclass(frozen=True)
class Claim:
    """A statement with a rule, written before its first recorded seed.

    Attributes:
        name: the statement, readable alone.
        better, than: arithmetic over `<stage>/<split>/<metric>` (see experiments.config.expressions);
            `than` may be a number.
        worth: the smallest difference worth the name, in the metric's unit; not needed with `within` or for `exact`.
        unit: of the difference.
        main: the paper's own question; exactly one in a setting.
        asked_by: "paper", or "suite" for a question of ours.
        kind: of the differences: "normal"; "share" of 0/1 outcomes; "bounded" in `range`; "exact" for numbers without
            chance; "folds" that share training data; "images" of fixed networks, whose outcomes are resampled: the
            stages leave an artifact `<split>-<metric>` with one value per image.
        margin: what the difference is held against.
        within: instead of margin and worth: the difference lies inside (-within, within).
        lower_is_better: the difference is than - better.
        requires: comparisons that hold in the mean over seeds where the mechanism is there; otherwise nothing is
            judged.
        published: {difference, source}: what the paper reports of it.
        scale, variant: the settings it is about (a name, a pattern or a list); all unless given. The setting without a
            variant is called "default".
        range: lowest and highest possible difference, of kind "bounded".
        test_over_train: test size over training size, of kind "folds".
    """

    name: str
    better: str
    than: str | float
    worth: float | None = None
    unit: str = "points"
    main: bool = False
    asked_by: str = "paper"
    kind: str = "normal"
    margin: float = 0.0
    within: float | None = None
    lower_is_better: bool = False
    requires: Sequence[str] = ()
    published: Mapping[str, Any] | None = None
    scale: str | Sequence[str] | None = None
    variant: str | Sequence[str] | None = None
    range: Sequence[float] | None = None
    test_over_train: float | None = None

    def expression(self, where: str = "claims") -> tuple[Expression, Expression]:
        return expressions.parse(self.better, where), expressions.parse(self.than, where)


@dataclass(frozen=True)
class Check:
    """A comparison that is arithmetic, a sanity check or a fact about the run: shown, not judged as evidence."""

    name: str
    holds: str
    scale: str | Sequence[str] | None = None
    variant: str | Sequence[str] | None = None


@dataclass(frozen=True)
class Published:
    """A number the paper reports.

    Attributes:
        tolerance: how far ours may lie from it and still be the same number.
        kind: "normal" over seeds; "exact" for numbers without chance, which are judged at any scale.
        scale, variant: the settings it is about, as for claims.
    """

    stage: str
    metric: str
    value: float
    dataset: str
    protocol: str
    source: str
    variant: str | Sequence[str] | None = None
    tolerance: float = 0.3
    kind: str = "normal"
    scale: str | Sequence[str] | None = None


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

    def fits(wanted: str | Sequence[str] | None, here: str) -> bool:
        patterns = [wanted] if isinstance(wanted, str) else list(wanted or ["*"])
        return any(fnmatch.fnmatch(here, pattern) for pattern in patterns)

    return fits(item.scale, "mini" if scale == "smoke" else scale) and fits(item.variant, variant or "default")


def read(config: Mapping[str, Any]) -> Questions:
    """The claims, checks and published numbers of a resolved configuration's setting.

    A claim about a stage that the setting takes away (`~stages.name`) falls away with it.

    Raises InputError naming the item for unknown keys, stages and words, and for two main claims or too many.
    """
    scale, variant, stages = str(config["scale"]), config.get("variant"), list(config["stages"])
    known = compose.known_stages(str(config["key"]))
    claims: list[Claim] = []
    for index, item in enumerate(config.get("claims") or []):
        claim: Claim = typed(Claim, item, f"claims.{index}")
        _check_claim(claim, f"claims.{index}")
        if applies(claim, scale, variant) and set(stages_of(claim, stages, known)) <= set(stages):
            claims.append(claim)
    checks: list[Check] = []
    for index, item in enumerate(config.get("checks") or []):
        check: Check = typed(Check, item, f"checks.{index}")
        where = f"checks.{index}.holds"
        expressions.comparison(check.holds, where)
        if applies(check, scale, variant) and set(_stages_of(check.holds, stages, where, known)) <= set(stages):
            checks.append(check)
    if sum(claim.main for claim in claims) > 1:
        raise InputError(f"claims: {' and '.join(repr(c.name) for c in claims if c.main)} are both main; one is")
    if len(claims) > MOST:
        raise InputError(f"claims: {len(claims)} in one setting, at most {MOST}; what is no evidence belongs in checks")
    main = next((claim for claim in claims if claim.main), None)
    return Questions(claims, checks, published(config), stages_of(main, stages) if main is not None else ())


def published(config: Mapping[str, Any]) -> list[Published]:
    """The numbers the paper reports for what a setting runs; below full scale, those of its main setting."""
    scale, variant = str(config["scale"]), config.get("variant")
    items: list[Published] = [
        typed(Published, item, f"published.{i}") for i, item in enumerate(config.get("published") or [])
    ]
    for index, item in enumerate(items):
        if item.kind not in ("normal", "exact"):
            raise unknown(f"published.{index}: kind", item.kind, ("normal", "exact"))
    about = variant if scale == "full" or any(item.scale for item in items) else None
    return [
        item
        for item in items
        if applies(Published(**{**vars(item), "variant": item.variant or "default"}), scale, about)
    ]


def stages_of(claim: Claim, stages: Sequence[str], elsewhere: Sequence[str] = ()) -> list[str]:
    """The stages that a claim and its preconditions look at."""
    needed = [s for side in claim.expression() for s in expressions.check(side, stages, claim.name, elsewhere)]
    for text in claim.requires:
        needed += _stages_of(text, stages, claim.name, elsewhere)
    return list(dict.fromkeys(needed))


def _stages_of(comparison: str, stages: Sequence[str], where: str, elsewhere: Sequence[str] = ()) -> list[str]:
    left, _, right = expressions.comparison(comparison, where)
    return [stage for side in (left, right) for stage in expressions.check(side, stages, where, elsewhere)]


def _check_claim(claim: Claim, where: str) -> None:
    """Raises InputError for whatever a claim says that makes no sense."""
    claim.expression(where)
    for text in claim.requires:
        expressions.comparison(text, f"{where}.requires")
    if claim.kind not in KINDS:
        raise unknown(f"{where}: kind", claim.kind, KINDS)
    if claim.asked_by not in ASKED_BY:
        raise unknown(f"{where}: asked_by", claim.asked_by, ASKED_BY)
    if claim.worth is None and claim.within is None and claim.kind != "exact":
        raise InputError(f"{where}: {claim.name!r}: worth is missing, the smallest difference worth the name")
    if claim.worth is not None and not (math.isfinite(claim.worth) and claim.worth > 0):
        raise InputError(f"{where}: worth={claim.worth}: expected a positive number")
    if claim.kind == "bounded" and (claim.range is None or len(claim.range) != 2 or claim.range[0] >= claim.range[1]):
        raise InputError(f"{where}: kind bounded needs range: [lowest, highest] possible difference")
    if claim.kind == "folds" and not claim.test_over_train:
        raise InputError(f"{where}: kind folds needs test_over_train, the test set's size over the training set's")
    if claim.published is not None and set(claim.published) != {"difference", "source"}:
        raise InputError(f"{where}.published: expected difference and source, got {', '.join(claim.published)}")
