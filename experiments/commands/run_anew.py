"""One recorded seed of a setting, run anew and compared with its record, number by number, to the last bit."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from pathlib import Path

from experiments.commands import confirm, states
from experiments.commands.schedulers import Schedulers
from experiments.common.errors import InputError
from experiments.config import compose
from experiments.evidence import merge, naming, results
from experiments.evidence.ran import Hardware
from experiments.evidence.records import Entry
from experiments.identity.provenance import hardware, versions
from experiments.pages.numbers import number
from experiments.pages.progress import Board
from experiments.running import preconditions
from experiments.running.plan import plan

DIFFER = "a recorded seed run anew gives other numbers"


def run(paper: str, title: str, overrides: Sequence[str]) -> str:
    """What it shows, in words.

    Args:
        overrides: where it runs, as jobs=1; lines that would make it another experiment are refused.
    Raises:
        InputError: such a line, or the seed cannot run here.
    """
    if changed := naming.personal(overrides):
        raise InputError(f"{changed[0]}: a recorded seed is run as it was recorded; expected jobs= or data_dir=")
    entry = results.entries(paper)[title]
    lines = [f"paper={paper}", f"scale={entry.scale}", *entry.overrides, *overrides]
    lines += [f"variant={entry.variant}"] if entry.variant else []
    with tempfile.TemporaryDirectory(prefix="anew-") as runs:
        config = compose.compose(compose.request([*lines, f"runs_dir={Path(runs).resolve()}"]).overrides)
        precisions = {name: stage.precision for name, stage in entry.stages.items() if stage.precision}
        chosen = plan(config, entry.seeds[0], precisions)
        preconditions.check([chosen])
        with Schedulers() as schedulers:
            scheduler = schedulers.of(config, len(chosen.stages))
            with Board(f"{paper}/{title}", len(chosen.stages)).plan(list(chosen.stages)) as board:
                outcomes = scheduler.run([chosen], board)[chosen.seed]
    if failed := next((outcome for outcome in outcomes.values() if outcome.status != "done"), None):
        return f"{DIFFER}: {failed.stage} failed: {failed.reason}"
    timed = {name for name, stage in chosen.stages.items() if stage.exclusive}
    return compared(entry, {name: o.metrics for name, o in outcomes.items() if name not in timed})


def compared(entry: Entry, now: states.Metrics) -> str:
    """What the first seed's numbers are beside the recorded ones, in words."""
    before = {name: confirm.recorded(stage, 0) for name, stage in entry.stages.items() if name in now}
    count = sum(len(metrics) for metrics in before.values())
    moved = list(states.differences(before, now))
    if not count:
        return f"{DIFFER}: the record has none to compare"
    if not moved:
        return f"all {count} numbers of seed {entry.seeds[0]} came again"
    stored = entry.provenance
    here = stored.model_copy(update={"versions": versions(), "hardware": Hardware(**hardware())})
    elsewhere = [f"{what} {there}, not {then}" for what, (then, there) in merge.differing(here, stored).items()]
    worst = max(moved, key=lambda item: _relative(item.before, item.now))
    told = f"{len(moved)} of {count}, {worst.stage}/{worst.metric} the most: {_word(worst.now)}"
    told += f", not {_word(worst.before)}"
    if elsewhere and all(_relative(item.before, item.now) < math.inf for item in moved):
        return f"numbers of seed {entry.seeds[0]} differ as machines may ({', '.join(elsewhere)}): {told}"
    return f"{DIFFER}: {told}"


def _relative(before: float | None, now: float | None) -> float:
    """How far apart; infinite where one is missing."""
    if before is None or now is None:
        return math.inf
    return abs(now - before) / max(abs(before), abs(now), 1e-12)


def _word(value: float | None) -> str:
    return "nothing" if value is None else number(value)
