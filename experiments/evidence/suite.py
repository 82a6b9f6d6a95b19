"""Main claims beside each other: which verdicts stay when all papers are looked at together. Imports no torch.

Thirty-six main claims at 0.05 each would let two false ones through. e-BH at 0.05 over all of them says which are kept,
whatever their dependence. Every registration counts: one that was replaced has no evidence and counts as 0. Support is
one family; no gain and refutation are another, by the evidence against a difference that would be worth the claim;
effect only is a third, by the evidence that the baseline is beaten and a rival is not (see joint). A family asks the
same of each paper, whatever its verdict is.
"""

from __future__ import annotations

from collections.abc import Mapping

from experiments.evidence import joint, sequences
from experiments.evidence.judged import JudgedClaim
from experiments.evidence.records import Entry
from experiments.evidence.words import EFFECT_ONLY, NO_GAIN, REFUTED, SUPPORTED

DEFAULT = ("mini", "lab", "full")  # the setting that stands for a paper: the first of these that is recorded


def default_entry(entries: Mapping[str, Entry]) -> tuple[str, Entry] | None:
    """The setting of a paper that counts beside the others."""
    for title in DEFAULT:
        if title in entries and entries[title].seeds:
            return title, entries[title]
    return None


def keep(entries: Mapping[str, Entry]) -> dict[str, bool]:
    """paper -> whether its main claim's verdict is kept beside those of all others; decided ones with chance alone.

    Args:
        entries: paper -> its default setting's entry.
    """
    mains = {paper: main for paper, entry in entries.items() if (main := entry.main_claim()) is not None}
    replaced = [0.0] * sum(len(entry.history) for entry in entries.values())
    support = dict(zip(mains, sequences.e_bh([*map(_support, mains.values()), *replaced]), strict=False))
    against = dict(zip(mains, sequences.e_bh([*map(joint.evidence_against, mains.values()), *replaced]), strict=False))
    effect = [joint.evidence_for_effect_only(main) for main in mains.values()]
    effect_only = dict(zip(mains, sequences.e_bh([*effect, *replaced]), strict=False))
    standing = {}
    for paper, main in mains.items():
        if main.evidence is None:
            continue
        if main.verdict == SUPPORTED:
            standing[paper] = support[paper]
        elif main.verdict in (NO_GAIN, REFUTED):
            standing[paper] = against[paper]
        elif main.verdict == EFFECT_ONLY:
            standing[paper] = effect_only[paper]
    return standing


def _support(main: JudgedClaim) -> float:
    return main.evidence or 0.0
