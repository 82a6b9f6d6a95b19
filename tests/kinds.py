"""Stages that are of one kind run the same code."""

from __future__ import annotations

from typing import Any

from experiments.identity.fingerprint import targets
from experiments.running.plan import Stage


def kind_of(stage: Stage) -> tuple[Any, ...]:
    """Equal for stages that are built of the same definitions with other numbers."""
    built = sorted(set(targets([stage.module, stage.data])))
    return (*built, *sorted(stage.needs), *sorted(stage.feeds), stage.fit)
