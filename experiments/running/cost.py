"""What a run will take, from the seconds that its stages took before: here, or where the record was made."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping

from experiments.running.manifest import finished
from experiments.running.plan import Plan


def seconds_of_stages(plans: Iterable[Plan], there: Mapping[str, float]) -> dict[str, float]:
    """Expected seconds of each stage: those it took here, else the record's times how much slower this machine was.

    Args:
        there: stage -> its mean seconds where the record was made; empty without one.

    The ratio is the median over stages that both know; without one, this machine is taken to be as fast. A stage that
    neither knows is missing.
    """
    done: dict[str, list[float]] = {}
    for plan in plans:
        for stage in plan.stages.values():
            manifest = finished(stage)
            if manifest is not None:
                done.setdefault(stage.name, []).append(float(manifest["seconds"]))
    here = {name: statistics.fmean(values) for name, values in done.items()}
    ratios = [here[name] / there[name] for name in here if there.get(name, 0) > 1]
    ratio = statistics.median(ratios) if ratios else 1.0
    return {**{name: ratio * value for name, value in there.items()}, **here}


def left(plans: Iterable[Plan], known: Mapping[str, float], at_a_time: int) -> float | None:
    """Seconds until the unfinished stages are done: all work shared out, but not less than the longest chain.

    None if no unfinished stage's seconds are known; the others are taken to last as long as the mean of these.
    """
    unfinished = [[stage for stage in plan.stages.values() if finished(stage) is None] for plan in plans]
    told = [known[stage.name] for stages in unfinished for stage in stages if stage.name in known]
    if not told:
        return None
    usual = statistics.fmean(told)
    longest = 0.0
    total = 0.0
    for stages in unfinished:
        ends: dict[str, float] = {}
        for stage in stages:
            own = known.get(stage.name, usual)
            total += own
            ends[stage.name] = own + max((ends.get(name, 0.0) for name in stage.predecessors), default=0.0)
        longest = max([longest, *ends.values()])
    return max(longest, total / at_a_time)


def in_words(seconds: float) -> str:
    """A duration as people say it: 40 s, 12 min, 3.5 h, 4 days."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.0f} days"
