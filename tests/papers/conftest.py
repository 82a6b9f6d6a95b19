"""For the tests of all papers."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from experiments.running.plan import Plan


@pytest.fixture(autouse=True)
def _forked_ranks(forked_ranks: None) -> None:
    """Two processes compute what one does: how they begin is tested where it is written."""


@pytest.fixture
def make_plan(make_plan: Callable[..., Plan]) -> Callable[..., Plan]:
    """The plan of a seed whose pictures nobody wants, but of two processes and where seeds are given: every paper's are
    drawn where its smoke runs, and take as long as the training."""

    def make(*lines: str, seed: int = 0) -> Plan:
        drawn = "trainer=ddp_cpu" in lines or any(line.startswith("seeds=") for line in lines)
        return make_plan(*lines, *([] if drawn else ["seeds=[999]"]), seed=seed)

    return make
