"""What the report says of claims: the answer first, then rules and preconditions, as a template lays them out.

Everything is formatted here; nothing is left to compute in a template. Imports no torch.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from experiments.pages import differences, display, numbers
from experiments.pages.numbers import fixed


def answer(entry: display.Entry) -> dict[str, Any]:
    """An entry's main claim as a reader wants it: the answer, how sure, from how many seeds."""
    if entry.main is None:
        return {"claim": None, "scope": entry.scope, "seen": False, "counts": count_verdicts(entry.claims)}
    (row,) = claim_rows([entry.main])
    return {
        "claim": row,
        "seeds": row["seeds"],
        "scale": entry.scale,
        "scope": entry.scope,
        "worth_reason": entry.worth_reason,
        "images": entry.images,
        "seen": entry.seen,
        "requires": row["requires"],
        "counts": None,
    }


def comparison(item: display.Comparison) -> dict[str, Any]:
    """A precondition or check: what must hold, whether it does, and the numbers."""
    values = " against ".join(f"{value:.4g}" for value in item.values)
    return {
        "name": item.name,
        "text": item.text,
        "verdict": item.verdict,
        "told": values or item.reason,
        "counted": item.counted,
    }


def count_verdicts(claims: Sequence[display.Claim]) -> dict[str, Any] | None:
    """How many claims have each verdict, in the order of the verdicts' symbols."""
    counts = Counter(claim.verdict for claim in claims)
    what = "claim" if len(claims) == 1 else "claims"
    return {"what": what, "verdicts": [(v, counts[v]) for v in display.SYMBOLS if v in counts]} if claims else None


def claim_rows(claims: Sequence[display.Claim]) -> list[dict[str, Any]]:
    """Claims that stand together: those of the same metric have figures of the same range."""
    return [_claim_row(claim, claims) for claim in claims]


def _claim_row(claim: display.Claim, together: Sequence[display.Claim]) -> dict[str, Any]:
    interval = claim.interval or ()
    digits = numbers.decimals([claim.difference, *interval], two_from=1)
    figure = differences.draw_claim(claim, differences.span(claim, together)) if claim.per_seed else ""
    return {
        **vars(claim),
        "anchor": re.sub(r"[^a-z0-9]+", "-", claim.name.lower()).strip("-")[:60],
        "seeds": len(claim.seeds),
        "difference": "" if claim.difference is None else fixed(claim.difference, digits, sign=True),
        "interval": " to ".join(fixed(end, digits, sign=True) for end in interval),
        "figure": Markup(figure),
        "published": claim.paper_says,
        "requires": [comparison(item) for item in claim.requires],
        "rows": [_claim_row(row, [claim, *claim.rows]) for row in claim.rows],
    }
