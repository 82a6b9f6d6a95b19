"""A plan run, with all that the engine says of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from experiments.running import engine
from experiments.running.engine import Outcome
from experiments.running.plan import Plan

Make = Callable[..., Plan]


def collect(plan: Plan) -> tuple[dict[str, Outcome], list[dict[str, Any]]]:
    events: list[dict[str, Any]] = []
    return engine.run(plan, events.append), events
