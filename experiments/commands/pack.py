"""`make pack`: the runs of a setting in one file, finished and half-done, to go on with elsewhere."""

from __future__ import annotations

import sys
from pathlib import Path

from experiments.commands import cli, setting
from experiments.common.errors import InputError
from experiments.evidence import naming, registration, restarts
from experiments.evidence.records import Registration
from experiments.pages import console
from experiments.running import packing
from experiments.running.plan import SEEDS, Plan, plan, plan_each

HELP = """\
Put what a setting has run so far into one file: its finished stages, and half-done ones with their checkpoints.

  python -m experiments.commands.pack paper=meal_v2                     its mini: exports/meal_v2-mini.runs
  python -m experiments.commands.pack paper=meal_v2 scale=full to=FILE

In a clone of the same commit, `make unpack FILE=...` puts them where they were, and the same command goes on to the
same bits. Of a registered setting its registered seeds are packed; of another one every seed that is there.

  to=FILE            default: exports/<paper>-<scale>[-<variant>].runs; must not exist yet
  weights=false      finished stages alone, without checkpoints: some kilobytes, which may be packed while others train.
                     A stage that an unfinished one starts from stays behind. In results/unfinished/ such a file is
                     committed where a recording takes days; the command that goes on says that it is there
  runs_dir=DIR       where the runs are (default: runs)
"""


def main(argv: list[str]) -> int:
    own, others = cli.take(argv, ("to", "weights"))
    asked = setting.read(others)
    if changed := naming.personal(asked.request.given):
        raise InputError(f"{changed[0]}: a setting is packed as its files say it; expected paper=, scale= and variant=")
    where = asked.request
    name = packing.file_name(where.paper, where.scale, where.variant)
    weights = cli.flag(own, "weights", default=True)
    path = Path(own.get("to") or f"exports/{name}")
    if path.exists():
        raise InputError(f"to={path}: it is there already; name another file")
    plans = plan_each(asked.config, _seeds(plan(asked.config, 0), asked.registered))
    packed = packing.pack(plans, path, weights)
    finished = sum(stage.finished for stage in packed)
    console.say(f"{path}: {finished} finished and {len(packed) - finished} half-done stages of {len(plans)} seeds")
    return 0


def _seeds(any_: Plan, registered: Registration | None) -> list[int]:
    """The seeds that have a folder, of a registered setting those of its stream and of their further tries; from low to
    high."""
    runs = next(iter(any_.stages.values())).directory.parent.parent
    there = {int(folder.name[5:]) for folder in runs.glob("seed=*") if folder.name[5:].isdigit()}
    if registered is not None:
        stream = [registration.seed(registered, index) for index in range(SEEDS)]
        there &= {*stream, *(seed for first in stream for seed in restarts.seeds(first))}
    if not there:
        raise InputError(f"no seed of {any_.title} in {runs}; make reproduce PAPER={any_.paper} runs some")
    return sorted(there)


if __name__ == "__main__":
    sys.exit(cli.main(main, HELP, overlays=True, exits="0 packed, 2 wrong input, or nothing to pack"))
