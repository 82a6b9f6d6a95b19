"""`make full-scale`: docs/full/, a page for each paper: what its published recipe needs, and what it is judged by.

What is needed is asked of the datamodules and networks of the full recipe (see experiments.running.needs), so that the
page says what a dry run says, for any machine. Imports torch, where a datamodule's file does.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.commands import cli
from experiments.common import files
from experiments.common.paths import ROOT
from experiments.common.plain import Plain
from experiments.config import claims, compose
from experiments.evidence import naming, operations
from experiments.pages import console, needed
from experiments.running import needs
from experiments.running.plan import Plan, plan

if TYPE_CHECKING:
    from datamodules.common.needs import Need

HELP = """\
Write docs/full/: what each paper's published recipe needs, and the numbers that it is judged by. Trains nothing.

  python -m experiments.commands.full_scale              all papers, and the list of them
  python -m experiments.commands.full_scale meal_v2      one page

"""
FOLDER = ROOT / "docs" / "full"
DATA = "data"  # stands for the folder that data_dir names
NOTHING = "Everything that it needs comes with the install or is generated."
FIRST = "made by `make full-scale` from the paper's files"


def main(argv: list[str]) -> int:
    papers = cli.papers_named(argv) or list(compose.papers())
    for paper in papers:
        path = FOLDER / f"{paper}.md"
        files.write_text(path, page(paper))
        console.say(str(path.relative_to(ROOT)))
    if not argv:
        files.write_text(FOLDER / "index.md", listing())
    return 0


def listing() -> str:
    """The list of pages."""
    lines = [f"- [{_title(key)}]({key}.md) `{key}`" for key in compose.papers()]
    head = f"# Full scale, paper by paper\n\nWhat each published recipe needs; {FIRST}."
    return "\n".join([head, "", *lines, ""])


def _title(key: str) -> str:
    return _inline(compose.paper_file(key).get("title") or key)


def page(key: str) -> str:
    """What a paper's full recipe and its full variants need, as Markdown; the same on every machine."""
    declared = compose.paper_file(key)
    variants = [name for name, item in (declared.get("variants") or {}).items() if item.get("scale") == "full"]
    source = f"https://arxiv.org/abs/{declared['arxiv']}" if declared.get("arxiv") else ""
    title = f"[{_title(key)}]({source})" if source else _title(key)
    published = _composed(key, None)
    needed_first = _needs(published)
    stages_first = _stages(published)
    parts = [
        f"# {_title(key)}: full scale",
        f"The published recipe of {title}; {FIRST}. `{DATA}/` stands for the folder that `data_dir=` names. A run "
        "fetches what says so, and checks it where its source publishes a checksum.",
        _commands(key, None),
        "## What it needs",
        _table(needed_first) if needed_first else NOTHING,
        "## What it trains",
        stages_first,
        *_time(key, None),
        *_published(declared),
    ]
    if variants:
        parts.append("## Variants at full scale")
    for name in variants:
        this = _composed(key, name)
        parts += [f"### {name}: {_inline(str(declared['variants'][name]['about']))}", _commands(key, name)]
        more = [need for need in _needs(this) if need not in needed_first]
        if more:
            parts += ["Besides what stands above, or in place of it:", _table(more)]
        if (stages := _stages(this)) != stages_first:
            parts.append(stages)
        parts += _time(key, name)
    return "\n\n".join(parts) + "\n"


def _composed(key: str, variant: str | None) -> Plan:
    words = [f"paper={key}", "scale=full", f"data_dir={DATA}", *([f"variant={variant}"] if variant else [])]
    return plan(compose.compose(compose.request(words).overrides), 0)


def _needs(this: Plan) -> list[Need]:
    return list(dict.fromkeys(needs.of_stages(this.stages.values())))


def _commands(key: str, variant: str | None) -> str:
    """The dry run, which says what is there and how many hours it is, and the run."""
    line = f"$ make reproduce PAPER={key} SCALE=full" + (f" VARIANT={variant}" if variant else "")
    return f'```console\n{line} DRY=1\n{line} ARGS="data_dir=/data"\n```'


def _table(asked: Sequence[Need]) -> str:
    lines = ["| what | how much | where it lies | part | where to get it |", "|---|---|---|---|---|"]
    for need in asked:
        checked = f" ({need.checksum})" if need.checksum else ""
        source = f"{'fetched by the run: ' if need.fetch is not None else ''}{need.source}{checked}"
        place = f"`{_place(need.files)}`" if need.files else ""
        cells = (need.name, _how_much(need), place, need.split, source)
        lines.append(f"| {' | '.join(_inline(cell) for cell in cells)} |")
    return "\n".join(dict.fromkeys(lines))


def _how_much(need: Need) -> str:
    """Images by part, or the size that its source names; never what happens to lie on this machine."""
    if need.count:
        return needed.how_much(need)
    return f"{need.size / needed.MIB:,.0f} MiB" if need.size else ""


def _place(path: str) -> str:
    """Without this machine's own folders."""
    if Path(path).name == "hub":
        return "Hugging Face's cache"
    for folder, shown in ((ROOT, ""), (Path.home(), "~/")):
        if path.startswith(f"{folder}/"):
            return shown + path.removeprefix(f"{folder}/")
    return path


def _stages(this: Plan) -> str:
    """The stages in the order they run: how long each is trained, on which batches."""
    lines = ["| stage | trained for | global batch | needs |", "|---|---|---|---|"]
    for stage in this.stages.values():
        trained = "only tested"
        if stage.fit:
            steps, epochs = stage.trainer.get("max_steps"), stage.trainer.get("max_epochs")
            trained = f"{steps:,} steps" if steps else f"{epochs:,} epochs" if epochs else "as its module says"
        batch = stage.data.get("batch_size")
        before = ", ".join(stage.predecessors)
        lines.append(f"| {stage.name} | {trained} | {batch if batch else ''} | {before} |")
    return "\n".join(lines)


def _time(key: str, variant: str | None) -> list[str]:
    """What one seed takes on a GPU, as far as a dry run of the setting told."""
    told = operations.in_words(key, naming.title("full", variant))
    return [f"One seed's training: {told}. The dry run measures hours on your machine."] if told else []


def _published(declared: Plain) -> Iterator[str]:
    """The numbers that the paper reports and a full run is compared with."""
    variants = [None, *(declared.get("variants") or {})]
    rows = [row for name in variants for row in claims.published({**declared, "scale": "full", "variant": name})]
    rows = [row for number, row in enumerate(rows) if row not in rows[:number]]
    if not rows:
        return
    lines = ["| stage | metric | published | data and protocol | source |", "|---|---|---|---|---|"]
    for row in rows:
        setting = f"{row.dataset}; {row.protocol}" + (f" (variant {row.variant})" if row.variant else "")
        cells = (row.stage, row.metric, f"{row.value:g} ± {row.tolerance:g}", setting, row.source)
        lines.append(f"| {' | '.join(_inline(str(cell)) for cell in cells)} |")
    yield "## What it is judged by"
    yield (
        "A full run's number is **matched** where its 90% interval lies within the tolerance around the published one, "
        "**failed** where it lies outside."
    )
    yield "\n".join(lines)


def _inline(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    sys.exit(cli.main(main, HELP, exits="0, or 2 on wrong input"))
