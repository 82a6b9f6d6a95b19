"""`make unpack`: the runs that `make pack` put into a file, back where they go on."""

from __future__ import annotations

import sys
from pathlib import Path

from experiments.commands import cli
from experiments.common.errors import InputError, unknown
from experiments.config import compose
from experiments.evidence import naming
from experiments.pages import console
from experiments.running import packing
from experiments.running.plan import plan_each

HELP = """\
Put packed runs into this clone, where the same command goes on to the same bits.

  python -m experiments.commands.unpack file=exports/meal_v2-mini.runs

Everything is checked first: each file by its SHA-256, finished stages by their manifests, no links and nothing outside
the runs' folder. Stages that rest on other code, data or settings than this clone's are refused, and so are those that
have begun here; what has finished here stays as it is.

  file=FILE          of make pack
  runs_dir=DIR       where the runs go (default: runs)
  data_dir=DIR       where datasets are that do not come with the install (or set REPRISE_DATA)
  trainer=T          as where they began
"""


def main(argv: list[str]) -> int:
    own, others = cli.take(argv, ("file",))
    if not own.get("file"):
        raise InputError("file=FILE is missing: what make pack wrote")
    path = Path(own["file"])
    if changed := naming.personal(others):
        raise InputError(f"{changed[0]}: the file says what was run; expected runs_dir=, data_dir= or trainer=")
    stored = packing.listing(path)
    if stored.paper not in compose.papers():
        raise unknown(f"{path}: paper", stored.paper, compose.papers())
    lines = [f"paper={stored.paper}", f"scale={stored.scale}"]
    lines += [f"variant={stored.variant}"] if stored.variant is not None else []
    request = compose.request([*lines, *others])
    moved = packing.unpack(path, stored, plan_each(compose.compose(request.overrides), stored.seeds))
    finished = sum(stage.finished for stage in moved)
    console.say(
        f"{path}: {finished} finished and {len(moved) - finished} half-done stages of {len(stored.seeds)} seeds"
    )
    variant = f" VARIANT={stored.variant}" if stored.variant is not None else ""
    console.say(f"go on with make reproduce PAPER={stored.paper} SCALE={stored.scale}{variant}")
    return 0


if __name__ == "__main__":
    sys.exit(cli.main(main, HELP, overlays=True, exits="0 unpacked, 2 wrong input"))
