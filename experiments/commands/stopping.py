"""When a setting has seeds enough: its main claim is decided, or more of them are not asked for."""

from __future__ import annotations

from experiments.evidence import words
from experiments.evidence.judged import JudgedClaim
from experiments.evidence.records import Entry

BY_HAND = "seeds given by hand"
EXPLORED = "pilot seeds: nothing is registered"
INTERRUPTED = "interrupted; the same command goes on"


def decided(entry: Entry) -> str:
    """Why further seeds would change nothing of an entry; empty while its main claim is open."""
    main = entry.main_claim()
    return "no main claim: the first look is all" if main is None else decided_claim(main)


def decided_claim(main: JudgedClaim) -> str:
    """Why further seeds would change nothing of a claim; empty while it is open."""
    if main.verdict == words.NOT_RUN:
        return "a stage of the main claim did not finish"
    if main.verdict == words.UNTESTED:
        return "the mechanism of the main claim is absent"
    if main.verdict in words.DECIDED:
        return "decided"
    if main.kinds() <= {"exact", "folds"}:
        return "more seeds tell nothing new"
    return ""


def spent(count: int, most: int) -> str:
    """Why an open claim gets no further seed although it costs nothing; empty while there is room."""
    return f"{count} seeds" if count >= most else ""


def late(minutes_passed: float, minutes: float) -> str:
    """Why no further seed is started now; empty while there is time."""
    return f"{minutes:g} minutes; the same command goes on" if minutes_passed >= minutes else ""
