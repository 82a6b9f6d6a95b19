"""`make confirm`: a stale record whose numbers the present code still gives, shown by running a recorded seed anew.

A record is stale once a definition that its stages reach has changed, and a faster loop changes no number. Recording
again would tell, at the cost of every seed. One recorded seed, run anew with the present code, tells nearly as much
where each of its numbers is the recorded one to the last bit: its stages count as present then, and the record says
how that is known. Where a single number differs nothing is written, and the record stays stale.

Another machine rounds otherwise. There the recorded commit's code runs the seed too, and its numbers are compared.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.table import Table

from experiments.commands import cli, states
from experiments.commands.schedulers import Schedulers
from experiments.common.errors import InputError, RunError, unknown
from experiments.config import compose
from experiments.evidence import merge, naming, pictures, registration, results, staleness
from experiments.evidence.ran import Confirmation, Hardware, StageRecord
from experiments.evidence.records import Entry
from experiments.identity.provenance import code_version, hardware, versions
from experiments.pages import console
from experiments.pages.progress import Board
from experiments.running import preconditions
from experiments.running.plan import Plan, only, plan

HELP = """\
Run one recorded seed of stale records anew and compare every number, to the last bit.

  python -m experiments.commands.confirm paper=meal_v2                    its mini
  python -m experiments.commands.confirm paper=meal_v2 variant=clean
  python -m experiments.commands.confirm paper=all                        every stale entry of every paper

Where all numbers are equal the record is stale no more, and says which seed showed it; a record without pictures gets
those that this seed drew. Where one differs nothing is written: record it again (make reproduce), or find out why it
moved (make compare BASE=rev). Another machine rounds otherwise: there the recorded commit's code runs the seed too and
is compared with, at twice the time. A changed claim, recipe or data set cannot be confirmed. Besides:

  jobs=2             stages trained at the same time (default: one per core on a CPU, one per GPU)
  data_dir=DIR       where datasets are that do not come with the install (or set REPRISE_DATA)
  runs_dir=DIR       where the seed is run (default: runs)
"""
EXITS = "0 all confirmed or not stale, 1 a number differs or a stage failed, 2 wrong input"
OWN = ("paper", "scale", "variant", "data")


def main(argv: list[str]) -> int:
    own, rest = cli.take(argv, OWN)
    if not own.get("paper"):
        raise InputError("paper=K is missing: the record to confirm, or paper=all for every stale one")
    if code_version()["dirty"] is not False:
        raise InputError("the code is not that of a commit: commit it first, so that the record can name it")
    if changed := naming.personal(rest):
        raise InputError(
            f"{changed[0]}: a record is confirmed as it was recorded; expected jobs=, data_dir= or runs_dir="
        )
    code = 0
    with Schedulers() as schedulers:
        for paper, title in list(_chosen(own)):
            code = max(code, _Confirmation(paper, title, rest).run(schedulers))
    return code


def _chosen(own: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """(paper, entry) of what is to be confirmed. Raises InputError for a record that is not there."""
    if own["paper"] == "all":
        for paper in compose.papers():
            for title, entry in results.entries(paper).items():
                if staleness.of_recorded(paper, entry) and "by hand" not in title:
                    yield paper, title
        return
    compose.paper_file(own["paper"])
    entries = results.entries(own["paper"])
    title = naming.title(own.get("scale", "mini"), own.get("variant"), data=own.get("data"))
    if title not in entries:
        raise unknown("entry", title, entries)
    yield own["paper"], title


class _Confirmation:
    """One entry of a paper's record."""

    def __init__(self, paper: str, title: str, overrides: Sequence[str]) -> None:
        self.paper, self.title, self.name = paper, title, f"{paper}/{title}"
        self.entry = results.entries(paper)[title]
        results.check_seals({title: self.entry}, f"results/{paper}.json")
        self.changed = staleness.of_recorded(paper, self.entry)
        self.lines = [f"paper={paper}", f"scale={self.entry.scale}", *self.entry.overrides, *overrides]
        self.lines += [f"variant={self.entry.variant}"] if self.entry.variant else []

    def run(self, schedulers: Schedulers) -> int:
        """Exit code of this entry; writes the record where every number is equal."""
        if not self.changed:
            console.say(f"{self.name}: not stale")
            return 0
        try:
            config, chosen = self._plan()
        except InputError as error:
            return self._stays(str(error))
        scheduler = schedulers.of(config, len(chosen.stages))
        with Board(self.name, len(chosen.stages)).plan(list(chosen.stages)) as board:
            outcomes = scheduler.run([chosen], board)[chosen.seed]
        if failed := next((o for o in outcomes.values() if o.status != "done"), None):
            return self._stays(f"{failed.stage}: {failed.reason}")
        runs = Path(chosen.config["runs_dir"])
        now = {name: outcomes[name].metrics for name in self.changed}
        position = self.entry.seeds.index(chosen.seed)
        before: states.Metrics = {name: recorded(self.entry.stages[name], position) for name in self.changed}
        against = None
        moved = list(states.differences(before, now))
        if moved and (other := self._elsewhere()):
            console.say(f"{self.name}: {', '.join(other)}: the recorded code runs here too")
            try:
                against, before = self._run_recorded_code(chosen)
            except (InputError, RunError) as error:
                return self._stays(str(error))
            moved = list(states.differences(before, now))
        if moved:
            console.out.print(_table(moved))
            return self._stays(f"{len(moved)} numbers of seed {chosen.seed} differ")
        numbers = {name: len(metrics) for name, metrics in now.items()}
        if not any(numbers.values()):
            return self._stays("the changed stages have no number to compare")
        results.update(self.paper, self.title, lambda e: _confirmed(e, chosen, numbers, against))
        confirmed = results.entries(self.paper)[self.title]
        if against is None and not pictures.of(self.paper, self.title, confirmed):
            pictures.keep(self.paper, self.title, confirmed, runs)
        told = f"confirmed, {sum(numbers.values())} numbers of seed {chosen.seed} are equal"
        console.say(f"{self.name}: {told}")
        return 0

    def _elsewhere(self) -> list[str]:
        """What of this machine and its packages is not what the record was made with."""
        stored = self.entry.provenance
        here = stored.model_copy(update={"versions": versions(), "hardware": Hardware(**hardware())})
        return [f"{what} {now}, not {then}" for what, (then, now) in merge.differing(here, stored).items()]

    def _run_recorded_code(self, chosen: Plan) -> tuple[str, states.Metrics]:
        """The recorded commit and what its code gives for the changed stages on this machine.

        Raises InputError where that commit is not at hand, or gives another stage than was recorded; RunError if it
        fails.
        """
        commit = (self.entry.provenance.code.commit or "none").split()[-1]
        words = [*self.lines, f"runs_dir={Path(chosen.config['runs_dir']).resolve()}"]
        with states.checked_out(commit) as base:
            done = states.run_in(base, chosen.seed, words)
        for name in self.changed:
            if name not in done or done[name].fingerprint != self.entry.stages[name].fingerprints[0]:
                raise InputError(f"commit {commit[:10]} does not have the recorded code of {name}")
        return commit, {name: done[name].metrics for name in self.changed}

    def _stays(self, why: str) -> int:
        console.say(f"{self.name}: stays stale: {why}")
        return 1

    def _plan(self) -> tuple[Any, Plan]:
        """The changed stages of the record's first seed and what they need.

        Raises InputError where equal numbers would not mean the same experiment.
        """
        config = compose.compose(compose.request(self.lines).overrides)
        precisions = {name: s.precision for name, s in self.entry.stages.items() if s.precision}
        whole = plan(config, self.entry.seeds[0], precisions)
        if not self.entry.registered.by_hand:  # its runs may take part in what is recorded later
            whole = replace(whole, registered=self.entry.registered.hash)
        if not self.entry.registered.binds(registration.digest(compose.resolve(config, 0))):
            raise InputError("its claims or recipe are other ones now; make reproduce records it anew")
        if data := [name for name in self.changed if staleness.other_data(whole.stages[name], self.entry)]:
            raise InputError(f"{data[0]} has other data now; make reproduce records it anew")
        if timed := [name for name in self.changed if whole.stages[name].exclusive]:
            raise InputError(f"{timed[0]} measures time, which is never equal; make reproduce records it anew")
        chosen = only(whole, self.changed)
        preconditions.check([chosen], here=config.launcher.name == "local")
        return config, chosen


def recorded(stage: StageRecord, position: int) -> dict[str, float]:
    """A stage's metrics of the seed at a position of an entry."""
    return {name: value for name, values in stage.metrics.items() if (value := values[position]) is not None}


def _confirmed(entry: Entry | None, chosen: Plan, numbers: Mapping[str, int], against: str | None) -> Entry:
    """The entry with what was confirmed of each stage, over what was confirmed before.

    Args:
        against: the commit whose code gave the numbers on this machine; None where they are the record's own.
    """
    assert entry is not None
    at = datetime.now(UTC).isoformat(timespec="seconds")
    commit = code_version()["commit"]
    new = {
        name: Confirmation(
            fingerprint=chosen.stages[name].fingerprint,
            numbers=count,
            seed=chosen.seed,
            commit=commit,
            at=at,
            against=against,
            cpu=None if against is None else hardware()["cpu"],
        )
        for name, count in numbers.items()
    }
    return entry.model_copy(update={"confirmed": {**entry.confirmed, **new}})


def _table(moved: Sequence[states.Difference]) -> Table:
    table = Table()
    for column in ("stage", "metric", "recorded", "now"):
        table.add_column(column)
    for item in moved:
        values = ["-" if value is None else repr(value) for value in (item.before, item.now)]
        table.add_row(item.stage, item.metric, *values)
    return table


if __name__ == "__main__":
    sys.exit(cli.main(main, HELP, overlays=True, exits=EXITS))
