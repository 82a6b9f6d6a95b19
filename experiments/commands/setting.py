"""One (paper, scale, variant) as somebody asked for it: what a command line says, read and checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig

from experiments.commands.schedulers import runs_here
from experiments.common.errors import InputError
from experiments.config import claims, compose, schema
from experiments.config.claims import Questions
from experiments.evidence import registration, results
from experiments.evidence.records import Entry


@dataclass(frozen=True)
class Setting:
    """What is asked.

    Attributes:
        request: the command line, read.
        config: composed.
        resolved: the configuration as plain data, for any seed.
        questions: what is claimed of this setting.
        seeds: chosen by hand; None takes those of a stream.
        title: of its entry in the paper's record.
        is_recorded: its verdicts say something of the paper.
        by_hand: somebody chose seeds or other settings: an entry of its own that says so.
        from_record: the record goes on without its runs.
        writes_on: what is found goes into the record; else it stands beside it, in results/here/.
    """

    request: compose.Request
    config: DictConfig
    resolved: dict[str, Any]
    questions: Questions
    seeds: list[int] | None
    title: str
    is_recorded: bool
    by_hand: bool
    from_record: bool
    writes_on: bool

    @property
    def paper(self) -> str:
        return self.request.paper

    @property
    def name(self) -> str:
        """As people say it."""
        return f"{self.paper}/{self.title}"

    @property
    def has_stream(self) -> bool:
        """Whether its seeds follow from a registration: nobody chose among them."""
        return self.is_recorded and not self.by_hand

    @property
    def runs_here(self) -> bool:
        """Whether its stages run on this machine."""
        return runs_here(self.config)


def read(argv: list[str]) -> Setting:
    """The setting of a command line. Raises InputError for what makes no sense."""
    _refuse_a_seed(argv)
    request = compose.request(argv)
    config = compose.compose(request.overrides)
    recorded = is_recorded(request.scale)
    seeds = None if config.seeds is None else registration.check_seeds(config.seeds)
    by_hand = recorded and (seeds is not None or bool(results.personal(request.given)))
    title = results.title(request.scale, request.variant, by_hand)
    resolved = compose.resolve(config, 0)
    schema.check_settings(resolved)
    return Setting(
        request=request,
        config=config,
        resolved=resolved,
        questions=claims.read(resolved),
        seeds=seeds,
        title=title,
        is_recorded=recorded,
        by_hand=by_hand,
        from_record=_from_record(config, has_stream=recorded and not by_hand),
        writes_on=_writes_on(config, results.entry(request.paper, title), by_hand),
    )


def _refuse_a_seed(argv: list[str]) -> None:
    for word in argv:
        if word.startswith("seed="):
            seeds = f"'seeds=[{word.removeprefix('seed=')}]'"
            raise InputError(f"{word}: reproduce draws its seeds from a stream; {seeds} names them by hand")


def is_recorded(scale: str) -> bool:
    """Whether a scale's verdicts say anything of a paper; smoke runs only show that everything works."""
    return scale != "smoke"


def _from_record(config: DictConfig, has_stream: bool) -> bool:
    choice = config.from_record
    if choice is False:
        return False
    if choice is not True or not has_stream:
        raise InputError(f"from_record={choice}: expected true, for a record, or false")
    return True


def _writes_on(config: DictConfig, recorded: Entry | None, by_hand: bool) -> bool:
    """As `record` says; by itself, where nothing is recorded yet, or somebody asked for the record to go on."""
    choice = config.record
    if choice not in (True, False, "auto"):
        raise InputError(f"record={choice}: expected true, false or auto")
    if choice != "auto":
        return bool(choice)
    if config.from_record is True or config.why is not None:
        return True
    return not by_hand and (recorded is None or not recorded.seeds)
