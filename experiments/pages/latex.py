"""Tables of a record for a paper in LaTeX: tabulars of booktabs, to be read by \\input. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

from experiments.evidence.records import Entry
from experiments.pages import index, numbers, view

SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "−": "$-$",
    "±": r"$\pm$",
    "<": "$<$",
    ">": "$>$",
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
}
HEAD = "% Written by make export FORMAT=latex from {source}; needs \\usepackage{{booktabs}}.\n"


def escape(text: object) -> str:
    """A text as LaTeX sets it; no character acts."""
    return "".join(SPECIAL.get(letter, letter) for letter in str(text))


def tabular(columns: Sequence[str], rows: Sequence[Sequence[str]], align: str) -> str:
    """A booktabs tabular of cells that are LaTeX already."""
    lines = [" & ".join(row) + r" \\" for row in rows]
    head = " & ".join(columns) + r" \\"
    body = "\n".join(lines)
    return f"\\begin{{tabular}}{{{align}}}\n\\toprule\n{head}\n\\midrule\n{body}\n\\bottomrule\n\\end{{tabular}}\n"


def _signed(value: float | None) -> str:
    return "--" if value is None else f"${numbers.signed(value)}$"


def _between(ends: Sequence[float] | None) -> str:
    return "--" if ends is None else f"[{_signed(ends[0])}, {_signed(ends[1])}]"


CLAIM = ("Setting", "Claim", "Verdict", "Difference", r"95\% interval", "Seeds")


def claims(source: str, entries: Mapping[str, Entry]) -> str:
    """A row for each claim of each setting, the main one in bold, with its rivals and outcomes below it."""
    rows = []
    for title, entry in entries.items():
        for item in sorted(entry.claims, key=lambda claim: not claim.main):
            claim = view.claim(item)
            for shown in (claim, *claim.rows):
                name = escape(shown.name)
                if shown is not claim:
                    name = rf"\quad {name}"
                elif claim.main:
                    name = rf"\textbf{{{name}}}"
                difference = "--" if shown.difference is None else f"{_signed(shown.difference)} {escape(shown.unit)}"
                cells = (escape(title), name, escape(shown.verdict), difference, _between(shown.interval))
                rows.append([*cells, str(len(shown.seeds))])
    return HEAD.format(source=source) + tabular(CLAIM, rows, "lp{0.42\\linewidth}lrrr")


def metrics(source: str, entries: Mapping[str, Entry]) -> str:
    """A table for each setting: stages, and for each metric of the test its mean and half of its 95% t interval."""
    return HEAD.format(source=source) + "\n".join(_metrics(entries))


def _metrics(entries: Mapping[str, Entry]) -> Iterator[str]:
    for title, recorded in entries.items():
        entry = view.of(recorded)
        names = entry.metrics()
        digits = {}
        for name in names:
            values = [value for stage in entry.stages.values() for value in stage.metrics.get(name, ())]
            digits[name] = numbers.decimals(values, two_from=10)
        rows = []
        for stage in entry.stages.values():
            if stage.metrics:
                rows.append([escape(stage.name), *(_cell(stage.metrics.get(name, ()), digits[name]) for name in names)])
        columns = ["Stage", *(escape(name.removeprefix("test/")) for name in names)]
        yield f"% {title}: mean and half of the 95% t interval, up to {len(entry.seeds)} seeds\n" + tabular(
            columns, rows, "l" + "r" * len(names)
        )


def _cell(values: Sequence[float | None], digits: int) -> str:
    """Mean and half of the interval; a metric that a stage does not report is a dash."""
    mean, half = numbers.mean_and_half(values, partial(numbers.fixed, digits=digits))
    if not mean:
        return "--"
    shown = mean.replace("−", "-")
    return f"${shown} \\pm {half}$" if half else f"${shown}$"


MAIN = ("Paper", "Setting", "Verdict", "Difference", r"95\% interval", "Seeds", "Replicated")


def main_claims(rows: Sequence[index.Result]) -> str:
    """Every recorded main claim."""
    cells = []
    for row in rows:
        ends = None if row.low is None or row.high is None else (row.low, row.high)
        difference = "--" if row.difference is None else f"{_signed(row.difference)} {escape(row.unit)}"
        verdict = escape(row.verdict) + (" (stale)" if row.stale else "")
        told = (escape(row.key), escape(row.setting), verdict, difference, _between(ends))
        cells.append([*told, str(row.seeds), escape(row.replication)])
    return HEAD.format(source="results/*.json") + tabular(MAIN, cells, "lllrrrl")
