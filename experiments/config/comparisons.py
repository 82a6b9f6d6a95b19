"""What may be asked of a run, as a paper's file says it: claims with their rules, and checks. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Annotated, Literal

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from experiments.common.plain import Plain
from experiments.config import expressions
from experiments.config.expressions import Expression, Metric
from experiments.config.published import Reported
from experiments.config.written import (
    CLOSED,
    Closed,
    Flag,
    Fraction,
    Names,
    Number,
    Positive,
    Text,
    Written,
    choice_of,
    keys_of,
)

# The fields that the hash of a registration held before any was added: these count also where they have their default.
HASHED = {
    *("name", "better", "than", "worth", "unit", "main", "asked_by", "kind", "margin", "within", "lower_is_better"),
    *("requires", "published", "scale", "variant", "range", "test_over_train"),
}
DEAD = r"train/[\w.@+-]*[\w@+] (<|<=|>|>=) -?(\d[\d.]*|\.\d+)(e[+-]?\d+)?"  # a training metric and a limit
EXPLAINS = {"worth_reason"}  # fields for readers, which change no verdict and are in no hash
Rivals = Annotated[
    dict[Text, Number | Text],
    Field(min_length=2),
    Written("a mapping of a baseline and its rivals, as in {baseline: a/test/top1, labels alone: b/test/top1}"),
]


@dataclass(frozen=True, config=CLOSED)
class Question(Closed):
    """A comparison with a rule: a claim, or one of the outcomes that a claim is about together."""

    name: Text
    """The statement, readable alone."""
    better: Text = ""
    """Arithmetic over <stage>/<split>/<metric>: a/test/top1, a/test/x - b/test/x, mean(arm_*/test/x)."""
    than: Number | Text | Rivals = ""
    """What it is compared with: arithmetic over metrics, or a number; or several by name, of which the first is the
    paper's baseline and the others are rivals, arms without the paper's idea that might show the same effect."""
    worth: Positive | None = None
    """The smallest difference worth the name, in the unit; not needed with `within` or for kind exact."""
    unit: Text = "points"
    """Of the difference."""
    kind: choice_of(Literal["normal", "share", "bounded", "exact", "folds", "images"]) = "normal"  # type: ignore[valid-type]
    """Of the differences: normal; a share of 0/1 outcomes; bounded in `range`; exact, without chance; folds that share
    training data; images of fixed networks, of which the stages leave an artifact <split>-<metric>."""
    margin: Number = 0.0
    """What the difference is held against."""
    within: Positive | None = None
    """Instead of margin and worth: the difference lies inside (-within, within)."""
    lower_is_better: Flag = False
    """The difference is than - better."""
    range: Sequence[Number] | None = None
    """The lowest and the highest possible difference, of kind bounded."""
    test_over_train: Positive | None = None
    """Test size over training size, of kind folds."""

    @model_validator(mode="after")
    def _makes_sense(self) -> Question:
        if self._is_joint():
            return self
        for key in ("better", "than"):
            if getattr(self, key) == "":
                raise ValueError(f"{self.name!r}: {key} is missing, a side of the comparison")
        if self.worth is None and self.within is None and self.kind != "exact":
            raise ValueError(f"{self.name!r}: worth is missing, the smallest difference worth the name")
        if self.kind == "bounded" and (self.range is None or len(self.range) != 2 or self.range[0] >= self.range[1]):
            raise ValueError("kind bounded needs range: [lowest, highest] possible difference")
        if self.kind == "folds" and self.test_over_train is None:
            raise ValueError("kind folds needs test_over_train, the test set's size over the training set's")
        if isinstance(self.than, Mapping) and self.within is not None:
            raise ValueError(f"{self.name!r}: rivals are beaten by a margin; several equivalences stand in all")
        if isinstance(self.than, Mapping) and self.kind == "images":
            raise ValueError(f"{self.name!r}: kind images compares two networks; expected one than")
        if isinstance(self.than, Mapping) and len(set(self.than.values())) < len(self.than):
            raise ValueError(f"{self.name!r}: than={dict(self.than)}: two names for one arm")
        return self

    def _is_joint(self) -> bool:
        """Whether others say what is compared."""
        return False

    def content(self) -> Plain:
        """What the hash of a registration holds of it: a field that was added later only where it says something.

        Rivals are a list, since a hash of a mapping does not tell which of them stands first.
        """
        defaults = {each.name: each.default for each in fields(self)}
        decisive = {key: value for key, value in vars(self).items() if key not in EXPLAINS}
        said = {key: value for key, value in decisive.items() if key in HASHED or value != defaults[key]}
        if isinstance(self.than, Mapping):
            said["than"] = [[name, side] for name, side in self.than.items()]
        return said


@dataclass(frozen=True, config=CLOSED)
class Outcome(Question):
    """One of several outcomes that a claim is about together."""


@dataclass(frozen=True, config=CLOSED)
class Claim(Question):
    """A statement with a rule, written before its first recorded seed."""

    all: Sequence[Outcome] = ()
    """Instead of better and than: several outcomes, as faster and as accurate; supported where each of them is. The
    first of them is what tables show."""
    main: Flag = False
    """The paper's own question; exactly one in a setting."""
    asked_by: choice_of(Literal["paper", "suite"]) = "paper"  # type: ignore[valid-type]
    """Whether the paper asks it, or this suite."""
    requires: Sequence[Text] = ()
    """Comparisons that hold in the mean over seeds where the mechanism is there; else nothing is judged."""
    requires_each: Sequence[Text] = ()
    """Comparisons that hold in nearly every seed where the mechanism is there; nothing is judged once the share of
    seeds that fulfil one is shown to be less than `share_of_seeds`. Seeds that do not stay in the difference."""
    share_of_seeds: Fraction = 0.9
    """Of `requires_each`."""
    dead: Text = ""
    """Of a main claim: when an arm that it compares has learnt nothing, as train/top1 < 12. A training metric and a
    limit, the same for all of them. All arms of a seed in which one is dead start again together, at most twice; leave
    it out where stability is the claim."""
    published: Annotated[Reported, keys_of("difference", "source")] | None = None
    """What the paper reports of it."""
    scale: Names | None = None
    """The scales it is about: a name, a pattern or a list; all unless given."""
    variant: Names | None = None
    """The variants it is about; the setting without one is called default."""
    worth_reason: Text = ""
    """Of a main claim: why worth (or within) is what it is. The paper's own difference, what a user would notice, or
    the noise of the test set."""

    @model_validator(mode="after")
    def _has_parts_that_fit(self) -> Claim:
        if not self.all:
            return self
        for each in fields(Outcome):
            if each.name != "name" and getattr(self, each.name) != each.default:
                raise ValueError(f"{self.name!r}: {each.name} stands with each of its outcomes, in all")
        names = [outcome.name for outcome in self.all]
        if len(set(names)) != len(names) or len(names) < 2:
            raise ValueError(f"{self.name!r}: all={names}: expected at least two outcomes of different names")
        if any(outcome.kind == "images" for outcome in self.all):
            raise ValueError(f"{self.name!r}: kind images is judged by itself, not among several outcomes")
        return self

    @model_validator(mode="after")
    def _can_start_again(self) -> Claim:
        if not self.dead:
            return self
        if re.fullmatch(DEAD, self.dead) is None:
            raise ValueError(f"dead={self.dead!r}: expected a training metric and a limit, as in train/top1 < 12")
        if not self.main:
            raise ValueError(f"{self.name!r}: dead is said with the main claim, whose arms start again")
        if kinds := {part.kind for part in self.all or (self,)} - {"normal", "bounded"}:
            raise ValueError(f"{self.name!r}: kind {min(kinds)} has no seeds that start again; leave out dead")
        return self

    def _is_joint(self) -> bool:
        return bool(self.all)

    def parts(self) -> list[Claim]:
        """What is judged by a rule of its own: each of the outcomes, or the claim itself."""
        names = [each.name for each in fields(Outcome)]
        return [Claim(**{name: getattr(outcome, name) for name in names}) for outcome in self.all] or [self]

    def against(self) -> dict[str, Claim]:
        """By name the comparisons with baseline and rivals, each as a claim; without rivals the claim itself."""
        if not isinstance(self.than, Mapping):
            return {"": self}
        return {name: replace(self, than=side) for name, side in self.than.items()}

    def shown(self) -> Claim:
        """What tables show of it: the first outcome beside its baseline, as a claim of its own."""
        return next(iter(self.parts()[0].against().values()))

    def preconditions(self) -> list[str]:
        """The comparisons without which nothing is judged."""
        return [*self.requires, *self.requires_each]

    def arms(self, stages: Iterable[str]) -> list[str]:
        """The stages, of these, whose metrics it compares."""
        known = list(stages)
        named = [metric for side in self.sides(self.name) for metric in expressions.metrics(side)]
        return list(dict.fromkeys(stage for metric in named for stage in expressions.fitting(metric, known)))

    def expression(self, where: str = "claims") -> tuple[Expression, Expression]:
        """Both sides, of a claim that compares one thing with one other. Raises InputError naming `where`."""
        assert not isinstance(self.than, Mapping)
        return expressions.parse(self.better, where), expressions.parse(self.than, where)

    def sides(self, where: str = "claims") -> list[Expression]:
        """All that is compared, of every outcome and with every rival. Raises InputError naming `where`."""
        pairs = [each.expression(where) for part in self.parts() for each in part.against().values()]
        return list(dict.fromkeys(side for pair in pairs for side in pair))

    def metrics(self) -> list[Metric]:
        """Every metric that it names, or one of its preconditions."""
        sides = self.sides()
        for text in self.preconditions():
            left, _, right = expressions.comparison(text, self.name)
            sides += [left, right]
        return [metric for side in sides for metric in expressions.metrics(side)]

    def content(self) -> Plain:
        said = super().content()
        return said | {"all": [outcome.content() for outcome in self.all]} if self.all else said


@dataclass(frozen=True, config=CLOSED)
class Check(Closed):
    """A comparison that is arithmetic, a sanity check or a fact about the run: shown, not judged as evidence."""

    name: Text
    """What holds, readable alone."""
    holds: Text
    """A comparison: init/test/top1 > 40."""
    scale: Names | None = None
    """The scales it is about, as for claims."""
    variant: Names | None = None
    """The variants it is about, as for claims."""
