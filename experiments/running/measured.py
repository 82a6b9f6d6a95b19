"""What dry runs measured on this machine, in runs/measured.json, which git ignores. Imports no torch.

By setting, such as `noprop full+mnist`, and device: for each stage its hours with one seed, and what they were measured
with. A measurement of other code stays until it is made anew, and says when it was made.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from experiments.common import files
from experiments.common.paths import ROOT

FILE = ROOT / "runs" / "measured.json"


@dataclass(frozen=True)
class Hours:
    """A stage's training with one seed.

    Attributes:
        hours: on that device.
        batch, published: images per step, when it was timed and in the recipe.
        at_least: a real step takes longer than what was timed.
    """

    hours: float
    batch: int
    published: int
    at_least: bool


def write(setting: str, device: str, stages: Mapping[str, Hours]) -> None:
    """Keep what a dry run measured; a checkout that cannot be written to keeps nothing."""
    stored = files.read_json(FILE)
    stored = stored if isinstance(stored, dict) else {}
    measurement = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "stages": {name: asdict(hours) for name, hours in stages.items()},
    }
    of_setting = {**stored.get(setting, {}), device: measurement}
    with contextlib.suppress(OSError):
        files.write_json(FILE, {**stored, setting: of_setting})


def read(setting: str) -> dict[str, dict[str, Hours]]:
    """device -> stage -> hours; empty where nothing was measured."""
    stored: Any = files.read_json(FILE)
    of_setting = stored.get(setting, {}) if isinstance(stored, dict) else {}
    try:
        return {
            device: {name: Hours(**stage) for name, stage in measured["stages"].items()}
            for device, measured in of_setting.items()
        }
    except (TypeError, KeyError, AttributeError):
        return {}  # written by another version: as if it were not there


def in_words(setting: str) -> str:
    """The hours of one seed on each device that it was measured on; empty where it never was."""
    told = []
    for device, stages in read(setting).items():
        total = sum(stage.hours for stage in stages.values())
        more = "at least " if any(stage.at_least for stage in stages.values()) else ""
        batches = sorted({stage.batch for stage in stages.values() if stage.batch != stage.published})
        timed = f", timed at batches of {', '.join(map(str, batches))}" if batches else ""
        told.append(f"{more}{amount(total)} on {device}{timed}")
    return "; ".join(told)


def amount(hours: float) -> str:
    """Hours with two digits that count."""
    digits = 2 if hours < 1 else 1 if hours < 10 else 0
    return f"{hours:,.{digits}f} h"
