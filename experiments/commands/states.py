"""Two states of the code on one machine: checking one out, running it, and which numbers differ."""

from __future__ import annotations

import contextlib
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from experiments.common import files
from experiments.common.errors import InputError, RunError
from experiments.common.paths import ROOT

Metrics = Mapping[str, Mapping[str, float]]  # stage -> metric -> value
DESCRIBE = """
import json, sys
from experiments.config import compose
from experiments.running.plan import plan
described = plan(compose.compose(compose.request(sys.argv[2:]).overrides), int(sys.argv[1]))
print(json.dumps({name: str(stage.directory) for name, stage in described.stages.items()}))
"""


@dataclass(frozen=True)
class Done:
    """What a stage with the code of another folder left: its fingerprint there and its metrics."""

    fingerprint: str
    metrics: Mapping[str, float]


class Difference(NamedTuple):
    """A number that is not what it was; None where one of the two states lacks it."""

    stage: str
    metric: str
    before: float | None
    now: float | None


@contextlib.contextmanager
def checked_out(revision: str) -> Iterator[Path]:
    """A folder with another state of the code, for as long as it is needed. Raises InputError if git has none such."""
    with tempfile.TemporaryDirectory(prefix="base-") as folder:
        base = Path(folder) / "base"
        _git("worktree", "add", "--detach", str(base), revision)
        try:
            yield base
        finally:
            _git("worktree", "remove", "--force", str(base))


def _git(*words: str) -> None:
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise InputError(f"git {' '.join(words[:2])}: {done.stderr.strip().splitlines()[-1]}")


def run_in(tree: Path, seed: int, words: Sequence[str]) -> dict[str, Done]:
    """Every stage of one run with the code of a folder. Raises RunError if it fails, or is too old to tell."""
    where = "here" if tree == ROOT else "in the base"
    command = ["-m", "experiments.run", *words, f"seed={seed}"]
    ran = _python(tree, *command)
    if ran.returncode:
        last = (ran.stderr or ran.stdout).strip().splitlines()[-1:]
        raise RunError(f"{' '.join(command[1:])} ended with {ran.returncode} {where}: {''.join(last)}")

    described = _python(tree, "-c", DESCRIBE, str(seed), *words)
    if described.returncode:
        raise RunError(f"the code {where} does not say where its stages are: it is too old to compare with")
    stages = {}
    for name, folder in json.loads(described.stdout.splitlines()[-1]).items():
        metrics = files.read_json(Path(folder) / "metrics.json") or {}
        stages[name] = Done(folder.rpartition("-")[2], metrics)
    return stages


def _python(tree: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """What Python does in a folder, with the code that lies there."""
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    return subprocess.run(
        [sys.executable, *words], cwd=tree, env=environment, capture_output=True, text=True, check=False
    )


def differences(before: Metrics, now: Metrics) -> Iterator[Difference]:
    """Every number that is not the same to the last bit, or that one of the two lacks."""
    for stage, metric in names(before, now):
        old = before.get(stage, {}).get(metric)
        new = now.get(stage, {}).get(metric)
        if not equal(old, new):
            yield Difference(stage, metric, old, new)


def names(*runs: Metrics) -> list[tuple[str, str]]:
    """Every stage and metric that any of these runs has, each stage's together."""
    stages = dict.fromkeys(stage for run in runs for stage in run)
    return list(dict.fromkeys((stage, metric) for stage in stages for run in runs for metric in run.get(stage, {})))


def equal(a: float | None, b: float | None) -> bool:
    """To the last bit; what is not a number equals itself."""
    both_nan = a is not None and b is not None and math.isnan(a) and math.isnan(b)
    return a == b or both_nan
