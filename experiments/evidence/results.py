"""results/<key>.json and runs/<key>/<scale>/summary.json: what `reproduce` writes and everything else reads."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from filelock import FileLock
from pydantic import ValidationError
from typing_extensions import TypedDict

from experiments.common import files, overlay
from experiments.common.errors import InputError
from experiments.common.paths import ROOT
from experiments.common.plain import Plain
from experiments.config import compose
from experiments.evidence import layout, record_old
from experiments.evidence.judged import JudgedClaim
from experiments.evidence.part import first_mistake
from experiments.evidence.records import FORMAT, Entry, Record
from experiments.running.plan import Plan

RESULTS = ROOT / "results"  # the suite's; `base` says where records are now
RESTARTED = ("restarted", "still_dead", "without_restarts")  # of a claim, where an arm was dead
MOST_BYTES = 2**26  # of one file


def base() -> Path:
    """The folder of records: the open overlay's, or else the suite's."""
    return RESULTS if overlay.current() is None else overlay.home() / "results"


def here() -> Path:
    """Where a run leaves what it found for a setting that is recorded: beside the record, and not in the repository."""
    return base() / "here"


def unfinished() -> Path:
    """Where the finished stages of recordings that take days are kept until their first look, see `make pack`."""
    return base() / "unfinished"


def read(paper: str, folder: Path | None = None) -> Record | None:
    """A paper's results file; None when it was never run.

    Raises InputError naming file, entry and key where it is damaged.
    """
    path = (folder or base()) / f"{paper}.json"
    if not path.is_file():
        return None
    record = parse(path)
    if record.key != paper:
        raise InputError(f"{path}: expected the record of {paper}, not of {record.key}; restore it with git")
    return record


def parse(path: Path) -> Record:
    """A record of any format. Raises InputError naming file, entry and key where it is damaged, OSError without it."""
    if path.stat().st_size > MOST_BYTES:
        raise InputError(f"{path}: {path.stat().st_size} bytes, at most {MOST_BYTES}; restore it with git")
    try:
        value = layout.from_text(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: damaged ({type(error).__name__}: {str(error)[:80]}); restore it with git") from error
    if not isinstance(value, dict) or not isinstance(value.get("entries"), dict):
        raise InputError(f"{path}: expected a paper's record with its entries; restore it with git")

    version = value.get("format", 1)
    if version not in (1, FORMAT):
        raise InputError(f"{path}: format={version!r}: expected {FORMAT}, or 1 of an older record; restore it with git")
    try:
        record = Record.model_validate(layout.read(value) if version == FORMAT else record_old.read(value))
    except ValidationError as error:
        raise InputError(f"{path}: {first_mistake(error)}; restore it with git") from error
    except ValueError as error:
        raise InputError(f"{path}: {error}; restore it with git") from error
    if version == 1:
        for name, entry in record.entries.items():
            if record_old.is_sealed(value["entries"][name]):
                entry.seal = seal(entry)
    return record


def entries(paper: str, folder: Path | None = None) -> dict[str, Entry]:
    """What is recorded of a paper: setting -> entry. Raises InputError where the file is damaged."""
    record = read(paper, folder)
    return record.entries if record is not None else {}


def entry(paper: str, name: str, folder: Path | None = None) -> Entry | None:
    """What is recorded of one setting. Raises InputError where the file is damaged."""
    return entries(paper, folder).get(name)


def seal(entry: Entry) -> str:
    """A hash of all that an entry states, so that an edit by hand is noticed; whoever wants to forge it can."""
    stated = {key: value for key, value in layout.arrange(entry).items() if key != "seal"}
    return hashlib.sha256(json.dumps(stated, sort_keys=True).encode()).hexdigest()[:16]


def check_seals(recorded: Mapping[str, Entry], where: str) -> None:
    """Raises InputError for an entry that is not what was written: nothing may be built on it, or seal it anew."""
    for name, entry in recorded.items():
        if entry.seal != seal(entry):
            raise InputError(f"{where}: {name}: the entry was edited after it was written; restore it with git")


class Told(TypedDict):
    """What a record repeats of its paper's file, for those who read the record alone."""

    key: str
    title: str
    arxiv: str | None
    about: str
    deviations: list[dict[str, str | int | float | bool | None]]


def told(paper: str) -> Told:
    """What a paper's record says of its file."""
    content = compose.paper_file(paper)
    return {
        "key": paper,
        "title": content["title"],
        "arxiv": content.get("arxiv"),
        "about": content.get("about") or "",
        "deviations": content.get("deviations") or [],
    }


def tell_again(paper: str) -> None:
    """Bring what a record repeats of its paper's file up to date; its entries stay as they are."""
    with _locked(paper) as path:
        record = read(paper)
        again = told(paper)
        if record is not None:
            check_seals(record.entries, str(path))
        if record is not None and again != {key: getattr(record, key) for key in again}:
            files.write_text(path, layout.text(Record(**again, entries=record.entries)))


@contextlib.contextmanager
def _locked(paper: str, folder: Path | None = None) -> Iterator[Path]:
    """A record's file, which no other process writes meanwhile."""
    path = (folder or base()) / f"{paper}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock")):
        for part in path.parent.glob(f".{path.name}.*.part"):
            part.unlink()  # of a process that was killed while it wrote
        yield path


def update(paper: str, name: str, change: Callable[[Entry | None], Entry], folder: Path | None = None) -> Path:
    """Read a paper's record, let `change` make the entry `name` anew from the present one, and write it, under a lock.

    Raises InputError if the file that is there is damaged or was edited: nothing is overwritten then.
    """
    with _locked(paper, folder) as path:
        everything = dict(entries(paper, folder))
        check_seals(everything, str(path))
        before = everything.get(name)
        after = change(before)
        if before is not None and after == before:
            return path

        everything[name] = after.model_copy(update={"seal": seal(after)})
        record = Record(**told(paper), entries=dict(sorted(everything.items())))
        files.write_text(path, layout.text(record))
    return path


def write_summary(entry: Entry, plan_: Plan) -> Path:
    """The short form that stands beside the runs."""
    name = "-".join(filter(None, ["summary", plan_.variant, plan_.config.get("data_name")])) + ".json"
    path = Path(plan_.config["runs_dir"]) / plan_.paper / plan_.scale / name
    short = {
        "paper": plan_.paper,
        "scale": entry.scale,
        "variant": entry.variant,
        "seeds": entry.seeds,
        "stages": {name: stage.metrics for name, stage in entry.stages.items()},
        "claims": [_short(claim) for claim in entry.claims],
        "checks": [item.model_dump() for item in entry.checks],
        "published": [item.model_dump() for item in entry.published],
    }
    files.write_json(path, short)
    return path


def _short(claim: JudgedClaim) -> Plain:
    """Of a claim what the short form tells: rivals, outcomes and counted seeds only where there are any."""
    told = {"name", "main", "verdict", "difference", "interval", "per_seed", "reason"}
    several = {key for key in ("against", "parts", "requires_each", *RESTARTED) if getattr(claim, key)}
    return claim.model_dump(include=told | several)
