"""Records of results/ that are damaged, or written by two at a time: nothing may be lost or read as empty."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from experiments.commands import catalog, check_results, cli, confirm, report, reproduce
from experiments.evidence import results
from tests.reliability.soak.bench import FORK, PATIENCE, Trial, fork
from tests.reliability.soak.hostile import in_a_fork

WRITERS = 50  # times that two processes write one file at the same moment


def damages() -> dict[str, Callable[[bytes], bytes]]:
    """What may become of a file that people merge, copy and edit."""

    def changed(act: Callable[[dict[str, Any]], Any]) -> Callable[[bytes], bytes]:
        def damage(content: bytes) -> bytes:
            record = json.loads(content)
            act(record)
            return json.dumps(record).encode()

        return damage

    def first(record: dict[str, Any]) -> dict[str, Any]:
        return next(iter(record["entries"].values()))

    def row(record: dict[str, Any]) -> dict[str, Any]:
        """What one stage gave for one seed."""
        stage = next(iter(first(record)["stages"].values()))
        return next(iter(stage["runs"].values()))

    return {
        "empty": lambda content: b"",
        "cut in half": lambda content: content[: len(content) // 2],
        "without its last line": lambda content: content.rstrip().rpartition(b"\n")[0],
        "with a conflict of git": lambda content: b"<<<<<<< ours\n%b=======\n%b>>>>>>> theirs\n" % (content, content),
        "in another encoding": lambda content: content.replace(b'"title": "', b'"title": "\xe9', 1),
        "nested too deeply": lambda content: b"[" * 100_000,
        "a list": lambda content: b"[]\n",
        "null": lambda content: b"null\n",
        "of another paper": changed(lambda record: record.update(key="somebody")),
        "without entries": changed(lambda record: record.pop("entries")),
        "with entries that are a list": changed(lambda record: record.update(entries=[])),
        "with an entry that is a number": changed(lambda record: record["entries"].update(mini=5)),
        "with an entry without seeds": changed(lambda record: first(record).pop("seeds")),
        "with a seed's row of another length": changed(lambda record: row(record)["values"].pop()),
        "with a key that is misspelt": changed(lambda record: first(record).update(verdicts=[])),
        "with a number that is a text": changed(lambda record: row(record).update(seconds="3")),
        "of a format to come": changed(lambda record: record.update(format=9)),
        "with an entry without history": changed(lambda record: first(record).pop("history")),
    }


def commands(paper: str, folder: Path) -> dict[str, Callable[[], int]]:
    """Everything that reads a record, as it is typed."""
    runs = f"runs_dir={folder / 'runs'}"
    return {
        "reproduce": partial(cli.main, reproduce.main, "", [f"paper={paper}", "scale=mini", "most=2", "jobs=1", runs]),
        "catalog": partial(cli.main, catalog.main, "", []),
        "report": partial(cli.main, report.main, "", [paper, f"site={folder / 'site'}"]),
        "check_results": partial(cli.main, check_results.main, "", []),
    }


def damaged(paper: str, folder: Path) -> Iterator[Trial]:
    """Each damage under each command: exit code 2, one line that names the file, and the file as it was."""
    original = (results.RESULTS / f"{paper}.json").read_bytes()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "results" / f"{paper}.json"
    path.parent.mkdir(exist_ok=True)
    for how, damage in damages().items():
        content = damage(original)
        for name, command in commands(paper, folder).items():
            path.write_bytes(content)

            def act(command: Callable[[], int] = command) -> int:
                results.RESULTS = path.parent
                return command()

            problem = in_a_fork(act, folder, 2)
            if not problem and path.name not in (folder / "log").read_text(encoding="utf-8"):
                problem = "it does not name the file"
            if not problem and path.read_bytes() != content:
                problem = "the file was changed"
            yield Trial("record", f"{name} of a record {how}", problem)
    path.unlink()


def alterations() -> dict[str, Callable[[dict[str, Any]], Any]]:
    """What somebody may set to something else in an entry, by hand, its form kept."""

    def claim(entry: dict[str, Any]) -> dict[str, Any]:
        return next(iter(entry["claims"]))

    def run(entry: dict[str, Any]) -> dict[str, Any]:
        stage = next(stage for stage in entry["stages"].values() if stage["runs"])  # of what ran: see only=main
        return next(iter(stage["runs"].values()))

    return {
        "value": lambda entry: run(entry)["values"].__setitem__(0, 99.0),
        "fingerprint": lambda entry: run(entry).update(fingerprint="0123456789ab"),
        "time": lambda entry: run(entry).update(seconds=1.0),
        "verdict": lambda entry: claim(entry).update(verdict="refuted"),
        "difference": lambda entry: claim(entry).update(difference=50.0),
        "margin": lambda entry: claim(entry).update(margin=-5.0),
        "registration": lambda entry: entry["registered"].update(hash="0123456789ab"),
    }


def altered(paper: str, folder: Path) -> Iterator[Trial]:
    """One thing is another one, and the seal as it was: nothing that writes the record on seals it anew."""
    (folder / "results").mkdir(parents=True)
    path = folder / "results" / f"{paper}.json"
    sound = (results.RESULTS / f"{paper}.json").read_bytes()
    title, entry = next(iter(results.entries(paper).items()))
    acts: dict[str, Callable[[], object]] = {
        "written on": lambda: results.update(paper, title, lambda _: entry),
        "confirmed": lambda: confirm._Confirmation(paper, title, []),
        "told again": lambda: results.tell_again(paper),
    }
    for (what, alter), (name, act) in itertools.product(alterations().items(), acts.items()):
        record = json.loads(sound)
        alter(record["entries"][title])
        content = json.dumps(record).encode()
        path.write_bytes(content)

        def command(_: list[str], act: Callable[[], object] = act) -> int:
            results.RESULTS = path.parent
            act()
            return 0

        problem = in_a_fork(partial(cli.main, command, "", []), folder, 2)
        if not problem and "was edited after it was written" not in (folder / "log").read_text(encoding="utf-8"):
            problem = "it does not say that it was edited"
        whole = path.read_bytes() == content
        yield Trial("record", f"with another {what}, {name}", problem or ("" if whole else "it was changed"))


def raced(paper: str, folder: Path) -> Iterator[Trial]:
    """Two processes that write an entry each into one file at the same moment: both are there afterwards.

    After every ten turns a new file is begun: to read and seal many entries takes longer than to write two.
    """
    entry = next(iter(results.entries(paper).values())).model_copy(update={"stages": {}})

    def write(place: Path, number: int, start: Any) -> int:
        results.RESULTS = place
        start.wait(PATIENCE.seconds)
        results.update(paper, f"mini+{number}", lambda stored: entry)
        return 0

    for turn in range(WRITERS):
        place = folder / str(turn // 10)
        place.mkdir(parents=True, exist_ok=True)
        start = FORK.Barrier(2)
        numbers = (2 * (turn % 10), 2 * (turn % 10) + 1)
        children = [fork(partial(write, place, n, start), folder / "log", folder / "temporary") for n in numbers]
        for child in children:
            child.join(PATIENCE.seconds)
        written = json.loads((place / f"{paper}.json").read_text(encoding="utf-8"))["entries"]
        expected = {f"mini+{number}" for number in range(numbers[1] + 1)}
        whole = set(written) == expected and all(child.exitcode == 0 for child in children)
        yield Trial("writers", f"turn {turn}", "" if whole else f"{len(written)} entries of {len(expected)}")
