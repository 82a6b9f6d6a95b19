"""`make papers`: every paper's main claim, its verdict, at what scale, what it cost, stale or not. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal, cast

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from experiments.commands import cli, readme
from experiments.commands.described import Compared, Configured, Covered, Main, Paper, Setting
from experiments.common import overlay
from experiments.common.errors import InputError
from experiments.common.memory import CONFIGURATION, remember
from experiments.common.overlay import home
from experiments.common.plain import Plain
from experiments.config import claims, compose, unfilled
from experiments.evidence import counts, coverage, naming, operations, results, staleness, suite
from experiments.evidence.judged import JudgedClaim
from experiments.evidence.records import Entry
from experiments.pages import console, needed, scope, view
from experiments.pages.numbers import count, span
from experiments.running import measured, needs, plan

if TYPE_CHECKING:
    from datamodules.common.needs import Need

HELP = """\
List every paper of the suite: main claim, verdict, cost, and whether code or claims changed since; of one
paper also the data, weights and packages that its published recipe needs, and whether they are here.

  python -m experiments.catalog               all papers
  python -m experiments.catalog meal_v2       one (or several), with its claims, stages and variants
  python -m experiments.catalog --json        for programs
  python -m experiments.catalog --readme      rewrite what README.md and docs/ repeat of the records, and in the records
                                              what they repeat of the papers' files: title, arxiv, about and deviations

"""


def describe_all(keys: Sequence[str] = ()) -> list[Paper]:
    """These papers (all by default), each default setting with whether its verdict is kept beside the others'."""
    recorded = {paper: results.entries(paper) for paper in compose.papers()}
    chosen = {paper: default for paper, entries in recorded.items() if (default := suite.default_entry(entries))}
    is_kept = suite.keep({paper: entry for paper, (_, entry) in chosen.items()})
    papers = [describe(paper) for paper in keys or compose.papers()]
    for paper in papers:
        if paper["key"] in is_kept:
            paper["entries"][chosen[paper["key"]][0]]["kept"] = is_kept[paper["key"]]
    return papers


def describe(paper: str) -> Paper:
    """One paper as plain data: title, claims, stages, variants, and each recorded entry with its main claim."""
    recorded = results.entries(paper)
    about: Configured = remember("about", paper, "", CONFIGURATION, lambda: _configured(paper))
    declared = compose.paper_file(paper)
    entries = {name: _recorded(paper, entry, declared) for name, entry in recorded.items() if entry.seeds}
    finding = (declared.get("finding") or {}).get("text") or ""
    covered = coverage.rows(declared, recorded, counts.stored(paper))
    covers: list[Covered] = [
        {"what": row.what, "run": dict(row.run), "why": row.why, "told": row.told} for row in covered
    ]
    return {
        **about,
        "finding": finding if entries else "",
        "covers": covers,
        "covered": coverage.summary(covered),
        "entries": entries,
    }


def _configured(paper: str) -> Configured:
    """What a paper's configuration says of it."""
    config = compose.compose(compose.request([f"paper={paper}"]).overrides)
    resolved = compose.resolve(config, 0)
    questions = claims.read(resolved)
    return {
        "key": paper,
        "title": resolved["title"],
        "arxiv": resolved.get("arxiv"),
        "about": resolved.get("about", ""),
        "main": questions.main.name if questions.main is not None else None,
        "claims": [claim.name for claim in questions.claims],
        "stages": list(resolved["stages"]),
        "variants": {
            name: {"scale": item["scale"], "about": item["about"]}
            for name, item in (resolved.get("variants") or {}).items()
        },
    }


def _recorded(paper: str, entry: Entry, declared: Plain) -> Setting:
    main = entry.main_claim()
    shown = {"name", "verdict", "difference", "interval", "unit", "reason", "published", "margin", "worth", "within"}
    return {
        "scope": scope.of(entry, scope.told(declared, entry.scale, entry.variant, naming.data_of(entry))),
        "main": cast(Main, main.model_dump(include=shown) | _rows(main)) if main is not None else None,
        "verdicts": {claim.name: claim.verdict for claim in entry.claims},
        "published": {f"{item.stage}/{item.metric}": item.verdict for item in entry.published},
        "seeds": len(main.seeds) if main is not None else len(entry.seeds),
        "ran": len(entry.seeds),
        "seconds": entry.provenance.seconds,
        "cpu_seconds": entry.provenance.cpu_seconds,
        "metrics": sorted({metric for stage in entry.stages.values() for metric in stage.metrics}),
        "registered": entry.registered.hash,
        "seen": entry.registered.seen,
        "stale": staleness.of_main(paper, entry),
        "stale_beside": staleness.of_others(paper, entry),
        "replication": entry.replication.word if entry.replication is not None else None,
        "kept": None,  # beside the other papers' verdicts, see describe_all; None where that is not asked
    }


def _rows(main: JudgedClaim) -> dict[str, list[Compared]]:
    """Its comparisons with rivals or its outcomes, where there are several; the baseline's numbers are its own."""
    shown = ("name", "verdict", "difference", "interval", "unit")
    rows = view.claim(main).rows[1 if main.against else 0 :]
    return {"rows": [cast(Compared, {key: getattr(row, key) for key in shown}) for row in rows]} if rows else {}


NARROW = ("paper", "at", "verdict", "difference")
WIDE = (*NARROW, "replicated", "others", "covered", "cost")


def _overview(papers: Sequence[Paper]) -> Table:
    """A line for each paper: what its default setting says, and how many others there are."""
    table = Table(title=count(len(papers), "paper"), title_justify="left", box=SIMPLE_HEAD)
    room = len(WIDE) if console.out.width >= 120 else len(NARROW)
    for column in WIDE[:room]:
        justify: Literal["left", "right"] = "right" if column in ("others", "covered", "cost") else "left"
        wide = column in ("verdict", "difference")  # these alone may take a second line
        table.add_column(column, no_wrap=not wide, max_width=38 if wide else None, justify=justify)
    for paper in papers:
        covered = paper["covered"].split(" run")[0]
        told: list[str | Text]
        chosen = readme.default(paper)
        if chosen is None:
            told = ["", console.word("not run"), "", "", "", covered, ""]
        else:
            name, entry = chosen
            main = entry["main"]
            difference = span(main["difference"], main["interval"], main["unit"]) if main is not None else ""
            others = str(len(paper["entries"]) - 1)
            told = [name, _verdict(entry), difference, entry["replication"] or "", others, covered, readme.cost(entry)]
        table.add_row(paper["key"], *told[: room - 1])
    table.caption_justify = "left"
    table.caption = (
        "make papers PAPER=K shows a paper's claims, settings, stages and variants. Others: its further recorded "
        "settings. Covered: how much of what the paper shows was run here. Stale: code, configuration or claims have "
        "changed since. Alone: decided by itself, but not kept when all papers' main claims are looked at together."
    )
    return table


def _settings(papers: Sequence[Paper]) -> Table:
    """A row for each recorded setting, the paper's name and claim at its first."""
    table = Table(title=f"{count(len(papers), 'paper')}, each recorded setting", title_justify="left")
    for column in ("paper", "main claim", "setting", "verdict", "difference", "replicated", "seeds", "cost"):
        table.add_column(column, no_wrap=column in ("paper", "seeds", "cost"))
    for paper in papers:
        first = (paper["key"], paper["main"] or "")
        rows = [_cells(name, entry) for name, entry in readme.ordered(paper["entries"])]
        for row in rows or [["", console.word("not run"), "", "", "", ""]]:
            table.add_row(*first, *row)
            first = ("", "")
        table.add_section()
    return table


def _cells(name: str, entry: Setting) -> list[str | Text]:
    """A setting's verdict, difference, replication, seeds and cost."""
    seeds = str(entry["seeds"])
    return [name, _verdict(entry), readme.spans(entry["main"]), entry["replication"] or "", seeds, readme.cost(entry)]


def _verdict(entry: Setting) -> Text:
    main = entry["main"]
    mark = (" stale", "magenta") if entry["stale"] else (" seen", "dim") if entry["seen"] else ""
    alone = (" alone", "dim") if entry["kept"] is False else ""
    return Text.assemble(console.word(main["verdict"] if main else "no main claim"), mark, alone)


def _details(paper: Paper) -> Table:
    """What one may ask of a paper: its claims with their recorded verdicts, its stages and its variants."""
    table = Table(title=f"{paper['title']}, arXiv {paper['arxiv']}", title_justify="left", show_header=False, box=None)
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    if paper["finding"]:
        table.add_row("finding", Text(paper["finding"], "bold"))
    table.add_row("about", paper["about"])
    if left := unfilled.find(home(), unfilled.own_files(home(), paper["key"], "mini")):
        table.add_row("to fill in", f"{count(len(left), 'place')}; make register names each")
    for name, entry in readme.ordered(paper["entries"]):
        main = entry["main"]
        found = console.word(main["verdict"] if main else "no main claim")
        table.add_row(f"at {name}", Text.assemble(found, f": {entry['scope']}"))
    verdicts = paper["entries"]["mini"]["verdicts"] if "mini" in paper["entries"] else {}
    for name in paper["claims"]:
        verdict = verdicts.get(name, "not run")
        mark = ", main claim" if name == paper["main"] else ""
        style = console.STYLES.get(verdict, "dim")
        table.add_row("claim", Text.assemble(f"{name} ", (f"({verdict}{mark})", style)))
    if paper["covers"]:
        table.add_row("covered", f"{paper['covered']}: tables, figures and claims of the paper")
    for row in paper["covers"]:
        told = f"{row['told']}: {row['why']}" if row["why"] else row["told"]
        style = "" if any(row["run"].values()) else "dim"
        table.add_row("", Text.assemble(f"{row['what']} ", (f"({told})", style)))
    table.add_row("stages", ", ".join(paper["stages"]))
    for name, variant in paper["variants"].items():
        table.add_row("variant", Text.assemble((name, "bold"), f" ({variant['scale']}): {variant['about']}"))
    for name, told in hours_at_full(paper).items():
        table.add_row("hours", f"{name}: {told}")
    for name, entry in readme.ordered(paper["entries"]):
        if entry["stale"]:
            table.add_row("stale", f"{name}: changed since: {', '.join(entry['stale'])}")
        if entry["stale_beside"]:
            told = ", ".join(entry["stale_beside"])
            table.add_row("", f"{name}: beside its main claim, changed since or not run: {told}")
    return table


def hours_at_full(paper: Paper) -> dict[str, str]:
    """Setting of the published scale -> what one seed takes: as recorded, else as a dry run measured it here."""
    variants = [name for name, item in paper["variants"].items() if item["scale"] == "full"]
    told = {}
    for variant in (None, *variants):
        title = naming.title("full", variant)
        entry = paper["entries"].get(title)
        seconds = (entry["cpu_seconds"] or entry["seconds"]) if entry is not None else None
        if entry is not None and seconds:
            told[title] = f"{measured.amount(seconds / entry['ran'] / 3600)} of one core, as recorded"
        elif known := measured.in_words(f"{paper['key']} {title}"):
            told[title] = known
        if arithmetic := operations.in_words(paper["key"], title):
            told[title] = "; ".join(filter(None, [told.get(title), arithmetic]))
    if "full" not in told:
        told = {"full": "not known; a dry run measures them here (make reproduce SCALE=full DRY=1)", **told}
    return told


def _needs(paper: str) -> Mapping[Need, str]:
    """Of a paper's full recipe; its stages are composed, none is built."""
    config = compose.compose(compose.request([f"paper={paper}", "scale=full"]).overrides)
    return needs.of_stages(plan.plan(config, 0).stages.values())


def main(argv: list[str]) -> int:
    keys = [word for word in argv if word not in ("--json", "--readme")]
    for word in keys:
        if word.startswith("-"):
            raise InputError(f"{word}: expected --json, --readme or keys of papers")
    if keys and "--readme" in argv:
        raise InputError(f"{keys[0]}: --readme writes of all papers; expected no key")
    if "--readme" in argv and overlay.current() is not None:
        raise InputError("--readme: README and docs/ tell the suite's records; expected it without extra=")
    papers = describe_all(cli.papers_named(keys))
    if "--json" in argv:
        print(json.dumps(papers, indent=1))
    elif "--readme" in argv:
        readme.write(papers)
        for paper in papers:
            results.tell_again(paper["key"])
    else:
        for paper in papers if keys else ():
            console.out.print(_details(paper), "")
            if rows := counts.stored(paper["key"]):
                console.out.print(console.counts_table(rows, paper["key"]), "")
            console.out.print(needed.table("what its published recipe needs", _needs(paper["key"])), "")
        console.out.print(_settings(papers) if keys else _overview(papers))
    return 0
