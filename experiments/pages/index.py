"""The index page: one row for each paper, and every recorded main claim as data beside it. Imports no torch."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from markupsafe import Markup

from experiments.common.paths import ROOT
from experiments.evidence import suite
from experiments.evidence.records import Entry, Record
from experiments.evidence.words import NOT_RUN
from experiments.pages import answers, display, forest, scatter

SCRIPT = Path(__file__).parent / "templates" / "index.js"
NOT_YET = "not yet"
COLUMNS = (
    *("key", "title", "arxiv", "setting", "scope", "claim", "verdict", "difference", "low", "high", "unit", "worth"),
    *("seeds", "stale", "kept", "replication", "finding"),
)


@lru_cache
def script() -> Markup:
    """What searches, sorts and filters: all is readable without it."""
    return Markup(SCRIPT.read_text(encoding="utf-8"))


def allowed() -> str:
    """The page's permission to run that script and no other one, by its hash."""
    digest = hashlib.sha256(script().encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def first(entries: Mapping[str, Any]) -> list[str]:
    """Titles of settings: the one that stands for the paper, the other scales, then variants."""

    def place(title: str) -> tuple[bool, int, str]:
        main = suite.DEFAULT.index(title) if title in suite.DEFAULT else len(suite.DEFAULT)
        return "+" in title or "by hand" in title, main, title

    return sorted(entries, key=place)


def anchor(title: str) -> str:
    """Where a setting stands on its paper's page."""
    return title.replace("+", "-").replace(" ", "-")


def kept(records: Mapping[str, Record | None]) -> dict[str, bool]:
    """Paper -> whether its verdict stands beside those of all others, see experiments.evidence.suite."""
    chosen = {key: suite.default_entry(record.entries) for key, record in records.items() if record is not None}
    return suite.keep({key: found[1] for key, found in chosen.items() if found is not None})


def row(paper: Mapping[str, Any], linked: bool, is_kept: bool | None) -> dict[str, Any]:
    """A paper on the index: what was found, the verdict of the setting that stands for it, and its other settings."""
    titles = first(paper["entries"])
    settings = [_setting(paper, title) for title in titles]
    asked = next((c["name"] for c in paper["declared"].get("claims") or [] if c.get("main")), "")
    told = {name: paper[name] for name in ("key", "title", "arxiv", "venue", "topic", "finding")}
    told |= {"short": paper["title"].split(":")[0], "linked": linked, "asked": asked, "settings": settings}
    if not settings:
        return {**told, "verdict": NOT_RUN, "stale": False, "kept": None, "replication": "", "cell": "", "place": ""}
    top = settings[0]
    shown = {name: top[name] for name in ("verdict", "stale", "replication")}
    main = paper["record"].entries[titles[0]].main_claim()
    if main is None:
        return {**told, **shown, "kept": is_kept, "cell": "", "place": ""}
    drawn = _forest(paper["key"], main, top["stale"])
    place = "" if drawn.scale is None or drawn.difference is None else f"{drawn.at(drawn.difference):.4f}"
    cell = Markup(forest.cell(drawn))
    return {**told, **shown, "kept": is_kept, "cell": cell, "place": place}


def _setting(paper: Mapping[str, Any], title: str) -> dict[str, Any]:
    """A recorded setting: its answer, and how it stands."""
    entry: display.Entry = paper["entries"][title]
    recorded: Entry = paper["record"].entries[title]
    answer = answers.answer(entry)
    word = recorded.replication.word if recorded.replication is not None else NOT_YET
    return {
        **answer,
        "title": title,
        "anchor": anchor(title),
        "scale": entry.scale,
        "verdict": answer["claim"]["verdict"] if answer["claim"] else "",
        "stale": bool(paper["stale"][title]),
        "replication": word,
    }


def points(papers: Sequence[Mapping[str, Any]]) -> list[scatter.Point]:
    """The main claims of the settings that stand for papers, where paper and record both have a difference."""
    found = []
    for paper in papers:
        entry = paper["record"].entries[first(paper["entries"])[0]] if paper["entries"] else None
        main = entry.main_claim() if entry is not None else None
        if main is None or main.published is None or main.difference is None:
            continue
        row = _forest(paper["key"], main, bool(paper["stale"][first(paper["entries"])[0]]))
        found.append(scatter.Point(row, float(main.published.difference)))
    return found


def _forest(key: str, main: Any, stale: bool) -> forest.Row:
    names = ("verdict", "difference", "interval", "margin", "worth", "within", "unit")
    return forest.Row(key, **{name: getattr(main, name) for name in names}, stale=stale)


def counts(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How many papers have each verdict, replication and scale, in the order in which words are explained."""
    verdicts = Counter(row["verdict"] for row in rows if row["verdict"])
    return {
        "verdicts": [(verdict, verdicts[verdict]) for verdict in display.SYMBOLS if verdict in verdicts],
        "replications": sorted(Counter(row["replication"] for row in rows if row["replication"]).items()),
        "topics": sorted({row["topic"] for row in rows if row["topic"]}),
        "scales": sorted({setting["scale"] for row in rows for setting in row["settings"]}),
        "settings": sum(len(row["settings"]) for row in rows),
        "stale": sum(row["stale"] for row in rows),
        "kept": sum(row["kept"] is True for row in rows),
    }


def data(papers: Sequence[Mapping[str, Any]], is_kept: Mapping[str, bool]) -> list[dict[str, Any]]:
    """Every recorded main claim as plain values, a row for each setting."""
    rows = []
    for paper in papers:
        for number, title in enumerate(first(paper["entries"])):
            entry: Entry = paper["record"].entries[title]
            main = entry.main_claim()
            if main is None:
                continue
            low, high = main.interval or (None, None)
            worth = main.within if main.within is not None else main.worth
            word = entry.replication.word if entry.replication is not None else NOT_YET
            values = (
                *(paper["key"], paper["title"], paper["arxiv"], title, paper["entries"][title].scope, main.name),
                *(main.verdict, main.difference, low, high, main.unit, worth, len(main.seeds)),
                *(bool(paper["stale"][title]), is_kept.get(paper["key"]) if number == 0 else None, word),
                paper["finding"],
            )
            rows.append(dict(zip(COLUMNS, values, strict=True)))
    return rows


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def as_json(rows: Sequence[Mapping[str, Any]]) -> str:
    return json.dumps(list(rows), indent=1, ensure_ascii=False) + "\n"


@lru_cache
def citation() -> dict[str, str]:
    """How to cite this project, from CITATION.cff; `address` is empty as long as that file names none."""
    told = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    authors = " and ".join(author.get("name") or author.get("family-names", "") for author in told["authors"])
    address = str(told.get("repository-code") or told.get("url") or "")
    fields = {"title": f"{{{told['title']}}}", "author": f"{{{authors}}}", "version": told["version"], "url": address}
    lines = [f"  {name} = {{{value}}}" for name, value in fields.items() if value]
    bibtex = "@software{reprise,\n" + ",\n".join(lines) + "\n}"
    return {"bibtex": bibtex, "address": address, "version": str(told["version"])}
