"""`make reproduce`: a paper's stages over seeds until its main claim is decided; verdicts, record and report page."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from experiments.common.errors import InputError
from experiments.common.paths import ROOT
from experiments.config import claims, compose, flags
from experiments.evidence import merge, registration, results, words
from experiments.evidence.records import Entry
from experiments.identity.provenance import cores
from experiments.pages import wandb_verdict
from experiments.running import cost, engine, preconditions
from experiments.running.devices import gpu_groups, processes, uses_gpu
from experiments.running.manifest import Report, finished
from experiments.running.plan import Plan, only, plan, plan_each
from experiments.running.pool import Pool, Scheduler

HELP = """\
Train a paper's method and its baselines over seeds until its main claim is decided.

  python -m experiments.reproduce paper=meal_v2                    the embedded default, minutes on two cores
  python -m experiments.reproduce paper=meal_v2 scale=smoke        does everything run? (seconds)
  python -m experiments.reproduce paper=meal_v2 scale=full dry=true   builds the published recipe, steps once
  python -m experiments.reproduce paper=meal_v2 variant=clean minutes=30
  python -m experiments.reproduce paper=all scale=smoke

The first look is after 6 seeds: the main claim's stages and how it stands, then those of the other claims. After it the
main claim's get further seeds until it is decided, 32 are reached or 15 minutes have passed. The intervals hold at each
look: stop and go on as you like. What is done is not run again; an interrupted command continues. Besides:

  minutes=15         start no further seed after that long
  most=32            leave an undecided main claim so at that many seeds
  seeds=[0,1,2]      by hand: these seeds, in an entry of its own that says so (quote it in a shell)
  record=true        write on in results/; by itself, a setting that is recorded keeps its record, and what was found
                     here goes to results/here/ and beside the record on the page
  from_record=true   add seeds to a record whose runs are not at hand, as long as nothing that it rests on has changed
  why='...'          why a recorded entry gets a new registration after its claims or recipe were changed
  jobs=2             stages trained at the same time (default: one per core on a CPU, one per GPU)
  launcher=submitit_slurm launcher.partition=P   a Slurm job per stage, put back into the queue until it is done
  --cfg job          show the composed configuration; so do Hydra's other flags that show something
  launcher=ray launcher.address=auto             a task of a Ray cluster per stage (pip install 'reprise-papers[ray]')
"""


SEEDS_ELSEWHERE = 4  # between two looks, on a cluster


def main(argv: list[str]) -> int:
    if any(argument.startswith("-") for argument in argv):
        return _show(argv)
    papers = compose.papers() if "paper=all" in argv else [None]
    rest = [a for a in argv if a != "paper=all"]
    with Schedulers() as schedulers:
        return max([_paper(rest if paper is None else [f"paper={paper}", *rest], schedulers) for paper in papers])


def _show(argv: list[str]) -> int:
    """What Hydra's flags ask for. Raises InputError for those that would run something."""
    given, _ = flags.read(argv)
    if "config_dir" in given:
        raise InputError("--config-dir: a record must be composed again from conf/ alone; experiments.run takes it")
    if not any(given.get(key) for key in flags.SHOW):
        raise InputError(f"{flags.written(given)[0]}: reproduce runs over seeds by itself; experiments.run takes it")
    from experiments.commands import run

    return run.main(argv)


def _paper(argv: list[str], schedulers: Schedulers) -> int:
    for line in argv:
        if line.startswith("seed="):
            by_hand = f"'seeds=[{line.partition('=')[2]}]'"
            raise InputError(f"{line}: reproduce draws its seeds from a stream; {by_hand} names them by hand")
    request = compose.request(argv)
    config = compose.compose(request.overrides)
    if config.dry:
        from experiments.commands import dry

        return dry.main(config)
    code = _Setting(request, config).run(schedulers)
    variants = compose.paper_file(request.paper).get("variants") or {}
    always = [name for name, item in variants.items() if item.get("always") and item.get("scale") == request.scale]
    if request.variant is None:
        for name in always:
            again = compose.request([*argv, f"variant={name}"])
            code = max(code, _Setting(again, compose.compose(again.overrides)).run(schedulers))
    _finish(request.paper)
    return code


def is_recorded(scale: str) -> bool:
    """Whether a scale's verdicts say anything of a paper; smoke runs only show that everything works."""
    return scale != "smoke"


def _finish(paper: str) -> None:
    from experiments.pages import console, report

    if results.read(paper) is not None:
        page = next(p for p in report.build([paper]) if p.stem == paper)
        console.out.print(f"report:  {page.relative_to(ROOT)}")


def _unfinished(plans: Sequence[Plan]) -> int:
    return sum(1 for p in plans for stage in p.stages.values() if finished(stage) is None)


def jobs(config: DictConfig, most: int) -> int:
    """How many stages, of which there are `most`, to train at the same time on this machine."""
    if config.jobs != "auto":
        if not isinstance(config.jobs, int) or config.jobs < 1:
            raise InputError(f"jobs={config.jobs}: expected auto or a whole number from 1")
        return min(int(config.jobs), most)
    if uses_gpu(config.trainer):
        return min(max(1, len(gpu_groups(config.trainer))), most)
    return 1 if processes(config.trainer) > 1 else min(cores(), most)


class Schedulers(contextlib.ExitStack):
    """What runs stages, open until the command ends: workers that have imported torch serve its further papers too."""

    def __init__(self) -> None:
        super().__init__()
        self._open: dict[str, Scheduler] = {}

    def of(self, config: DictConfig, most: int) -> Scheduler:
        """The scheduler that a configuration asks for, for up to `most` stages."""
        local = config.launcher.name == "local"
        count = jobs(config, most) if local else 0
        gpus = gpu_groups(config.trainer) if local and uses_gpu(config.trainer) and count > 1 else None
        launcher = dict(OmegaConf.to_container(config.launcher, resolve=True))  # type: ignore[arg-type]
        wanted = str((count, gpus, launcher, config.jobs, config.runs_dir))
        if wanted not in self._open:
            self._open[wanted] = self.enter_context(Pool(count, gpus) if local else _cluster(config, launcher))
        return self._open[wanted]


def _cluster(config: DictConfig, launcher: dict[str, Any]) -> Scheduler:
    from experiments.running import cluster

    return cluster.open_cluster(launcher, config.jobs, Path(config.runs_dir).resolve() / "jobs")


class _Setting:
    """One (paper, scale, variant): runs it until it is decided, prints its tables and writes its record."""

    def __init__(self, request: compose.Request, config: DictConfig) -> None:
        self.request, self.config = request, config
        self.began = time.monotonic()
        self.recorded = is_recorded(request.scale)
        self.seeds = None if config.seeds is None else registration.check_seeds(config.seeds)
        self.by_hand = self.recorded and (self.seeds is not None or bool(results.personal(request.given)))
        self.title = results.title(request.scale, request.variant, self.by_hand)
        self.resolved = compose.resolve(config, 0)
        self.questions = claims.read(self.resolved)
        for key in ("first", "most", "minutes"):
            value = config[key]
            if not isinstance(value, int | float) or isinstance(value, bool) or value < (0 if key == "minutes" else 1):
                raise InputError(f"{key}={value}: expected a positive number")
        self.plans: list[Plan] = []
        self.outcomes: dict[int, dict[str, engine.Outcome]] = {}
        self.writes_on = self._writes_on()
        self.base: Entry | None = None  # the record that goes on without its runs

    def _writes_on(self) -> bool:
        """Whether the record in results/ gets what is found; else it goes to results/here/."""
        choice = self.config.record
        if choice not in (True, False, "auto"):
            raise InputError(f"record={choice}: expected true, false or auto")
        if choice != "auto":
            return bool(choice)
        stored = results.entry(self.request.paper, self.title)
        asked = self.config.from_record is True or self.config.why is not None
        return asked or (not self.by_hand and (stored is None or not stored.seeds))

    def run(self, schedulers: Schedulers) -> int:
        chosen = self.by_hand or not self.recorded
        if self.config.from_record is not False:
            if self.config.from_record is not True or chosen:
                raise InputError(f"from_record={self.config.from_record}: expected true, for a record, or false")
            return self._run_from_record(schedulers)
        if chosen:
            seeds = self.seeds or list(range(int(self.config.first)))
            self.registered = registration.by_hand(self.resolved)
        else:
            stream = results.registration_of(self.request.paper, self.title, self.resolved).stream
            seeds = [registration.seed(stream, i) for i in range(int(self.config.first))]
        self.plans = plan_each(self.config, seeds)
        preconditions.check(self.plans, here=self.config.launcher.name == "local")
        if not chosen:  # before the first seed, once it is known that it can run
            register = results.register if self.writes_on else results.registration_of
            self.registered = register(self.request.paper, self.title, self.resolved)
        self.scheduler = schedulers.of(self.config, sum(len(p.stages) for p in self.plans))
        self._train_first()
        return self._run_and_tell()

    def _train_first(self) -> None:
        """All stages of the first seeds; on this machine those of the main claim before others, and how it then stands.

        A cluster has room for all of them at once.
        """
        from experiments.pages import console

        main = [only(p, self.questions.main_stages) for p in self.plans]
        behind = _unfinished(self.plans) - _unfinished(main)
        here = self.config.launcher.name == "local"
        if self.recorded and here and behind and self.questions.main_stages and self._train(main):
            console.out.print(console.first_line(self._look(len(self.plans)), self.began, behind), soft_wrap=True)
        self._train(self.plans)

    def _run_from_record(self, schedulers: Schedulers) -> int:
        """Further seeds for a record whose runs are not here."""
        from experiments.evidence import onward
        from experiments.pages import console

        self.registered = results.registration_of(self.request.paper, self.title, self.resolved)
        main_stages = self.questions.main_stages
        self.base = onward.recorded(self.request.paper, self.title, self.registered, main_stages)
        self.plans = plan_each(self.config, self.base.seeds)
        preconditions.check([only(self.plans[0], main_stages)], here=self.config.launcher.name == "local")
        self.scheduler = schedulers.of(self.config, cores() * len(self.plans[0].stages))
        console.out.print(f"{len(self.plans)} seeds stand in the record")
        return self._run_and_tell()

    def _run_and_tell(self) -> int:
        from experiments.pages import console

        entry = self._run_until_decided()
        console.out.print(console.main_line(entry, self._name()), "", soft_wrap=True)
        console.out.print(console.stage_table(entry, self._name()), "")
        console.out.print(console.claim_table(entry, self._name()), "")
        if entry.checks:
            console.out.print(console.check_table(entry, self._name()), "")
        if entry.published:
            console.out.print(console.published_table(entry, self._name()), "")
        self._record(entry)
        outcomes = [outcome for done in self.outcomes.values() for outcome in done.values()]
        trained = sum(1 for outcome in outcomes if outcome.status == "done" and not outcome.cached)
        everything = sum(1 for p in self.plans for s in p.stages.values() if finished(s) is not None)
        console.out.print(f"{trained} stages run, {everything} in all, {time.monotonic() - self.began:.0f} s")
        if self.recorded:
            folder = results.RESULTS if self.writes_on else results.here()
            where = os.path.relpath(folder / f"{self.request.paper}.json", ROOT)
            note = "" if self.writes_on else " (results/ stays as it is; record=true writes it on)"
            console.out.print(f"results: {where}{note}", soft_wrap=True)
        return max((engine.exit_code(done) for done in self.outcomes.values()), default=0)

    def _run_until_decided(self) -> Entry:
        """The entry after its last look, with why it was the last."""
        looked = len(self.plans)
        entry = self._look(looked)
        stopped = "seeds given by hand" if self.registered.stream == 0 else ""
        while not stopped:
            stopped = self._stop(entry)
            if not stopped:
                entry = self._go_on(entry, looked)
        return entry.model_copy(update={"stopped": stopped})

    def _name(self) -> str:
        return f"{self.request.paper}/{self.title}"

    def _train(self, plans: Sequence[Plan]) -> bool:
        """Run what is not done of these plans; whether there was anything."""
        from experiments.pages import console

        open_plans = [p for p in map(self._without_failed, plans) if _unfinished([p])]
        if not open_plans:
            return False
        from experiments.running import training

        training.check_plan(open_plans[0])
        names = [stage.name for p in open_plans for stage in p.stages.values()]
        recorded = results.entry(self.request.paper, self.title)
        known = cost.seconds_of_stages(self.plans, recorded.mean_seconds() if recorded is not None else {})
        here = self.config.launcher.name == "local"
        seconds = cost.left(open_plans, known, jobs(self.config, len(names)) if here else len(names))
        if seconds is not None:
            console.out.print(f"about {cost.in_words(seconds)}, as far as can be told from what its stages took before")
        with console.Board(self._name(), len(names), known).plan(names) as board:
            report: Report = board
            for seed, done in self.scheduler.run(open_plans, report).items():
                self.outcomes[seed] = {**self.outcomes.get(seed, {}), **done}
        return True

    def _without_failed(self, plan_: Plan) -> Plan:
        """The plan without stages that failed earlier in this command and without those that need them."""
        before = self.outcomes.setdefault(plan_.seed, {})
        kept = {}
        for name, stage in plan_.stages.items():  # in the order they run
            lost = [n for n in stage.predecessors if n in before and before[n].status != "done"]
            if lost:
                before[name] = engine.Outcome(name, "skipped", reason=f"needs {', '.join(lost)}")
            elif name not in before or before[name].status == "done":
                kept[name] = stage
        return replace(plan_, stages=kept)

    def _look(self, looked: int) -> Entry:
        reasons = {
            name: f"seed {seed}: {outcome.reason}"
            for seed, done in self.outcomes.items()
            for name, outcome in done.items()
            if outcome.status != "done"
        }
        if self.base is not None:
            from experiments.evidence import onward

            return onward.join(self.base, self.questions, self.plans[len(self.base.seeds) :], reasons)
        return results.build(self.plans, looked, self.request.given, reasons, self.registered)

    def _stop(self, entry: Entry) -> str:
        """Why no further seed is run; empty while the main claim is open and there is room."""
        main = entry.main_claim()
        if main is None:
            return "no main claim: the first look is all"
        if main.verdict == words.NOT_RUN:
            return "a stage of the main claim did not finish"
        if main.verdict == words.UNTESTED:
            return "the mechanism of the main claim is absent"
        if main.verdict in words.DECIDED:
            return "decided"
        if main.kind in ("exact", "folds"):
            return "more seeds tell nothing new"
        if len(self.plans) >= self.config.most:
            return f"{len(self.plans)} seeds"
        if self._next_is_done():
            return ""
        if (time.monotonic() - self.began) / 60 >= self.config.minutes:
            return f"{self.config.minutes:g} minutes; the same command goes on"
        return ""

    def _next_is_done(self) -> bool:
        further = only(plan(self.config, self._seed(len(self.plans))), self.questions.main_stages)
        return all(finished(stage) is not None for stage in further.stages.values())

    def _seed(self, index: int) -> int:
        return registration.seed(self.registered.stream, index)

    def _go_on(self, entry: Entry, looked: int) -> Entry:
        """The stages of the main claim for as many further seeds as run at the same time, then another look."""
        from experiments.pages import console

        console.out.print(console.look_line(entry, self.began, self.config.minutes), soft_wrap=True)
        here = self.config.launcher.name == "local"
        count = min(jobs(self.config, cores()) if here else SEEDS_ELSEWHERE, int(self.config.most) - len(self.plans))
        further = plan_each(self.config, [self._seed(len(self.plans) + i) for i in range(max(1, count))])
        self.plans += further
        self._train([only(p, self.questions.main_stages) for p in further])
        return self._look(looked)

    def _record(self, entry: Entry) -> None:
        from experiments.pages import console

        results.write_summary(entry, self.plans[0])
        wandb_verdict.log_verdict(self.plans[0], entry)
        if not self.recorded:
            return
        before = results.entry(self.request.paper, self.title)
        if self.writes_on:
            results.update(self.request.paper, self.title, lambda stored: merge.put(entry, stored, self.registered))
        else:
            results.update(self.request.paper, self.title, lambda _: entry, results.here())
        if before is not None and before.seeds and before.main_claim() is not None:
            console.out.print(console.beside(before, entry), "", soft_wrap=True)
