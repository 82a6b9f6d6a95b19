"""`make report`: an index of all papers and a page for each, as static HTML in site/. Imports no torch.

Every number on a page comes from results/<key>.json, and sizes of networks from results/counts/<key>.json. What was
never run is listed with the claims it will be judged by.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from experiments.common import files, overlay
from experiments.common.errors import unknown
from experiments.common.paths import ROOT
from experiments.common.plain import Plain
from experiments.config import claims, compose, reading
from experiments.evidence import (
    counts,
    coverage,
    images,
    layout,
    merge,
    naming,
    operations,
    overlays,
    results,
    settings,
    staleness,
    sweeps,
    verdicts,
)
from experiments.evidence.records import Entry
from experiments.pages import (
    answers,
    diagram,
    differences,
    display,
    drawing,
    forest,
    hardware,
    index,
    markup,
    numbers,
    scatter,
    section,
    view,
)
from experiments.pages.numbers import decimals, fixed
from experiments.pages.page import (
    Page,
    Planned,
    SweepRow,
    SweepTable,
    Unrecorded,
)
from experiments.running import measured
from experiments.running.plan import names_in

RUNS = ROOT / "runs"  # the suite's; `_runs` says where they are now
PUBLISHED_RECIPE = "the published recipe; with DRY=1 it is built, steps twice and says what it needs and how long it is"
DOCUMENTS = ("index", "verdicts", "running", "full-scale", "own-data", "own-arm", "own-paper")  # that pages lead to


def build(papers: list[str] | None = None, site: Path | None = None) -> list[Path]:
    """Write index.html, and the pages of these papers (all by default); returns what was written, index first.

    They go to site/ of the suite, or of the open overlay. The index always lists every paper and links the pages that
    are there. Raises InputError for an unknown key, before anything is written, and OSError when the folder cannot be
    written.
    """
    site = site or overlay.home() / "site"
    keys = compose.papers()
    for key in papers or []:
        if key not in keys:
            raise unknown("paper", key, keys)
    chosen = keys if papers is None else list(dict.fromkeys(papers))
    papers_by_key = {key: _gather(key) for key in keys}
    written = []
    for key in chosen:
        paper = papers_by_key[key]
        written.append(site / f"{key}.html")
        files.write_text(written[-1], _render("paper.html.j2", **vars(_page(paper, site))))
        if paper.record is not None:
            files.write_text(site / f"{key}.json", layout.text(paper.record))
    _write_index(list(papers_by_key.values()), site)
    return [site / "index.html", *written]


def main_claims() -> list[index.Result]:
    """Every recorded main claim: what results.csv and results.json hold."""
    papers = [_gather(key) for key in compose.papers()]
    return index.data(papers, index.kept({paper.key: paper.record for paper in papers}))


def _runs() -> Path:
    return RUNS if overlay.current() is None else overlay.home() / "runs"


def _write_index(papers: Sequence[index.Paper], site: Path) -> None:
    """The index, and beside it the same as data."""
    is_kept = index.kept({paper.key: paper.record for paper in papers})
    rows = [index.row(paper, (site / f"{paper.key}.html").exists(), is_kept.get(paper.key)) for paper in papers]
    points = index.points(papers)
    page = _render(
        "index.html.j2",
        rows=rows,
        published=scatter.sentence(points),
        scatter=Markup(scatter.picture(points)),
        run=sum(1 for row in rows if row.settings),
        counts=index.counts(rows),
        axis=Markup(forest.head()),
        symbols=display.SYMBOLS,
        citation=index.citation(),
        documents=documents(site),
        overlays=overlays.read_all() if overlay.current() is None else [],
        script=index.script(),
        allowed=index.allowed(),
    )
    files.write_text(site / "index.html", page)
    data = index.data(papers, is_kept)
    files.write_text(site / "results.csv", index.as_csv(data))
    files.write_text(site / "results.json", index.as_json(data))


@lru_cache
def _templates() -> jinja2.Environment:
    loader = jinja2.FileSystemLoader(Path(__file__).parent / "templates")
    environment = jinja2.Environment(
        loader=loader,
        autoescape=True,
        finalize=markup.finalize,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(few=_few)
    environment.globals.update(chip=_chip, document=_document, light=drawing.LIGHT, dark=drawing.DARK)
    return environment


def _chip(verdict: str, count: int | None = None) -> Markup:
    """A verdict as a small label: symbol, count if given, word."""
    shown = verdict if count is None else f"{count} {verdict}"
    text = '<span class="chip {}"><span aria-hidden="true">{}</span> {}</span>'
    return Markup(text).format(verdict.replace(" ", "-"), display.SYMBOLS[verdict], shown)


def _few(names: Sequence[str], most: int) -> str:
    """Names in a line; of more than `most` the first ones, and how many others."""
    others = f" and {len(names) - most} others" if len(names) > most + 1 else ""
    return ", ".join(names[:most] if others else names) + others


def _document(leads: Mapping[str, str], name: str, words: str) -> Markup:
    """A link to a page of the documentation; the words and its file where none leads there, see documents."""
    if leads[name]:
        return Markup('<a href="{}">{}</a>').format(leads[name], words)
    return Markup("{} (<code>docs/{}.md</code>)").format(words, name)


def _render(template: str, **values: Any) -> str:
    return _templates().get_template(template).render(**values)


def _gather(key: str) -> index.Paper:
    """A paper's record, or what its configuration says when it was never run, and what is stale."""
    declared = compose.paper_file(key)
    record = results.read(key)
    recorded = record.entries if record is not None else {}
    return index.Paper(
        key=key,
        title=declared.get("title") or key,
        arxiv=declared.get("arxiv"),
        about=declared.get("about") or "",
        venue=declared.get("venue") or "",
        released=declared.get("released") or "",
        topic=declared.get("topic") or "",
        finding=((declared.get("finding") or {}).get("text") or "") if recorded else "",
        deviations=declared.get("deviations") or [],
        together=_together(recorded),
        declared=declared,
        record=record,
        entries={title: _with_found_here(key, title, entry, declared) for title, entry in recorded.items()},
        stale={title: staleness.of_main(key, entry) for title, entry in recorded.items()},
        stale_beside={title: staleness.of_others(key, entry) for title, entry in recorded.items()},
    )


def _page(paper: index.Paper, site: Path) -> Page:
    key = paper.key
    titles = index.first(paper.entries)
    entries = [
        section.describe(
            key,
            paper.declared,
            title,
            paper.entries[title],
            paper.recorded[title],
            section.Stale(paper.stale[title], paper.stale_beside[title]),
            _runs(),
        )
        for title in titles
    ]
    sizes = counts.stored(key)
    covers = coverage.rows(paper.declared, paper.recorded, sizes)
    about = {field.name: getattr(paper, field.name) for field in fields(display.About)}
    return Page(
        **about,
        entries=entries,
        planned=None if entries else _planned(key, paper.declared),
        sweeps=_sweeps(key),
        counted=[section.size_row(row) for row in sizes],
        covers=covers,
        covered=coverage.summary(covers),
        cards=hardware.of_paper(key),
        unrecorded=_unrecorded(paper),
        bibtex=_bibtex(paper),
        code=_code(key),
        address=index.citation()["address"],
        documents=documents(site, key),
    )


def documents(site: Path, key: str = "") -> dict[str, str]:
    """Page of the documentation -> where it leads from a site; empty where it leads nowhere.

    To what `make docs` built beside the site's pages, else to this project's address, where it has one. With a paper's
    key, the page on its published recipe too.
    """
    address = index.citation()["address"]
    names = [*DOCUMENTS, *([f"full/{key}"] if (ROOT / "docs" / "full" / f"{key}.md").is_file() else [])]
    leads = {}
    for name in names:
        is_built = (site / "docs" / f"{name}.html").is_file()
        elsewhere = f"{address}/blob/main/docs/{name}.md" if address else ""
        leads[name] = f"docs/{name}.html" if is_built else elsewhere
    return leads


def _code(key: str) -> str:
    """The file that holds a paper's method."""
    root = ROOT if (ROOT / "conf" / "paper" / f"{key}.yaml").exists() else overlay.home()
    package = root / "modules" / key
    path = package / "module.py" if (package / "module.py").is_file() else package
    return str((path if package.is_dir() else package.with_suffix(".py")).relative_to(root))


def _unrecorded(paper: index.Paper) -> list[Unrecorded]:
    """The published recipe and the variants that have no record, each with its command; what fits a CPU first."""
    recorded = {(entry.scale, entry.variant) for entry in paper.entries.values()}
    settings: dict[tuple[str, str | None], str] = {("full", None): PUBLISHED_RECIPE}
    if "lab" in reading.recipe_files(paper.key):
        settings["lab", None] = section.SCALES["lab"]
    for name, item in (paper.declared.get("variants") or {}).items():
        settings[item["scale"], name] = item["about"]
    rows = []
    for (scale, variant), about in settings.items():
        if (scale, variant) not in recorded:
            command = section.command_line(paper.key, scale, variant, [])
            title = naming.title(scale, variant)
            hours = measured.in_words(f"{paper.key} {title}")
            arithmetic = operations.in_words(paper.key, title)
            taken = [f"{hours}, measured by a dry run" if hours else "", arithmetic]
            told = f"{about}; one seed's training: {'; '.join(filter(None, taken))}" if any(taken) else about
            rows.append(Unrecorded(title, told, command))
    return sorted(rows, key=lambda row: not row.name.startswith("mini"))


def _bibtex(paper: index.Paper) -> str:
    """An entry for the paper, of what this suite knows of it."""
    facts = {"title": f"{{{paper.title}}}", "note": paper.venue}
    if paper.arxiv:
        facts |= {"eprint": paper.arxiv, "archivePrefix": "arXiv", "url": f"https://arxiv.org/abs/{paper.arxiv}"}
    return index.bibtex("misc", paper.key, facts)


def _sweeps(key: str) -> list[SweepTable]:
    """The sweeps that were run here, the newest first: each setting with its mean, interval and seeds."""
    paths = sorted(_runs().glob(f"{key}/*/sweeps/*.json"))
    swept = [sweep for path in paths if (sweep := sweeps.read(path)) is not None]
    return [_sweep(sweep) for sweep in sorted(swept, key=lambda sweep: sweep.written, reverse=True)]


def _sweep(sweep: sweeps.Sweep) -> SweepTable:
    digits = decimals([row.mean for row in sweep.settings], two_from=10)
    extent = differences.reach([row.values for row in sweep.settings])
    rows = []
    for row in sweep.settings:
        mean = "–" if row.mean is None else fixed(row.mean, digits)
        ends = " to ".join(fixed(end, digits) for end in row.interval or ())
        drawn = Markup(differences.draw_setting(row, extent)) if row.mean is not None else ""
        rows.append(SweepRow(row.setting, mean, ends, drawn, row.failed))
    return SweepTable(sweep.name, sweep.scale, sweep.objective, rows)


def _planned(key: str, declared: Plain) -> Planned:
    """What a paper that was never run will be judged by: its mini, since recipes may add stages and claims."""
    composed = compose.resolve(compose.compose([f"paper={key}", "scale=mini"]))
    boxes = []
    for name, stage in composed["stages"].items():
        trained = stage.get("fit", True)
        needs = names_in(stage.get("needs") or {})
        boxes.append(diagram.Box(name, needs, trained, "trained" if trained else "only tested"))
    asked = [verdicts.judge(claim, {}, [], 0) for claim in claims.read(composed).claims]
    reported = [verdicts.compare(item, {}, [], "full") for item in claims.published({**declared, "scale": "full"})]
    return Planned(
        claims=answers.claim_rows([view.claim(claim.model_copy(update={"reason": ""})) for claim in asked]),
        published=[section.published_row(view.published(item, "full", {}, 0)) for item in reported],
        diagram=Markup(diagram.draw(boxes, {box.name: i for i, box in enumerate(boxes)})),
        command=section.command_line(key, "mini", None, []),
    )


def _together(recorded: Mapping[str, Entry]) -> str:
    """The main claim's mean and spread over the settings that asked it, in a sentence; empty for fewer than two."""
    mains = [main for title in sorted(recorded) if (main := recorded[title].main_claim()) is not None]
    joint = settings.between(mains)
    if joint is None:
        return ""
    span = numbers.span(joint.mean, (joint.low, joint.high), mains[0].unit)
    return (
        f"The main claim over {joint.settings} settings that ask it in the same words: {span} in the mean (95%, random "
        f"effects); between settings the difference scatters by {joint.spread:.2g} (standard deviation)"
    )


def _with_found_here(key: str, title: str, recorded: Entry, declared: Plain) -> display.Entry:
    """An entry with what a run on this machine found for it, see results.here."""
    entry = view.of(recorded, declared)
    answers = images.of(key, title, recorded)
    if answers is not None and entry.main is not None and len(answers.seeds) > 1:
        entry = replace(entry, images=view.two_way(images.two_way(answers.differences()), entry.main.unit))
    here = results.entry(key, title, results.here())
    if here is None:
        return entry
    found_here = view.elsewhere(merge.from_elsewhere(here, recorded))
    return replace(entry, elsewhere=[*entry.elsewhere, found_here])
