"""`make reproduce`: a paper's stages over seeds until its main claim is decided; verdicts, record and report page."""

from __future__ import annotations

import time

from experiments.commands import arm_beside, outlook, recording, setting, stopping
from experiments.commands.schedulers import Schedulers
from experiments.commands.seeds import Seeds, begin, unfinished
from experiments.commands.setting import Setting
from experiments.common.errors import InputError
from experiments.common.overlay import home
from experiments.config import compose, flags
from experiments.evidence import results
from experiments.evidence.records import Entry
from experiments.pages import console, view, wandb_verdict
from experiments.pages.console import Ended
from experiments.running import engine

HELP = """\
Train a paper's method and its baselines over seeds until its main claim is decided.

  python -m experiments.reproduce paper=meal_v2              the embedded default: minutes
  python -m experiments.reproduce paper=meal_v2 scale=smoke  does everything run? (seconds)
  python -m experiments.reproduce paper=meal_v2 scale=full dry=true
                     builds the published recipe and steps twice: what it needs, how many hours
  python -m experiments.reproduce paper=meal_v2 variant=clean minutes=30
  python -m experiments.reproduce paper=all scale=smoke

It trains the main claim's stages over six seeds and says how the claim stands, then the stages of
the other claims. Further seeds of the main claim follow until it is decided, 32 seeds are reached
or 15 minutes have passed. The intervals hold at each look, so stop and go on as you like: the
same command continues, and nothing is trained twice.

A registered setting (make register) runs the seeds that follow from its registration. A setting
that is not registered, or whose claims, recipe, data or code have changed since, says so and
explores: it runs pilot seeds, shows their numbers and records nothing.

How it runs:

  minutes=15         start no further seed after that many minutes
  most=32            stop at that many seeds, decided or not
  seeds=[0,1,2]      these seeds by hand, in an entry of its own that says so (quote it)
  data=cifar10       other labelled images in place of the paper's, the suite's or your own
                     (docs/own-data.md)
  record=true        write to results/, and go on until the verdict is kept beside those of all
                     other papers too; without it, only the machine that holds a record's runs
                     adds to the record, and any other writes to results/here/, which the page
                     shows beside it
  from_record=true   add seeds to a record whose runs are on another machine; refused where
                     anything that the record rests on has changed
  explore=true       explore also where that is known to take more than an hour
  only=main          the main claim's stages alone; without it, the same command trains those of the
                     other claims, which are "not run" until then
  jobs=2             stages trained at the same time (default: one per core on a CPU, one per GPU)
  launcher=submitit_slurm launcher.partition=P
                     a Slurm job for each stage, put back into the queue until it is done
  launcher=ray launcher.address=auto
                     a task of a Ray cluster for each stage (make extras EXTRAS=ray)
  --cfg job          show the composed configuration; so do Hydra's other flags that only show
"""


def main(argv: list[str]) -> int:
    if any(argument.startswith("-") for argument in argv):
        return _show(argv)
    papers = [f"paper={paper}" for paper in compose.papers()] if "paper=all" in argv else []
    others = [word for word in argv if word != "paper=all"]
    ends: list[Ended] = []
    with Schedulers() as schedulers:
        codes = [_paper([paper, *others], schedulers, ends) for paper in papers] or [_paper(others, schedulers, ends)]
    if ends:
        console.out.print(console.closing_table(ends))
    return max(codes)


def _show(argv: list[str]) -> int:
    """What Hydra's flags ask for. Raises InputError for those that would run something."""
    asked, _ = flags.read(argv)
    if "config_dir" in asked:
        raise InputError("--config-dir: a record must be composed again from conf/ alone; experiments.run takes it")
    if not any(asked.get(key) for key in flags.SHOW):
        raise InputError(f"{flags.written(asked)[0]}: reproduce runs over seeds by itself; experiments.run takes it")
    from experiments.commands import run

    return run.main(argv)


def _paper(argv: list[str], schedulers: Schedulers, ends: list[Ended]) -> int:
    """The setting that a command line asks for, and the paper's variants that always go with it.

    Args:
        ends: gets a line for each setting that ran.
    """
    asked = setting.read(argv)
    if asked.config.dry:
        from experiments.commands import dry

        return dry.main(asked.config)
    if arm_beside.is_asked(asked):
        return arm_beside.explore(asked, schedulers)
    settings = [asked, *(setting.read([*argv, f"variant={variant}"]) for variant in _companions(asked))]
    console.say(*outlook.lines(settings), "")
    codes = []
    for number, each in enumerate(settings, 1):
        if len(settings) > 1:
            console.say(console.Text(f"{each.name}, setting {number} of {len(settings)}", "bold"))
        code, ended = _run(each, schedulers)
        codes.append(code)
        ends.append(ended)
    if asked.is_recorded:  # else no page says anything new
        _write_page(asked.paper)
    return max(codes)


def _companions(asked: Setting) -> list[str]:
    """The variants that are run whenever a scale without a variant is."""
    if asked.request.variant is not None:
        return []
    variants = compose.paper_file(asked.paper).get("variants") or {}
    return [name for name, item in variants.items() if item.get("always") and item.get("scale") == asked.request.scale]


def _write_page(paper: str) -> None:
    from experiments.pages import report

    if results.read(paper) is not None:
        page = next(path for path in report.build([paper]) if path.stem == paper)
        console.say(f"report:  {page.relative_to(home())}")


def _run(asked: Setting, schedulers: Schedulers) -> tuple[int, Ended]:
    """Run a setting until it is decided, show its tables and record it; the exit code, and a line of the last table."""
    seeds = begin(asked, schedulers)
    entry = _until_decided(seeds)
    shown = view.of(entry, seeds.plans[0].config)
    console.say(console.main_line(shown, asked.name), "")
    for table in console.tables(shown, asked.name):
        console.out.print(table, "")
    recording.write(asked, entry, seeds.registered, seeds.judged_plans())
    wandb_verdict.log_verdict(seeds.plans[0], shown)
    _show_end(seeds)
    ended = Ended(asked.name, shown, time.monotonic() - seeds.began, seeds.cpu_seconds())
    return _code(seeds), ended


def _code(seeds: Seeds) -> int:
    return max((engine.exit_code(outcomes) for outcomes in seeds.outcomes.values()), default=0)


def _until_decided(seeds: Seeds) -> Entry:
    """The entry after its last look, with why it was the last. On Ctrl-C the last look is recorded before it ends."""
    entry = seeds.look()
    try:
        while not (stopped := seeds.why_stop(entry)):
            seeds.go_on(entry)
            entry = seeds.look()
    except KeyboardInterrupt:
        interrupted = entry.model_copy(update={"stopped": stopping.INTERRUPTED})
        recording.write(seeds.setting, interrupted, seeds.registered, seeds.judged_plans())
        raise
    return entry.model_copy(update={"stopped": stopped})


def _show_end(seeds: Seeds) -> None:
    """What was run and how long it took, and where the record is."""
    outcomes = [outcome for by_stage in seeds.outcomes.values() for outcome in by_stage.values()]
    trained = sum(1 for outcome in outcomes if outcome.status == "done" and not outcome.cached)
    everything = sum(len(plan.stages) for plan in seeds.plans) - unfinished(seeds.plans)
    seconds = time.monotonic() - seeds.began
    console.say(f"{trained} stages run, {everything} in all, {seconds:.0f} s")
    if seeds.setting.is_recorded:
        console.say(f"results: {recording.where(seeds.setting)}")
