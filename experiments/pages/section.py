"""A recorded setting on its paper's page: everything formatted, nothing left to compute. Imports no torch."""

from __future__ import annotations

import base64
import shlex
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from markupsafe import Markup

from experiments.common import files, overlay
from experiments.common.plain import Plain
from experiments.evidence import counts, pictures, words
from experiments.evidence.ran import Curve
from experiments.evidence.records import Entry
from experiments.pages import answers, curves, diagram, display, glossary, index, numbers, replications, scope, tuned
from experiments.pages.numbers import decimals, fixed
from experiments.pages.page import (
    Earlier,
    Facts,
    Figure,
    Picture,
    PublishedRow,
    Section,
    StageRow,
    StageTable,
)

SCALES = {
    "full": "the recipe as published",
    "lab": "CIFAR's 32 pixels and networks of 1 to 25 million parameters, for one consumer GPU",
    "mini": "the embedded default: a smaller recipe for two CPU cores",
}
MOST_PICTURE = 2**23  # bytes of one inside a page
FIRST_CURVES = ("train/loss", "val/top1")  # shown at once where a stage logs them; the others unfold
MOST_STAGES = 8  # shown at once; of more, those that the main claim compares, and the others unfold
MOST_METRICS = 6  # side by side: more would scroll on a screen of 1440; the others unfold
MOST_DATA = 3  # likewise, of data sets


@dataclass(frozen=True)
class Stale:
    """The stages that changed since a setting was recorded."""

    main: Sequence[str]  # those that its main claim rests on; "all" or "claims"
    beside: Sequence[str]  # others, and those that were not run

    @property
    def stages(self) -> Sequence[str]:
        return [*self.main, *self.beside]


def describe(
    key: str, declared: Plain, title: str, entry: display.Entry, recorded: Entry, stale: Stale, runs: Path
) -> Section:
    """One (scale, variant) as the page shows it.

    Args:
        key: of the paper.
        declared: its file.
        title: of the setting.
        entry: what is shown of it.
        recorded: the record's.
        stale: what of it is.
        runs: the folder with what its stages drew.
    """
    styles = {name: index for index, name in enumerate(entry.stages)}
    first, others = _split(entry, scope.compared(recorded))
    figures, more_figures = _figures(entry, styles, first)
    data, more_data = _data(entry, first)
    boxes = [_box(stage) for stage in entry.stages.values()]
    return Section(
        title=title,
        anchor=index.anchor(title),
        scale=entry.scale,
        answer=answers.answer(entry),
        terms=glossary.of_question(entry.main, declared),
        meanings=_short_names(glossary.of_tables(entry, declared)),
        claims=answers.claim_rows([claim for claim in entry.claims if not claim.main]),
        checks=[answers.comparison(item) for item in entry.checks],
        published=[published_row(item) for item in entry.published],
        facts=[*_facts(entry), *data, *_tuning(key, title, entry)],
        more_data=more_data,
        tables=_tables(entry, first, stale.stages),
        more_tables=_tables(entry, others, stale.stages),
        seeds=len(entry.seeds),
        curves=figures,
        more_curves=more_figures,
        diagram=Markup(diagram.draw(boxes, styles)),
        pictures=_pictures(key, title, entry, recorded, runs),
        registered=entry.registration,
        history=[_earlier(item) for item in entry.history],
        elsewhere=entry.elsewhere,
        provenance=provenance(entry),
        cost=_cost(entry),
        stale=stale.main,
        stale_beside=stale.beside,
        all_stale=all(name in stale.stages for name in entry.stages),
        commit=entry.machine.code,
        commits=entry.machine.commits[0] if len(entry.machine.commits) == 1 else "",
        replication=replications.of(entry, recorded),
        command=command_line(key, entry.scale, entry.variant, entry.overrides),
    )


def _split(entry: display.Entry, compared: Collection[str]) -> tuple[list[str], list[str]]:
    """The stages to show at once, and those that unfold."""
    names = list(entry.stages)
    if len(names) <= MOST_STAGES:
        return names, []
    return [name for name in names if name in compared], [name for name in names if name not in compared]


def _earlier(item: display.Past) -> Earlier:
    return Earlier(item.at, _listed(item.seeds), item.commit, item.verdicts, item.why, item.claims)


def _listed(values: Sequence[Any]) -> str:
    return ", ".join(map(str, values))


def _facts(entry: display.Entry) -> Facts:
    """What was run, as (term, description)."""
    about_scale = f": {SCALES[entry.scale]}" if entry.scale in SCALES else ""
    facts = [("scale", entry.scale + about_scale)]
    if entry.variant:
        facts.append(("variant", entry.variant + (f": {entry.about}" if entry.about else "")))
    facts.append(("seeds", _seeds(entry.seeds)))
    if entry.replication == index.NOT_YET:
        facts.append(("replication", index.NOT_YET))
    return facts


def _seeds(seeds: Sequence[int]) -> str:
    """All of them, or the ends of a stream without a gap."""
    if len(seeds) > 3 and list(seeds) == list(range(seeds[0], seeds[-1] + 1)):
        return f"{len(seeds)}: {seeds[0]} to {seeds[-1]}"
    return _listed(seeds)


def _data(entry: display.Entry, first: Collection[str]) -> tuple[Facts, Facts]:
    """A line for each different data set with the stages that use it: those to show at once, and those that unfold.

    Args:
        first: the stages whose data is shown at once.
    """
    users: dict[str, list[str]] = {}
    for stage in entry.stages.values():
        if stage.data:
            sizes = ", ".join(f"{count:,} {split}" for split, count in stage.data.sizes.items())
            text = f"{stage.data.name} ({stage.data.source} data): {sizes}; {stage.data.split}"
            users.setdefault(text, []).append(stage.name)

    shown: list[tuple[str, str]] = []
    more: list[tuple[str, str]] = []
    for text, names in users.items():
        fact = ("data", text if len(users) == 1 else f"{text}; in {', '.join(names)}")
        is_first = len(users) <= MOST_DATA or not set(names).isdisjoint(first)
        (shown if is_first else more).append(fact)
    return shown, more


def _tuning(key: str, title: str, entry: display.Entry) -> list[tuple[str, str]]:
    said = tuned.of(key, title, entry.registered.hash)
    return [("tuning", said)] if said else []


def _tables(entry: display.Entry, names: Sequence[str], changed: Sequence[str]) -> list[StageTable]:
    """Tables of these stages: those that report the same metrics stand in one, so that no column is empty.

    What the main claim compares comes first, since a table has room for few.
    """
    main = entry.main
    judged = [claim.metric for claim in (main, *main.rows)] if main is not None else []
    metrics = entry.metrics(judged)
    digits = {}
    for metric in metrics:
        values = [value for stage in entry.stages.values() for value in stage.metrics.get(metric, ())]
        digits[metric] = decimals(values, two_from=10)

    tables: dict[tuple[str, ...], list[StageRow]] = {}
    for stage in map(entry.stages.__getitem__, names):
        own = entry.metrics_of(stage.name)
        columns = tuple(metric for metric in metrics if metric in own)
        row = _stage_row(stage, {metric: digits[metric] for metric in columns}, stage.name in changed)
        tables.setdefault(columns, []).append(row)
    return [_narrow([_short(metric) for metric in columns], rows) for columns, rows in tables.items()]


def _short(metric: str) -> str:
    """As the head of a column says it."""
    return metric.removeprefix("test/")


def _short_names(meanings: Mapping[str, str]) -> dict[str, str]:
    return {_short(metric): told for metric, told in meanings.items()}


def _narrow(metrics: Sequence[str], rows: Sequence[StageRow]) -> StageTable:
    """A table of the first metrics, and those of the others."""
    first, *others = [slice(start, start + MOST_METRICS) for start in range(0, max(1, len(metrics)), MOST_METRICS)]
    done = [row for row in rows if not row.absent]
    further = [StageTable(metrics[part], [replace(row, cells=row.cells[part]) for row in done]) for part in others]
    return StageTable(metrics[first], [replace(row, cells=row.cells[first]) for row in rows], further)


def _stage_row(stage: display.Stage, digits: Mapping[str, int], is_stale: bool) -> StageRow:
    """A stage's row of a table; its metrics with their decimals."""
    absent, reason = _absence(stage)
    return StageRow(
        name=stage.name,
        about=stage.about,
        stale=is_stale and absent != words.NOT_RUN,
        absent=absent,
        reason=reason,
        cells=[_cell(stage.metrics.get(metric, ()), places) for metric, places in digits.items()],
        epochs="–" if stage.epochs is None else str(stage.epochs),
        parameters="–" if stage.parameters is None else f"{stage.parameters:,}",
        seconds=f"{sum(stage.seconds):,.1f}" if stage.seconds else "–",
    )


def _absence(stage: display.Stage) -> tuple[str, str]:
    """The word for a stage without numbers of every seed, and why it has none; both empty where it has them."""
    if stage.metrics:
        return "", ""
    if stage.failed or any(stage.fingerprints):
        return words.FAILED, stage.failed or "did not finish for every seed"
    return words.NOT_RUN, "the main claim's stages were run alone"


def _cell(values: Sequence[float | None], digits: int) -> tuple[str, str]:
    """Mean and half of the 95% t interval; the latter is empty where there is none."""
    mean, half = numbers.mean_and_half(values, partial(fixed, digits=digits))
    return mean or "–", half


def published_row(item: display.Published) -> PublishedRow:
    """A number of the paper beside ours."""
    digits = decimals([item.value, item.ours], two_from=10)
    half = item.interval[1] - item.ours if item.ours is not None and item.interval is not None else None
    return PublishedRow(
        stage=item.stage,
        metric=item.metric,
        value=fixed(item.value, digits),
        ours="–" if item.ours is None else fixed(item.ours, digits),
        half="" if half is None else fixed(half, digits),
        verdict="" if item.verdict == display.NOT_JUDGED else item.verdict,
        dataset=item.dataset,
        protocol=item.protocol,
        source=item.source,
    )


def size_row(row: counts.Row) -> PublishedRow:
    """A counted size of a network as a row of published numbers."""
    return PublishedRow(
        stage=row.where,
        metric=row.what.replace("_", "-"),
        value=row.printed,
        ours=f"{row.ours:,}",
        half="",
        verdict=row.verdict,
        dataset="none",
        protocol=row.note or "counted by building it",
        source=row.source,
    )


def _figures(
    entry: display.Entry, styles: Mapping[str, int], first: Collection[str]
) -> tuple[list[Figure], list[Figure]]:
    """A figure for each metric that a stage logged over two epochs or more: those to show at once, then the others.

    Args:
        styles: of each stage's line.
        first: the stages that the figures shown at once are about; where these are not all, the others unfold beside
            them in figures of their own.
    """
    main = entry.main
    strong = {main.better.split("/")[0]} if main is not None else set()
    logged: dict[str, dict[str, Curve]] = {}
    for name, stage in entry.stages.items():
        for metric, curve in stage.curves.items():
            if len(curve.epoch) > 1:
                logged.setdefault(metric, {})[name] = curve

    usual = [metric for metric in FIRST_CURVES if metric in logged]
    shown: list[Figure] = []
    more: list[Figure] = []
    for metric in dict.fromkeys([*usual, *logged]):
        series = logged[metric]
        chosen = {name: curve for name, curve in series.items() if name in first}
        if chosen and len(shown) < len(FIRST_CURVES):
            shown.append(Figure(metric, Markup(curves.draw(metric, chosen, styles, strong))))
            series = {name: curve for name, curve in series.items() if name not in first}
        if series:
            more.append(Figure(metric, Markup(curves.draw(metric, series, styles, strong))))
    if not shown:  # those stages learn nothing
        return more[: len(FIRST_CURVES)], more[len(FIRST_CURVES) :]
    return shown, more


def _box(stage: display.Stage) -> diagram.Box:
    note = "trained" if stage.fit else "only tested"
    if stage.fit and stage.epochs:
        note += f", {numbers.count(stage.epochs, 'epoch')}"
    return diagram.Box(stage.name, stage.needs, stage.fit, note if stage.metrics else "did not finish")


def _pictures(key: str, title: str, entry: display.Entry, recorded: Entry, runs: Path) -> list[Picture]:
    """What the stages of the first seed drew, inside the page: as the record keeps it, else as the run left it here.

    Raises InputError where a kept picture is not the record's.
    """
    of_record = pictures.of(key, title, recorded)
    if of_record:
        return [_picture(item.stage, item.name, content, "webp") for item, content in of_record]
    return list(_drawn_here(key, entry, runs))


def _drawn_here(key: str, entry: display.Entry, runs: Path) -> Iterator[Picture]:
    """Files of the run's own folder, none that is a link."""
    for stage in entry.stages.values():
        names = (key, entry.scale, f"seed={entry.seeds[0]}", f"{stage.name}-{stage.fingerprints[0]}", "pictures")
        folder = files.inside(runs, *names)
        if folder is None:
            continue
        for path in sorted(folder.glob("*.png")):
            if files.inside(folder, path.name) is None or not path.is_file() or path.stat().st_size > MOST_PICTURE:
                continue
            yield _picture(stage.name, path.stem, path.read_bytes(), "png")


def _picture(stage: str, name: str, content: bytes, kind: str) -> Picture:
    return Picture(stage, name, f"data:image/{kind};base64,{base64.b64encode(content).decode()}")


def provenance(entry: display.Entry) -> list[tuple[str, str]]:
    """Where the numbers come from, as (term, description)."""
    machine = entry.machine
    dirty = {True: " with uncommitted changes", False: "", None: " (changes unknown)"}[machine.dirty]
    hardware = machine.hardware
    computer = f"{hardware.cpu}, {hardware.cores} cores, {hardware.system}"
    gpus = [f"{count} × {name}" for name, count in Counter(hardware.gpus).items()]
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
    line = f"make reproduce PAPER={key}"
    if scale != "mini":
        line += f" SCALE={scale}"
    if variant:
        line += f" VARIANT={shlex.quote(variant)}"
    line += overlay.typed()

    inner = " ".join(shlex.quote(override) for override in overrides)
    if not inner:
        return line
    if any(mark in inner for mark in '"$`\\!'):
        return f"{line} ARGS=" + shlex.quote(inner).replace("$", "$$")
    return f'{line} ARGS="{inner}"'
