"""A record as a logbook in Trackio's format, claim by claim: Markdown pages of cells that its viewer shows. No torch.

The format (Trackio 0.43, schema 2): `.trackio/metadata.json`, and in `.trackio/logbook/` the manifest `logbook.json`,
`pages/index.md` with a table of pages, and `pages/<slug>/page.md`. A cell is a rule, a comment that holds its type,
id, time and title as JSON, and Markdown; figures are HTML and code is text in fences of four backticks. Written here
without the package: `trackio logbook serve` and `publish` add their viewer to it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from experiments.common.text import visible
from experiments.evidence.records import Entry, Record
from experiments.pages import answers, display, index, section

SCHEMA = 2
ROOT = ".trackio"
LONGEST = 60  # letters of a page's name in addresses
FENCE = "````"


def files(record: Record, entries: Mapping[str, display.Entry], finding: str) -> dict[str, str]:
    """Path below the logbook's folder -> text. The same record gives the same text.

    Args:
        entries: what is shown of each setting.
        finding: of the paper's file; may be empty.
    """
    names = list(dict.fromkeys(claim.name for title in _ordered(record) for claim in _sorted(entries[title])))
    slugs = _slugs(names)
    pages = {slugs[name]: (name, "".join(_claim_page(record, entries, name))) for name in names}
    pages["settings"] = ("Settings, code and machines", "".join(_settings_page(record, entries)))

    head = f"Re-run of {_inline(record.title)}"
    written = max((entry.provenance.written for entry in record.entries.values()), default="")
    metadata = {"space_id": None, "emoji": "🎯", "created_at": written, "paper": record.arxiv}
    texts = {
        f"{ROOT}/metadata.json": _json(metadata),
        f"{ROOT}/logbook/logbook.json": _json(_manifest(record, head, written, pages)),
    }
    for slug, (title, body) in pages.items():
        texts[f"{ROOT}/logbook/pages/{slug}/page.md"] = f"# {_inline(title)}\n{body}"
    texts[f"{ROOT}/logbook/pages/index.md"] = _index_page(record, entries, head, finding, pages)
    return texts


def _manifest(record: Record, head: str, written: str, pages: Mapping[str, tuple[str, str]]) -> dict[str, Any]:
    """The list of pages that the viewer begins with.

    Args:
        written: when the newest entry was.
        pages: slug -> title and text.
    """
    children = [
        {"slug": slug, "title": _inline(title), "file": f"pages/{slug}/page.md", "children": []}
        for slug, (title, _) in pages.items()
    ]
    return {
        "schema_version": SCHEMA,
        "title": head,
        "emoji": "🎯",
        "space_id": None,
        "paper": record.arxiv,
        "tags": ["reprise", record.key],
        "updated_at": written,
        "root": {"slug": "index", "title": head, "file": "pages/index.md", "children": children},
        "traces": [],
    }


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def _ordered(record: Record) -> list[str]:
    return index.first(record.entries)


def _sorted(entry: display.Entry) -> list[display.Claim]:
    """Its claims, the main one first."""
    return sorted(entry.claims, key=lambda claim: not claim.main)


def _slugs(names: list[str]) -> dict[str, str]:
    """Each page's name in addresses; two that begin alike are told apart by a number."""
    slugs: dict[str, str] = {}
    for name in names:
        base = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:LONGEST].strip("-") or "claim"
        slug = base
        number = 2
        while slug in ("index", "settings", *slugs.values()):
            slug = f"{base}-{number}"
            number += 1
        slugs[name] = slug
    return slugs


def _inline(text: str) -> str:
    """A text within a line of Markdown: no element, no line and no cell of a table begins in it."""
    return visible(text).replace("\n", " ").replace("<", "&lt;").replace("|", "\\|")


def _cell(kind: str, title: str, when: str, body: str) -> str:
    """A cell; its id follows from what it says."""
    mark = hashlib.sha256(f"{kind} {title} {body}".encode()).hexdigest()[:12]
    head = {"type": kind, "id": f"cell_{mark}", "created_at": when, "title": title}
    return f"\n\n---\n<!-- trackio-cell\n{json.dumps(head, ensure_ascii=False)}\n-->\n{body.strip()}\n"


def _index_page(
    record: Record, entries: Mapping[str, display.Entry], head: str, finding: str, pages: Mapping[str, tuple[str, str]]
) -> str:
    """What was found, and a table of the claims with their verdicts."""
    rows = []
    for slug, (name, _) in pages.items():
        rows.append(f"| [{_inline(name)}](#/{slug}) | {_status(record, entries, name)} |")
    source = f" ([arXiv:{record.arxiv}](https://arxiv.org/abs/{record.arxiv}))" if record.arxiv else ""
    about = f"{_inline(finding)}\n\n" if finding else ""
    table = "\n".join(["## Pages", "", "| Page | Status |", "| --- | --- |", *rows])
    return f"# {head}\n\n{about}The paper{source}: {_inline(record.about)}\n\n{table}\n"


def _status(record: Record, entries: Mapping[str, display.Entry], name: str) -> str:
    """A claim's verdict in each setting that asks it."""
    told = []
    for title in _ordered(record):
        told += [f"{claim.verdict} at {title}" for claim in entries[title].claims if claim.name == name]
    return _inline("; ".join(told))


def _claim_page(record: Record, entries: Mapping[str, display.Entry], name: str) -> Iterator[str]:
    """What is claimed, then how it stands in each setting that asks it: in words, as a picture, as the command."""
    told_rule = False
    for title in _ordered(record):
        entry, recorded = entries[title], record.entries[title]
        asked = [claim for claim in entry.claims if claim.name == name]
        for row in answers.claim_rows(asked):
            when = recorded.provenance.written
            if not told_rule:
                yield _cell("markdown", "The claim and its rule", when, _rule(row))
                told_rule = True
            yield _cell("markdown", f"{title}: {row.verdict}", when, _verdict(row, entry))
            if row.figure:
                raw = "\n".join(f"seed {s}: {d:.6g}" for s, d in zip(asked[0].seeds, asked[0].per_seed, strict=False))
                figure = f"{FENCE}html\n{row.figure}\n{FENCE}\n\n{FENCE}raw\n{raw}\n{FENCE}"
                yield _cell("figure", f"{title}: the difference of each seed", when, figure)
            command = section.command_line(record.key, entry.scale, entry.variant, entry.overrides)
            yield _cell("code", f"{title}: run it again", when, f"{FENCE}bash\n{command}\n{FENCE}")


def _rule(row: answers.ClaimRow) -> str:
    kind = "The main claim" if row.main else "An exploratory claim"
    asked = "the paper" if row.asked_by == "paper" else "this suite"
    worth = f" Worth the name from {row.worth} {row.unit}." if row.worth else ""
    published = f"\n\nPublished: {_inline(row.published)}." if row.published else ""
    rule = f"Supported by: {row.rule}. Refuted by: {row.refuted_by}.{worth}"
    return f"{kind}, asked by {asked}: **{_inline(row.name)}**\n\n{_inline(rule)}{published}"


def _verdict(row: answers.ClaimRow, entry: display.Entry) -> str:
    lines = [f"**{row.verdict}**" + (f" ({_inline(row.reason)})" if row.reason else ""), _inline(entry.scope)]
    if row.difference:
        ends = f", 95% interval {row.interval}" if row.interval else ""
        lines.append(f"{row.difference} {_inline(row.unit)}{ends}; {row.seeds} seeds")
    for part in row.rows:
        ends = f", 95% interval {part.interval}" if part.interval else ""
        difference = f", {part.difference}" if part.difference else ""
        lines.append(f"- {_inline(part.name)}: {part.verdict}{difference}{ends}")
    for item in row.requires:
        lines.append(f"- precondition {_inline(item.text)}: {item.verdict} ({_inline(item.told)})")
    if row.main:
        lines += [f"{_inline(entry.registration)}.", f"Replication: {_inline(entry.replication or 'none')}."]
    return "\n\n".join(lines)


def _settings_page(record: Record, entries: Mapping[str, display.Entry]) -> Iterator[str]:
    """For each setting: registration, seeds, code, machine and cost."""
    for title in _ordered(record):
        recorded: Entry = record.entries[title]
        facts = section.provenance(entries[title])
        rows = [f"| {term} | {_inline(text)} |" for term, text in facts]
        about = f"{_inline(entries[title].registration)}.\n\nSeeds: {', '.join(map(str, recorded.seeds))}."
        table = "\n".join(["| | |", "| --- | --- |", *rows])
        yield _cell("markdown", title, recorded.provenance.written, f"{about}\n\n{table}")
