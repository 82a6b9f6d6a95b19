"""What a setting's look leaves: a summary beside the runs, the record or what stands beside it, a run on W&B."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from experiments.commands import exploring
from experiments.commands.setting import Setting
from experiments.common.paths import ROOT
from experiments.evidence import assembly, images, merge, onward, pictures, results, staleness
from experiments.evidence.records import Entry, Registration
from experiments.pages import console, view
from experiments.running.plan import Plan


def write(setting: Setting, entry: Entry, registered: Registration, plans: Sequence[Plan]) -> None:
    """Write an entry where it belongs, and show it beside what was recorded before.

    Args:
        registered: under what it ran.
        plans: of its seeds.
    """
    results.write_summary(entry, plans[0])
    if not setting.is_recorded or setting.explores:
        return
    before = results.entry(setting.paper, setting.title)
    if setting.writes_on:
        results.update(setting.paper, setting.title, lambda stored: merged(setting, entry, stored, registered))
        recorded = results.entry(setting.paper, setting.title)
        if recorded is not None:
            images.keep(setting.paper, setting.title, recorded, plans)
            pictures.keep(setting.paper, setting.title, recorded, Path(plans[0].config["runs_dir"]))
    else:
        results.update(setting.paper, setting.title, lambda _: entry, results.here())
    if before is not None and before.seeds and before.main_claim() is not None:
        differs = view.machine_differs(before, entry)
        console.say(console.beside(view.of(before), view.of(entry), differs), "")


def merged(setting: Setting, entry: Entry, stored: Entry | None, registered: Registration) -> Entry:
    """The entry to keep, of the one recorded and the one that ran now, see `merge.put`."""
    if stored is not None and not merge.is_another(registered, stored.registered):
        stored = assembly.judged_now(stored)  # the rules may be others than when it was written
    same = staleness.unchanged_elsewhere(setting.paper, stored, entry)
    kept = merge.put(entry, stored, registered, same)
    return onward.join_others(kept, entry, setting.questions) if kept is stored else kept


def where(setting: Setting) -> str:
    """The file that write() wrote to, and how to write to the other one."""
    if setting.explores:
        return f"none, since nothing is registered: {exploring.command(setting)}"
    folder = results.base() if setting.writes_on else results.here()
    path = os.path.relpath(folder / f"{setting.paper}.json", ROOT)
    return path if setting.writes_on else f"{path} (results/ stays as it is; record=true writes it on)"
