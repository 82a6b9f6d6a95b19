"""`make verify`: somebody else's overlay, checked as `make check-results` checks the suite. Runs none of its code.

What is looked at is a copy of what they committed, made by `git clone`: git warns of running its other commands in a
repository whose configuration somebody else wrote. Nothing is written in their folder, nothing that they could have
written counts as remembered, and no file of this machine is read because their configuration names it.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from experiments.commands import check_results, cli, run_anew
from experiments.common.errors import InputError
from experiments.common.memory import nothing_remembered
from experiments.common.overlay import Overlay
from experiments.common.paths import ROOT
from experiments.config import overlay
from experiments.evidence import overlays, registrations, results, staleness, statements
from experiments.evidence.order import History
from experiments.evidence.overlays import Listed, Verified
from experiments.evidence.records import Record
from experiments.identity.content import nothing_read
from experiments.identity.provenance import commits
from experiments.pages import console
from experiments.pages.numbers import number

HELP = """\
Check somebody else's overlay: that it keeps the rules, that every interval, verdict and
registration follows from its values, that its history shows what came first, and that its code
and configuration are still what was recorded. It looks at a copy of the last commit. None of its
code runs.

  python -m experiments.commands.verify folder=../theirs
  python -m experiments.commands.verify folder=../theirs trust=true

  trust=true         also run one recorded seed of each setting anew, with their code, and compare
                     every number. Their code then runs as you: it can read, change and send
                     whatever you can. Read their modules/ and datamodules/ first, or run it where
                     nothing can be lost
  list=true          write what was found to results/overlays/, which the index page lists
  --require-history  fail where their history cannot show what came first
"""
OWN = ("folder", "trust", "list")
LONGEST = 300  # letters of what git says


def main(argv: list[str]) -> int:
    required = "--require-history" in argv
    own, rest = cli.take([word for word in argv if word != "--require-history"], OWN)
    if not own.get("folder"):
        raise InputError("folder=FOLDER is missing: the overlay to verify")
    trust, listed = (cli.flag(own, name) for name in ("trust", "list"))
    if not trust and rest:
        raise InputError(f"{rest[0]}: expected folder=, trust=true, list=true or --require-history")

    with copied(Path(own["folder"])) as copy, nothing_remembered(), overlay.opened(str(copy)) as theirs:
        assert theirs is not None
        with contextlib.nullcontext() if trust else nothing_read():
            records = _records()
            wrong = list(differences(records, trust))
            shown = [_verified(paper, title, record) for paper, record in records.items() for title in record.entries]
        if trust:
            console.say("their code runs now, as you")
            for item in shown:
                item.ran = run_anew.run(item.paper, item.setting, rest)
        order = History(theirs.folder).unknown
        told = _listed(theirs, wrong, order, shown)

    for line in wrong:
        console.say(console.Text.assemble(("differs", "red"), f" {line}"))
    for item in shown:
        console.say(_line(item))
    console.say(f"{told.name}: {len(shown)} settings of {len(records)} papers re-derived, {len(wrong)} differences")
    if order:
        console.say(f"whether registrations came before their results is not checked: {order}")
    if not trust:
        console.say("none of its code ran: that its numbers come from its code is not shown; trust=true runs a seed")
    if listed:
        console.say(f"listed: {overlays.write(told).relative_to(results.RESULTS.parent)}")
    failed = any(item.ran.startswith(run_anew.DIFFER) for item in shown)
    return 1 if wrong or failed or (order and required) else 0


@contextlib.contextmanager
def copied(folder: Path) -> Iterator[Path]:
    """A copy of an overlay as its last commit has it; of one without a repository, as it lies there."""
    overlay.load(folder)  # its rules, on what lies there: names, places, links
    with tempfile.TemporaryDirectory(prefix="verify-") as temporary:
        copy = Path(temporary).resolve() / "overlay"
        if (folder / ".git").exists():
            words = ["git", "clone", "--quiet", "--no-local", "--", str(folder.resolve()), str(copy)]
            done = subprocess.run(words, capture_output=True, text=True, check=False)
            if done.returncode:
                told = " ".join(done.stderr.split())[:LONGEST]
                raise InputError(f"{folder}: git cannot copy it: {told or 'no reason given'}")
        else:
            shutil.copytree(folder, copy, symlinks=True, ignore=shutil.ignore_patterns("runs", "site", "__pycache__"))
        yield copy


def _records() -> dict[str, Record]:
    """The overlay's records by paper. Raises InputError for a damaged one."""
    records = {}
    for path in sorted(results.base().glob("*.json")):
        record = results.read(path.stem)
        assert record is not None
        records[path.stem] = record
    return records


def differences(records: dict[str, Record], trust: bool) -> Iterator[str]:
    """Everything that does not follow, as check-results says it, and whatever else a hostile hand could have done."""
    for paper, record in records.items():
        try:
            yield from check_results.check(record)
        except InputError as error:  # its paper's file is gone, or says something that cannot be
            yield f"{paper}: {error}"
        yield from check_results.kept(paper)
        if trust:
            yield from check_results.counted(paper)
    suites = {path.stem: path for path in sorted(results.RESULTS.glob("*.json"))}
    ours = {f"the suite's {paper}": results.parse(path) for paper, path in suites.items()}
    yield from (line for line in statements.copies({**ours, **records}) if not line.startswith("the suite's"))
    yield from _registrations()


def _registrations() -> Iterator[str]:
    """Registrations that are damaged, or rest on a commit that the suite does not have."""
    history = History(ROOT)
    known = not history.unknown
    for folder in sorted((results.base() / "registrations").glob("*")):
        for path in sorted(folder.glob("*.yaml")):
            try:
                filed = registrations.read(path)
            except InputError as error:
                yield str(error)
                continue
            name = f"{filed.paper}: {filed.setting}: registration {filed.hash}"
            extra = filed.bound.get(registrations.OF_OVERLAY)
            if extra is None:
                yield f"{name}: names no overlay"
            suite = (filed.about.get("commits") or {}).get("suite")
            if known and (not suite or history.missing([str(suite)])):
                yield f"{name}: the suite has no commit {str(suite)[:12]}; make verify with a clone that has it"


def _verified(paper: str, title: str, record: Record) -> Verified:
    """What is shown of a recorded setting."""
    entry = record.entries[title]
    main = entry.main_claim()
    try:
        stale = staleness.stale(paper, entry)
    except InputError:
        stale = ["all"]
    return Verified(
        paper=paper,
        setting=title,
        claim=main.name if main is not None else "",
        verdict=main.verdict if main is not None else "no main claim",
        difference=main.difference if main is not None else None,
        unit=main.unit if main is not None else "",
        seeds=len(entry.seeds),
        stale=stale,
    )


def _listed(theirs: Overlay, wrong: Sequence[str], order: str, shown: Sequence[Verified]) -> Listed:
    both = commits()
    return Listed(
        name=theirs.name,
        about=theirs.about,
        commit=both["overlay"],
        suite=both["suite"],
        at=datetime.now(UTC).isoformat(timespec="seconds"),
        differences=len(wrong),
        order=order,
        settings=list(shown),
    )


def _line(item: Verified) -> str:
    """A setting in one line."""
    size = f", {number(item.difference)} {item.unit}" if item.difference is not None else ""
    stale = f"; changed since: {', '.join(item.stale)}" if item.stale else "; code and recipe are those recorded"
    ran = f"; {item.ran}" if item.ran else ""
    return f"{item.paper}/{item.setting}: {item.verdict}{size}, {item.seeds} seeds{stale}{ran}: {item.claim}"


if __name__ == "__main__":
    exits = "0 everything follows, 1 something differs, 2 wrong input, or an overlay that breaks a rule"
    sys.exit(cli.main(main, HELP, exits=exits))
