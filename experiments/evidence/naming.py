"""What an entry is called, and what of a command line belongs to its setting."""

from __future__ import annotations

from collections.abc import Sequence

from experiments.evidence import registration
from experiments.evidence.records import Entry

LOCAL = {  # of one machine or one command; they change no number
    "jobs",
    "data_dir",
    "runs_dir",
    "launcher",
    "logger",
    "checkpoint_seconds",
    "minutes",
    "most",
    "why",
    "from_record",
    "only",
    "record",
    "explore",
    "trainer",
}


def title(scale: str, variant: str | None, by_hand: bool = False, data: str | None = None) -> str:
    """An entry's name among a paper's, as mini+clean or mini+data=my_photos."""
    return "+".join(filter(None, [scale, variant, data and f"data={data}"])) + (" by hand" if by_hand else "")


def title_of(entry: Entry) -> str:
    """The name that an entry has to have."""
    return title(entry.scale, entry.variant, entry.registered.by_hand, data_of(entry))


def data_of(entry: Entry) -> str | None:
    """What stood in place of the paper's own data, if anything did."""
    return next((line.removeprefix("data=") for line in entry.overrides if line.startswith("data=")), None)


def is_recorded(scale: str) -> bool:
    """Whether a scale's verdicts say anything of a paper; smoke runs only show that everything works."""
    return scale != "smoke"


def personal(overrides: Sequence[str]) -> list[str]:
    """Of what the user gave, what makes it another run than the registered one."""
    where = place(overrides)
    keys = {line: _key(line) for line in overrides if line not in where}
    return [line for line, key in keys.items() if key not in LOCAL and not key.startswith(("logger.", "launcher."))]


def place(overrides: Sequence[str]) -> list[str]:
    """Of what the user gave, where it runs: the trainer and its devices."""
    names = {"trainer", *(f"trainer.{key}" for key in registration.PLACE)}
    return [line for line in overrides if _key(line) in names]


def _key(line: str) -> str:
    return line.lstrip("+").split("=")[0]
