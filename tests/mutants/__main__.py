"""`make mutants`: how many wrong versions of a room's code do its own tests notice?"""

from __future__ import annotations

import contextlib
import random
import sys
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from experiments.commands import cli
from experiments.common.errors import InputError
from experiments.pages import console
from tests.mutants.room import COMMON, Room, find

if TYPE_CHECKING:
    from tests.mutants.mutations import Place

HELP = """\
Change the code of a paper's room in one place at a time and see whether its own quick tests fail. Happens in a copy of
the checkout; a survivor is printed as a diff and tells of a test that is missing.

  python -m tests.mutants paper=zpe              100 mutants, a few minutes
  python -m tests.mutants paper=zpe --again      those that no test failed last time, after new tests
  python -m tests.mutants paper=zpe --write      its line in docs/mutants.md
  python -m tests.mutants paper=common           500 mutants of modules/common; count=6000 tests all, in hours

  count=100          how many are drawn (default for common: 500)
  seed=0             of the draw
  jobs=2             mutants at the same time, each on one thread
  only=TEXT          those alone whose file or function has this in its name

Results are in runs/mutants/K.json. Mutants that compute the same are listed, with the reason, in
tests/mutants/equal.yaml.

"""
NUMBERS = {"count": 1, "seed": 0, "jobs": 1}  # option -> its least value
COUNT, COUNT_OF_COMMON = 100, 500


def main(argv: list[str]) -> int:
    own, rest = cli.take(argv, ["paper", "only", *NUMBERS])
    for word in rest:
        if word not in ("--again", "--write"):
            raise InputError(f"{word!r}: expected paper=K, count=N, seed=N, jobs=N, only=TEXT, --again or --write")
    for name, least in NUMBERS.items():
        if name in own and not (own[name].isdigit() and int(own[name]) >= least):
            raise InputError(f"{name}={own[name]}: expected a whole number from {least}")
    if not own.get("paper"):
        raise InputError("paper=K is missing: whose code is mutated (a paper, or common)")
    if own.get("only") and "--write" in rest:
        raise InputError("--write: the page's scores are of whole rooms; expected no only=")

    room = find(own["paper"])
    count = int(own.get("count", COUNT_OF_COMMON if room.name == COMMON else COUNT))
    return test(
        room,
        count=count,
        seed=int(own.get("seed", 0)),
        jobs=int(own.get("jobs", 2)),
        only=own.get("only", ""),
        again="--again" in rest,
        write="--write" in rest,
    )


def test(room: Room, *, count: int, seed: int, jobs: int, only: str, again: bool, write: bool) -> int:
    """Draw mutants, test them, show the survivors. Exit code 0 if nothing survived that a test could kill."""
    from tests.mutants import mutations, run, score

    reasons = score.equal_ones()
    with tempfile.TemporaryDirectory(prefix="mutants-") as temporary:
        folder = Path(temporary)
        run.copy(folder)
        run.configure(folder, room)
        with contextlib.chdir(folder):  # mutmut reads its settings where it stands
            places = [place for place in mutations.find(room.files) if only in place.name or only in place.file]
        if not places:
            raise InputError(f"only={only}: no mutant of {room.name} has this in its name")
        drawn = random.Random(f"{seed} {room.name}").sample(places, min(count, len(places)))

        results = earlier(room, seed, [place.name for place in drawn]) if again else {}
        asked = [place.name for place in drawn if place.name not in results or wanted(place, results, reasons)]
        if asked:
            results |= judge(folder, room, asked, jobs)

    names = {place.name: results[place.name] for place in drawn}
    alive = [place.write() for place in drawn if names[place.name] not in (run.KILLED, run.TIMEOUT)]
    equal = [mutant for mutant in alive if score.is_equal(mutant, reasons)]
    survivors = sorted(
        (mutant for mutant in alive if not score.is_equal(mutant, reasons)), key=lambda m: (m.file, m.line, m.name)
    )
    date = datetime.now(UTC).strftime("%Y-%m-%d")
    outcome = score.Score(room.name, date, room.content(), seed, len(places), names, equal, survivors)

    for mutant in survivors:
        console.say(f"{mutant.file}:{mutant.line}  {names[mutant.name]}  {mutant.name}", mutant.diff(), "")
    console.say(
        f"{room.name}: {outcome.killed} of {len(names)} mutants killed, {len(equal)} compute the same, "
        f"{len(survivors)} survived: {outcome.percent:.0f}%"
    )
    if not only:
        console.say(f"written: {score.save(outcome)}")
    if write:
        score.write_page(outcome)
    return 1 if survivors else 0


def earlier(room: Room, seed: int, names: Sequence[str]) -> dict[str, str]:
    """What became of these mutants last time.

    Raises:
        InputError: there was no last time, or it was of other code or another draw.
    """
    from tests.mutants import score

    before = score.last(room.name)
    if not before:
        raise InputError(f"--again: {room.name} was not tested before; expected no --again")
    if before["content"] != room.content() or before["seed"] != seed or set(before["results"]) != set(names):
        raise InputError(f"--again: {room.name} was tested with other code or another draw; expected no --again")
    return dict(before["results"])


def wanted(place: Place, results: Mapping[str, str], reasons: Mapping[tuple[str, str], str]) -> bool:
    """Whether a mutant of the last run is to be tested again: no test failed, and one could."""
    from tests.mutants import run, score

    return results[place.name] != run.KILLED and not score.is_equal(place.write(), reasons)


def judge(folder: Path, room: Room, names: Sequence[str], jobs: int) -> dict[str, str]:
    from tests.mutants import run

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    with Progress(*columns, console=console.out, disable=not console.out.is_terminal) as bar:
        task = bar.add_task(f"{room.name}: the tests without a mutant", total=len(names))

        def show(done: int) -> None:
            bar.update(task, completed=done, description=f"{room.name}: mutants" if done else None)

        return run.judge(folder, room, names, jobs, show)


if __name__ == "__main__":
    sys.exit(cli.main(main, HELP, exits="0 all were noticed, 1 some survived, 2 wrong input"))
