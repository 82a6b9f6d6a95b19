"""Operations of one seed's training, by stage, as a dry run of a published recipe counts them. Imports no torch.

They follow from the recipe, whatever the machine: what a GPU would need is arithmetic where none was at hand. Where a
search hands on a network, a dry run draws one, since nothing was trained. They are a lower bound: three passes of what
answers for an image, without a stage's other networks (teachers, a generator beside a classifier, a discriminator) and
without what is done several times for an image.
`make reproduce PAPER=K SCALE=full DRY=1 ARGS=record=true` writes them to results/operations/K.json.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.common import files
from experiments.evidence import results

GPU = 1e14  # operations a second that a GPU of today does in bf16 when a training is written well, of 3e14 to 1e15


def path(paper: str) -> Path:
    return results.base() / "operations" / f"{paper}.json"


def write(paper: str, title: str, stages: Mapping[str, float]) -> Path:
    """Keep a setting's operations beside those of the paper's other settings. Returns the file."""
    stored: Any = files.read_json(path(paper))
    others = stored if isinstance(stored, dict) else {}
    rounded = {name: float(f"{operations:.4g}") for name, operations in stages.items()}
    files.write_json(path(paper), {**others, title: rounded})
    return path(paper)


def read(paper: str, title: str) -> dict[str, float]:
    """Stage -> operations; empty where no dry run wrote them."""
    stored: Any = files.read_json(path(paper))
    of_setting = stored.get(title, {}) if isinstance(stored, dict) else {}
    return {name: float(operations) for name, operations in of_setting.items()}


def in_words(paper: str, title: str) -> str:
    """What one seed's training of all stages takes on a GPU, by arithmetic; empty where it is not known."""
    total = sum(read(paper, title).values())
    return f"{in_hours(total)}, by its operations, not measured" if total else ""


def in_hours(operations: float) -> str:
    """How long a GPU takes for so many operations at least, with two digits that count."""
    hours = operations / GPU / 3600
    digits = 2 if hours < 1 else 1 if hours < 10 else 0
    amount = f"{hours:,.{digits}f} GPU-hours" if hours >= 0.01 else "some seconds of a GPU"
    return f"at least {amount} at {GPU / 1e12:.0f} TFLOP/s"
