"""How a claim is judged from its differences: one class for each kind. Imports no torch.

A rule joins two things. Its kind says what the differences are, and so how an interval and evidence come from them:
`Normal`, `Share`, `Bounded`, `Exact`, `Folds`, `Images`. What the interval is held against is a region: `Above` a
margin, or `Inside` an equivalence band.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from experiments.config.comparisons import Claim
from experiments.evidence import sequences
from experiments.evidence.sequences import Estimate
from experiments.evidence.words import FAILS, HOLDS, NO_GAIN, REFUTED, SUPPORTED, UNDECIDED

MOST_EVIDENCE = 1e12  # e-values are cut here: beyond it they say nothing more
Outcomes = Sequence[Sequence[float]]  # pairs: a difference of single images, and how many images have it
EvidenceAt = Callable[[float], float]  # the e-value against a mean of exactly that much


@dataclass(frozen=True)
class Judgement:
    """What a rule makes of differences.

    Attributes:
        difference: their mean, in the claim's unit.
        interval: its two ends; None where they are infinite.
        verdict: one of the words.
        reason: what a reader should know of it; may be empty.
        needed: about how many seeds would decide; None where that cannot be said or is not needed.
        evidence: e-value for the claim; None where its kind has none.
    """

    difference: float
    interval: list[float] | None
    verdict: str
    reason: str = ""
    needed: int | None = None
    evidence: float | None = None


class Region(abc.ABC):
    """What an interval is held against."""

    @abc.abstractmethod
    def words(self) -> str:
        """Where the difference has to lie."""

    @abc.abstractmethod
    def outside(self) -> str:
        """Where it would refute the claim."""

    @abc.abstractmethod
    def decide(self, estimate: Estimate) -> tuple[str, str] | None:
        """Verdict and reason; None while the interval leaves it open."""

    @abc.abstractmethod
    def holds(self, value: float) -> bool:
        """Whether a number without chance is where it has to be."""

    @abc.abstractmethod
    def distance(self, mean: float) -> float:
        """The half-width below which an interval around this mean decides."""

    @abc.abstractmethod
    def evidence(self, at: EvidenceAt, mean: float) -> float:
        """The smallest e-value of all means that are not in the region."""

    @abc.abstractmethod
    def evidence_against(self, at: EvidenceAt, mean: float) -> float:
        """The smallest e-value of all means that would be worth the claim."""


@dataclass(frozen=True)
class Above(Region):
    """Above a margin; by `worth` or more where the difference is worth the name."""

    margin: float
    worth: float

    def words(self) -> str:
        return f"above {self.margin:g}"

    def outside(self) -> str:
        return f"below {self.margin:g}"

    def decide(self, estimate: Estimate) -> tuple[str, str] | None:
        low, high = estimate.low, estimate.high
        small = high < self.margin + self.worth

        if low > self.margin:
            return SUPPORTED, "by less than is worth the name" if small else ""
        if high < self.margin:
            return REFUTED, ""
        if small:
            return NO_GAIN, "none either way" if low > self.margin - self.worth else "none worth the name"
        return None

    def holds(self, value: float) -> bool:
        return value > self.margin

    def distance(self, mean: float) -> float:
        return max(abs(mean - self.margin), self.margin + self.worth - mean)

    def evidence(self, at: EvidenceAt, mean: float) -> float:
        return at(min(self.margin, mean))

    def evidence_against(self, at: EvidenceAt, mean: float) -> float:
        return at(max(self.margin + self.worth, mean))


@dataclass(frozen=True)
class Inside(Region):
    """Inside (-half, half): an equivalence."""

    half: float

    def words(self) -> str:
        return f"inside ±{self.half:g}"

    def outside(self) -> str:
        return f"outside ±{self.half:g}"

    def decide(self, estimate: Estimate) -> tuple[str, str] | None:
        if -self.half < estimate.low and estimate.high < self.half:
            return SUPPORTED, ""
        if estimate.low > self.half or estimate.high < -self.half:
            return REFUTED, ""
        return None

    def holds(self, value: float) -> bool:
        return abs(value) <= self.half

    def distance(self, mean: float) -> float:
        return abs(abs(mean) - self.half)

    def evidence(self, at: EvidenceAt, mean: float) -> float:
        return min(at(min(-self.half, mean)), at(max(self.half, mean)))

    def evidence_against(self, at: EvidenceAt, mean: float) -> float:
        return at(min(max(mean, -self.half), self.half))


class Rule(abc.ABC):
    """A claim's rule: `judge` is all that others need, `words` and `refuted_by` say it before any seed has run.

    Args:
        claim: what is judged.
    """

    sequential: ClassVar[bool] = True  # its interval holds at every look, so that there is evidence to add up
    has_chance: ClassVar[bool] = True  # other seeds could give other differences
    by_image: ClassVar[bool] = False  # it looks at single images, whose outcomes the stages leave

    def __init__(self, claim: Claim) -> None:
        self.claim = claim
        self.region: Region = (
            Inside(claim.within) if claim.within is not None else Above(claim.margin, claim.worth or 0.0)
        )

    @abc.abstractmethod
    def interval(self, differences: Sequence[float], outcomes: Outcomes | None) -> Estimate:
        """Raises ValueError where the values do not fit the kind."""

    def evidence_at(self, differences: Sequence[float], limit: float) -> float:
        """E-value against a mean of exactly `limit`."""
        return sequences.normal_evidence(differences, limit)

    def words(self) -> str:
        """The rule in words."""
        return f"95% interval of {_difference(self.claim)} {self.region.words()}"

    def refuted_by(self) -> str:
        """What would refute the claim, in words."""
        return f"a 95% interval {self.region.outside()}"

    def judge(self, differences: Sequence[float], outcomes: Outcomes | None = None) -> Judgement:
        """The verdict on paired differences, one for each seed.

        Args:
            differences: not empty, in the claim's unit; positive speaks for the claim.
            outcomes: of a rule that goes by image, what single images make of it.

        Raises ValueError with the reason where the values do not fit the kind.
        """
        estimate = self.interval(differences, outcomes)
        bounded = math.isfinite(estimate.low) and math.isfinite(estimate.high)

        verdict, reason, needed = self.decide(differences, estimate)
        return Judgement(
            difference=estimate.mean,
            interval=[estimate.low, estimate.high] if bounded else None,
            verdict=verdict,
            reason=reason,
            needed=needed,
            evidence=self.evidence(differences),
        )

    def decide(self, differences: Sequence[float], estimate: Estimate) -> tuple[str, str, int | None]:
        """Verdict, reason, and about how many seeds would decide."""
        decided = self.region.decide(estimate)
        if decided is not None:
            return *decided, None

        if len(differences) < 2:
            return UNDECIDED, "one seed has no interval", None
        if not math.isfinite(estimate.low) and len(set(differences)) == 1:
            return UNDECIDED, "all differences are equal: no spread, no evidence", None

        needed = self.seeds_needed(differences, estimate)
        half = f"± {estimate.half_width:.3g} {self.claim.unit}" if math.isfinite(estimate.low) else "no interval yet"
        return UNDECIDED, f"{half}; about {needed} seeds would decide" if needed else half, needed

    def seeds_needed(self, differences: Sequence[float], estimate: Estimate) -> int | None:
        """How many seeds would decide if the spread stays as it is; None where nothing can be said."""
        return None

    def evidence(self, differences: Sequence[float]) -> float | None:
        """E-value against "not in the region"; None where the kind has none."""
        if not self.sequential and isinstance(self.region, Above):
            return None
        return self.region.evidence(self._at(differences), sequences.mean_of(differences))

    def evidence_against(self, differences: Sequence[float]) -> float | None:
        """E-value against "a difference worth the claim"; None where the kind has none."""
        if not self.sequential:
            return None
        return self.region.evidence_against(self._at(differences), sequences.mean_of(differences))

    def _at(self, differences: Sequence[float]) -> EvidenceAt:
        return lambda limit: min(self.evidence_at(differences, limit), MOST_EVIDENCE)


class Normal(Rule):
    """Differences of runs: the t-mixture sequence."""

    def interval(self, differences: Sequence[float], outcomes: Outcomes | None) -> Estimate:
        return sequences.normal(differences)

    def seeds_needed(self, differences: Sequence[float], estimate: Estimate) -> int | None:
        return sequences.seeds_needed(differences, self.region.distance(estimate.mean))


class Share(Rule):
    """A share of 0/1 outcomes held against a number: the beta-binomial sequence."""

    def interval(self, differences: Sequence[float], outcomes: Outcomes | None) -> Estimate:
        if not isinstance(self.claim.than, int | float):
            raise ValueError("a share is held against a number; the difference of two shares is of kind bounded")

        whole = sequences.share(self._outcomes(differences))
        low, high = sorted(self._sign * (end - self._shift) for end in (whole.low, whole.high))
        return Estimate(self._sign * (whole.mean - self._shift), low, high, whole.n)

    def evidence_at(self, differences: Sequence[float], limit: float) -> float:
        return sequences.share_evidence(self._outcomes(differences), self._sign * limit + self._shift)

    @property
    def _sign(self) -> float:
        return -1.0 if self.claim.lower_is_better else 1.0

    @property
    def _shift(self) -> float:
        assert not isinstance(self.claim.than, Mapping)
        return float(self.claim.than)

    def _outcomes(self, differences: Sequence[float]) -> list[float]:
        """What was seen, 0 or 1, before the number was subtracted."""
        return [round(self._sign * difference + self._shift, 9) for difference in differences]


class Bounded(Rule):
    """Differences that cannot leave a range: the hedged betting sequence."""

    def interval(self, differences: Sequence[float], outcomes: Outcomes | None) -> Estimate:
        return sequences.bounded(differences, *self._range)

    def evidence_at(self, differences: Sequence[float], limit: float) -> float:
        return sequences.bounded_evidence(differences, limit, *self._range)

    @property
    def _range(self) -> tuple[float, float]:
        assert self.claim.range is not None
        low, high = self.claim.range
        return low, high


class Exact(Rule):
    """A number without chance: it holds or fails."""

    sequential = False
    has_chance = False

    def interval(self, differences: Sequence[float], outcomes: Outcomes | None) -> Estimate:
        if len(set(differences)) > 1:
            raise ValueError(f"not exact: over seeds it is {min(differences):g} to {max(differences):g}")
        mean = sequences.mean_of(differences)
        return Estimate(mean, mean, mean, len(differences))

    def decide(self, differences: Sequence[float], estimate: Estimate) -> tuple[str, str, int | None]:
        return HOLDS if self.region.holds(estimate.mean) else FAILS, "", None

    def words(self) -> str:
        return f"{_difference(self.claim)} {self.region.words()}"

    def refuted_by(self) -> str:
        return f"a difference {self.region.outside()}"


class Folds(Rule):
    """Folds that share training data: the corrected resampled t interval."""

    sequential = False

    def interval(self, differences: Sequence[float], outcomes: Outcomes | None) -> Estimate:
        assert self.claim.test_over_train is not None
        return sequences.folds(differences, self.claim.test_over_train)


class Images(Rule):
    """Fixed networks: a bootstrap over the test set's images."""

    sequential = False
    by_image = True

    def interval(self, differences: Sequence[float], outcomes: Outcomes | None) -> Estimate:
        if not outcomes:
            raise ValueError("its stages kept no outcome for each image")
        sign = -1.0 if self.claim.lower_is_better else 1.0
        return sequences.images([(sign * value, int(count)) for value, count in outcomes])


RULES: Mapping[str, type[Rule]] = {
    "normal": Normal,
    "share": Share,
    "bounded": Bounded,
    "exact": Exact,
    "folds": Folds,
    "images": Images,
}


def rule_of(claim: Claim) -> Rule:
    """The rule that a claim's kind asks for."""
    return RULES[claim.kind](claim)


def _difference(claim: Claim) -> str:
    """What is judged, as arithmetic."""
    more, less = (claim.than, claim.better) if claim.lower_is_better else (claim.better, claim.than)
    compound = isinstance(less, str) and (" + " in less or " - " in less)
    return f"{more} - ({less})" if compound else f"{more} - {less}"
