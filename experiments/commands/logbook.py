"""`make logbook`: a paper's record as a folder for others: a logbook in Trackio's format, and an RO-Crate around it."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from experiments.commands import cli
from experiments.common import files
from experiments.common.errors import InputError
from experiments.config import compose
from experiments.evidence import layout, pictures, registrations, results
from experiments.evidence.records import Record
from experiments.pages import console, crate, index, logbook, view

HELP = """\
Write a paper's record as a folder that others can read, show and publish. Trains nothing, needs no network.

  python -m experiments.commands.logbook meal_v2

It holds a page for each claim in the format of Trackio's logbooks (`trackio logbook serve` shows it, `trackio logbook
publish` makes a Space of it), the record itself, its registrations and pictures, and ro-crate-metadata.json, which
says in JSON-LD what all of it is (an RO-Crate 1.1).

  to=FOLDER          default: exports/<paper>-logbook; must not exist yet
"""


def main(argv: list[str]) -> int:
    own, others = cli.take(argv, ("to",))
    papers = cli.papers_named(others)
    if not papers:
        raise InputError("name a paper, as in paper=meal_v2, or paper=all")
    if "to" in own and len(papers) > 1:
        raise InputError(f"to={own['to']}: is one paper's folder; leave it out for several")
    for paper in papers:
        for path in write(paper, Path(own.get("to") or f"exports/{paper}-logbook")):
            console.say(str(path))
    return 0


def write(paper: str, folder: Path) -> Iterator[Path]:
    """Write a paper's logbook and crate into a new folder; the files, as they appear."""
    record = results.read(paper)
    if record is None:
        raise InputError(f"results/{paper}.json: there is no record yet; run make reproduce PAPER={paper}")
    if folder.exists():
        raise InputError(f"to={folder}: it is there already; name another folder")
    declared = compose.paper_file(paper)
    finding = (declared.get("finding") or {}).get("text") or ""
    entries = {title: view.of(entry, declared) for title, entry in record.entries.items()}

    texts = {"record.json": layout.text(record), **logbook.files(record, entries, finding)}
    for name, text in texts.items():
        files.write_text(folder / name, text)
    copied = list(_copied(record, folder))
    paths = {name: (folder / name).stat().st_size for name in [*texts, *copied]}
    described = crate.metadata(record, entries, finding, paths, index.citation()["version"])
    files.write_text(folder / crate.NAME, json.dumps(described, indent=1, ensure_ascii=False) + "\n")
    yield from (folder / name for name in [*paths, crate.NAME])


def _copied(record: Record, folder: Path) -> Iterator[str]:
    """Registrations and pictures of the record, as they lie beside it; their names within the folder."""
    for filed in registrations.all_of(record.key):
        yield _copy(filed.path, folder, f"registrations/{filed.path.name}")
    for title, entry in record.entries.items():
        for item, _ in pictures.of(record.key, title, entry):
            source = pictures.list_of(record.key, title).with_suffix("") / item.file
            yield _copy(source, folder, f"pictures/{title}/{item.file}")


def _copy(source: Path, folder: Path, name: str) -> str:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, folder / name)
    return name


if __name__ == "__main__":
    sys.exit(cli.main(main, HELP, exits="0, or 2 on wrong input", overlays=True))
