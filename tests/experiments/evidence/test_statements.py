"""Forgeries that are judged and sealed anew: everything follows from everything, and something else says otherwise.

docs/records.md lists them, with those that nothing but a run can tell.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from experiments.commands import check_results
from experiments.common import files
from experiments.evidence import assembly, registrations, results, statements
from experiments.evidence.order import History
from experiments.evidence.ran import Confirmation
from experiments.evidence.records import Entry, Record, Registration
from experiments.running.manifest import hash_metrics
from experiments.running.plan import SEEDS
from tests import example

NO_COMMIT = "0123456789abcdef0123456789abcdef01234567"


def confirmed(**changed: object) -> Confirmation:
    facts = {"fingerprint": "0" * 12, "numbers": 2, "seed": 1000, "commit": None, "at": "2026-11-29T00:00:00+00:00"}
    return Confirmation.model_validate(facts | changed)


def entry(per_seed: list[float] | None = None, mark: str = "ab" * 6) -> Entry:
    """Six seeds of the earlier rule, two stages of two metrics, and a main claim between them."""
    seeds = [1000 + index for index in range(6)]
    values = per_seed or [1.5, 2.5, 0.5, 1.0, 2.0, 3.0]
    metrics = {"test/top1": [50.0 + value for value in values], "test/ece": [0.1] * 6}
    stages = {
        name: example.stage(6, fingerprints=[f"{mark[:11]}{place}" for place in range(6)], metrics=metrics)
        for name in ("student", "init")
    }
    claim = example.claim("a beats b", "supported", values, [0.5, 3.0], main=True, seeds=seeds)
    return example.entry(seeds, stages=stages, claims=[claim])


def record(key: str, made: Entry) -> Record:
    return Record(key=key, title="T", arxiv=None, about="", deviations=[], entries={"mini": made})


SHAPES: dict[str, tuple[Callable[[Entry], object], str]] = {
    "a fingerprint that none could have": (
        lambda e: e.stages["student"].fingerprints.__setitem__(2, "made up"),
        "student: 'made up' is no fingerprint; expected twelve hex digits",
    ),
    "a stage that is not there is confirmed": (
        lambda e: e.confirmed.update(other=confirmed()),
        "confirmed: other of seed 1000 is not in the record",
    ),
    "a seed that is not there is confirmed": (
        lambda e: e.confirmed.update(student=confirmed(seed=7)),
        "confirmed: student of seed 7 is not in the record",
    ),
    "more numbers than there are are confirmed": (
        lambda e: e.confirmed.update(student=confirmed(numbers=9)),
        "confirmed: student of seed 1000: 9 numbers; the record has 2",
    ),
    "code of no fingerprint is confirmed": (
        lambda e: e.confirmed.update(student=confirmed(fingerprint="any")),
        "confirmed: student: 'any' is no fingerprint; expected twelve hex digits",
    ),
}


@pytest.mark.parametrize("forgery", SHAPES)
def test_what_does_not_fit_its_own_record(forgery: str) -> None:
    forged = entry()
    forged.confirmed = {"init": confirmed()}
    assert list(statements.shapes(forged)) == []
    change, told = SHAPES[forgery]
    change(forged)
    assert list(statements.shapes(forged)) == [told]


def test_commits_that_did_not_lead_here(tmp_path: Path) -> None:
    """Also a short one and a branch, which may come to be; only where git knows all commits is it looked up."""
    from experiments.common.paths import ROOT

    history = History(ROOT)
    head = history.git("rev-parse", "HEAD")
    if head is None:
        pytest.skip("not a git checkout")
    forged = entry()
    forged.provenance.code.commit = f"{head} None"
    assert list(statements.commits(forged, history)) == []
    for wrong in (NO_COMMIT, head[:10], "HEAD"):
        forged.provenance.code.commit = f"{head} {wrong}"
        assert list(statements.commits(forged, history)) == [f"code: the commit {wrong[:12]} is not in the history"]
    assert list(statements.commits(forged, history, [*head.split(), "HEAD"])) == []
    forged.provenance.code.commit = head
    forged.confirmed = {"init": confirmed(commit=head, against=NO_COMMIT)}
    assert list(statements.commits(forged, history)) == [
        "confirmed init against: the commit 0123456789ab is not in the history"
    ]


def test_runs_of_another_registration() -> None:
    forged = entry()
    forged.registered = Registration(hash="aaaa", at="t", commit=None, stream=1, rewritten=["bbbb"])
    forged.stages["student"].under = ["aaaa", "bbbb"]
    forged.stages["init"].under = []  # from before manifests said so
    assert list(statements.under(forged)) == []
    forged.stages["init"].under = ["cccc", "none"]
    told = ["init ran under registration cccc, not aaaa", "init ran under registration none, not aaaa"]
    assert list(statements.under(forged)) == told


def test_manifests_are_told_apart_by_what_they_name() -> None:
    manifests = [{"registered": "b"}, {"registered": "a"}, {"registered": "b"}, {"registered": None}, {}]
    assert assembly.under(manifests) == ["a", "b", "none"]
    assert assembly.under([{}, {}]) == []


def test_an_entry_copied_from_another_paper() -> None:
    """The same stages may stand in two settings; the same differences of other stages may not."""
    one, same, other = entry(), entry(), entry(mark="cd" * 6)
    assert list(statements.copies({"a": record("a", one), "b": record("b", same)})) == []
    told = ["b: mini: its differences are those of a: mini, seed for seed"]
    assert list(statements.copies({"a": record("a", one), "b": record("b", other)})) == told
    coarse = [1.0, 1.0, 2.0, 1.0, 2.0, 1.0]  # of few images: two may be equal by chance
    pair = [record(key, entry(coarse, mark)) for key, mark in (("a", "ab" * 6), ("b", "cd" * 6))]
    assert list(statements.copies(dict(zip("ab", pair, strict=True)))) == []


FILED: dict[str, tuple[Callable[[Entry], object], str]] = {
    "a stage left out": (lambda e: e.stages.pop("soft"), "stages: soft is not in the record"),
    "a stage put in": (lambda e: e.stages.update(best=e.stages["student"]), "stages: best is not in mini-"),
    "other data": (
        lambda e: setattr(e.stages["student"], "content", "0" * 12),
        "stages: student: its data is not what mini-",
    ),
    "another setting's title": (lambda e: setattr(e, "variant", "clean"), "is an entry of mini+clean"),
    "seeds chosen by hand": (lambda e: setattr(e.registered, "by_hand", True), "is an entry of mini by hand"),
    "claims after the seeds": (lambda e: setattr(e.registered, "seen", True), "claims were written after its seeds"),
    "a registration that is no file": (lambda e: setattr(e.registered, "filed", False), "are not the first of"),
    "another registration": (lambda e: setattr(e.registered, "hash", "0" * 12), "are not the first of registration"),
    "a reason of its own": (lambda e: setattr(e.registered, "why", "no reason"), "is not what mini-"),
    "more seeds than there can be": (
        lambda e: e.seeds.extend(range(10**7, 10**7 + SEEDS)),
        " fingerprints for ",
    ),
}


@pytest.mark.parametrize("forgery", FILED)
def test_what_is_not_as_its_registration_says(forgery: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_results, "_declared", lambda *_: iter(()))
    stored = results.read("meal_v2")
    assert stored is not None
    assert registrations.all_of("meal_v2", "mini")
    stored.entries = {"mini": stored.entries["mini"]}
    change, told = FILED[forgery]
    change(stored.entries["mini"])
    forged = stored.entries["mini"]
    if "seeds than" not in forgery:
        forged.seal = results.seal(forged)
    wrong = list(check_results.check(stored))
    assert any(told in line for line in wrong), wrong
    assert not any("was edited" in line for line in wrong)


def test_a_stream_of_the_earlier_rule_ends_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_results, "_declared", lambda *_: iter(()))
    count = SEEDS + 1
    recorded = example.entry([1000 + index for index in range(count)])
    recorded.seal = results.seal(recorded)
    wrong = list(check_results._registered("meal_v2", "mini", recorded, "meal_v2: mini"))
    assert wrong == [f"meal_v2: mini: {count} seeds; a registration has {SEEDS}"]


@pytest.mark.parametrize(
    ("manifest", "told"),
    [
        ({}, ""),  # from before manifests named a registration
        ({"registered": "own"}, ""),
        ({"registered": "0" * 12}, "ran under registration 000000000000, not "),
        ({"registered": "own", "metrics_hash": "0" * 16}, "metrics.json is not what its manifest says"),
        ({"finished": "2999", "registered": "0" * 12}, ""),  # another run than the record's says nothing about it
    ],
)
def test_runs_that_are_at_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, manifest: dict[str, str], told: str
) -> None:
    monkeypatch.setattr(check_results, "home", lambda: tmp_path)
    stored = results.read("meal_v2")
    assert stored is not None
    recorded = stored.entries["mini"]
    name, stage = next(iter(recorded.stages.items()))
    metrics = {metric: values[0] for metric, values in stage.metrics.items()}
    folder = tmp_path / "runs" / "meal_v2" / "mini" / f"seed={recorded.seeds[0]}" / f"{name}-{stage.fingerprints[0]}"
    facts = {"metrics_hash": hash_metrics(metrics), "finished": "2000", **manifest}
    facts = {key: str(recorded.registered.hash) if value == "own" else value for key, value in facts.items()}
    files.write_json(folder / "manifest.json", facts)
    files.write_json(folder / "metrics.json", metrics)
    lines = list(check_results._runs("meal_v2", recorded, "here"))
    assert len(lines) == bool(told)
    assert all(told in line for line in lines)
