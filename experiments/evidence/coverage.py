"""Which of a paper's tables, figures and claims are asked here, and which of them were run. Imports no torch.

    covers:
      - {what: "Table 2: ImageNet, single crop", asked: [mini, full], by: Inception-ResNet-v2 is more accurate}
      - {what: "Table 5: ensembles on the test set", asked: no, why: the test set's labels are not public}

What is asked stands in the paper's file; whether it was run is read from its records, and for sizes of networks from
results/counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from experiments.config import claims, written
from experiments.config.summary import COUNTED, Covered
from experiments.evidence import counts
from experiments.evidence.records import Entry
from experiments.evidence.words import NOT_RUN


@dataclass(frozen=True)
class Row:
    """Something that the paper shows or claims.

    Attributes:
        what: which.
        run: by scale that asks it, whether a record answers it; of sizes of networks `counted`; empty where none asks.
        why: the reason where none asks.
    """

    what: str
    run: Mapping[str, bool]
    why: str = ""

    @property
    def is_run(self) -> bool:
        return any(self.run.values())

    @property
    def told(self) -> str:
        """As in `run at mini; full, not run yet`."""
        if COUNTED in self.run:
            return COUNTED if self.is_run else f"not {COUNTED} yet"
        done = " and ".join(scale for scale, is_run in self.run.items() if is_run)
        still_open = " and ".join(scale for scale, is_run in self.run.items() if not is_run)
        parts = [f"run at {done}" if done else "", f"{still_open}, not run yet" if still_open else ""]
        return "; ".join(filter(None, parts)) or "not asked"


def rows(declared: Mapping[str, Any], entries: Mapping[str, Entry], counted: Sequence[counts.Row]) -> list[Row]:
    """What a paper's file says it covers, each with whether it was run.

    Args:
        declared: the paper's file.
        entries: its recorded settings.
        counted: its networks' sizes, as recorded.
    """
    items = [written.read(Covered, item, f"covers.{i}") for i, item in enumerate(declared.get("covers") or [])]
    recorded = [entry for entry in entries.values() if entry.seeds]
    return [Row(item.what, _run(item, recorded, counted), item.why) for item in items]


def _run(item: Covered, entries: Sequence[Entry], counted: Sequence[counts.Row]) -> dict[str, bool]:
    if item.named() == [COUNTED]:
        return {COUNTED: bool(counted)}
    return {scale: _is_run(item, scale, entries) for scale in item.scales()}


def _is_run(item: Covered, scale: str, entries: Sequence[Entry]) -> bool:
    """Whether a record of this scale answers what an item is asked by."""
    asked = [e for e in entries if e.scale == scale and claims.fits(item.variant, e.variant or "default")]
    starts = tuple(item.named())
    if not starts:
        return bool(asked)
    return any(_answers(entry, starts) for entry in asked)


def _answers(entry: Entry, starts: tuple[str, ...]) -> bool:
    """Whether an entry judged a claim or check, or measured a published number, that begins so."""
    judged = any(claim.name.startswith(starts) and claim.verdict != NOT_RUN for claim in entry.claims)
    checked = any(check.name.startswith(starts) and check.holds is not None for check in entry.checks)
    measured = any(item.source.startswith(starts) and item.ours is not None for item in entry.published)
    return judged or checked or measured


def summary(covered: Sequence[Row]) -> str:
    """As in `5 of 12 run, 1 at full scale`; empty where a paper's file does not list what the paper shows."""
    if not covered:
        return ""
    at_full = sum(row.run.get("full", False) for row in covered)
    count = f"{sum(row.is_run for row in covered)} of {len(covered)} run"
    return f"{count}, {at_full} at full scale" if at_full else count
