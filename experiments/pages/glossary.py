"""What a metric is, in words: as the paper's file says under `metrics`, or as many papers log it. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase

from experiments.common.plain import Plain
from experiments.pages import display

METRIC = re.compile(r"/((?:train|val|test)/[\w.@+-]*[\w@+])")  # after its stage, in a claim's arithmetic
SHARED = {  # <split>/<name> or a pattern; what one paper alone logs stands in its file
    "test/top1": "share of test images whose most probable class is right, %",
    "val/top1": "share of validation images whose most probable class is right, %",
    "train/top1": "share of the last epoch's training images whose most probable class is right, %",
    "*/top5": "share of images whose class is among the five most probable, %",
    "*/ece": "calibration error: mean distance of confidence and accuracy over 15 bins of confidence, from 0 to 1",
    "*/nll": "negative log-likelihood of the right classes, nats",
    "train/loss": "what training minimises, mean over the last epoch",
    "*/n": "how many images or other examples the numbers are means over",
}


def explain(metric: str, own: Mapping[str, str]) -> str:
    """A metric in words; empty where nothing says. A whole name comes before a pattern, a paper before what is shared.

    Args:
        metric: <split>/<name>.
        own: of the paper's file, see config.schema.PaperFile.metrics.
    """
    for words in (own, SHARED):
        if metric in words:
            return words[metric]
        for pattern, told in words.items():
            if fnmatchcase(metric, pattern):
                return told
    return ""


def of_question(claim: display.Claim | None, declared: Plain) -> dict[str, str]:
    """The metrics that a claim compares, of rivals too, and those that its preconditions look at, each in words."""
    if claim is None:
        return {}
    texts = [str(side) for row in (claim, *claim.rows) for side in (row.better, row.than)]
    texts += [required.text for required in claim.requires]
    return _in_words((metric for text in texts for metric in METRIC.findall(text)), declared)


def of_tables(entry: display.Entry, declared: Plain) -> dict[str, str]:
    """The metrics that an entry's tables show, each in words, those that claims look at first."""
    return _in_words(entry.metrics(sorted(entry.judged_metrics)), declared)


def _in_words(metrics: Iterable[str], declared: Plain) -> dict[str, str]:
    own: Mapping[str, str] = declared.get("metrics") or {}
    told = {metric: explain(metric, own) for metric in metrics}
    return {metric: words for metric, words in told.items() if words}
