"""An arm of an overlay beside recorded arms: on their seeds, against their recorded numbers. It explores.

A recorded number of another arm counts where the stage's fingerprint is the recorded one: the same configuration, code,
data, seed and predecessors. So the arm alone trains, and what it needs. What comes out is no verdict: whoever wrote the
arm could see the numbers it is compared with. A binding one tunes the arm with the recipe's own grid (make tune) and
trains all arms on fresh seeds that follow from a registration (make register, make reproduce).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from experiments.commands import exploring
from experiments.commands.schedulers import Schedulers
from experiments.commands.setting import Setting
from experiments.config import reading
from experiments.evidence import assembly, naming, results
from experiments.evidence.ran import StageRecord
from experiments.evidence.records import Entry
from experiments.pages import console, view
from experiments.pages.progress import Board
from experiments.running import cost, engine, preconditions
from experiments.running.manifest import finished
from experiments.running.plan import Plan, only, plan_each

AT_ONCE = 6  # seeds between two looks at the clock
KNOWN = "explored beside recorded arms, whose numbers were known: no verdict, and nothing is recorded"


@dataclass(frozen=True)
class Beside:
    """What is recorded of an arm's paper, and what of it counts for the arm.

    Attributes:
        entry: the suite's record of the setting that the arm joins.
        title: of that setting.
        plans: of the arm's setting, one for each recorded seed that is used.
        recorded: the stages of these seeds whose numbers count.
        own: the stages that train here: the arm, and what is compared but is not as it was recorded.
    """

    entry: Entry
    title: str
    plans: list[Plan]
    recorded: dict[str, StageRecord]
    own: list[str]


def is_asked(asked: Setting) -> bool:
    """Whether a setting is an arm that is not registered, of a paper that the suite has a record of."""
    return asked.explores and _recorded(asked) is not None


def _recorded(asked: Setting) -> tuple[str, Entry] | None:
    """Title and entry of the suite's record of the setting that an arm joins."""
    arm = reading.arm_files(asked.paper).get(asked.request.variant or "")
    if arm is None:
        return None
    title = naming.title(asked.request.scale, arm.get("variant"), data=asked.request.data)
    entry = results.entry(asked.paper, title, results.RESULTS)
    return (title, entry) if entry is not None and entry.seeds else None


def explore(asked: Setting, schedulers: Schedulers) -> int:
    """Train the arm on recorded seeds and show it beside what is recorded; the exit code."""
    began = time.monotonic()
    beside = read(asked)
    console.say(_announce(asked, beside))
    mine = [only(each, beside.own) for each in beside.plans]
    preconditions.check(mine, here=asked.runs_here)
    exploring.check_time(asked, mine)

    scheduler = schedulers.of(asked.config, sum(len(each.stages) for each in mine))
    outcomes: dict[int, dict[str, engine.Outcome]] = {}
    done = 0
    while done < len(mine) and (done == 0 or (time.monotonic() - began) / 60 < asked.config.minutes):
        part = mine[done : done + AT_ONCE]
        unfinished = [each for each in part if any(finished(stage) is None for stage in each.stages.values())]
        if unfinished:
            names = [stage.name for each in unfinished for stage in each.stages.values()]
            expected = cost.seconds_of_stages(mine, beside.entry.mean_seconds())
            with Board(asked.name, len(names), expected).plan(names) as board:
                outcomes |= scheduler.run(unfinished, board)
        done += len(part)

    entry = judged(asked, beside, done, outcomes)
    shown = view.of(entry, beside.plans[0].config)
    console.say(console.main_line(shown, asked.name), "")
    for table in console.tables(shown, asked.name):
        console.out.print(table, "")
    left = len(mine) - done
    further = f"; {left} recorded seeds are left, the same command goes on with minutes=..." if left else ""
    console.say(f"{KNOWN}{further}", f"to bind: {binding(asked)}")
    return max((engine.exit_code(by_stage) for by_stage in outcomes.values()), default=0)


def read(asked: Setting) -> Beside:
    """What of the record counts for an arm."""
    found = _recorded(asked)
    assert found is not None
    title, entry = found
    precisions = {name: stage.precision for name, stage in entry.stages.items() if stage.precision}
    compared = asked.questions.main_stages
    ran = [entry.stages[name].fingerprints for name in compared if name in entry.stages]
    positions = [i for i in range(len(entry.seeds)) if all(marks[i] is not None for marks in ran)]
    positions = positions[: int(asked.config.most)]
    plans = plan_each(asked.config, [entry.seeds[i] for i in positions], precisions)
    there = {name: assembly.of_seeds(stage, positions) for name, stage in entry.stages.items()}
    recorded = {name: there[name] for name in plans[0].stages if name in there and _agrees(name, plans, there, entry)}
    return Beside(entry, title, plans, recorded, [name for name in compared if name not in recorded])


def _agrees(name: str, plans: Sequence[Plan], there: Mapping[str, StageRecord], entry: Entry) -> bool:
    """Whether a stage is for each of these seeds what was recorded, or was confirmed since."""
    marks = [each.stages[name].fingerprint for each in plans]
    shown = entry.confirmed.get(name)
    return marks == list(there[name].fingerprints) or (shown is not None and shown.fingerprint in marks)


def judged(asked: Setting, beside: Beside, count: int, outcomes: Mapping[int, Mapping[str, engine.Outcome]]) -> Entry:
    """The entry of the first seeds, recorded numbers and new ones together."""
    positions = list(range(count))
    recorded = {name: assembly.of_seeds(stage, positions) for name, stage in beside.recorded.items()}
    reasons = {
        name: f"seed {seed}: {outcome.reason}"
        for seed, by_stage in outcomes.items()
        for name, outcome in by_stage.items()
        if outcome.status != "done"
    }
    entry = assembly.build(beside.plans[:count], count, asked.request.told, reasons, recorded=recorded)
    return entry.model_copy(update={"stopped": KNOWN})


def _announce(asked: Setting, beside: Beside) -> str:
    """What is told first: what counts from the record, and what trains here."""
    compared = [name for name in asked.questions.main_stages if name in beside.recorded]
    told = f"{', '.join(compared)} from the suite's record of {beside.title}" if compared else "nothing from the record"
    seeds = f"{len(beside.plans)} recorded seeds"
    trains = ", ".join(beside.own)
    changed = [name for name in beside.own if name in beside.entry.stages]
    why = f" ({', '.join(changed)}: not as recorded any more)" if changed else ""
    return f"exploring {asked.name} on {seeds}: {told}; {trains} and what it needs trains here{why}; {KNOWN}"


def binding(asked: Setting) -> str:
    """The lines that make it binding."""
    words = exploring.command(asked).removeprefix("make register ")
    return f"make tune {words}, make register {words}, make reproduce {words}"
