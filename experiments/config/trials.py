"""How a recipe is tried around itself: the grid of a tuning, and what a replication draws anew. Imports no torch."""

from __future__ import annotations

import re
from dataclasses import field
from typing import Any

from pydantic import model_validator
from pydantic.dataclasses import dataclass

from experiments.config.written import CLOSED, Closed, Flag, Number, Positive, Text, Whole


@dataclass(frozen=True, config=CLOSED)
class Knob(Closed):
    """A number of the recipe that a replication draws anew for each seed, once for all its keys."""

    keys: list[Text]
    """Where it stands: stages.<stage, group or pattern>.<path>, or the name of a value of the recipe's own."""
    times: list[Positive] | None = None
    """The lowest and the highest factor, drawn evenly on the logarithmic scale."""
    between: list[Number] | None = None
    """The lowest and the highest value, drawn evenly."""
    among: list[Any] | None = None
    """Two values or more, drawn evenly."""

    @model_validator(mode="after")
    def _makes_sense(self) -> Knob:
        ways = [way for way in ("times", "between", "among") if getattr(self, way) is not None]
        if len(ways) != 1:
            raise ValueError(f"expected one of times, between, among, got {', '.join(ways) or 'none'}")
        if not self.keys or any(not re.match(r"stages\.[^.]+\.\S+|(?!stages\b)\w+(\.\w+)*$", key) for key in self.keys):
            raise ValueError(f"keys={self.keys}: expected some such as stages.*.module.optimizer.lr")
        ends = self.times or self.between
        if ends is not None and (len(ends) != 2 or ends[0] >= ends[1]):
            raise ValueError(f"{ways[0]}={ends}: expected a lower and a higher number")
        if self.among is not None and len(self.among) < 2:
            raise ValueError(f"among={self.among}: expected two values or more")
        return self


@dataclass(frozen=True, config=CLOSED)
class Grid(Closed):
    """One grid for all arms that the main claim compares, judged on validation data of pilot seeds."""

    arms: list[Text] = field(default_factory=list)
    """The stages that are compared."""
    keys: list[Text] = field(default_factory=list)
    """Where the number stands that matters most: stages.<stage, group or pattern>.<path>."""
    values: list[Any] = field(default_factory=list)
    """Three to seven of them, from low to high."""
    by: Text = "val/top1"
    """A validation metric, or one of a search that sees validation images alone; that of the last epoch counts."""
    lower_is_better: Flag = False
    """Of that metric."""
    seeds: list[Whole] = field(default_factory=lambda: [1, 2])
    """Pilot seeds, below 1000."""
    none: Text = ""
    """Instead of all that: why there is nothing to tune."""

    @model_validator(mode="after")
    def _makes_sense(self) -> Grid:
        if self.none:
            return self
        if not 3 <= len(self.values) <= 7 or len(set(map(str, self.values))) != len(self.values):
            raise ValueError(f"values={self.values}: expected three to seven different values")
        if len(self.arms) < 2:
            raise ValueError(f"arms={self.arms}: expected the stages that the main claim compares, two or more")
        if not self.by.startswith(("val/", "train/")):
            raise ValueError(f"by={self.by}: expected a validation metric, as val/top1: test images are not looked at")
        if not self.seeds or any(seed >= 1000 for seed in self.seeds):
            raise ValueError(f"seeds={self.seeds}: expected pilot seeds, from 1 to 999")
        return self
