"""What a command is about to do, told before it does it: its settings, their stages and seeds, and the time for all."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.commands import seeds
from experiments.commands.schedulers import jobs
from experiments.commands.setting import Setting
from experiments.common.paths import ROOT
from experiments.evidence import results
from experiments.pages import numbers
from experiments.running import cost, packing


@dataclass(frozen=True)
class Outlook:
    """One setting: stages of a seed, seeds of the first look, how many of all are done, seconds for the others."""

    name: str
    stages: int
    seeds: int
    done: int
    seconds: float | None

    @property
    def told(self) -> str:
        everything = self.stages * self.seeds
        work = f"{numbers.count(self.stages, 'stage')} for each of {numbers.count(self.seeds, 'seed')}"
        done = f", {self.done} of {everything} done" if self.done else ""
        if self.done == everything:
            return f"{work}{done}"
        time = "how long is not known yet" if self.seconds is None else f"about {cost.in_words(self.seconds)}"
        return f"{work}{done}: {time}"


def of(setting: Setting) -> Outlook:
    """What the first look of a setting takes; its plans are composed for it."""
    plans = seeds.asked_plans(setting, seeds.first_plans(setting))
    stages = len(plans[0].stages)
    left = seeds.unfinished(plans)
    recorded = results.entry(setting.paper, setting.title)
    expected = cost.seconds_of_stages(plans, recorded.mean_seconds() if recorded is not None else {})
    at_a_time = jobs(setting.config, stages * len(plans)) if setting.runs_here else stages * len(plans)
    seconds = cost.left(plans, expected, at_a_time) if left else 0.0
    return Outlook(setting.name, stages, len(plans), stages * len(plans) - left, seconds)


def _packed(setting: Setting) -> str:
    """Where stages lie that have finished on another machine; empty where none do, or any has begun here."""
    where = setting.request
    path = results.unfinished() / packing.file_name(where.paper, where.scale, where.variant)
    runs = Path(setting.config.runs_dir, where.paper, where.scale)
    if not path.is_file() or any(runs.glob("seed=*")):
        return ""
    shown = os.path.relpath(path, ROOT)
    return f"{shown} has stages of it that finished elsewhere: make unpack FILE={shown} puts them here"


def lines(settings: Sequence[Setting]) -> list[str]:
    """The plan of a command in a few lines; the time is what stages took before, here or where they were recorded."""
    asked = [setting for setting in settings if not setting.from_record]
    outlooks = [of(setting) for setting in asked]
    told = [f"{outlook.name}: {outlook.told}" for outlook in outlooks]
    told += filter(None, map(_packed, asked))
    if len(outlooks) > 1:
        times = [outlook.seconds for outlook in outlooks]
        expected = [seconds for seconds in times if seconds is not None]
        at_least = "at least" if len(expected) < len(times) else "about"
        told.append(f"all {len(outlooks)} settings: {at_least} {cost.in_words(sum(expected))}")
    if any(not setting.is_recorded for setting in asked):
        told.append("smoke shows that everything runs; its numbers mean nothing")
    if any(setting.registered is not None for setting in asked):
        config = asked[0].config
        told.append(
            f"then seeds are added until the main claim is decided, at most {config.most} seeds in all and for "
            f"{config.minutes:g} min from the start of a setting"
        )
    return told
