"""The words that verdicts are given in. Imports nothing."""

SUPPORTED = "supported"
REFUTED = "refuted"
NO_GAIN = "no gain"
EFFECT_ONLY = "effect only"  # the baseline is beaten, and so it is without the paper's idea
UNDECIDED = "undecided"
UNTESTED = "untested"
NOT_RUN = "not run"

HOLDS = "holds"  # of numbers without chance
FAILS = "fails"

MATCHED = "matched"  # of published numbers
FAILED = "failed"

DECIDED = (SUPPORTED, REFUTED, NO_GAIN, EFFECT_ONLY, HOLDS, FAILS)
