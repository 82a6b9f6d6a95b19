"""The seeds of a setting: which they are, their stages on the way, and how the claims stand after them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from experiments.commands import exploring, recording, stopping
from experiments.commands.schedulers import Schedulers, jobs
from experiments.commands.setting import Setting
from experiments.common.errors import InputError
from experiments.config import claims, compose
from experiments.evidence import assembly, naming, registration, restarts, results, suite
from experiments.evidence.records import Entry, Registration
from experiments.identity.provenance import cores
from experiments.pages import console, view
from experiments.pages.progress import Board
from experiments.running import cost, engine, preconditions
from experiments.running.manifest import Event, finished
from experiments.running.plan import Plan, only, plan_each
from experiments.running.pool import Scheduler

ELSEWHERE = 4  # seeds between two looks, on a cluster


@dataclass
class Seeds:
    """What runs for a setting.

    Attributes:
        registered: under what.
        plans: one per seed, all stages each; of later seeds the main claim's alone are run.
        scheduler: runs their stages.
        looked: how many of them, from the first, every stage runs for.
        recorded: the entry that goes on without its runs; None where the runs are here.
        tries: seed -> its further tries, where an arm was dead.
        outcomes: seed -> stage -> what became of it in this command.
        began: when, on the clock of time.monotonic().
    """

    setting: Setting
    registered: Registration
    plans: list[Plan]
    scheduler: Scheduler
    recorded: Entry | None = None
    began: float = field(default_factory=time.monotonic)
    tries: dict[int, list[Plan]] = field(default_factory=dict)
    outcomes: dict[int, dict[str, engine.Outcome]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.looked = len(self.plans)

    def train_first(self) -> None:
        """All stages of the first seeds; on this machine those of the main claim before others, and how it then stands.

        A cluster has room for all of them at once. With only=main the others are left for another command.
        """
        main_stages = self.setting.questions.main_stages
        main = [only(p, main_stages) for p in self.plans]
        if self.setting.only_main:
            self._train(main)
            self._start_again()
            return
        others = unfinished(self.plans) - unfinished(main)
        if self.setting.is_recorded and self.setting.runs_here and others and main_stages and self._train(main):
            self._start_again()
            console.say(console.first_line(view.of(self.look()), self.began, others))
        self._train(self.plans)
        self._start_again()

    def go_on(self, entry: Entry) -> None:
        """The stages of the main claim for as many further seeds as run at the same time."""
        config = self.setting.config
        console.say(console.look_line(view.of(entry), self.began, config.minutes))
        at_a_time = jobs(config, cores()) if self.setting.runs_here else ELSEWHERE
        count = max(1, min(at_a_time, int(config.most) - len(self.plans)))
        further = self.plans_of([self._seed(len(self.plans) + i) for i in range(count)])
        self.plans += further
        self._train([only(p, self.setting.questions.main_stages) for p in further])
        self._start_again()

    def plans_of(self, numbers: Sequence[int]) -> list[Plan]:
        """A plan for each of these seeds."""
        return _plans(self.setting, numbers)

    def try_of(self, first: int, attempt: int) -> Plan:
        """A further try of a seed: all that the main claim needs, with a seed that follows from the first one."""
        (again,) = _plans(self.setting, [restarts.seed(first, attempt)])
        return replace(only(again, self.setting.questions.main_stages), try_of=first, attempt=attempt)

    def own_plans(self) -> list[Plan]:
        """Of the seeds that are not taken from a record."""
        return self.plans[len(self.recorded.seeds) :] if self.recorded is not None else self.plans

    def judged_plans(self) -> list[Plan]:
        """The plan of each seed, with the last try's stages under the seed's own number where it started again."""
        judged = []
        for first in self.plans:
            further = self.tries.get(first.seed)
            stages = first.stages | further[-1].stages if further else first.stages
            judged.append(replace(first, stages=stages))
        return judged

    def look(self) -> Entry:
        """The entry of all seeds so far, judged."""
        reasons = {}
        for seed, outcomes in self.outcomes.items():
            for name, outcome in outcomes.items():
                if outcome.status != "done":
                    reasons[name] = f"seed {seed}: {outcome.reason}"
        if self.recorded is None:
            overrides = self.setting.request.told
            return assembly.build(self.plans, self.looked, overrides, reasons, self.registered, self.tries)
        from experiments.evidence import onward

        further = self.own_plans()
        place = naming.place(self.setting.request.told)
        return onward.join(self.recorded, self.setting.questions, further, reasons, self.tries, place)

    def why_stop(self, entry: Entry) -> str:
        """Why no further seed is run; empty while the main claim is open and there is room."""
        if self.registered.stream == 0:
            return stopping.EXPLORED if self.setting.explores else stopping.BY_HAND
        config = self.setting.config
        if reason := stopping.spent(len(self.plans), config.most):
            return stopping.decided(entry) or reason
        if (reason := stopping.decided(entry)) and not (config.record is True and self._is_alone(entry)):
            return reason
        if self._next_is_done():
            return ""
        return stopping.late(self.minutes(), config.minutes)

    def _is_alone(self, entry: Entry) -> bool:
        """Whether its verdict is decided by itself, and not kept beside the recorded ones of all other papers."""
        title, paper = self.setting.title, self.setting.paper
        if title not in suite.DEFAULT:
            return False  # other settings do not stand for their paper
        chosen = {key: default for key in compose.papers() if (default := suite.default_entry(results.entries(key)))}
        others = {key: there for key, (_, there) in chosen.items()}
        others[paper] = recording.merged(self.setting, entry, results.entry(paper, title), self.registered)
        return suite.keep(others).get(paper) is False

    def cpu_seconds(self) -> float:
        """CPU time of the stages that this command ran, where they say it."""
        total = 0.0
        for plan_ in self.plans:
            for name, outcome in self.outcomes.get(plan_.seed, {}).items():
                if outcome.status != "done" or outcome.cached:
                    continue
                manifest = finished(plan_.stages[name])
                if manifest is not None:
                    total += manifest.get("cpu_seconds") or 0.0
        return total

    def minutes(self) -> float:
        """Since it began."""
        return (time.monotonic() - self.began) / 60

    def _next_is_done(self) -> bool:
        (following,) = self.plans_of([self._seed(len(self.plans))])
        tries = [only(following, self.setting.questions.main_stages)]
        while unfinished([tries[-1]]) == 0:
            again = self._next_try(tries)
            if again is None:
                return True
            tries.append(again)
        return False

    def _seed(self, index: int) -> int:
        return registration.seed(self.registered, index)

    def _start_again(self) -> None:
        """Further tries of seeds in which an arm of the main claim is dead, until none is or has any left."""
        while again := [
            plan_ for first in self.own_plans() if (plan_ := self._next_try(self._tries(first))) is not None
        ]:
            for plan_ in again:
                assert plan_.try_of is not None
                self.tries.setdefault(plan_.try_of, []).append(plan_)
            said = ", ".join(f"{plan_.try_of} (try {plan_.attempt} more)" for plan_ in again)
            console.say(f"an arm is dead in seed {said}: all arms of that seed start again together")
            self._train(again)

    def _tries(self, first: Plan) -> list[Plan]:
        return [first, *self.tries.get(first.seed, [])]

    def _next_try(self, tries: Sequence[Plan]) -> Plan | None:
        """What a seed starts again with after these tries; None where the last of them stands. At smoke it always does:
        no network has learnt anything there."""
        main = self.setting.questions.main
        smoke = self.setting.config.scale == "smoke"
        if main is None or not main.dead or smoke or len(tries) > restarts.MOST:
            return None
        latest = tries[-1]
        dead = restarts.starts_again(main, latest.stages, restarts.table_of(latest), latest.seed)
        return self.try_of(tries[0].seed, len(tries)) if dead else None

    def _train(self, plans: Sequence[Plan]) -> bool:
        """Run what is not done of these plans; whether there was anything."""
        for stage in plans[0].stages.values():
            if (manifest := finished(stage)) is not None:
                self._check_reported(stage.name, manifest["metrics"])
        open_plans = [p for p in map(self._without_failed, plans) if unfinished([p])]
        if not open_plans:
            return False
        from experiments.running import training

        training.check_plan(open_plans[0])
        names = [stage.name for p in open_plans for stage in p.stages.values()]
        expected = self._expected_seconds()
        at_a_time = jobs(self.setting.config, len(names)) if self.setting.runs_here else len(names)
        seconds = cost.left(open_plans, expected, at_a_time)
        if seconds is not None:
            console.say(f"about {cost.in_words(seconds)}, as far as can be told from what its stages took before")

        with Board(self.setting.name, len(names), expected).plan(names) as board:

            def report(event: Event) -> None:
                board(event)
                if event["event"] == "stage" and event["status"] == "done":
                    self._check_reported(event["stage"], event["metrics"])

            for seed, outcomes in self.scheduler.run(open_plans, report).items():
                self._note(seed, outcomes)
        return True

    def _expected_seconds(self) -> dict[str, float]:
        """Of each stage, from what it took here before or where the record was made."""
        recorded = results.entry(self.setting.paper, self.setting.title)
        return cost.seconds_of_stages(self.plans, recorded.mean_seconds() if recorded is not None else {})

    def _note(self, seed: int, outcomes: Mapping[str, engine.Outcome]) -> None:
        """Keep what became of a seed's stages: one that this command ran is not one that it found done."""
        before = self.outcomes.get(seed, {})
        news = {name: outcome for name, outcome in outcomes.items() if not (outcome.cached and name in before)}
        self.outcomes[seed] = {**before, **news}

    def _check_reported(self, stage: str, metrics: Mapping[str, float]) -> None:
        """Raises InputError if a claim is about a metric that a stage which finished does not report."""
        setting = self.setting
        stages = list(setting.resolved["stages"])
        claims.check_reported(setting.questions, setting.request.scale, stages, stage, metrics)

    def _without_failed(self, plan_: Plan) -> Plan:
        """The plan without stages that failed earlier in this command and without those that need them."""
        before = self.outcomes.setdefault(plan_.seed, {})
        stages = {}
        for name, stage in plan_.stages.items():  # in the order they run
            lost = [n for n in stage.predecessors if n in before and before[n].status != "done"]
            if lost:
                before[name] = engine.Outcome(name, "skipped", reason=f"needs {', '.join(lost)}")
            elif name not in before or before[name].status == "done":
                stages[name] = stage
        return replace(plan_, stages=stages)


def begin(setting: Setting, schedulers: Schedulers) -> Seeds:
    """The first seeds of a setting, their stages trained.

    Raises InputError where they cannot run; what is recorded of the setting is registered only after that is known.
    """
    if setting.from_record:
        return _begin_from_record(setting, schedulers)
    began = time.monotonic()
    if setting.registered is None and setting.explores:
        console.say(exploring.announce(setting))
    elif setting.registered is None and setting.seeds is not None and (told := registration.told_of_one(setting.seeds)):
        console.say(told)
    plans = first_plans(setting)
    preconditions.check(plans, here=setting.runs_here)

    first = asked_plans(setting, plans)
    if setting.explores:
        exploring.check_time(setting, first)
    scheduler = schedulers.of(setting.config, sum(len(p.stages) for p in first))
    registered = setting.registered or registration.by_hand(setting.resolved)
    seeds = Seeds(setting, registered, plans, scheduler, began=began)
    seeds.train_first()
    return seeds


def first_plans(setting: Setting) -> list[Plan]:
    """A plan for each seed of the first look: of the registration, pilots, or those given by hand."""
    count = int(setting.config.first)
    if setting.registered is not None:
        return _plans(setting, [registration.seed(setting.registered, index) for index in range(count)])
    if setting.explores:
        return _plans(setting, list(range(1, count + 1)))
    return _plans(setting, setting.seeds or list(range(count)))


def asked_plans(setting: Setting, plans: Sequence[Plan]) -> Sequence[Plan]:
    """What of these plans the command trains: with only=main the stages of the main claim."""
    return [only(p, setting.questions.main_stages) for p in plans] if setting.only_main else plans


def _begin_from_record(setting: Setting, schedulers: Schedulers) -> Seeds:
    """The seeds of a record whose runs are not here; nothing is trained yet."""
    from experiments.evidence import onward

    began = time.monotonic()
    main_stages = setting.questions.main_stages
    registered = setting.registered
    if registered is None:
        raise InputError(f"from_record=true: {setting.name} has other claims or another recipe now; make register")
    entry = onward.recorded(setting.paper, setting.title, registered, main_stages)
    plans = _plans(setting, entry.seeds)
    preconditions.check([only(plans[0], main_stages)], here=setting.runs_here)
    scheduler = schedulers.of(setting.config, cores() * len(plans[0].stages))
    console.say(f"{len(plans)} seeds stand in the record")
    return Seeds(setting, registered, plans, scheduler, entry, began)


def _plans(setting: Setting, numbers: Sequence[int]) -> list[Plan]:
    """A plan for each of these seeds, which names the registration that they follow from."""
    registered = setting.registered.hash if setting.registered is not None else None
    return [replace(p, registered=registered) for p in plan_each(setting.config, numbers)]


def unfinished(plans: Sequence[Plan]) -> int:
    """How many stages of these plans are not done."""
    return sum(1 for p in plans for stage in p.stages.values() if finished(stage) is None)
