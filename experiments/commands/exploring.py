"""A setting that nothing is registered for: tried on pilot seeds, its numbers shown, nothing recorded."""

from __future__ import annotations

from collections.abc import Sequence

from experiments.commands.schedulers import jobs
from experiments.commands.setting import Setting
from experiments.common import overlay
from experiments.common.errors import InputError
from experiments.evidence import results
from experiments.running import cost
from experiments.running.plan import Plan

LONGEST = 3600.0  # seconds that are explored without being asked


def announce(setting: Setting) -> str:
    """What is told first: why nothing will be recorded, and how it would be."""
    why = "it was never registered"
    if setting.changed:
        why = f"{', '.join(setting.changed)} changed since it was registered"
    return f"exploring {setting.name} on pilot seeds, nothing is recorded: {why}. To record: {command(setting)}"


def command(setting: Setting) -> str:
    """The line that registers a setting."""
    scale = f" SCALE={setting.request.scale}" if setting.request.scale != "mini" else ""
    variant = f" VARIANT={setting.request.variant}" if setting.request.variant else ""
    data = f" DATA={setting.request.data}" if setting.request.data else ""
    return f"make register PAPER={setting.paper}{scale}{variant}{data}{overlay.typed()}"


def check_time(setting: Setting, plans: Sequence[Plan]) -> None:
    """Raises InputError where exploring is known to take over an hour and nobody asked for it."""
    if setting.config.explore is True:
        return
    recorded = results.entry(setting.paper, setting.title)
    expected = cost.seconds_of_stages(plans, recorded.mean_seconds() if recorded is not None else {})
    at_a_time = jobs(setting.config, sum(len(p.stages) for p in plans)) if setting.runs_here else len(plans)
    seconds = cost.left(plans, expected, at_a_time)
    if seconds is not None and seconds > LONGEST:
        raise InputError(
            f"{setting.name} is not registered, and trying it would take about {cost.in_words(seconds)}: explore=true "
            f"does it on pilot seeds, {command(setting)} comes before recording"
        )
