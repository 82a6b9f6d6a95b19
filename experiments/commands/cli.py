"""What the commands share: help that teaches, errors in one line, exit codes, and the argument line. No torch."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence

from experiments.common import failure
from experiments.common.errors import InputError, RunError, unknown
from experiments.common.overlay import home
from experiments.common.paths import CONF
from experiments.common.text import visible
from experiments.config import compose, overlay
from experiments.running.processes import end_as_interrupted, requeue_when_asked

LONGEST = 4_000  # letters of an error that are shown: what somebody typed may be part of it
COMMON = """\
The configuration:

  paper=K            {papers}
  scale=S            mini (default), smoke (seconds; numbers mean nothing), full (as published) or,
                     for some papers, lab (CIFAR, one consumer GPU, some hours)
  variant=V          a named variation of a paper; `make papers PAPER=K` lists them
  trainer=T          {trainers}
  logger=L           {loggers}
  data_dir=DIR       where datasets are that do not come with the install (or set REPRISE_DATA)
  extra=FOLDER       an overlay: a folder of your own with papers, data, arms and code; its
                     results stay in it
  stages.S.key=value any value of a stage, e.g. stages.student.trainer.max_epochs=5;
                     stages.*.data.batch_size=64 sets it for every stage
  data@stages.S.data=D
                     another dataset for a stage; a paper's own are in conf/data/<paper>/:
                     {data}
"""
WIDTH = 100  # letters of a line of help


def _options() -> str:
    def listed(group: str) -> str:
        names = ", ".join(name for name in compose.options(group) if "/" not in name)
        indent = " " * 21
        return textwrap.fill(names, WIDTH - len(indent), break_on_hyphens=False).replace("\n", f"\n{indent}")

    shown = {"papers": listed("paper"), "trainers": listed("trainer"), "loggers": listed("logger")}
    return COMMON.format(**shown, data=listed("data"))


def main(
    command: Callable[[list[str]], int],
    text: str,
    argv: Sequence[str] | None = None,
    *,
    composes: bool = False,
    overlays: bool = False,
    makes_overlays: bool = False,
    exits: str = "0 it ran (whatever the verdict), 1 a stage failed, 2 wrong input",
) -> int:
    """Run a command with its arguments; --help, errors, Ctrl-C and SIGTERM end in one place.

    Args:
        command: takes the arguments, gives the exit code.
        text: what --help begins with.
        composes: the command takes everything that a configuration is composed of; --help lists it.
        overlays: the command takes `extra=FOLDER`, and runs with that overlay open.
        makes_overlays: the command reads `extra=FOLDER` itself, which need not be there yet.
        exits: what the exit codes say.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if any(a in ("-h", "--help") for a in arguments):
        parts = [text, *([_options()] if composes else []), f"Exit code: {exits}."]
        print("\n\n".join(part.rstrip() for part in parts))
        return 0
    if not CONF.is_dir():
        _say(f"{CONF} is missing: Reprise is used from a checkout (git clone, then make setup), not from a wheel")
        return InputError.exit_code
    end_as_interrupted()
    requeue_when_asked()
    try:
        if makes_overlays:
            return command(arguments)
        return _run(command, arguments, overlays)
    except (InputError, RunError) as error:
        _say(str(error))
        return error.exit_code
    except Exception as error:  # noqa: BLE001 - a full disk met outside any stage, a paper's file that does not import
        text, code = failure.explain(error, home() / "runs" / failure.NAME)
        _say(text)
        return code
    except KeyboardInterrupt:
        _say("interrupted; finished stages are kept and the same command continues from here")
        return 130


def _run(command: Callable[[list[str]], int], argv: list[str], overlays: bool) -> int:
    """Run a command, with the overlay open that `extra=FOLDER` names; without one, none is."""
    own, others = take(argv, ("extra",))
    if own and not overlays:
        raise InputError(f"extra={own['extra']}: this command reads no overlay; it would change nothing")
    with overlay.opened(own.get("extra")):
        return command(others)


def _say(text: str) -> None:
    shown = visible(text) if len(text) <= LONGEST else f"{visible(text[:LONGEST])} ... ({len(text)} letters)"
    print(f"error: {shown}", file=sys.stderr)


def take(argv: Sequence[str], names: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """The words `name=value` of these names as a mapping, and the other words."""
    own = {}
    others = []
    for word in argv:
        name, _, value = word.partition("=")
        if name in names:
            own[name] = value
        else:
            others.append(word)
    return own, others


def papers_named(argv: Sequence[str]) -> list[str]:
    """Keys from words such as meal_v2, paper=meal_v2 and paper=meal_v2,zpe; every paper for paper=all.

    Raises:
        InputError: a word that names no paper.
    """
    keys = compose.papers()
    named = [key for word in argv for key in word.removeprefix("paper=").split(",")]
    for key in named:
        if key not in (*keys, "all"):
            raise unknown("paper", key, keys)
    return list(keys) if "all" in named else named


def flag(own: Mapping[str, str], name: str, default: bool = False) -> bool:
    """A word `name=true` or `name=false`. Raises InputError for another value."""
    value = own.get(name, str(default).lower())
    if value not in ("true", "false"):
        raise InputError(f"{name}={value}: expected true or false")
    return value == "true"
