"""`make replicate`: the main claim on fresh seeds that each draw a recipe of their own, under the same rule."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from experiments.commands import cli, setting, stopping
from experiments.commands.schedulers import Schedulers
from experiments.commands.seeds import Seeds
from experiments.commands.setting import Setting
from experiments.common.errors import InputError
from experiments.config import compose, vary
from experiments.config.trials import Knob
from experiments.evidence import onward, replication, restarts, results
from experiments.evidence.judged import JudgedClaim
from experiments.evidence.records import Entry, Replication
from experiments.pages import console, view
from experiments.running import preconditions
from experiments.running.plan import Plan, only, plan

HELP = """\
Judge a recorded main claim again, on fresh seeds that each draw a recipe of their own from the
ranges that the recipe's `vary` declares. The rule is the same, and seeds are added until it
decides. The difference is then a mean over these ranges.

It says `replicated` where the same verdict comes again, `not replicated` where another one is
decided, and `open` otherwise. The record keeps what each seed drew.

  python -m experiments.commands.replicate paper=meal_v2
  python -m experiments.commands.replicate paper=all minutes=30

  minutes=15         start no further seed after that many minutes; the same command goes on
  most=32            stop at that many seeds, decided or not
  from_record=true   add seeds to a recorded replication whose runs are on another machine
"""


TINY = 3  # images of a last batch that is told of


@dataclass
class Draws(Seeds):
    """Seeds of a replication: each has a recipe of its own, and the main claim's stages alone."""

    knobs: dict[str, Knob] = field(default_factory=dict)
    before: Replication | None = None  # recorded, and goes on without its runs

    def plans_of(self, numbers: Sequence[int]) -> list[Plan]:
        plans = [self._plan(number) for number in numbers]
        for line in tiny_batches(plans):
            console.say(line)
        return plans

    def try_of(self, first: int, attempt: int) -> Plan:
        """A further try of a seed, with the recipe that the first one drew."""
        return replace(self._plan(first, restarts.seed(first, attempt)), try_of=first, attempt=attempt)

    def _plan(self, number: int, seed: int | None = None) -> Plan:
        """What a seed of the stream drew, run with that seed or with another one."""
        drawn = self.drawn(number)
        turned = vary.turn(self.setting.config, self.knobs, drawn, compose.groups(self.setting.paper))
        chosen = only(plan(turned, number if seed is None else seed), self.setting.questions.main_stages)
        assert self.setting.registered is not None
        return replace(chosen, registered=self.setting.registered.hash)

    def drawn(self, number: int) -> vary.Drawn:
        assert self.setting.registered is not None
        return replication.draw(self.knobs, self.setting.registered, number)

    def own_plans(self) -> list[Plan]:
        return self.plans[len(self.before.seeds) :] if self.before is not None else self.plans

    def begin(self) -> None:
        """Train the first seeds, or take those of the record."""
        if self.before is not None:
            self.plans = [self._plan(number) for number in self.before.seeds]
            preconditions.check(self.plans, here=self.setting.runs_here)
            console.say(f"{len(self.plans)} draws stand in the record")
            return
        self.plans = self.plans_of([self._seed(index) for index in range(int(self.setting.config.first))])
        preconditions.check(self.plans, here=self.setting.runs_here)
        self._train(self.plans)
        self._start_again()

    def replicated(self, recorded: JudgedClaim) -> Replication:
        """How the main claim stands after the seeds so far."""
        main = self.setting.questions.main
        registered = self.setting.registered
        assert main is not None
        assert registered is not None
        assert registered.hash is not None
        drawn = [self.drawn(p.seed) for p in self.plans]
        return replication.build(self.plans, drawn, main, recorded, registered.hash, self.tries, self.before)


def tiny_batches(plans: Sequence[Plan]) -> list[str]:
    """A line for each seed whose drawn number of images leaves a last batch of one to three: the statistics that a
    batch norm takes of so few may undo an epoch, for an arm of many norms more than for another."""
    lines = []
    for each in plans:
        fitted = [stage.data for stage in each.stages.values() if stage.fit]
        sizes = [(data.get("train_size"), data.get("batch_size")) for data in fitted]
        left = [images % batch for images, batch in sizes if images and batch and batch > TINY]
        few = [rest for rest in left if 0 < rest <= TINY]
        if few:
            told = f"the last batch of an epoch holds {min(few)}; a batch norm's statistics suffer"
            lines.append(f"seed {each.seed}: {told}")
    return lines


def main(argv: list[str]) -> int:
    words = [word for word in argv if word != "paper=all"]
    papers = [f"paper={paper}" for paper in _replicable()] if "paper=all" in argv else []
    with Schedulers() as schedulers:
        for line in [[paper, *words] for paper in papers] or [words]:
            _replicate(setting.read(line), schedulers)
    return 0


def _replicable() -> list[str]:
    """Papers whose default setting is recorded under a registration of its own."""
    entries = {paper: results.entry(paper, "mini") for paper in compose.papers()}
    return [paper for paper, entry in entries.items() if entry is not None and entry.registered.filed]


def _replicate(asked: Setting, schedulers: Schedulers) -> None:
    entry, recorded = _recorded(asked)
    knobs = vary.read(asked.resolved)
    if not knobs:
        raise InputError(f"conf/recipe/{asked.paper}/{asked.request.scale}.yaml: says nothing of vary; expected ranges")
    assert asked.registered is not None
    scheduler = schedulers.of(asked.config, len(asked.resolved["stages"]) * int(asked.config.first))
    before = _before(asked, entry) if asked.from_record else None
    draws = Draws(asked, replication.basis(asked.registered), [], scheduler, knobs=knobs, before=before)
    draws.begin()
    found = draws.replicated(recorded)
    while not (stopped := _why_stop(draws, found)):
        draws.go_on(_as_entry(entry, found))
        found = draws.replicated(recorded)
    found = found.model_copy(update={"stopped": stopped})

    folder = None if asked.writes_on else results.here()
    base = results.entry(asked.paper, asked.title, folder) or entry
    written = base.model_copy(update={"replication": found})
    path = results.update(asked.paper, asked.title, lambda _: written, folder)
    console.say(f"{asked.name}: {view.replication(found, recorded)}")
    console.say(f"results: {path.relative_to(results.base().parent)}")


def _recorded(asked: Setting) -> tuple[Entry, JudgedClaim]:
    """The entry that is replicated and its main claim. Raises InputError where there is none to replicate."""
    entry = results.entry(asked.paper, asked.title)
    main = entry.main_claim() if entry is not None else None
    if entry is None or main is None or asked.registered is None or not asked.registered.filed:
        raise InputError(f"{asked.name}: make register and make reproduce come before; there is nothing to replicate")
    if entry.registered.hash != asked.registered.hash or not entry.complete():
        raise InputError(f"{asked.name}: its present registration has no record yet; make reproduce comes first")
    return entry, main


def _before(asked: Setting, entry: Entry) -> Replication:
    """The recorded replication that goes on. Raises InputError where there is none, or the code is another one."""
    onward.recorded(asked.paper, asked.title, entry.registered, asked.questions.main_stages)
    found = entry.replication
    if found is None or found.registered != entry.registered.hash:
        raise InputError(f"from_record=true: {asked.name} has no recorded replication; leave it out to begin")
    return found


def _why_stop(draws: Draws, found: Replication) -> str:
    """Why no further seed is run; empty while the claim is open and there is room."""
    config = draws.setting.config
    decided = stopping.decided_claim(found.claim)
    minutes = draws.minutes()
    return decided or stopping.spent(len(draws.plans), config.most) or stopping.late(minutes, config.minutes)


def _as_entry(entry: Entry, found: Replication) -> Entry:
    """The entry with the replication's claim, for the line between two looks."""
    return entry.model_copy(update={"claims": [found.claim], "seeds": found.seeds})


if __name__ == "__main__":
    sys.exit(cli.main(main, HELP, overlays=True, composes=True))
