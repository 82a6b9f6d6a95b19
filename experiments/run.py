"""`python -m experiments.run`: one run (a paper, a scale, a seed), and what Hydra's sweeps launch."""

from __future__ import annotations

import sys

import hydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig

from experiments import cli, compose, engine
from experiments.plan import plan

HELP = """\
Run all stages of one paper with one seed. Stages that were done before are not run again.

  python -m experiments.run paper=meal_v2 scale=smoke seed=3
  python -m experiments.run -m paper=meal_v2 scale=smoke seed=0,1 stages.student.module.hard_label_weight=0,1
                     a grid: every combination; stages that do not differ run once (here: the teachers)
  python -m experiments.run -m 'paper=glob(*)' scale=smoke
  python -m experiments.run --cfg job paper=meal_v2     show the composed configuration

  seed=N             fixes splits, initialisation, order and augmentation
"""


CODES: list[int] = []  # of the jobs that ran in this process: a failed one does not end a sweep


@hydra.main(version_base="1.3", config_path="../conf", config_name="config")
def _job(config: DictConfig) -> None:
    from experiments import console, training

    this = plan(config, int(config.seed))
    if any(engine.finished(stage) is None for stage in this.stages.values()):
        training.check_plan(this)
    with console.Board(f"{this.title} seed {this.seed}", len(this.stages)) as board:
        outcomes = engine.run(this, board)
    for name, outcome in outcomes.items():
        metrics = "  ".join(f"{m} {console.number(v)}" for m, v in outcome.metrics.items() if not m.endswith("/n"))
        console.out.print(f"{name:<20} {'' if outcome.status == 'done' else outcome.status} {metrics}", soft_wrap=True)
    console.out.print(f"runs: {next(iter(this.stages.values())).directory.parent}", soft_wrap=True)
    CODES.append(engine.exit_code(outcomes))


def main(argv: list[str]) -> int:
    flags, lines = _flags(argv)
    request = compose.request(lines)
    _check(request)
    sys.argv = [sys.argv[0], *flags, *request.overrides]
    CODES.clear()
    _job()
    return max(CODES, default=0)


def _flags(argv: list[str]) -> tuple[list[str], list[str]]:
    """Hydra's own flags (-m, --cfg job, ...), apart from the overrides."""
    flags, lines, expects = [], [], False
    for argument in argv:
        if expects or argument.startswith("-"):
            flags.append(argument)
            expects = argument in ("--cfg", "-c", "--package", "-p", "--info", "-i") and not expects
        else:
            lines.append(argument)
    return flags, lines


def _check(request: compose.Request) -> None:
    """Compose every value of every swept key once, so that a sweep does not find a typing error in its last job."""
    parsed = OverridesParser.create().parse_overrides(list(request.overrides))
    first: list[str] = []
    choices: list[list[str]] = []
    for override in parsed:
        key = override.get_key_element()
        if not override.is_sweep_override():
            values = [override.input_line or ""]
        elif override.is_choice_sweep():
            values = [f"{key}={value}" for value in override.sweep_string_iterator()]
        else:
            continue  # ranges and globs cannot name what does not exist
        first.append(values[0])
        choices.append(values)
    for index, values in enumerate(choices):
        for value in values if index == 0 else values[1:]:
            lines = [*first[:index], value, *first[index + 1 :]]
            if not any(line.startswith("hydra") for line in lines):
                plan(compose.compose(compose.request(lines).overrides), 0)


if __name__ == "__main__":
    sys.exit(cli.main(main, HELP))
