"""Small records for tests: whole and valid, with what a test is about given by name."""

from __future__ import annotations

from typing import Any

from experiments.evidence.judged import JudgedClaim, PublishedResult
from experiments.evidence.ran import Code, Curve, Hardware, Provenance, StageRecord
from experiments.evidence.records import Entry, Registration


def curve() -> Curve:
    return Curve(epoch=[0.0, 1.0, 2.0], mean=[2.0, 1.5, 1.0], low=[1.9, 1.4, 0.9], high=[2.1, 1.6, 1.1])


def stage(seeds: int, **more: Any) -> StageRecord:
    """A stage that ran for so many seeds."""
    facts: dict[str, Any] = {
        "about": "about it",
        "fit": True,
        "needs": [],
        "fingerprints": ["f" + str(index) for index in range(seeds)],
        "metrics": {},
        "seconds": [1.0 + index for index in range(seeds)],
        "epochs": 40,
        "parameters": 23090,
        "precision": "32-true",
        "batch": {"global": 32, "devices": 1, "reference": None},
        "learning_rates": [0.05],
        "peak_memory_mb": 400,
        "data": None,
        "curves": {},
    }
    return StageRecord.model_validate(facts | more)


def claim(name: str, verdict: str, values: list[float], interval: list[float] | None, **more: Any) -> JudgedClaim:
    """An exploratory claim with a difference for each seed from 0."""
    facts: dict[str, Any] = {
        "name": name,
        "main": False,
        "asked_by": "paper",
        "kind": "normal",
        "better": "student/test/top1",
        "than": "init/test/top1",
        "lower_is_better": False,
        "unit": "points",
        "margin": 0.0,
        "worth": 1.0,
        "within": None,
        "range": None,
        "test_over_train": None,
        "rule": "95% interval of student/test/top1 - init/test/top1 above 0",
        "refuted_by": "an interval below 0",
        "published": None,
        "requires": [],
        "seeds": list(range(len(values))),
        "per_seed": values,
        "difference": sum(values) / len(values) if values else None,
        "interval": interval,
        "verdict": verdict,
        "reason": "",
        "needed": None,
        "evidence": None,
        "outcomes": None,
        "found": False,
    }
    return JudgedClaim.model_validate(facts | more)


def published(**more: Any) -> PublishedResult:
    facts: dict[str, Any] = {
        "stage": "student",
        "metric": "test/top1",
        "value": 80.67,
        "dataset": "ImageNet-1k val",
        "protocol": "one crop",
        "source": "Table 2",
        "variant": None,
        "tolerance": 0.3,
        "kind": "normal",
        "scale": None,
        "verdict": "not run",
        "ours": None,
        "interval": None,
    }
    return PublishedResult.model_validate(facts | more)


def provenance() -> Provenance:
    return Provenance(
        written="2026-01-02T03:04:05+00:00",
        code=Code(commit="0123456789abcdef", dirty=True),
        versions={"python": "3.11.7", "torch": "2.9.0"},
        hardware=Hardware(cpu="Some CPU", cores=2, system="Linux x86_64"),
        threads=1,
        seconds=56.3,
    )


def entry(seeds: list[int], **more: Any) -> Entry:
    """An entry of nothing but its seeds."""
    facts: dict[str, Any] = {
        "scale": "mini",
        "variant": None,
        "about": "",
        "seeds": seeds,
        "looked": len(seeds),
        "overrides": [],
        "registered": Registration(hash="abc", at="2026-01-01T00:00:00", commit="0123456789", stream=1),
        "claims": [],
        "checks": [],
        "published": [],
        "stages": {},
        "provenance": provenance(),
        "history": [],
        "elsewhere": [],
    }
    return Entry(**(facts | more))


def registered(digest: str, **more: Any) -> Registration:
    """The first registration of an entry, under the earlier rule."""
    return Registration(**{"hash": digest, "at": "2026-01-01", "commit": "c", "stream": 1, **more})
