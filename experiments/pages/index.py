"""The index page: one row for each paper, and every recorded main claim as data beside it. Imports no torch."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from pathlib import Path

import yaml
from markupsafe import Markup

from experiments.common.paths import ROOT
from experiments.common.plain import Plain
from experiments.evidence import suite
from experiments.evidence.judged import JudgedClaim
from experiments.evidence.records import Entry, Record
from experiments.evidence.words import NOT_RUN
from experiments.pages import answers, display, forest, scatter

SCRIPT = Path(__file__).parent / "templates" / "index.js"
NOT_YET = "not yet"


@dataclass(frozen=True)
class Paper(display.About):
    """A paper's file and its record, as the pages need them; what is by setting is empty where it was never run."""

    topic: str
    declared: Plain
    record: Record | None
    entries: Mapping[str, display.Entry]
    stale: Mapping[str, Sequence[str]]  # by setting, the stages of the main claim that changed since
    stale_beside: Mapping[str, Sequence[str]]  # by setting, other stages that changed since, or were not run

    @property
    def recorded(self) -> Mapping[str, Entry]:
        """The entries of its record, as recorded."""
        return self.record.entries if self.record is not None else {}


@dataclass(frozen=True)
class Setting:
    """A recorded setting of a paper on the index: its answer, and how it stands."""

    title: str
    anchor: str
    scale: str
    scope: str
    claim: answers.ClaimRow | None
    verdict: str
    seeds: int
    seen: bool
    stale: bool
    replication: str


@dataclass(frozen=True)
class Row:
    """A paper on the index; verdict and replication are those of its first setting."""

    key: str
    title: str
    topic: str
    finding: str
    asked: str  # its main claim
    linked: bool  # its page is there
    settings: Sequence[Setting]
    verdict: str = NOT_RUN
    stale: bool = False
    replication: str = ""
    kept: bool | None = None
    cell: str = ""  # the main claim drawn
    place: str = ""  # where its difference lies on the axis, to sort by

    @property
    def short(self) -> str:
        return self.title.split(":")[0]


@dataclass(frozen=True)
class Counts:
    """How many papers have each verdict and replication, in the order in which words are explained; what to choose."""

    verdicts: Sequence[tuple[str, int]]
    replications: Sequence[tuple[str, int]]
    topics: Sequence[str]
    scales: Sequence[str]
    settings: int
    stale: int
    kept: int


@dataclass(frozen=True)
class Result:
    """A recorded main claim as plain values: a line of results.csv, an item of results.json."""

    key: str
    title: str
    arxiv: str | None
    setting: str
    scope: str
    claim: str
    verdict: str
    difference: float | None
    low: float | None
    high: float | None
    unit: str
    worth: float | None
    seeds: int
    stale: bool
    kept: bool | None
    replication: str
    finding: str


@lru_cache
def script() -> Markup:
    """What searches, sorts and filters: all is readable without it."""
    return Markup(SCRIPT.read_text(encoding="utf-8"))


def allowed() -> str:
    """The page's permission to run that script and no other one, by its hash."""
    digest = hashlib.sha256(script().encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def first(titles: Iterable[str]) -> list[str]:
    """Titles of settings, sorted: the one that stands for the paper, the other scales, then variants."""

    def place(title: str) -> tuple[bool, int, str]:
        main = suite.DEFAULT.index(title) if title in suite.DEFAULT else len(suite.DEFAULT)
        return "+" in title or "by hand" in title, main, title

    return sorted(titles, key=place)


def anchor(title: str) -> str:
    """Where a setting stands on its paper's page."""
    return title.replace("+", "-").replace(" ", "-")


def kept(records: Mapping[str, Record | None]) -> dict[str, bool]:
    """Paper -> whether its verdict stands beside those of all others, see experiments.evidence.suite."""
    chosen = {key: suite.default_entry(record.entries) for key, record in records.items() if record is not None}
    return suite.keep({key: found[1] for key, found in chosen.items() if found is not None})


def row(paper: Paper, linked: bool, is_kept: bool | None) -> Row:
    """A paper on the index: what was found, the verdict of the setting that stands for it, and its other settings."""
    titles = first(paper.entries)
    settings = [_setting(paper, title) for title in titles]
    asked = next((claim["name"] for claim in paper.declared.get("claims") or [] if claim.get("main")), "")
    about = Row(paper.key, paper.title, paper.topic, paper.finding, asked, linked, settings)
    if not settings:
        return about
    top = settings[0]
    standing = replace(about, verdict=top.verdict, stale=top.stale, replication=top.replication, kept=is_kept)
    main = paper.recorded[titles[0]].main_claim()
    if main is None:
        return standing
    drawn = _forest(paper.key, main, top.stale)
    place = "" if drawn.scale is None or drawn.difference is None else f"{drawn.at(drawn.difference):.4f}"
    return replace(standing, cell=Markup(forest.cell(drawn)), place=place)


def _setting(paper: Paper, title: str) -> Setting:
    """A recorded setting: its answer, and how it stands."""
    entry = paper.entries[title]
    answer = answers.answer(entry)
    return Setting(
        title=title,
        anchor=anchor(title),
        scale=entry.scale,
        scope=answer.scope,
        claim=answer.claim,
        verdict=answer.claim.verdict if answer.claim is not None else "",
        seeds=answer.seeds,
        seen=answer.seen,
        stale=bool(paper.stale[title]),
        replication=_replicated(paper.recorded[title]),
    )


def _replicated(entry: Entry) -> str:
    return entry.replication.word if entry.replication is not None else NOT_YET


def points(papers: Sequence[Paper]) -> list[scatter.Point]:
    """The main claims of the settings that stand for papers, where paper and record both have a difference."""
    placed = []
    for paper in papers:
        title = next(iter(first(paper.entries)), None)
        main = paper.recorded[title].main_claim() if title is not None else None
        if title is None or main is None or main.published is None or main.difference is None:
            continue
        row = _forest(paper.key, main, bool(paper.stale[title]))
        placed.append(scatter.Point(row, float(main.published.difference)))
    return placed


def _forest(key: str, main: JudgedClaim, stale: bool) -> forest.Row:
    names = ("verdict", "difference", "interval", "margin", "worth", "within", "unit")
    return forest.Row(key, **{name: getattr(main, name) for name in names}, stale=stale)


def counts(rows: Sequence[Row]) -> Counts:
    """How the papers of the index stand together."""
    verdicts = Counter(row.verdict for row in rows if row.verdict)
    return Counts(
        verdicts=[(verdict, verdicts[verdict]) for verdict in display.SYMBOLS if verdict in verdicts],
        replications=sorted(Counter(row.replication for row in rows if row.replication).items()),
        topics=sorted({row.topic for row in rows if row.topic}),
        scales=sorted({setting.scale for row in rows for setting in row.settings}),
        settings=sum(len(row.settings) for row in rows),
        stale=sum(row.stale for row in rows),
        kept=sum(row.kept is True for row in rows),
    )


def data(papers: Sequence[Paper], is_kept: Mapping[str, bool]) -> list[Result]:
    """Every recorded main claim, a row for each setting."""
    return [
        _result(paper, title, main, is_kept.get(paper.key) if number == 0 else None)
        for paper in papers
        for number, title in enumerate(first(paper.entries))
        if (main := paper.recorded[title].main_claim()) is not None
    ]


def _result(paper: Paper, title: str, main: JudgedClaim, is_kept: bool | None) -> Result:
    low, high = main.interval or (None, None)
    return Result(
        key=paper.key,
        title=paper.title,
        arxiv=paper.arxiv,
        setting=title,
        scope=paper.entries[title].scope,
        claim=main.name,
        verdict=main.verdict,
        difference=main.difference,
        low=low,
        high=high,
        unit=main.unit,
        worth=main.within if main.within is not None else main.worth,
        seeds=len(main.seeds),
        stale=bool(paper.stale[title]),
        kept=is_kept,
        replication=_replicated(paper.recorded[title]),
        finding=paper.finding,
    )


def as_csv(rows: Sequence[Result]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(Result)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(map(vars, rows))
    return text.getvalue()


def as_json(rows: Sequence[Result]) -> str:
    return json.dumps([vars(row) for row in rows], indent=1, ensure_ascii=False) + "\n"


@lru_cache
def citation() -> dict[str, str]:
    """How to cite this project, from CITATION.cff; `address` is empty as long as that file names none."""
    told = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    authors = " and ".join(author.get("name") or author.get("family-names", "") for author in told["authors"])
    address = str(told.get("repository-code") or told.get("url") or "")
    facts = {"title": f"{{{told['title']}}}", "author": f"{{{authors}}}", "version": told["version"], "url": address}
    return {"bibtex": bibtex("software", "reprise", facts), "address": address, "version": str(told["version"])}


def bibtex(kind: str, key: str, facts: Mapping[str, str | None]) -> str:
    """An entry of BibTeX; a fact that is not known is left out."""
    lines = [f"  {name} = {{{value}}}" for name, value in facts.items() if value]
    return f"@{kind}{{{key},\n" + ",\n".join(lines) + "\n}"
