"""How often the whole procedure decides wrongly and rightly, simulated: the page docs/decisions.md.

How large worth is beside the deviation of a seed's difference is taken from this suite's own records. Imports no torch.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np

from experiments.benchmarks import procedure
from experiments.commands import cli
from experiments.common import files
from experiments.common.errors import InputError
from experiments.common.paths import ROOT
from experiments.config import compose
from experiments.evidence import restarts, results, sequences

HELP = """\
Simulate the decision procedure under honest and awkward noise, and write docs/decisions.md. About a minute.

  python -m experiments.benchmarks.decisions
  python -m experiments.benchmarks.decisions runs=2000      fewer, for a quick look

"""
PAGE = ROOT / "docs" / "decisions.md"


def recorded_worth() -> list[float]:
    """Worth over the seeds' deviation, of the main claims that have both, from low to high."""
    ratios = []
    for paper in compose.papers():
        entry = results.entry(paper, "mini")
        main = entry.main_claim() if entry is not None else None
        if main is None or not main.worth or len(main.per_seed) < procedure.FIRST:
            continue
        if (deviation := sequences.deviation(main.per_seed)) > 0:
            ratios.append(main.worth / deviation)
    return sorted(ratios)


def page(runs: int) -> str:
    """The page as Markdown."""
    ratios = recorded_worth()
    low, middle, high = (float(np.quantile(ratios, share)) for share in (0.25, 0.5, 0.75))
    first, most = procedure.FIRST, procedure.MOST
    lines = [
        "# How often the procedure is wrong",
        "",
        "Simulated by `python -m experiments.benchmarks.decisions`, which writes this page. A setting is registered",
        f"and looked at after each seed from {first} to {most}. **Once**: supported under its registration. **Three",
        "tries**: supported under one of three registrations, each made because the one before did not support it.",
        "**Replicated**: and supported again on fresh seeds that each draw a recipe of their own. Recipes differ by",
        f"the given share of the seeds' deviation. In {len(ratios)} records of this suite worth is {low:.1f} to",
        f"{high:.1f} (quartiles; median {middle:.1f}) deviations of a seed's difference. Shares of wrong",
        "decisions above 5% are **bold**.",
        "",
        "## There is no effect: how often is it called supported? (percent; wrong decisions)",
        "",
        "| noise of seeds | recipes differ by | once | three tries | replicated |",
        "|---|---|---|---|---|",
    ]
    for noise in procedure.NOISES:
        for recipes in (0.0, 0.5, 1.0):
            shares = procedure.simulate(procedure.Scenario(noise, recipes, 0.0, middle), runs)
            cells = " | ".join(_wrong(shares[key]) for key in ("once", "tried", "replicated"))
            lines.append(f"| {noise} | {recipes:g} | {cells} |")
    lines += [
        "",
        "## There is an effect: how often is it found? (percent)",
        "",
        "The effect is worth the name, once and twice over; wrong is no gain or refuted, once and in the replication",
        "too.",
        "",
        "| noise of seeds | worth, deviations | effect | once | in three tries, and replicated | wrong | wrong again |",
        "|---|---|---|---|---|---|---|",
    ]
    for noise in procedure.NOISES:
        for worth in (low, middle, high):
            for times in (1, 2):
                shares = procedure.simulate(procedure.Scenario(noise, 0.5, times * worth, worth), runs)
                wrong = " | ".join(_wrong(shares[key]) for key in ("against", "against again"))
                cells = f"{_percent(shares['once'], shares['replicated'])} | {wrong}"
                lines.append(f"| {noise} | {worth:.1f} | {times} x worth | {cells} |")
    lines += _rivals(middle, runs) + _outcomes(middle, runs) + _each(runs)
    lines += _dead_networks(middle, runs)
    lines += [
        "",
        "What this says: seeds of one recipe are no evidence for its neighbours, and tries add up. A replication over",
        "recipes is what brings wrong decisions down, which is why a paper whose recipe was registered more than once",
        "counts as supported with a replication only. `Supported` needs every comparison and every outcome: none of",
        "them makes it wrong more often. What needs one of several, `effect only` of many rivals and `refuted` of",
        "many outcomes, adds their errors up, against the paper's idea and not for it. An effect of exactly worth is",
        "often called no gain where recipes differ: one recipe's mean lies below worth as often as above.",
        "Starting dead seeds again takes out what dead networks decide, and does harm in one case: a generous limit",
        "cuts off the worse runs of an arm that scatters more and calls that arm better. The first tries, which stand",
        "beside, do not; so a limit lies where no living network is.",
        "",
    ]
    return "\n".join(lines)


def _wrong(share: float) -> str:
    """A share of wrong decisions in percent, bold above 5."""
    return f"**{100 * share:.1f}**" if share > 0.05 else f"{100 * share:.1f}"


def _percent(*shares: float) -> str:
    return " | ".join(f"{100 * share:.1f}" for share in shares)


def _rivals(worth: float, runs: int) -> list[str]:
    """Wrong and right decisions where a claim names rivals."""
    lines = [
        "",
        "## Rivals: how often is the joint verdict wrong? (percent)",
        "",
        "Differences from baseline and rivals share the method's noise; the recipe is one. Effects in worths, the",
        "baseline's first. An equal rival (0) makes `supported` wrong; rivals that are all beaten by worth, or a",
        "baseline that is not beaten, make `effect only` wrong.",
        "",
        "| noise of seeds | true effects | supported | effect only | no gain or refuted | open | wrong is |",
        "|---|---|---|---|---|---|---|",
    ]
    cases = (
        ((2, 0), "supported"),
        ((2, 0, 2, 2), "supported"),
        ((2, 0, 0, 0), "supported"),
        ((0, 0), "supported, effect only"),
        ((2, 1), "effect only"),
        ((2, 1, 1, 1), "effect only"),
        ((2, 2, 2, 2), "effect only, no gain or refuted"),
    )
    ends = ((1,), (2,), (-1, -2), (0,))
    return lines + _joint_rows(procedure.join_rivals, cases, ends, worth, runs)


def _outcomes(worth: float, runs: int) -> list[str]:
    """Wrong and right decisions where a claim is about several outcomes."""
    lines = [
        "",
        "## Several outcomes: how often is the joint verdict wrong? (percent)",
        "",
        "Supported is wrong where one outcome has no effect; refuted is wrong where none lies below its margin.",
        "",
        "| noise of seeds | true effects | supported | no gain | refuted | open | wrong is |",
        "|---|---|---|---|---|---|---|",
    ]
    cases = (
        ((2, 0), "supported, refuted"),
        ((2, 2, 0), "supported, refuted"),
        ((0, 0, 0), "supported, refuted"),
        ((1, 1, 1), "no gain, refuted"),
        ((2, -1), "supported"),
    )
    ends = ((1,), (-1,), (-2,), (0,))
    return lines + _joint_rows(procedure.join_outcomes, cases, ends, worth, runs)


def _joint_rows(
    join: procedure.Join,
    cases: Sequence[tuple[tuple[int, ...], str]],
    ends: Sequence[tuple[int, ...]],
    worth: float,
    runs: int,
) -> list[str]:
    """A row for each noise and case.

    Args:
        cases: true effects in worths, and which of the joint verdicts they make wrong.
        ends: what stands in each column: shares of runs that end in any of these, see procedure.end_in.
    """
    rows = []
    for noise in procedure.NOISES:
        for effects, wrong in cases:
            shares = procedure.end_in(join, noise, [worth * effect for effect in effects], worth, runs)
            cells = _percent(*(sum(shares[end] for end in column) for column in ends))
            rows.append(f"| {noise} | {', '.join(map(str, effects))} | {cells} | {wrong} |")
    return rows


def _each(runs: int) -> list[str]:
    """How often a precondition of each seed is called absent."""
    lines = [
        "",
        "## A precondition of each seed, nine in ten registered: how often is it called absent? (percent)",
        "",
        "Wrong where it is there in nine of ten seeds or more: one dead network in ten is what is registered.",
        "",
        "| it is there in | at 6 seeds | up to 12 | up to 32 | |",
        "|---|---|---|---|---|",
    ]
    for there in (0.95, 0.9, 0.8, 0.7, 0.5, 0.2):
        shares = procedure.called_absent(there, 0.9, runs)
        cells = " | ".join(map(_wrong, shares)) if there >= 0.9 else _percent(*shares)
        lines.append(f"| {100 * there:g}% of seeds | {cells} | {'wrong' if there >= 0.9 else 'right'} |")
    return lines


def _dead_networks(worth: float, runs: int) -> list[str]:
    """Wrong and right decisions where a network dies now and then, with and without starting again."""
    lines = [
        "",
        "## Dead networks: what starting again changes (percent supported)",
        "",
        "A network dies now and then: its outcome falls by ten deviations. With `dead:` both arms of such a seed",
        f"start again together, at most {restarts.MOST} times. The effect is that of living networks, in worths; at 0",
        "support is wrong. A generous limit also catches living networks more than 0.9 deviations below their mean, by",
        f"a metric that tells the outcome. {runs:,} runs each.",
        "",
        "| noise of seeds | what dies | 0: without | 0: with | 1: without | 1: with | 2: without | 2: with |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for noise in (name for name in procedure.NOISES if "dead" not in name):
        for what, deaths in procedure.DEATHS.items():
            shares = [
                share
                for times in (0, 1, 2)
                for share in procedure.supported_with_deaths(noise, deaths, times * worth, worth, runs)
            ]
            cells = " | ".join([*map(_wrong, shares[:2]), _percent(*shares[2:])])
            lines.append(f"| {noise} | {what} | {cells} |")
    return lines


def main(argv: list[str]) -> int:
    runs = 20_000
    for word in argv:
        key, _, value = word.partition("=")
        if key != "runs" or not value.isdigit() or int(value) < 100:
            raise InputError(f"{word!r}: expected runs=N, from 100")
        runs = int(value)
    PAGE.parent.mkdir(exist_ok=True)
    files.write_text(PAGE, page(runs))
    print(PAGE.relative_to(ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(cli.main(main, HELP, exits="0, or 2 on wrong input"))
