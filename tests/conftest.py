"""Shared by all tests: one thread each (they run side by side), the same draws whatever ran before, no network, runs
in a temporary folder."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["WANDB_MODE"] = "offline"

from experiments import compose
from experiments.fingerprint import targets
from experiments.plan import Plan, plan


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _same_draws() -> None:
    import numpy as np
    import torch

    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)


@pytest.fixture
def make_plan(tmp_path: Path) -> Callable[..., Plan]:
    """A plan from a command line, at smoke scale unless told otherwise, that writes below tmp_path."""

    def make(*lines: str, seed: int = 0) -> Plan:
        scale = [] if any(line.startswith("scale=") for line in lines) else ["scale=smoke"]
        request = compose.request([*scale, *lines, f"runs_dir={tmp_path}"])
        return plan(compose.compose(request.overrides), seed)

    return make


@pytest.fixture(scope="session")
def every_target() -> dict[str, tuple[str, ...]]:
    """paper -> every `_target_` of its stages, over all scales and variants, and of its comparisons of speed."""
    found = {}
    for paper in compose.papers():
        about = compose.paper_file(paper)
        settings = [(scale, None) for scale in compose.options("scale")]
        settings += [(item["scale"], name) for name, item in (about.get("variants") or {}).items()]
        named = set(targets(about.get("bench") or []))
        for scale, variant in settings:
            lines = [f"paper={paper}", f"scale={scale}", *([f"variant={variant}"] if variant else [])]
            config = compose.compose(compose.request(lines).overrides)
            named |= set(targets(compose.resolve(config, 0)["stages"]))
        found[paper] = tuple(sorted(named))
    return found


@pytest.fixture
def logged() -> Callable[..., dict[str, float]]:
    """What a module logs of a test of these batches, without a trainer."""

    def run(module: Any, *batches: Any) -> dict[str, float]:
        found: dict[str, float] = {}
        module.log = lambda name, value, **_: found.update({name: float(value)})
        module.log_dict = lambda values, **_: found.update({name: float(value) for name, value in values.items()})
        for number, batch in enumerate(batches):
            module.test_step(batch, number)
        module.on_test_epoch_end()
        return found

    return run


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long tests first, so that two processes end at about the same time."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
