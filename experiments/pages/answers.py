"""What the report says of claims: the answer first, then rules, preconditions, history and other machines.

Everything is formatted here; nothing is left to compute in a template. Imports no torch.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from experiments.evidence import words
from experiments.evidence.records import CheckResult, Comparison, Elsewhere, Entry, HistoryItem, JudgedClaim, Verdict
from experiments.pages import figures
from experiments.pages.figures import decimals, number

STALE = "stale"
SHOWN = {
    "name",
    "verdict",
    "reason",
    "rule",
    "refuted_by",
    "unit",
    "worth",
    "asked_by",
    "found",
}  # of a claim, as it is
SYMBOLS = {  # a verdict is a symbol and a word; the colour only repeats them
    words.SUPPORTED: "✓",
    words.HOLDS: "✓",
    words.REFUTED: "✗",
    words.FAILS: "✗",
    words.NO_GAIN: "=",
    words.UNDECIDED: "≈",
    words.UNTESTED: "⊘",
    words.MATCHED: "✓",
    words.FAILED: "✗",
    words.NOT_RUN: "○",
    STALE: "↻",
}


def answer(entry: Entry) -> dict[str, Any]:
    """An entry's main claim as a reader wants it: the answer, how sure, from how many seeds."""
    claim = entry.main_claim()
    if claim is None:
        return {
            "claim": None,
            "seen": False,
            "counts": count_verdicts([claim.verdict for claim in entry.claims], "claim"),
        }
    (row,) = claim_rows([claim])
    return {
        "claim": row,
        "seeds": len(claim.seeds),
        "scale": entry.scale,
        "seen": entry.registered.seen,
        "requires": [comparison(item) for item in claim.requires],
        "counts": None,
    }


def comparison(item: Comparison | CheckResult) -> dict[str, Any]:
    """A precondition or check: what must hold, whether it does, and the numbers."""
    values = " against ".join(f"{value:.4g}" for value in item.values) if item.values else item.reason
    word = {True: words.HOLDS, False: words.FAILS, None: words.NOT_RUN}[item.holds]
    return {"name": getattr(item, "name", item.text), "text": item.text, "verdict": word, "told": values}


def count_verdicts(judged: Sequence[str], what: str) -> dict[str, Any] | None:
    counts = Counter(judged)
    what = what if len(judged) == 1 else f"{what}s"
    return {"what": what, "verdicts": [(v, counts[v]) for v in SYMBOLS if v in counts]} if judged else None


def claim_rows(judged: Sequence[JudgedClaim]) -> list[dict[str, Any]]:
    rows = []
    for claim in judged:
        mean, interval = claim.difference, claim.interval
        digits = decimals([mean, *(interval or [])], two_from=1)
        drawn = figures.difference(claim, claim.seeds, figures.span(claim, judged)) if claim.per_seed else ""
        said = claim.published
        rows.append(
            {
                **claim.model_dump(include=SHOWN),
                "anchor": re.sub(r"[^a-z0-9]+", "-", claim.name.lower()).strip("-")[:60],
                "seeds": len(claim.seeds),
                "difference": "" if mean is None else number(mean, digits, sign=True),
                "interval": " to ".join(number(end, digits, sign=True) for end in interval) if interval else "",
                "figure": Markup(drawn),
                "published": f"{said.difference:+g} {claim.unit}, {said.source}" if said else "",
                "requires": [comparison(item) for item in claim.requires],
            }
        )
    return rows


def registered(entry: Entry) -> str:
    """Under what an entry was recorded, in a sentence."""
    made = entry.registered
    at = (made.at or "")[:10]
    if made.by_hand:
        return "Run by hand: seeds or settings were chosen by whoever ran it"
    if made.seen:
        return (
            f"Judged by claims written after these seeds were seen (registration {made.hash}, {at}); "
            "its first registered seeds are yet to run"
        )
    return f"Registration {made.hash} of {at}, before its first seed; seed stream {made.stream}"


def confirmed(entry: Entry) -> list[str]:
    """What later code gave again, a sentence per commit: which seed, how many numbers, of which stages."""
    shown: dict[tuple[str, ...], list[tuple[str, int]]] = {}
    for name, item in entry.confirmed.items():
        where = f" as {item.against[:10]} does on {item.cpu}" if item.against else ""
        key = (item.at[:10], str(item.commit)[:10], str(item.seed), where)
        shown.setdefault(key, []).append((name, item.numbers))
    return [
        f"{at}, {commit}: seed {seed} run anew gave the same {sum(count for _, count in stages):,} numbers{where}, "
        f"to the last bit; {', '.join(name for name, _ in stages)}"
        for (at, commit, seed, where), stages in shown.items()
    ]


def joined(entry: Entry) -> list[str]:
    """Which seeds were added elsewhere, to a record whose runs were not at hand; a sentence per machine and time."""
    told = []
    for item in entry.joined:
        seeds = ", ".join(map(str, item.seeds))
        torch = item.versions["torch"]
        told.append(f"seeds {seeds} ran on {item.hardware.cpu}, torch {torch}, and joined the others")
    return told


def past(item: HistoryItem) -> dict[str, Any]:
    """A line of an entry's history: when, why it ended, and what was seen."""
    seen = Counter(claim.verdict for claim in item.verdicts.values())
    return {
        "at": str(item.at)[:10],
        "seeds": ", ".join(map(str, item.seeds)),
        "commit": str(item.commit or "no commit")[:10],
        "why": item.why,
        "verdicts": ", ".join(f"{count} {verdict}" for verdict, count in seen.items()),
        "claims": [(name, claim.verdict, _told(claim)) for name, claim in item.verdicts.items()],
    }


def _told(claim: Verdict) -> str:
    if claim.difference is None:
        return ""
    ends = f" ({claim.interval[0]:+.2f} to {claim.interval[1]:+.2f})" if claim.interval else ""
    return f"{claim.difference:+.2f}{ends}"


def elsewhere(item: Elsewhere) -> dict[str, Any]:
    """What another machine found under the same registration."""
    machine = item.hardware
    return {
        "machine": f"{machine.cpu}, {machine.cores} cores",
        "at": str(item.at)[:10],
        "differs": ", ".join(f"{k} {here} instead of {there}" for k, (there, here) in item.differs.items()),
        "claims": [(name, claim.verdict, _told(claim)) for name, claim in item.claims.items()],
    }
