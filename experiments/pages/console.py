"""What a terminal shows of an entry: its answer, then its numbers and verdicts.

Whatever is printed is text: names in brackets stay as they are, and no character of a name acts on the terminal (see
experiments.common.text). What has a style is a Text.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from experiments.common.text import visible
from experiments.evidence import counts, words
from experiments.pages import display, numbers
from experiments.pages.numbers import number, signed
from experiments.running import cost


class Terminal(Console):
    """A console in which text is only read; what moves the cursor comes from its own bars and tables alone."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=visible(segment.text))


out = Terminal(highlight=False, markup=False)
if not out.is_terminal:
    out = Terminal(highlight=False, markup=False, width=140)  # into a file or a pipe nothing needs to fit a window
STYLES = {
    words.SUPPORTED: "green",
    words.HOLDS: "green",
    words.MATCHED: "green",
    words.REFUTED: "red",
    words.FAILS: "red",
    words.FAILED: "red",
    words.NO_GAIN: "blue",
    words.EFFECT_ONLY: "cyan",
    words.UNDECIDED: "yellow",
    words.UNTESTED: "magenta",
    words.NOT_RUN: "dim",
}
COLUMNS = 8  # of metrics, those that claims are about first; a terminal has no room for more


def say(*lines: str | Text) -> None:
    """Print lines that a window may break as it likes, so that they can be copied whole."""
    for line in lines:
        out.print(line, soft_wrap=True)


def word(verdict: str, style: str = "") -> Text:
    """A verdict in its colour."""
    return Text(verdict, style=f"{style} {STYLES.get(verdict, 'dim')}".strip())


def table(title: str, columns: Sequence[str], right: Sequence[str] = ()) -> Table:
    """An empty table; columns in `right` hold numbers."""
    empty = Table(title=title, title_justify="left")
    for column in columns:
        empty.add_column(column, justify="right" if column in right else "left")
    return empty


def main_line(entry: display.Entry, title: str) -> Text:
    """The answer, first: the main claim, its verdict, how sure, from how many seeds."""
    claim = entry.main
    if claim is None:
        return Text.assemble((title, "bold"), ": no main claim in this setting")
    why = f" ({claim.reason})" if claim.reason else ""
    stopped = f"; stopped: {entry.stopped}" if entry.stopped else ""
    how_sure = f"\n  {claim.span}, {numbers.count(len(claim.seeds), 'seed')}{stopped}"
    about = f"\n  {entry.scope}" if entry.scope else ""
    published = f"\n  published: {claim.paper_says}" if claim.published else ""
    rows: list[str | Text] = [
        part for row in claim.rows for part in (f"\n  {row.name}: ", word(row.verdict), f", {row.span}")
    ]
    rows += [f"\n  needs {item.text}: {item.verdict}, {item.counted}" for item in claim.requires if item.counted]
    rows += [f"\n  {claim.restarts}"] if claim.restarts else []
    named = (word(claim.verdict, "bold"), f"{why}: ", (claim.name, "bold"))
    return Text.assemble(*named, how_sure, *rows, about, published)


def first_line(entry: display.Entry, began: float, behind: int) -> Text:
    """How the main claim stands once its own stages are done, with so many others behind them."""
    claim = entry.main
    assert claim is not None
    spent = cost.in_words(time.monotonic() - began)
    others = "1 other stage follows" if behind == 1 else f"{behind} other stages follow"
    after = f"main claim after {len(entry.seeds)} seeds, {spent}: "
    return Text.assemble(after, (claim.verdict, "bold"), f", {claim.span}; {others}")


def look_line(entry: display.Entry, began: float, minutes: float) -> str:
    """How far a decision is, between two looks."""
    claim = entry.main
    assert claim is not None
    left = max(0.0, minutes - (time.monotonic() - began) / 60)
    needed = f"about {claim.needed} would decide" if claim.needed else "how many would decide is not in sight"
    if claim.verdict in words.DECIDED:
        needed = "decided alone, not yet beside all other papers"
    return (
        f"look after {len(entry.seeds)} seeds: {claim.span} {claim.verdict}; {needed}; "
        f"{left:.0f} min left for further seeds"
    )


def beside(recorded: display.Entry, entry: display.Entry, differs: str) -> str:
    """What is recorded and what came out now, one under the other, and what of the machine differs."""
    lines = []
    for what, shown in (("recorded:", recorded), ("here:", entry)):
        claim = shown.main
        if claim is not None:
            seeds = f"{len(claim.seeds)} seeds of registration {shown.registered.hash}"
            lines.append(f"{what:<10}{claim.verdict}, {claim.span}, {seeds}")
    if differs:
        lines.append(f"{'differs:':<10}{differs}")
    return "\n".join(lines)


@dataclass(frozen=True)
class Ended:
    """A setting that a command ran: how it stands, and what that took now, by the clock and in CPU time."""

    name: str
    entry: display.Entry
    seconds: float
    cpu_seconds: float


def closing_table(ends: Sequence[Ended]) -> Table:
    """The last thing a command says: each setting's verdict, what it is about, and what it took."""
    rows = table(
        "what came out", ("setting", "verdict", "about", "seeds", "wall", "CPU"), right=("seeds", "wall", "CPU")
    )
    for ended in ends:
        claim = ended.entry.main
        verdict = word(claim.verdict, "bold") if claim is not None else "no main claim"
        spent = cost.in_words(ended.seconds), cost.in_words(ended.cpu_seconds)
        rows.add_row(Text(ended.name), verdict, Text(ended.entry.scope), str(len(ended.entry.seeds)), *spent)
    return rows


def tables(entry: display.Entry, title: str) -> Iterator[Table]:
    """Everything that there is to show, stages first."""
    yield stage_table(entry, title)
    yield claim_table(entry, title)
    if entry.checks:
        yield check_table(entry, title)
    if entry.published:
        yield published_table(entry, title)


def stage_table(entry: display.Entry, title: str) -> Table:
    """Mean and 95% t interval over seeds for every stage and metric of the test."""
    metrics = entry.metrics(first=list(entry.judged_metrics))
    shown, more = metrics[:COLUMNS], metrics[COLUMNS:]
    names = [name.removeprefix("test/") for name in shown]
    about = f"mean ± half of the 95% interval, up to {len(entry.seeds)} seeds"
    rows = Table(title=f"{title}: {about}", title_justify="left")
    rows.add_column("stage")
    for name in [*names, "seconds"]:
        rows.add_column(name, justify="right")
    for stage in entry.stages.values():
        if stage.metrics or (stage.seconds and not stage.failed):
            cells = [_cell(stage.metrics.get(name, ())) for name in shown]
            rows.add_row(stage.name, *cells, f"{sum(stage.seconds):.0f}")
        else:
            why = Text("failed" if stage.failed else "skipped", style="red")
            rows.add_row(stage.name, why, *[""] * len(shown))
    if more:
        rows.caption = f"and on the report page: {', '.join(name.removeprefix('test/') for name in more)}"
    return rows


def _cell(values: Sequence[float | None]) -> str:
    mean, half = numbers.mean_and_half(values, number)
    return f"{mean} ± {half}" if half else mean


def claim_table(entry: display.Entry, title: str) -> Table:
    """A verdict per claim, the main one first, with what it was computed from."""
    rows = Table(title=f"{title}: claims", title_justify="left")
    rows.add_column("verdict")
    rows.add_column("claim", ratio=1)
    rows.add_column("difference", justify="right")
    rows.add_column("95% interval", justify="right", no_wrap=True)
    rows.add_column("seeds", justify="right")
    for claim in sorted(entry.claims, key=lambda claim: not claim.main):
        rows.add_row(*_claim_cells(claim, _named(claim)))
        for row in claim.rows:
            rows.add_row(*_claim_cells(row, Text(f"  {row.name}")))
    return rows


def _claim_cells(claim: display.Claim, name: Text) -> list[str | Text]:
    mean, interval = claim.difference, claim.interval
    return [
        word(claim.verdict),
        name,
        f"{signed(mean)} {claim.unit}" if mean is not None else "",
        f"{signed(interval[0])} to {signed(interval[1])}" if interval else "",
        str(len(claim.seeds)),
    ]


def _named(claim: display.Claim) -> Text:
    """A claim's name, whether it is the main one, and why its verdict is what it is."""
    why = f" ({claim.reason})" if claim.reason else ""
    if claim.main:
        return Text.assemble((claim.name, "bold"), (why, "dim"))
    kind = " (found)" if claim.found else " (exploratory)"
    return Text.assemble(claim.name, (kind + why, "dim"))


def check_table(entry: display.Entry, title: str) -> Table:
    """Checks: what must be so for the run to make sense; no evidence."""
    rows = table(f"{title}: checks", ("", "check", "values"))
    for check in entry.checks:
        values = " against ".join(map(number, check.values)) or check.reason
        rows.add_row(word(check.verdict), check.name, values)
    return rows


def counts_table(rows: Sequence[counts.Row], title: str) -> Table:
    """Printed sizes of networks beside those counted here."""
    shown = table(f"{title}: sizes of networks, printed and counted", ("network", "", "printed", "ours", "verdict", ""))
    for row in rows:
        source = f"{row.source}; {row.note}" if row.note else row.source
        what = row.what.replace("_", "-")
        shown.add_row(row.where, what, row.printed, f"{row.ours:,}", word(row.verdict), source)
    return shown


def published_table(entry: display.Entry, title: str) -> Table:
    """Published numbers beside ours."""
    below = "" if entry.scale == "full" else f" ({entry.scale} is a smaller recipe: not comparable)"
    columns = ("stage", "metric", "published", "ours", "verdict", "protocol")
    rows = table(f"{title}: published beside ours{below}", columns)
    for item in entry.published:
        ours = number(item.ours) if item.ours is not None else ""
        protocol = f"{item.dataset}, {item.protocol}"
        rows.add_row(item.stage, item.metric, number(item.value), ours, word(item.verdict), protocol)
    return rows
