"""`make report`: an index of all papers and a page for each, as static HTML in site/. Imports no torch.

Every number on a page comes from results/<key>.json, and sizes of networks from results/counts/<key>.json. What was
never run is listed with the claims it will be judged by.
"""

from __future__ import annotations

import base64
import os
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from experiments.common import files, overlay
from experiments.common.errors import unknown
from experiments.common.paths import ROOT
from experiments.config import claims, compose
from experiments.evidence import (
    counts,
    coverage,
    images,
    layout,
    merge,
    overlays,
    pictures,
    results,
    settings,
    staleness,
    sweeps,
    verdicts,
)
from experiments.evidence.records import Entry
from experiments.pages import (
    answers,
    curves,
    diagram,
    differences,
    display,
    drawing,
    forest,
    index,
    markup,
    numbers,
    replications,
    scatter,
    tuned,
    view,
)
from experiments.pages.numbers import decimals, fixed
from experiments.running import measured
from experiments.running.plan import names_in

RUNS = ROOT / "runs"  # the suite's; `_runs` says where they are now
SCALES = {
    "full": "the recipe as published",
    "mini": "the embedded default: a smaller recipe for two CPU cores",
}
PUBLISHED_RECIPE = "the published recipe; with DRY=1 it is built, steps once and says what data and memory it needs"
MOST_PICTURE = 2**23  # bytes of one inside a page
FIRST_CURVES = ("train/loss", "val/top1")  # shown at once where a stage logs them; the others unfold


def build(papers: list[str] | None = None, site: Path | None = None) -> list[Path]:
    """Write index.html, and the pages of these papers (all by default); returns what was written, index first.

    They go to site/ of the suite, or of the open overlay. The index always lists every paper and links the pages that
    are there. Raises InputError for an unknown key, before anything is written, and OSError when the folder cannot be
    written.
    """
    site = site or overlay.home() / "site"
    known = compose.papers()
    for key in papers or []:
        if key not in known:
            raise unknown("paper", key, known)
    chosen = known if papers is None else list(dict.fromkeys(papers))
    known_papers = {key: _gather(key) for key in known}
    written = []
    for key in chosen:
        written.append(site / f"{key}.html")
        files.write_text(written[-1], _render("paper.html.j2", **_page(known_papers[key])))
        if known_papers[key]["record"] is not None:
            files.write_text(site / f"{key}.json", layout.text(known_papers[key]["record"]))
    _write_index(list(known_papers.values()), site)
    return [site / "index.html", *written]


def main_claims() -> list[dict[str, Any]]:
    """Every recorded main claim as plain values: what results.csv and results.json hold."""
    papers = [_gather(key) for key in compose.papers()]
    return index.data(papers, index.kept({paper["key"]: paper["record"] for paper in papers}))


def _runs() -> Path:
    return RUNS if overlay.current() is None else overlay.home() / "runs"


def _write_index(papers: Sequence[Mapping[str, Any]], site: Path) -> None:
    """The index, and beside it the same as data."""
    kept = index.kept({paper["key"]: paper["record"] for paper in papers})
    rows = [index.row(paper, (site / f"{paper['key']}.html").exists(), kept.get(paper["key"])) for paper in papers]
    points = index.points(papers)
    values = {
        "rows": rows,
        "published": scatter.sentence(points),
        "scatter": Markup(scatter.picture(points)),
        "run": sum(1 for row in rows if row["settings"]),
        "counts": index.counts(rows),
        "axis": Markup(forest.head()),
        "symbols": display.SYMBOLS,
        "citation": index.citation(),
        "overlays": overlays.read_all() if overlay.current() is None else [],
        "script": index.script(),
        "allowed": index.allowed(),
    }
    files.write_text(site / "index.html", _render("index.html.j2", **values))
    data = index.data(papers, kept)
    files.write_text(site / "results.csv", index.as_csv(data))
    files.write_text(site / "results.json", index.as_json(data))


@lru_cache
def _templates() -> jinja2.Environment:
    loader = jinja2.FileSystemLoader(Path(__file__).parent / "templates")
    options: dict[str, Any] = {"trim_blocks": True, "lstrip_blocks": True, "undefined": jinja2.StrictUndefined}
    environment = jinja2.Environment(loader=loader, autoescape=True, finalize=markup.finalize, **options)
    environment.globals.update(chip=_chip, light=drawing.LIGHT, dark=drawing.DARK)
    return environment


def _chip(verdict: str, count: int | None = None) -> Markup:
    """A verdict as a small label: symbol, count if given, word."""
    shown = verdict if count is None else f"{count} {verdict}"
    text = '<span class="chip {}"><span aria-hidden="true">{}</span> {}</span>'
    return Markup(text).format(verdict.replace(" ", "-"), display.SYMBOLS[verdict], shown)


def _render(template: str, **values: Any) -> str:
    return _templates().get_template(template).render(**values)


def _gather(key: str) -> dict[str, Any]:
    """A paper's record, or what its configuration says when it was never run, and what is stale."""
    declared = compose.paper_file(key)
    record = results.read(key)
    recorded = record.entries if record is not None else {}
    return {
        "declared": declared,
        "record": record,
        "entries": {title: _with_found_here(key, title, entry, declared) for title, entry in recorded.items()},
        "finding": ((declared.get("finding") or {}).get("text") or "") if recorded else "",
        "together": _together(recorded),
        "stale": {title: staleness.stale(key, entry) for title, entry in recorded.items()},
        "key": key,
        "title": declared.get("title") or key,
        "arxiv": declared.get("arxiv"),
        "about": declared.get("about") or "",
        "deviations": declared.get("deviations") or [],
        "venue": declared.get("venue") or "",
        "released": declared.get("released") or "",
        "topic": declared.get("topic") or "",
    }


def _page(paper: Mapping[str, Any]) -> dict[str, Any]:
    page = {k: paper[k] for k in ("key", "title", "arxiv", "about", "venue", "released", "deviations", "finding")}
    page["together"] = paper["together"]
    recorded = _recorded(paper)
    entries = [
        _entry(paper["key"], title, paper["entries"][title], recorded[title], paper["stale"][title])
        for title in index.first(paper["entries"])
    ]
    planned = None if entries else _planned(paper["key"], paper["declared"])
    covers = coverage.rows(paper["declared"], recorded, counts.stored(paper["key"]))
    page |= {"sweeps": _sweeps(paper["key"]), "bibtex": _bibtex(paper), "unrecorded": _unrecorded(paper)}
    page |= {"code": _code(paper["key"]), "address": index.citation()["address"]}
    return {
        **page,
        "entries": entries,
        "planned": planned,
        "counted": [_size(row) for row in counts.stored(paper["key"])],
        "covers": covers,
        "covered": coverage.summary(covers),
    }


def _recorded(paper: Mapping[str, Any]) -> Mapping[str, Entry]:
    """The entries of a paper's record, as recorded."""
    return paper["record"].entries if paper["record"] is not None else {}


def _code(key: str) -> str:
    """The file that holds a paper's method."""
    root = ROOT if (ROOT / "conf" / "paper" / f"{key}.yaml").exists() else overlay.home()
    package = root / "modules" / key
    path = package / "module.py" if (package / "module.py").is_file() else package
    return str((path if package.is_dir() else package.with_suffix(".py")).relative_to(root))


def _unrecorded(paper: Mapping[str, Any]) -> list[dict[str, str]]:
    """The published recipe and the variants that have no record, each with its command; what fits a CPU first."""
    recorded = {(entry.scale, entry.variant) for entry in paper["entries"].values()}
    settings: dict[tuple[str, str | None], str] = {("full", None): PUBLISHED_RECIPE}
    for name, item in (paper["declared"].get("variants") or {}).items():
        settings[item["scale"], name] = item["about"]
    rows = []
    for (scale, variant), about in settings.items():
        if (scale, variant) not in recorded:
            command = command_line(paper["key"], scale, variant, [])
            title = results.title(scale, variant)
            hours = measured.in_words(f"{paper['key']} {title}")
            told = f"{about}; one seed's training: {hours}, measured by a dry run" if hours else about
            rows.append({"name": title, "about": told, "command": command})
    return sorted(rows, key=lambda row: not row["name"].startswith("mini"))


def _bibtex(paper: Mapping[str, Any]) -> str:
    """An entry for the paper, of what this suite knows of it."""
    fields = {"title": f"{{{paper['title']}}}", "note": paper["venue"]}
    if paper["arxiv"]:
        fields |= {"eprint": paper["arxiv"], "archivePrefix": "arXiv", "url": f"https://arxiv.org/abs/{paper['arxiv']}"}
    lines = [f"  {name} = {{{value}}}" for name, value in fields.items() if value]
    return f"@misc{{{paper['key']},\n" + ",\n".join(lines) + "\n}"


def _sweeps(key: str) -> list[dict[str, Any]]:
    """The sweeps that were run here, the newest first: each setting with its mean, interval and seeds."""
    swept = [
        sweep for path in sorted(_runs().glob(f"{key}/*/sweeps/*.json")) if (sweep := sweeps.read(path)) is not None
    ]
    return [_sweep(sweep) for sweep in sorted(swept, key=lambda sweep: sweep.written, reverse=True)]


def _sweep(sweep: sweeps.Sweep) -> dict[str, Any]:
    digits = decimals([row.mean for row in sweep.settings], two_from=10)
    extent = differences.reach([row.values for row in sweep.settings])
    rows = []
    for row in sweep.settings:
        mean = "–" if row.mean is None else fixed(row.mean, digits)
        ends = " to ".join(fixed(end, digits) for end in row.interval or ())
        drawn = Markup(differences.draw_setting(vars(row), extent)) if row.mean is not None else ""
        rows.append({"setting": row.setting, "failed": row.failed, "mean": mean, "interval": ends, "figure": drawn})
    return {"name": sweep.name, "scale": sweep.scale, "objective": sweep.objective, "rows": rows}


def _planned(key: str, declared: Mapping[str, Any]) -> dict[str, Any]:
    """What a paper that was never run will be judged by: its mini, since recipes may add stages and claims."""
    composed = compose.resolve(compose.compose([f"paper={key}", "scale=mini"]))
    boxes = []
    for name, stage in composed["stages"].items():
        trained = stage.get("fit", True)
        needs = names_in(stage.get("needs") or {})
        boxes.append(diagram.Box(name, needs, trained, "trained" if trained else "only tested"))
    asked = [verdicts.judge(claim, {}, [], 0) for claim in claims.read(composed).claims]
    reported = [verdicts.compare(item, {}, [], "full") for item in claims.published({**declared, "scale": "full"})]
    return {
        "claims": answers.claim_rows([view.claim(claim.model_copy(update={"reason": ""})) for claim in asked]),
        "published": [_published(view.published(item, "full", {}, 0)) for item in reported],
        "diagram": Markup(diagram.draw(boxes, {box.name: i for i, box in enumerate(boxes)})),
        "command": command_line(key, "mini", None, []),
    }


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


def _with_found_here(key: str, title: str, recorded: Entry, declared: Mapping[str, Any]) -> display.Entry:
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


def _entry(key: str, title: str, entry: display.Entry, recorded: Entry, changed: Sequence[str]) -> dict[str, Any]:
    """One (scale, variant) as the page shows it: everything formatted, nothing left to compute."""
    styles = {name: index for index, name in enumerate(entry.stages)}
    main = entry.main
    strong = {main.better.split("/")[0]} if main is not None else set()
    curves = _curves(entry, styles, strong)
    boxes = [_box(stage) for stage in entry.stages.values()]
    return {
        "title": title,
        "anchor": index.anchor(title),
        "answer": answers.answer(entry),
        "scale": entry.scale,
        "facts": [*_facts(entry), *_tuning(key, title, entry)],
        "claims": answers.claim_rows([claim for claim in entry.claims if not claim.main]),
        "checks": [answers.comparison(item) for item in entry.checks],
        "counts": answers.count_verdicts(entry.claims),
        "history": [{**vars(item), "seeds": _listed(item.seeds), "verdicts": item.verdicts} for item in entry.history],
        "elsewhere": entry.elsewhere,
        "registered": entry.registration,
        "tables": _tables(entry, changed),
        "seeds": len(entry.seeds),
        "published": [_published(item) for item in entry.published],
        "curves": curves[: len(FIRST_CURVES)],
        "more_curves": curves[len(FIRST_CURVES) :],
        "diagram": Markup(diagram.draw(boxes, styles)),
        "pictures": _pictures(key, title, entry, recorded),
        "provenance": provenance(entry),
        "cost": _cost(entry),
        "stale": list(changed),
        "all_stale": all(name in changed for name in entry.stages),
        "commit": entry.machine.code,
        "commits": entry.machine.commits[0] if len(entry.machine.commits) == 1 else "",
        "replication": replications.of(entry, recorded),
        "command": command_line(key, entry.scale, entry.variant, entry.overrides),
    }


def _listed(values: Sequence[Any]) -> str:
    return ", ".join(map(str, values))


def _facts(entry: display.Entry) -> list[tuple[str, str]]:
    """What was run, as (term, description); one line for each different data set, with the stages that use it."""
    about_scale = f": {SCALES[entry.scale]}" if entry.scale in SCALES else ""
    facts = [("scale", entry.scale + about_scale)]
    if entry.variant:
        facts.append(("variant", entry.variant + (f": {entry.about}" if entry.about else "")))
    facts.append(("seeds", _listed(entry.seeds)))
    if entry.replication == index.NOT_YET:
        facts.append(("replication", index.NOT_YET))

    users: dict[str, list[str]] = {}
    for stage in entry.stages.values():
        if stage.data:
            sizes = ", ".join(f"{count:,} {split}" for split, count in stage.data["sizes"].items())
            text = f"{stage.data['name']} ({stage.data['source']} data): {sizes}; {stage.data['split']}"
            users.setdefault(text, []).append(stage.name)
    for text, names in users.items():
        facts.append(("data", text if len(users) == 1 else f"{text}; in {', '.join(names)}"))
    return facts


def _tuning(key: str, title: str, entry: display.Entry) -> list[tuple[str, str]]:
    said = tuned.of(key, title, entry.registered.hash)
    return [("tuning", said)] if said else []


def _tables(entry: display.Entry, changed: Sequence[str]) -> list[dict[str, Any]]:
    """The stage tables: stages that report the same metrics stand in one, so that no column is empty."""
    metrics = entry.metrics()
    digits = {}
    for metric in metrics:
        values = [value for stage in entry.stages.values() for value in stage.metrics.get(metric, ())]
        digits[metric] = decimals(values, two_from=10)

    tables: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for stage in entry.stages.values():
        own = entry.metrics_of(stage.name)
        columns = tuple(metric for metric in metrics if metric in own)
        row = _stage_row(stage, {metric: digits[metric] for metric in columns})
        tables.setdefault(columns, []).append({**row, "stale": stage.name in changed})
    return [
        {"metrics": [metric.removeprefix("test/") for metric in columns], "stages": rows}
        for columns, rows in tables.items()
    ]


def _stage_row(stage: display.Stage, digits: Mapping[str, int]) -> dict[str, Any]:
    """A stage's row of a table; its metrics with their decimals."""
    return {
        "name": stage.name,
        "about": stage.about,
        "failed": "" if stage.metrics else stage.failed or "did not finish for every seed",
        "cells": [_cell(stage.metrics.get(metric, ()), places) for metric, places in digits.items()],
        "epochs": "–" if stage.epochs is None else str(stage.epochs),
        "parameters": "–" if stage.parameters is None else f"{stage.parameters:,}",
        "seconds": f"{sum(stage.seconds):,.1f}" if stage.seconds else "–",
    }


def _cell(values: Sequence[float | None], digits: int) -> tuple[str, str]:
    """Mean and half of the 95% t interval; the latter is empty where there is none."""
    mean, half = numbers.mean_and_half(values, partial(fixed, digits=digits))
    return mean or "–", half


def _published(item: display.Published) -> dict[str, Any]:
    digits = decimals([item.value, item.ours], two_from=10)
    has_interval = item.ours is not None and item.interval is not None
    return {
        **vars(item),
        "value": fixed(item.value, digits),
        "ours": "–" if item.ours is None else fixed(item.ours, digits),
        "half": fixed(item.interval[1] - item.ours, digits) if has_interval else "",  # type: ignore[index, operator]
        "verdict": "" if item.verdict == display.NOT_JUDGED else item.verdict,
    }


def _size(row: counts.Row) -> dict[str, Any]:
    """A counted size of a network as a row of published numbers."""
    shown = {"value": row.printed, "ours": f"{row.ours:,}", "half": "", "verdict": row.verdict, "source": row.source}
    protocol = row.note or "counted by building it"
    return {**shown, "stage": row.where, "metric": row.what.replace("_", "-"), "dataset": "none", "protocol": protocol}


def _curves(entry: display.Entry, styles: Mapping[str, int], strong: set[str]) -> list[dict[str, Any]]:
    """A figure for each metric that any stage logged, the most telling first."""
    metrics = list(dict.fromkeys(metric for stage in entry.stages.values() for metric in stage.curves))
    metrics.sort(key=lambda metric: FIRST_CURVES.index(metric) if metric in FIRST_CURVES else len(FIRST_CURVES))
    drawn = []
    for metric in metrics:
        series = {name: stage.curves[metric] for name, stage in entry.stages.items() if metric in stage.curves}
        drawn.append({"metric": metric, "figure": Markup(curves.draw(metric, series, styles, strong))})
    return drawn


def _box(stage: display.Stage) -> diagram.Box:
    note = "trained" if stage.fit else "only tested"
    if stage.fit and stage.epochs:
        note += f", {numbers.count(stage.epochs, 'epoch')}"
    return diagram.Box(stage.name, stage.needs, stage.fit, note if stage.metrics else "did not finish")


def _pictures(key: str, title: str, entry: display.Entry, recorded: Entry) -> list[dict[str, str]]:
    """What the stages of the first seed drew, inside the page: as the record keeps it, else as the run left it here.

    Raises InputError where a kept picture is not the record's.
    """
    kept = pictures.of(key, title, recorded)
    if kept:
        return [_picture(item.stage, item.name, content, "webp") for item, content in kept]
    return list(_drawn_here(key, entry))


def _drawn_here(key: str, entry: display.Entry) -> Iterator[dict[str, str]]:
    """Files of the run's own folder, none that is a link."""
    for stage in entry.stages.values():
        names = (key, entry.scale, f"seed={entry.seeds[0]}", f"{stage.name}-{stage.fingerprints[0]}", "pictures")
        folder = files.inside(_runs(), *names)
        if folder is None:
            continue
        for path in sorted(folder.glob("*.png")):
            if files.inside(folder, path.name) is None or not path.is_file() or path.stat().st_size > MOST_PICTURE:
                continue
            yield _picture(stage.name, path.stem, path.read_bytes(), "png")


def _picture(stage: str, name: str, content: bytes, kind: str) -> dict[str, str]:
    return {"stage": stage, "name": name, "data": f"data:image/{kind};base64,{base64.b64encode(content).decode()}"}


def provenance(entry: display.Entry) -> list[tuple[str, str]]:
    """Where the numbers come from, as (term, description)."""
    machine = entry.machine
    dirty = {True: " with uncommitted changes", False: "", None: " (changes unknown)"}[machine.dirty]
    hardware = machine.hardware
    computer = f"{hardware['cpu']}, {hardware['cores']} cores, {hardware['system']}"
    gpus = [f"{count} × {name}" for name, count in Counter(hardware.get("gpus", [])).items()]
    precisions = dict.fromkeys(stage.precision for stage in entry.stages.values() if stage.precision)
    cpu = "" if machine.cpu_seconds is None else f"{numbers.duration(machine.cpu_seconds)} of CPU time, "
    switches = dict.fromkeys(name for stage in entry.stages.values() for name in stage.switches)
    return [
        ("code", machine.code + dirty),
        ("written", machine.written[:16].replace("T", " ") + " UTC"),
        ("overrides", " ".join(entry.overrides) or "none"),
        ("precision", _listed([*(precisions or ["unknown"]), *switches])),
        ("hardware", _listed([computer, *gpus])),
        ("compute time", f"{cpu}{numbers.duration(machine.seconds)} of wall time, summed over all seeds"),
        ("versions", ", ".join(f"{name} {version}" for name, version in machine.versions.items())),
        *(("confirmed", line) for line in entry.confirmed),
        *(("joined", line) for line in entry.joined),
    ]


def _cost(entry: display.Entry) -> str:
    """CPU time of all seeds, or wall time where that was not measured."""
    machine = entry.machine
    if machine.cpu_seconds is not None:
        return f"{numbers.duration(machine.cpu_seconds)} of CPU time"
    return f"{numbers.duration(machine.seconds)} of wall time"


def command_line(key: str, scale: str, variant: str | None, overrides: Sequence[str]) -> str:
    """The line that runs an entry again, quoted for make and the two shells it passes through."""
    line = f"make reproduce PAPER={key}" + (f" SCALE={scale}" if scale != "mini" else "")
    line += f" VARIANT={shlex.quote(variant)}" if variant else ""
    extra = overlay.current()
    line += f" EXTRA={shlex.quote(os.path.relpath(extra.folder, ROOT))}" if extra is not None else ""
    inner = " ".join(shlex.quote(override) for override in overrides)
    if not inner:
        return line
    plain = not any(mark in inner for mark in '"$`\\!')
    return f"{line} ARGS=" + (f'"{inner}"' if plain else shlex.quote(inner).replace("$", "$$"))
