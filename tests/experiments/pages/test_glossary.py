"""Every number that a claim compares or a page shows is told in words."""

from __future__ import annotations

import json
from fnmatch import fnmatchcase

import pytest

from experiments.config import compose
from experiments.evidence import results
from experiments.pages import glossary

OWN = {"test/acc_*": "of this generator", "test/acc_gan": "of the GAN"}


def test_a_whole_name_comes_before_a_pattern_and_a_paper_before_what_is_shared() -> None:
    assert glossary.explain("test/acc_gan", OWN) == "of the GAN"
    assert glossary.explain("test/acc_ddpm", OWN) == "of this generator"
    assert glossary.explain("test/top1", OWN) == glossary.SHARED["test/top1"]
    assert glossary.explain("test/top1", {"test/top*": "as this paper counts"}) == "as this paper counts"
    assert glossary.explain("test/unheard", OWN) == ""


def asked(paper: str) -> set[str]:
    """Metrics that a paper's claims, checks and published numbers name, as <stage>/<split>/<name> or apart."""
    declared = compose.paper_file(paper)
    questions = json.dumps([declared["claims"], declared.get("checks")])
    return {*glossary.METRIC.findall(questions), *(row["metric"] for row in declared.get("published") or [])}


def shown(paper: str) -> set[str]:
    """Metrics of the tests of recorded stages."""
    stages = [stage for entry in results.entries(paper).values() for stage in entry.stages.values()]
    return {metric for stage in stages for metric in stage.metrics if metric.startswith("test/")}


@pytest.mark.parametrize("paper", compose.papers())
def test_every_number_is_told_in_words(paper: str) -> None:
    own = compose.paper_file(paper).get("metrics") or {}
    used = asked(paper) | shown(paper)
    untold = [metric for metric in sorted(used) if not glossary.explain(metric, own)]
    assert not untold, f"metrics: in conf/paper/{paper}.yaml says nothing of " + ", ".join(untold)
    assert [name for name in own if not any(fnmatchcase(metric, name) for metric in used)] == [], (
        "in words, and nowhere to be seen"
    )
    assert [words for words in own.values() if len(words) > 120] == []
