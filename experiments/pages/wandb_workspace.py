"""A paper's W&B workspace and report, from code. Imports W&B only where it needs it.

`describe` says as plain data what there is to show; `workspace` and `report` make W&B's objects of it, without a
connection; `publish` saves them.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, Required

from typing_extensions import TypedDict

from experiments.common.errors import RunError, explain
from experiments.common.plain import Arguments
from experiments.config import claims
from experiments.pages import display, numbers, wandb_verdict
from experiments.running import loggers
from experiments.running.plan import Plan

CURVES = ("train/loss", "val/top1")  # first; and all there is before anything ran
COLUMNS = 14  # more axes than this and parallel coordinates cannot be read
SCATTERS = 3
SHOWN = {  # the columns that fit a text table; the logged tables have all
    "claims": ("verdict", "claim", "difference", "low", "high"),
    "published": ("stage", "metric", "published", "ours", "verdict", "dataset", "protocol"),
}


class Panel(TypedDict, total=False):
    """A panel of a section; which keys it has follows from its kind."""

    kind: Required[str]  # text, table, logged table, bars, lines, pictures, scatter or parallel
    text: str
    columns: list[str]  # of a table
    rows: list[list[Any]]
    key: str  # of a logged table
    metric: str
    stage: str  # of lines
    names: list[str]  # of pictures
    x: str  # of a scatter plot: a key of the configuration
    keys: list[str]  # of parallel coordinates: such keys


class Section(TypedDict):
    """Panels under one heading."""

    name: str
    panels: list[Panel]


class Dashboard(TypedDict):
    """What a workspace and a report show: where they go, which runs they take, and their sections."""

    project: str
    entity: str | None
    name: str
    title: str
    about: str
    runs: dict[str, str]  # key of the runs' configuration -> its value
    most_runs: int
    sections: list[Section]


def describe(plan_: Plan, entry: display.Entry, pictures: Sequence[str]) -> Dashboard:
    """What the dashboard shows, as plain data: where it goes, which runs it takes, and sections of panels.

    Args:
        plan_: of any seed; its configuration names the project, the claims and what can be swept.
        entry: a results entry; where nothing ran, the numbers in it are missing and the panels stay.
        pictures: names of the pictures that stages drew.
    """
    logger = plan_.config["logger"]
    metrics = list(dict.fromkeys([*sorted(entry.judged_metrics), *(item.metric for item in entry.published)]))
    shown = {name: _pick(table, SHOWN[name]) for name, table in wandb_verdict.verdict_tables(entry).items()}
    compared: list[Panel] = [shown["published"], {"kind": "logged table", "key": "published"}]
    compared += [{"kind": "bars", "metric": metric} for metric in metrics]
    if plan_.scale != "full":
        compared.insert(0, {"kind": "text", "text": f"{plan_.scale} is a smaller recipe: not comparable."})

    drawn: Panel = {"kind": "text", "text": "No stage has drawn a picture yet."}
    if pictures:
        drawn = {"kind": "pictures", "names": [f"pictures/{name}" for name in pictures]}

    about = {"finding": wandb_verdict.finding_of(plan_), "scope": entry.scope}
    told: Panel = {"kind": "table", "columns": list(about), "rows": [list(about.values())]}
    return {
        "project": logger["project"],
        "entity": logger["entity"],
        "name": loggers.label(plan_).replace("+", ", "),  # no name of a workspace may hold a mathematical sign
        "title": plan_.config["title"],
        "about": plan_.config.get("about") or "",
        "runs": {"title": loggers.label(plan_)},
        "most_runs": max(10, len(entry.stages) * len(entry.seeds) + 1),
        "sections": [
            {"name": "Claims", "panels": [told, shown["claims"], {"kind": "logged table", "key": "claims"}]},
            {"name": "Published against ours", "panels": compared},
            {"name": "Learning curves by stage", "panels": _curves(plan_, entry)},
            {"name": "Pictures", "panels": [drawn]},
            {"name": "Sweeps", "panels": _sweep(plan_, metrics)},
        ],
    }


def _curves(plan_: Plan, entry: display.Entry) -> list[Panel]:
    """A chart for each stage and each metric it logged by epoch; all its seeds are lines of that chart."""
    logged = {name: list(stage.curves) for name, stage in entry.stages.items() if stage.curves}
    if not logged:
        logged = {name: list(CURVES) for name, stage in plan_.stages.items() if stage.fit}
    if not logged:
        return [{"kind": "text", "text": "No stage is trained."}]
    return [
        {"kind": "lines", "stage": stage, "metric": metric}
        for stage, metrics in logged.items()
        for metric in sorted(metrics, key=lambda name: CURVES.index(name) if name in CURVES else len(CURVES))
    ]


def _pick(table: loggers.Table, wanted: Sequence[str]) -> Panel:
    columns, rows = table
    places = [columns.index(name) for name in wanted]
    return {"kind": "table", "columns": list(wanted), "rows": [[row[place] for place in places] for row in rows]}


def _sweep(plan_: Plan, metrics: Sequence[str]) -> list[Panel]:
    """What a sweep turns on the stage that the first claim is about, against the first metric."""
    judged = list(claims.read(plan_.config).main_stages)
    stage, metric = plan_.stages[[*judged, *plan_.stages][0]], [*metrics, "test/top1"][0]
    own = list(_numbers(stage.module, "stage.module"))
    usual = ["stage.trainer.max_epochs", "stage.data.batch_size"]
    panels: list[Panel] = [{"kind": "parallel", "keys": [*usual, *own][: COLUMNS - 1], "metric": metric}]
    panels += [{"kind": "scatter", "x": key, "metric": metric} for key in own[:SCATTERS]]
    return panels


def _numbers(values: Mapping[str, Any], where: str) -> Iterator[str]:
    """The dotted names of the numbers in a configuration, as W&B's config has them."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{where}.{key}")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{where}.{key}"


def markdown(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table in Markdown; whatever the cells hold is text there, never markup."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(_cell(value) for value in line) + " |" for line in lines) + "\n"


def _cell(value: Any) -> str:
    text = numbers.number(value) if isinstance(value, float) else "" if value is None else str(value)
    for mark in "\\`*_[]|":
        text = text.replace(mark, "\\" + mark)
    return " ".join(html.escape(text, quote=False).split())


def workspace(spec: Dashboard, entity: str) -> Any:
    """The W&B workspace that `describe` describes, not saved. Needs no network."""
    import wandb_workspaces.workspaces as ws
    from wandb_workspaces import expr

    sections = []
    for part in spec["sections"]:
        panels = [_panel(panel, spec["most_runs"]) for panel in _shared(part["panels"])]
        layout = ws.SectionLayoutSettings(columns=2, rows=max(1, (len(panels) + 1) // 2))
        sections.append(ws.Section(name=part["name"], panels=panels, is_open=True, layout_settings=layout))
    return ws.Workspace(
        entity=entity,
        project=spec["project"],
        name=spec["name"],
        sections=sections,
        settings=ws.WorkspaceSettings(max_runs=spec["most_runs"]),
        runset_settings=ws.RunsetSettings(filters=[expr.Config(key) == value for key, value in spec["runs"].items()]),
    )


def _shared(panels: Sequence[Panel]) -> list[Panel]:
    """The panels of a section for a workspace, whose panels all show the same runs: no chart can be one stage's own.

    The charts of one metric become one, its lines coloured by stage.
    """
    charts: list[Panel] = []
    for panel in panels:
        of_all_stages = panel.copy()
        of_all_stages.pop("stage", None)
        if of_all_stages not in charts:
            charts.append(of_all_stages)
    return charts


def report(spec: Dashboard, entity: str) -> Any:
    """The W&B report that `describe` describes, not saved. Needs no network."""
    import wandb_workspaces.reports.v2 as wr
    from wandb_workspaces import expr

    blocks: list[Any] = []
    for part in spec["sections"]:
        blocks.append(wr.H2(part["name"]))
        blocks += [wr.MarkdownBlock(_text(panel)) for panel in part["panels"] if panel["kind"] in ("text", "table")]
        panels = [panel for panel in part["panels"] if panel["kind"] not in ("text", "table")]
        for stage, shown in groupby(panels, key=lambda panel: panel.get("stage")):
            filters = [expr.Config(key) == value for key, value in spec["runs"].items()]
            if stage is not None:
                blocks.append(wr.H3(stage))
                filters.append(expr.Metric("JobType") == stage)
            # No entity and project: the report's own, which need not be looked up.
            runs = wr.Runset(name=stage or spec["name"], filters=filters)
            drawn = [_panel(panel, spec["most_runs"]) for panel in shown]
            blocks.append(wr.PanelGrid(runsets=[runs], panels=drawn, hide_run_sets=True))
    title = f"{spec['name']}: {spec['title']}"[:128]  # no report may have a longer one
    about = spec["about"]
    project = spec["project"]
    return wr.Report(entity=entity, project=project, title=title, description=about, width="fluid", blocks=blocks)


def _text(panel: Panel) -> str:
    return panel["text"] if panel["kind"] == "text" else markdown(panel["columns"], panel["rows"])


def _panel(panel: Panel, most_runs: int) -> Any:
    """W&B's object for a panel; `most_runs` because W&B draws ten lines unless told otherwise."""
    import wandb_workspaces.reports.v2 as wr

    kind, whole = panel["kind"], wr.Layout(w=24, h=10)
    # Groups are made by each panel: a grouped list of runs would group the sweep's points too.
    by_stage: Arguments = {"groupby": wr.Metric("JobType"), "groupby_aggfunc": "mean"}
    if kind in ("text", "table"):
        return wr.MarkdownPanel(markdown=_text(panel), layout=whole)
    if kind == "logged table":
        return wr.WeavePanelSummaryTable(table_name=panel["key"], layout=whole)
    if kind == "bars":
        return wr.BarPlot(title=panel["metric"], metrics=[panel["metric"]], groupby_rangefunc="minmax", **by_stage)
    if kind == "lines":
        chart: Arguments = {"title": panel["metric"], "x": "epoch", "y": [panel["metric"]], "title_x": "epoch"}
        chart["max_runs_to_show"] = most_runs
        if panel.get("stage") is not None:  # its runs are one stage's: a line for each seed
            return wr.LinePlot(**chart, legend_template="seed ${config:seed}")
        return wr.LinePlot(**chart, groupby_rangefunc="samples", **by_stage)  # a line for each seed, and their mean
    if kind == "pictures":
        return wr.MediaBrowser(title="pictures", media_keys=panel["names"], num_columns=2, layout=whole)
    values = wr.SummaryMetric(panel["metric"])
    if kind == "scatter":
        return wr.ScatterPlot(title=panel["x"].split(".", 1)[1], x=wr.Config(panel["x"]), y=values)
    assert kind == "parallel", kind
    axes = [wr.ParallelCoordinatesPlotColumn(metric=wr.Config(key)) for key in panel["keys"]]
    return wr.ParallelCoordinatesPlot(columns=[*axes, wr.ParallelCoordinatesPlotColumn(metric=values)], layout=whole)


def publish(spec: Dashboard, addresses: Mapping[str, str]) -> dict[str, str]:
    """Save workspace and report, over those at `addresses` where they still exist; returns where they are.

    Raises RunError when W&B refuses or cannot be reached.
    """
    import wandb
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws

    try:
        entity = spec["entity"] or wandb.Api().default_entity
        if not entity:
            raise RunError("W&B knows no team or user to save this for; name one with logger.entity=...")
        # The report first: saving it creates the project if there is none.
        parts = ("title", "description", "blocks", "width")
        page = _over(wr.Report.from_url, addresses.get("report"), report(spec, entity), parts)
        page.save()
        parts = ("name", "sections", "settings", "runset_settings")
        view = _over(ws.Workspace.from_url, addresses.get("workspace"), workspace(spec, entity), parts)
        view.save()
        # Its own address holds its title, and one with a slash or a question mark could not be read back.
        slug = re.sub(r"\W+", "-", spec["name"])
        return {
            "workspace": view.url,
            "report": f"{view.url.partition('?')[0]}/reports/{slug}--{page.id.rstrip('=')}",
        }
    except Exception as error:
        # W&B's packages raise classes that they do not export; anything from elsewhere is not theirs to explain.
        if type(error).__module__.split(".")[0] not in ("wandb", "wandb_workspaces"):
            raise
        raise RunError(f"W&B: {explain(error)[0]}") from error


def _over(load: Callable[[str], Any], address: str | None, new: Any, parts: Sequence[str]) -> Any:
    """What stands at an address with these parts of a new one; the new one itself if nothing does."""
    if address is None:
        return new
    try:
        old = load(address)
    except (ValueError, TypeError):  # how wandb-workspaces says that there is no such workspace, no such report
        return new
    if (old.entity, old.project) != (new.entity, new.project):
        return new
    for part in parts:
        setattr(old, part, getattr(new, part))
    return old
