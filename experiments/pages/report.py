"""`make report`: a gallery of all papers and a page for each, as static HTML in site/. Imports no torch.

Every number on a page comes from results/<key>.json. What was never run is listed with the claims it will be judged by.
"""

from __future__ import annotations

import base64
import math
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from experiments.common import files
from experiments.common.errors import unknown
from experiments.common.paths import ROOT
from experiments.config import claims, compose
from experiments.evidence import layout, merge, results, sequences, staleness, verdicts
from experiments.evidence.records import Elsewhere, Entry, Provenance, PublishedResult, StageRecord
from experiments.pages import answers, figures
from experiments.pages.console import SHOWN, judged_metrics
from experiments.pages.figures import decimals, number

RUNS = ROOT / "runs"
SCALES = {
    "full": "the recipe as published",
    "mini": "the embedded default: a smaller recipe for two CPU cores",
}
FIRST_CURVES = ("train/loss", "val/top1")  # shown at once where a stage logs them; the others unfold


def build(papers: list[str] | None = None, site: Path = ROOT / "site") -> list[Path]:
    """Write site/index.html, and the pages of these papers (all by default); returns what was written, index first.

    The gallery always lists every paper and links the pages that are there. Raises InputError for an unknown key,
    before anything is written, and OSError when the folder cannot be written.
    """
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
    cards = [_card(paper, (site / f"{key}.html").exists()) for key, paper in known_papers.items()]
    run = sum(1 for card in cards if card["entries"])
    files.write_text(site / "index.html", _render("index.html.j2", cards=cards, run=run))
    return [site / "index.html", *written]


@lru_cache
def _templates() -> jinja2.Environment:
    loader = jinja2.FileSystemLoader(Path(__file__).parent / "templates")
    options: dict[str, Any] = {"trim_blocks": True, "lstrip_blocks": True, "undefined": jinja2.StrictUndefined}
    made = jinja2.Environment(loader=loader, autoescape=True, **options)
    made.globals.update(chip=_chip, light=figures.LIGHT, dark=figures.DARK)
    return made


def _chip(verdict: str, count: int | None = None) -> Markup:
    """A verdict as a small label: symbol, count if given, word."""
    shown = verdict if count is None else f"{count} {verdict}"
    text = '<span class="chip {}"><span aria-hidden="true">{}</span> {}</span>'
    return Markup(text).format(verdict.replace(" ", "-"), answers.SYMBOLS[verdict], shown)


def _render(template: str, **values: Any) -> str:
    return _templates().get_template(template).render(**values)


def _gather(key: str) -> dict[str, Any]:
    """A paper's record, or what its configuration says when it was never run, and what is stale."""
    declared = compose.paper_file(key)
    record = results.read(key)
    entries = record.entries if record is not None else {}
    return {
        "declared": declared,
        "record": record,
        "entries": entries,
        "stale": {title: staleness.stale(key, entry) for title, entry in entries.items()},
        "key": key,
        "title": declared.get("title") or key,
        "arxiv": declared.get("arxiv"),
        "about": declared.get("about") or "",
        "deviations": declared.get("deviations") or [],
        "venue": declared.get("venue") or "",
    }


def _card(paper: Mapping[str, Any], linked: bool) -> dict[str, Any]:
    """A paper on the index: for each entry its main claim, verdict, difference and how sure that is."""
    entries = []
    for title, entry in paper["entries"].items():
        stale = bool(paper["stale"][title])
        entries.append({"title": title, "anchor": _anchor(title), "stale": stale, **answers.answer(entry)})
    entries.sort(key=lambda entry: ("+" in entry["title"] or "by hand" in entry["title"], entry["title"]))
    asked = next((c["name"] for c in paper["declared"].get("claims") or [] if c.get("main")), "")
    told = {k: paper[k] for k in ("key", "title", "arxiv", "about", "venue")}
    return {**told, "entries": entries, "linked": linked, "asked": asked}


def _anchor(title: str) -> str:
    return title.replace("+", "-").replace(" ", "-")


def _page(paper: Mapping[str, Any]) -> dict[str, Any]:
    page = {k: paper[k] for k in ("key", "title", "arxiv", "about", "venue", "deviations")}
    entries = [_entry(paper["key"], title, e, paper["stale"][title]) for title, e in paper["entries"].items()]
    planned = None if entries else _planned(paper["key"], paper["declared"])
    page |= {"sweeps": _sweeps(paper["key"]), "bibtex": _bibtex(paper), "unrecorded": _unrecorded(paper)}
    return {**page, "entries": entries, "planned": planned}


def _unrecorded(paper: Mapping[str, Any]) -> list[dict[str, str]]:
    """The published recipe and the variants that have no record, each with its command; what fits a CPU first."""
    recorded = {(entry.scale, entry.variant or None) for entry in paper["entries"].values()}
    variants = paper["declared"].get("variants") or {}
    settings = {(item["scale"], name): item["about"] for name, item in variants.items()}
    published = "the published recipe; with DRY=1 it is built, steps once and says what data and memory it needs"
    shown = [
        {
            "name": scale if variant is None else f"{scale}+{variant}",
            "about": about,
            "command": _command(paper["key"], scale, variant, []),
        }
        for (scale, variant), about in {("full", None): published, **settings}.items()
        if (scale, variant) not in recorded
    ]
    return sorted(shown, key=lambda row: not row["name"].startswith("mini"))


def _bibtex(paper: Mapping[str, Any]) -> str:
    """An entry for the paper, of what this suite knows of it."""
    fields = {"title": f"{{{paper['title']}}}", "note": paper["venue"]}
    if paper["arxiv"]:
        fields |= {"eprint": paper["arxiv"], "archivePrefix": "arXiv", "url": f"https://arxiv.org/abs/{paper['arxiv']}"}
    lines = [f"  {name} = {{{value}}}" for name, value in fields.items() if value]
    return f"@misc{{{paper['key']},\n" + ",\n".join(lines) + "\n}"


def _sweeps(key: str) -> list[dict[str, Any]]:
    """The sweeps that were run here, the newest first: each setting with its mean, interval and seeds."""
    recorded = [s for path in RUNS.glob(f"{key}/*/sweeps/*.json") if (s := files.read_json(path)) is not None]
    shown = []
    for sweep in sorted(recorded, key=lambda s: s["written"], reverse=True):
        digits = decimals([row["mean"] for row in sweep["settings"]], two_from=10)
        extent = figures.reach([row["values"] for row in sweep["settings"]])
        rows = []
        for row in sweep["settings"]:
            mean = "–" if row["mean"] is None else number(row["mean"], digits)
            ends = " to ".join(number(end, digits) for end in row["interval"]) if row["interval"] else ""
            drawn = Markup(figures.values(row, extent)) if row["values"] else ""
            rows.append(
                {"setting": row["setting"], "mean": mean, "interval": ends, "figure": drawn, "failed": row["failed"]}
            )
        shown.append({**{k: sweep[k] for k in ("name", "scale", "objective")}, "rows": rows})
    return shown


def _planned(key: str, declared: Mapping[str, Any]) -> dict[str, Any]:
    """What a paper that was never run will be judged by: its mini, since recipes may add stages and claims."""
    composed = compose.resolve(compose.compose([f"paper={key}", "scale=mini"]))
    boxes = []
    for name, stage in composed["stages"].items():
        trained = stage.get("fit", True)
        needs = [n for v in (stage.get("needs") or {}).values() for n in ([v] if isinstance(v, str) else v)]
        boxes.append(figures.Box(name, needs, trained, "trained" if trained else "only tested"))
    judged = [verdicts.judge(claim, {}, [], 0) for claim in claims.read(composed).claims]
    shown = claims.published({**declared, "scale": "full"})
    return {
        "claims": answers.claim_rows([claim.model_copy(update={"reason": ""}) for claim in judged]),
        "published": _published([verdicts.compare(item, {}, [], "full") for item in shown], "full"),
        "diagram": Markup(figures.diagram(boxes, {box.name: i for i, box in enumerate(boxes)})),
        "command": _command(key, "mini", None, []),
    }


def _entry(key: str, title: str, entry: Entry, changed: Sequence[str]) -> dict[str, Any]:
    """One (scale, variant) as the page shows it: everything formatted, nothing left to compute."""
    stages = entry.stages
    styles = {name: index for index, name in enumerate(stages)}
    main = entry.main_claim()
    strong = {main.better.split("/")[0]} if main is not None else set()
    drawn = _curves(stages, styles, strong)
    return {
        "title": title,
        "anchor": _anchor(title),
        "answer": answers.answer(entry),
        "scale": entry.scale,
        "facts": _facts(entry),
        "claims": answers.claim_rows([claim for claim in entry.claims if not claim.main]),
        "checks": [answers.comparison(item) for item in entry.checks],
        "counts": answers.count_verdicts([claim.verdict for claim in entry.claims], "claim"),
        "history": [answers.past(item) for item in entry.history],
        "elsewhere": [answers.elsewhere(item) for item in [*entry.elsewhere, *_found_here(key, title, entry)]],
        "registered": answers.registered(entry),
        **_stages(entry, changed),
        "seeds": len(entry.seeds),
        "published": _published(entry.published, entry.scale),
        "curves": drawn[: len(FIRST_CURVES)],
        "more_curves": drawn[len(FIRST_CURVES) :],
        "diagram": Markup(figures.diagram([_box(name, stage) for name, stage in stages.items()], styles)),
        "pictures": _pictures(key, entry),
        "provenance": _provenance(entry),
        "stale": list(changed),
        "all_stale": all(name in changed for name in stages),
        "commit": _commit(entry),
        "command": _command(key, entry.scale, entry.variant, entry.overrides),
    }


def _found_here(key: str, title: str, entry: Entry) -> list[Elsewhere]:
    """What a run on this machine found for a recorded setting, see results.here."""
    found = results.entry(key, title, results.here())
    return [merge.from_elsewhere(found, entry)] if found else []


def _facts(entry: Entry) -> list[tuple[str, str]]:
    """What was run, as (term, description); one line for each different data set, with the stages that use it."""
    told = entry.scale + (f": {SCALES[entry.scale]}" if entry.scale in SCALES else "")
    facts = [("scale", told)]
    if entry.variant:
        facts.append(("variant", entry.variant + (f": {entry.about}" if entry.about else "")))
    facts.append(("seeds", ", ".join(map(str, entry.seeds))))
    used: dict[str, list[str]] = {}
    for name, stage in entry.stages.items():
        if data := stage.data:
            sizes = ", ".join(f"{count:,} {split}" for split, count in data.sizes.items())
            text = f"{data.name} ({data.source} data): {sizes}; {data.split}"
            used.setdefault(text, []).append(name)
    for text, names in used.items():
        facts.append(("data", text if len(used) == 1 else f"{text}; in {', '.join(names)}"))
    return facts


def _stages(entry: Entry, changed: Sequence[str]) -> dict[str, Any]:
    """The stage tables: stages that report the same metrics stand in one, so that no column is empty."""
    stages, judged = entry.stages, judged_metrics(entry)
    tables: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    shown = {
        name: [m for m in stage.metrics if not m.endswith("/n") and (m.startswith("test/") or m in judged)]
        for name, stage in stages.items()
    }
    names = list(dict.fromkeys(m for metrics in shown.values() for m in metrics))
    names.sort(key=lambda name: SHOWN.index(name) if name in SHOWN else len(SHOWN))
    places = {
        m: decimals([v for s in stages.values() for v in s.metrics.get(m, []) if v is not None], two_from=10)
        for m in names
    }
    for name, stage in stages.items():
        columns = tuple(m for m in names if m in shown[name])
        tables.setdefault(columns, []).append(
            {
                "name": name,
                "about": stage.about,
                "stale": name in changed,
                "failed": "" if stage.metrics else stage.failed or "did not finish for every seed",
                "cells": [_cell(stage.metrics.get(m, []), places[m]) for m in columns],
                "epochs": "–" if stage.epochs is None else str(stage.epochs),
                "parameters": "–" if stage.parameters is None else f"{stage.parameters:,}",
                "seconds": f"{stage.total_seconds():,.1f}" if stage.total_seconds() else "–",
            }
        )
    made = [{"metrics": [m.removeprefix("test/") for m in ms], "stages": rows} for ms, rows in tables.items()]
    return {"tables": made}


def _cell(values: Sequence[float | None], digits: int) -> tuple[str, str]:
    """Mean and half of the 95% t interval; the latter is empty where there is none."""
    known = [value for value in values if value is not None]
    if not known:
        return "–", ""
    if not all(math.isfinite(v) for v in known):
        return "not finite", ""
    estimate = sequences.t_interval(known)
    half = estimate.high - estimate.mean
    return number(estimate.mean, digits), number(half, digits) if math.isfinite(half) else ""


def _published(judged: Sequence[PublishedResult], scale: str) -> list[dict[str, Any]]:
    rows = []
    for item in judged:
        ours, interval = item.ours, item.interval
        digits = decimals([item.value, ours], two_from=10)
        half = number(interval[1] - ours, digits) if interval and ours is not None else ""
        rows.append(
            {
                **item.model_dump(include={"stage", "metric", "dataset", "protocol", "source"}),
                "value": number(item.value, digits),
                "ours": "–" if ours is None else number(ours, digits),
                "half": half,
                "verdict": item.verdict if scale == "full" or item.kind == "exact" else "",
            }
        )
    return rows


def _curves(stages: Mapping[str, StageRecord], styles: Mapping[str, int], strong: set[str]) -> list[dict[str, Any]]:
    """A figure for each metric that any stage logged, the most telling first."""
    names = list(dict.fromkeys(metric for stage in stages.values() for metric in stage.curves))
    names.sort(key=lambda m: FIRST_CURVES.index(m) if m in FIRST_CURVES else len(FIRST_CURVES))
    drawn = []
    for metric in names:
        series = {name: stage.curves[metric] for name, stage in stages.items() if metric in stage.curves}
        drawn.append({"metric": metric, "figure": Markup(figures.curves(metric, series, styles, strong))})
    return drawn


def _box(name: str, stage: StageRecord) -> figures.Box:
    note = "only tested" if not stage.fit else "trained"
    if stage.fit and (stage.epochs or 0) > 0:
        note += f", {stage.epochs} epoch{'s' * (stage.epochs != 1)}"
    return figures.Box(name, stage.needs, stage.fit, note if stage.metrics else "did not finish")


def _pictures(key: str, entry: Entry) -> list[dict[str, str]]:
    """What the stages of the first seed drew, inside the page."""
    shown = []
    for name, stage in entry.stages.items():
        base = RUNS / key / entry.scale / f"seed={entry.seeds[0]}" / f"{name}-{stage.fingerprints[0]}"
        for path in sorted((base / "pictures").glob("*.png")):
            data = base64.b64encode(path.read_bytes()).decode()
            shown.append({"stage": name, "name": path.stem, "data": f"data:image/png;base64,{data}"})
    return shown


def _commit(entry: Entry) -> str:
    """The first ten digits of the commit, or of each if stages were trained with several; or that there is none."""
    commits = (entry.provenance.code.commit or "").split()
    return ", ".join(commit[:10] for commit in commits if commit != "None") or "no commit"


def _provenance(entry: Entry) -> list[tuple[str, str]]:
    made = entry.provenance
    dirty = {True: " with uncommitted changes", False: "", None: " (changes unknown)"}[made.code.dirty]
    hardware = made.hardware
    machine = f"{hardware.cpu}, {hardware.cores} cores, {hardware.system}"
    gpus = [f"{count} × {name}" for name, count in Counter(hardware.gpus).items()]
    precision = dict.fromkeys(s.precision for s in entry.stages.values() if s.precision)
    return [
        ("code", _commit(entry) + dirty),
        ("written", made.written[:16].replace("T", " ") + " UTC"),
        ("overrides", " ".join(entry.overrides) or "none"),
        ("precision", ", ".join([*(precision or ["unknown"]), *_switches(entry)])),
        ("hardware", ", ".join([machine, *gpus])),
        ("compute time", _compute_time(made)),
        ("versions", ", ".join(f"{name} {version}" for name, version in made.versions.items())),
        *(("confirmed", line) for line in answers.confirmed(entry)),
        *(("joined", line) for line in answers.joined(entry)),
    ]


def _switches(entry: Entry) -> Iterable[str]:
    """What made it faster at the price of other rounding."""
    return dict.fromkeys(name for stage in entry.stages.values() for name in stage.switches)


def _compute_time(made: Provenance) -> str:
    """CPU time where it was measured; wall time says so."""
    if made.cpu_seconds is not None:
        return (
            f"{_duration(made.cpu_seconds)} of CPU time, {_duration(made.seconds)} of wall time, summed over all seeds"
        )
    return f"{_duration(made.seconds)} of wall time, summed over all seeds"


def _duration(seconds: float) -> str:
    if seconds < 600:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"


def _command(key: str, scale: str, variant: str | None, overrides: Sequence[str]) -> str:
    """The line that runs an entry again, quoted for make and the two shells it passes through."""
    line = f"make reproduce PAPER={key}" + (f" SCALE={scale}" if scale != "mini" else "")
    line += f" VARIANT={shlex.quote(variant)}" if variant else ""
    inner = " ".join(shlex.quote(override) for override in overrides)
    if not inner:
        return line
    plain = not any(mark in inner for mark in '"$`\\!')
    return f"{line} ARGS=" + (f'"{inner}"' if plain else shlex.quote(inner).replace("$", "$$"))
