"""A record for others: pages of cells as Trackio reads them, and a crate that names every file and claim."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from experiments.commands import logbook
from experiments.common import files
from experiments.common.errors import InputError
from experiments.evidence import layout, results
from experiments.evidence.records import Record
from experiments.pages import crate as crate_of
from tests.experiments.pages.helpers import sample

HOSTILE = "a <b>bold</b> | claim\n---\n<!-- trackio-cell\n{}\n-->"


@pytest.fixture
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Record:
    """A record of three claims, the last of which would begin a cell of its own."""
    monkeypatch.setattr(results, "RESULTS", tmp_path / "results")
    record = sample()
    record.entries["mini"].claims[2].name = HOSTILE
    files.write_text(tmp_path / "results/meal_v2.json", layout.text(record))
    return record


@pytest.fixture
def folder(record: Record, tmp_path: Path) -> Path:
    folder = tmp_path / "made"
    written = list(logbook.write("meal_v2", folder))
    assert all(path.is_file() for path in written)
    assert len(written) == sum(path.is_file() for path in folder.rglob("*"))
    return folder


def cells(page: Path) -> list[tuple[dict[str, Any], str]]:
    text = page.read_text(encoding="utf-8")
    heads = re.findall(r"\n---\n<!-- trackio-cell\n(.*)\n-->\n", text)
    bodies = re.split(r"\n---\n<!-- trackio-cell\n.*\n-->\n", text)[1:]
    return [(json.loads(head), body.strip()) for head, body in zip(heads, bodies, strict=True)]


def test_each_claim_has_a_page_of_cells(folder: Path) -> None:
    book = folder / ".trackio/logbook"
    manifest = json.loads((book / "logbook.json").read_text(encoding="utf-8"))
    assert manifest["schema_version"] == 2
    children = manifest["root"]["children"]
    assert [child["title"] for child in children][:2] == ["the student is better", "no harm is done"]
    index = (book / manifest["root"]["file"]).read_text(encoding="utf-8")
    assert re.findall(r"\(#/([a-z0-9-]+)\)", index) == [child["slug"] for child in children]
    assert "| [the student is better](#/the-student-is-better) | supported at mini |" in index

    (main, *_) = children
    told = cells(book / main["file"])
    assert [head["type"] for head, _ in told] == ["markdown", "markdown", "figure", "code"]
    assert "The main claim, asked by the paper: **the student is better**" in told[0][1]
    assert "+2.00 points, 95% interval −0.48 to +4.48; 3 seeds" in told[1][1]
    assert told[2][1].startswith("````html\n<svg")
    assert told[2][1].endswith("````raw\nseed 0: 1\nseed 1: 2\nseed 2: 3\n````")
    assert told[3][1] == "````bash\nmake reproduce PAPER=meal_v2\n````"


def test_no_text_of_a_record_begins_a_cell_or_an_element(folder: Path) -> None:
    book = folder / ".trackio/logbook"
    (page,) = book.glob("pages/a-b-bold*/page.md")
    text = page.read_text(encoding="utf-8")
    assert "<b>" not in re.sub(r"````html.*?````", "", text, flags=re.DOTALL)
    assert [head["type"] for head, _ in cells(page)] == ["markdown", "markdown", "code"]
    index = (book / "pages/index.md").read_text(encoding="utf-8")
    assert "trackio-cell\n" not in index
    assert len([line for line in index.splitlines() if line.startswith("| [")]) == 4  # claims and settings


def test_the_same_record_gives_the_same_folder(folder: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    list(logbook.write("meal_v2", again))
    for path in folder.rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (again / path.relative_to(folder)).read_bytes(), path
    with pytest.raises(InputError, match="it is there already"):
        list(logbook.write("meal_v2", again))
    with pytest.raises(InputError, match="there is no record yet"):
        list(logbook.write("zpe", tmp_path / "other"))
    with pytest.raises(InputError, match="name a paper"):
        logbook.main([])


def test_the_crate_names_every_file_and_refers_to_nothing_else(folder: Path) -> None:
    """RO-Crate 1.1: flat, a descriptor about ./, and each local reference is an entity."""
    crate = json.loads((folder / "ro-crate-metadata.json").read_text(encoding="utf-8"))
    graph = {item["@id"]: item for item in crate["@graph"]}
    assert len(graph) == len(crate["@graph"])
    assert graph["ro-crate-metadata.json"]["about"] == {"@id": "./"}
    assert graph["ro-crate-metadata.json"]["conformsTo"] == {"@id": "https://w3id.org/ro/crate/1.1"}
    root = graph["./"]
    assert {"name", "description", "datePublished", "license"} <= set(root)

    there = {str(p.relative_to(folder)): p.stat().st_size for p in folder.rglob("*") if p.is_file()}
    del there["ro-crate-metadata.json"]
    assert {part["@id"]: int(graph[part["@id"]]["contentSize"]) for part in root["hasPart"]} == there
    references = re.findall(r'"@id": "([^"]+)"', json.dumps(crate))
    assert set(references) - set(graph) == {"https://w3id.org/ro/crate/1.1"}
    assert crate_of.address("mini by hand/a+b.webp") == "mini%20by%20hand/a+b.webp"
    claims = [item for item in crate["@graph"] if item["@type"] == "Claim"]
    assert [claim["creativeWorkStatus"] for claim in claims] == ["supported", "undecided", "not run"]
    (run,) = [item for item in crate["@graph"] if item["@type"] == "CreateAction"]
    assert len(run["result"]) == 1 + len(claims)


def test_trackio_reads_the_same_pages(folder: Path) -> None:
    theirs = pytest.importorskip("trackio.logbook")
    project = folder / ".trackio"
    manifest = theirs.build_manifest(project)
    ours = json.loads((project / "logbook/logbook.json").read_text(encoding="utf-8"))
    assert manifest["root"] == ours["root"]
    for child in ours["root"]["children"]:
        path = project / "logbook" / child["file"]
        read = theirs._parse_cells_from_text(path.read_text(encoding="utf-8"), child["slug"], child["title"])
        assert [(cell["type"], cell["body"]) for cell in read] == [(head["type"], body) for head, body in cells(path)]


def test_an_independent_reader_takes_the_crate(folder: Path) -> None:
    rocrate = pytest.importorskip("rocrate.rocrate")
    crate = rocrate.ROCrate(folder)
    assert crate.name.startswith("Re-run of ")
    assert {entity.id for entity in crate.data_entities} >= {"record.json", ".trackio/logbook/pages/index.md"}
