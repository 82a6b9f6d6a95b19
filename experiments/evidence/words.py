"""The words that verdicts are given in. Imports nothing."""

SUPPORTED = "supported"
REFUTED = "refuted"
NO_GAIN = "no gain"
UNDECIDED = "undecided"
UNTESTED = "untested"
NOT_RUN = "not run"

HOLDS = "holds"  # of numbers without chance
FAILS = "fails"

MATCHED = "matched"  # of published numbers
FAILED = "failed"

DECIDED = (SUPPORTED, REFUTED, NO_GAIN, HOLDS, FAILS)
