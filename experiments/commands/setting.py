"""One (paper, scale, variant) as somebody asked for it: what a command line says, read and checked."""

from __future__ import annotations

from dataclasses import dataclass

from omegaconf import DictConfig

from experiments.commands.schedulers import runs_here
from experiments.common.errors import InputError
from experiments.common.plain import Config
from experiments.config import claims, compose, schema
from experiments.config.claims import Questions
from experiments.evidence import naming, registration, registrations, results, staleness
from experiments.evidence.records import Entry, Registration
from experiments.running.manifest import finished
from experiments.running.plan import plan

MAIN = "main"  # only=main


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
        registered: under what the next seeds run; None where nothing binds the setting as it is.
        changed: what is other now than in the setting's newest registration, in words.
        from_record: the record goes on without its runs.
        writes_on: what is found goes into the record; else it stands beside it, in results/here/.
    """

    request: compose.Request
    config: DictConfig
    resolved: Config
    questions: Questions
    seeds: list[int] | None
    title: str
    is_recorded: bool
    by_hand: bool
    registered: Registration | None
    changed: list[str]
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
    def explores(self) -> bool:
        """Whether it is tried on pilot seeds: it would be recorded, but nothing is registered."""
        return self.has_stream and self.registered is None

    @property
    def only_main(self) -> bool:
        """Whether the stages of other claims wait for another command."""
        return self.config.only == MAIN

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
    by_hand = recorded and (seeds is not None or bool(naming.personal(request.given)))
    title = naming.title(request.scale, request.variant, by_hand, request.data)
    resolved = compose.resolve(config, 0)
    schema.check_settings(resolved)
    questions = claims.read(resolved)
    _check_only(config, questions)
    if config.why is not None:
        raise InputError("why=...: reproduce registers nothing; make register takes it")
    has_stream = recorded and not by_hand
    entry = results.entry(request.paper, title)
    registered, changed = _registered(request, config, resolved, title, entry) if has_stream else (None, [])
    return Setting(
        request=request,
        config=config,
        resolved=resolved,
        questions=questions,
        seeds=seeds,
        title=title,
        is_recorded=recorded,
        by_hand=by_hand,
        registered=registered,
        changed=changed,
        from_record=_from_record(config, has_stream),
        writes_on=_writes_on(config, request, entry, registered),
    )


def _check_only(config: DictConfig, questions: Questions) -> None:
    if config.only is None:
        return
    if config.only != MAIN:
        raise InputError(
            f"only={config.only}: a setting is judged by the stages of its claims, and only={MAIN} leaves those of "
            "other claims for later; python -m experiments.run takes stages by their names"
        )
    if not questions.main_stages:
        raise InputError(f"only={MAIN}: no main claim in this setting; leave it out")


def _registered(
    request: compose.Request, config: DictConfig, resolved: Config, title: str, entry: Entry | None
) -> tuple[Registration | None, list[str]]:
    """Under what the setting's next seeds run, and else what changed since it was registered.

    A registration's file binds as long as claims, recipe, data and the code that stages reach are what it says, or
    the code was confirmed. One of the earlier rule binds as long as claims and recipe are.
    """
    filed, changed = registrations.standing(registrations.describe(title, resolved, plan(config, 0)))
    if filed is None and entry is not None and entry.registered.filed and not staleness.stale(request.paper, entry):
        confirmed = [item for item in registrations.all_of(request.paper, title) if item.hash == entry.registered.hash]
        filed = next(iter(confirmed), None)
    if filed is not None:
        return registrations.as_recorded(filed, registration.digest(resolved)), []

    earlier = registration.earlier(entry, resolved)
    if earlier is None and not changed and entry is not None and entry.seeds:
        changed = ["claims or recipe"]
    return earlier, [] if earlier is not None else changed


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


def _writes_on(
    config: DictConfig, request: compose.Request, recorded: Entry | None, registered: Registration | None
) -> bool:
    """As `record` says; by itself, where this registration has no record yet, or the record's own runs are here."""
    choice = config.record
    if choice not in (True, False, "auto"):
        raise InputError(f"record={choice}: expected true, false or auto")
    if config.dry:
        return False
    if registered is None:
        if choice is True and (personal := naming.personal(request.given)):
            raise InputError(f"record=true: with {personal[0]} it is not the registered setting; leave one of them out")
        if choice is True:
            raise InputError("record=true: nothing is registered for this setting; make register comes first")
        return False
    if choice != "auto":
        return bool(choice)
    if config.from_record is True or recorded is None or not recorded.seeds:
        return True
    if recorded.registered.hash != registered.hash:
        return registered.filed
    return _ran_here(config, recorded)


def _ran_here(config: DictConfig, recorded: Entry) -> bool:
    """Whether the runs that a record was made from are here: a run that finished later is another one."""
    stages = plan(config, recorded.seeds[0]).stages
    manifests = [finished(stages[name]) for name, stage in recorded.stages.items() if stage.metrics and name in stages]
    return all(m is not None and m["finished"] <= recorded.provenance.written for m in manifests)
