"""How often the whole procedure decides wrongly and rightly, simulated: the page docs/decisions.md.

A setting is registered and run from 6 to 32 seeds, looked at after each; a verdict that its authors do not like may be
followed by another registration, at most three; a replication looks at fresh seeds, each with a recipe of its own. The
seeds' noise is normal, skewed, heavy-tailed, or now and then of a network that died; recipes differ by a share of the
seeds' deviation. How large worth is beside that deviation is taken from this suite's own records. A claim may name
rivals, be about several outcomes, have a precondition of each seed, or start seeds again in which a network died: these
rules are simulated too. Imports no torch.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

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
FIRST, MOST, REGISTRATIONS = 6, 32, 3
PAGE = ROOT / "docs" / "decisions.md"
Array = Any  # numpy's arrays of floats or flags
Noise = Callable[[np.random.Generator, tuple[int, int]], Array]


def _dead(chance: np.random.Generator, shape: tuple[int, int]) -> Array:
    """One network in ten fails, in either arm alike: ten deviations, with either sign."""
    values = chance.standard_normal(shape)
    signs = chance.choice([-1.0, 1.0], shape)
    return np.where(chance.random(shape) < 0.1, 10 * signs, values) / np.sqrt(0.9 + 0.1 * 100)


def _skewed(chance: np.random.Generator, shape: tuple[int, int]) -> Array:
    """Skewed to the left: a long tail of bad runs of the method."""
    return 1.0 - chance.exponential(1.0, shape)


def _heavy(chance: np.random.Generator, shape: tuple[int, int]) -> Array:
    """Student's t with 3 degrees of freedom, of deviation 1."""
    return chance.standard_t(3, shape) / np.sqrt(3.0)


NOISES: Mapping[str, Noise] = {
    "normal": lambda chance, shape: chance.standard_normal(shape),
    "one network in ten dead": _dead,
    "skewed to the left": _skewed,
    "heavy tails (t, 3)": _heavy,
}


@dataclass(frozen=True)
class Scenario:
    """What the world is like.

    Attributes:
        noise: of seeds, in units of their deviation.
        recipes: the deviation between recipes, in the same units.
        effect: the true mean over recipes.
        worth: the smallest difference worth the name, in the same units.
    """

    noise: str
    recipes: float
    effect: float
    worth: float


def look(differences: Array, worth: float) -> Array:
    """The verdict of each row after each seed: 1 supported, 0 open, -1 no gain, -2 refuted.

    Args:
        differences: (N, 32), paired, in the order of the seeds.
        worth: in their unit.
    """
    counts = np.arange(1, differences.shape[1] + 1)
    mean = differences.cumsum(1) / counts
    squares = (differences**2).cumsum(1) - counts * mean**2
    deviation = np.sqrt(np.maximum(squares, 0) / np.maximum(counts - 1, 1))
    multiple = np.array([sequences.t_multiple(int(n)) for n in counts])
    half = np.where(np.isfinite(multiple), np.nan_to_num(multiple, posinf=0.0) * deviation / np.sqrt(counts), np.inf)
    low, high = mean - half, mean + half
    return np.select([low > 0, high < 0, high < worth], [1, -2, -1], 0)


def first_decided(looks: Array) -> Array:
    """What each row ends in when it is looked at after 6 to 32 seeds and stops once it is not 0; 0 where it never is.

    Args:
        looks: (N, 32), what is found after each seed.
    """
    looks = looks.copy()
    looks[:, : FIRST - 1] = 0
    return looks[np.arange(len(looks)), (looks != 0).argmax(1)]


def decide(differences: Array, worth: float) -> Array:
    """The verdict in which each row ends: +1 supported, -1 no gain or refuted, 0 open."""
    return np.sign(first_decided(look(differences, worth)))


def join_rivals(looks: Sequence[Array]) -> Array:
    """Of a baseline and its rivals: 1 supported, 2 effect only, 0 open, -1 no gain, -2 refuted."""
    baseline, rivals = looks[0], np.stack(list(looks[1:]))
    beaten = (baseline == 1) & (rivals == 1).all(0)
    effect = (baseline == 1) & (rivals < 0).any(0)
    return np.select([beaten, baseline < 0, effect], [1, baseline, 2], 0)


def join_outcomes(looks: Sequence[Array]) -> Array:
    """Of several outcomes: 1 supported, 0 open, -1 no gain, -2 refuted."""
    each = np.stack(list(looks))
    return np.select([(each == -2).any(0), (each == 0).any(0), (each == -1).any(0)], [-2, 0, -1], 1)


def paired(chance: np.random.Generator, noise: str, effects: Sequence[float], runs: int) -> list[Array]:
    """Differences of one arm from several others, (N, 32) each of deviation 1, which share that arm's noise.

    The others' noise is added and not subtracted, so that skewed noise leaves skewed differences: the harder case.
    """
    own = NOISES[noise](chance, (runs, MOST))
    return [effect + (own + NOISES[noise](chance, (runs, MOST))) / np.sqrt(2.0) for effect in effects]


Join = Callable[[Sequence[Array]], Array]


def end_in(
    join: Join, noise: str, effects: Sequence[float], worth: float, runs: int, seed: int = 0
) -> dict[int, float]:
    """Shares of runs by what they end in, of comparisons with these true effects."""
    columns = paired(np.random.default_rng(seed), noise, effects, runs)
    ends = first_decided(join([look(column, worth) for column in columns]))
    return {end: float(np.mean(ends == end)) for end in (1, 2, 0, -1, -2)}


def called_absent(there: float, share: float, runs: int, seed: int = 0) -> list[float]:
    """Chance that a precondition asked of each seed has failed at any look up to 6, 12 and 32 seeds.

    Args:
        there: the true share of seeds in which it holds.
        share: the registered one.
    """
    held = (np.random.default_rng(seed).random((runs, MOST)) < there).cumsum(1)
    most = [_most_that_fail(count, share) for count in range(1, MOST + 1)]
    failed = held <= np.array(most)
    failed[:, : FIRST - 1] = False
    return [float(failed[:, :count].any(1).mean()) for count in (FIRST, 12, MOST)]


def _most_that_fail(count: int, share: float) -> int:
    """The largest number of seeds that hold with which the interval lies below the share; -1 where none does."""
    below = [k for k in range(count) if sequences.share([1.0] * k + [0.0] * (count - k)).high < share]
    return max(below, default=-1)


@dataclass(frozen=True)
class Deaths:
    """How networks die, and what the registered limit of their training metric catches.

    Attributes:
        method, baseline: chance that a network of that arm dies; its outcome falls by ten deviations.
        caught: share of dead networks that the limit catches.
        limit: outcome below which it catches a living network too, in deviations: the worst case, a training metric
            that tells the outcome exactly.
        spread: of the method's living networks, in those of the baseline's.
    """

    method: float = 0.0
    baseline: float = 0.0
    caught: float = 1.0
    limit: float = -np.inf
    spread: float = 1.0


DEATHS: Mapping[str, Deaths] = {
    "one in ten of both arms": Deaths(0.1, 0.1),
    "one in ten of the baseline": Deaths(0, 0.1),
    "one in ten of the method": Deaths(0.1, 0),
    "one in ten of the baseline, half of them caught": Deaths(0, 0.1, caught=0.5),
    "one in two of the baseline": Deaths(0, 0.5),
    "none; the limit is generous": Deaths(limit=-0.9),
    "none; the limit is generous, the method scatters twice as much": Deaths(limit=-0.9, spread=2.0),
}


def restarted(chance: np.random.Generator, noise: str, deaths: Deaths, effect: float, runs: int) -> tuple[Array, Array]:
    """Differences, (N, 32) each, of the first tries and of the last ones, where both arms start again together.

    Args:
        effect: the true difference of living networks; the deviation of its seeds is 1 where both scatter alike.
    """
    first, caught = _tries(chance, noise, deaths, effect, runs)
    last = first
    for _ in range(restarts.MOST):
        again, caught_again = _tries(chance, noise, deaths, effect, runs)
        last = np.where(caught, again, last)
        caught = caught & caught_again
    return first, last


def _tries(chance: np.random.Generator, noise: str, deaths: Deaths, effect: float, runs: int) -> tuple[Array, Array]:
    """One try of each seed: the difference, and whether the limit catches a network."""
    shape = (runs, MOST)
    values, caught = [], np.zeros(shape, dtype=bool)
    for dies, spread in ((deaths.method, deaths.spread), (deaths.baseline, 1.0)):
        dead = chance.random(shape) < dies
        value = spread * NOISES[noise](chance, shape) / np.sqrt(2.0)
        caught |= (dead & (chance.random(shape) < deaths.caught)) | (value < deaths.limit)
        values.append(np.where(dead, value - 10.0, value))
    return effect + values[0] - values[1], caught


def _stream(chance: np.random.Generator, scenario: Scenario, runs: int, own_recipe: bool) -> Array:
    """Differences of one stream of seeds; with one recipe for all of them, or one for each."""
    seeds = NOISES[scenario.noise](chance, (runs, MOST))
    recipes = scenario.recipes * chance.standard_normal((runs, MOST if own_recipe else 1))
    return scenario.effect + seeds + recipes


def simulate(scenario: Scenario, runs: int = 20_000, seed: int = 0) -> dict[str, float]:
    """Shares of runs that end in each way.

    Returns:
        once: supported under one registration. tried: under one of three, until supported. replicated: and again in
        the replication of the last one. against: no gain or refuted under one registration. against again: and in its
        replication too.
    """
    chance = np.random.default_rng(seed)
    first = decide(_stream(chance, scenario, runs, own_recipe=False), scenario.worth)
    tried = first == 1
    for _ in range(REGISTRATIONS - 1):
        tried |= decide(_stream(chance, scenario, runs, own_recipe=False), scenario.worth) == 1
    again = decide(_stream(chance, scenario, runs, own_recipe=True), scenario.worth)
    shares = {"once": first == 1, "tried": tried, "replicated": tried & (again == 1)}
    shares |= {"against": first == -1, "against again": (first == -1) & (again == -1)}
    return {name: float(np.mean(hits)) for name, hits in shares.items()}


def recorded_worth() -> list[float]:
    """Worth over the seeds' deviation, of the main claims that have both, from low to high."""
    ratios = []
    for paper in compose.papers():
        entry = results.entry(paper, "mini")
        main = entry.main_claim() if entry is not None else None
        if main is None or not main.worth or len(main.per_seed) < FIRST:
            continue
        if (deviation := sequences.deviation(main.per_seed)) > 0:
            ratios.append(main.worth / deviation)
    return sorted(ratios)


def page(runs: int) -> str:
    """The page as Markdown."""
    ratios = recorded_worth()
    low, middle, high = (float(np.quantile(ratios, share)) for share in (0.25, 0.5, 0.75))
    lines = [
        "# How often the procedure is wrong",
        "",
        "Simulated by `python -m experiments.benchmarks.decisions`, which writes this page. A setting is registered",
        f"and looked at after each seed from {FIRST} to {MOST}. **Once**: supported under its registration. **Three",
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
    for noise in NOISES:
        for recipes in (0.0, 0.5, 1.0):
            found = simulate(Scenario(noise, recipes, 0.0, middle), runs)
            cells = " | ".join(_wrong(found[key]) for key in ("once", "tried", "replicated"))
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
    for noise in NOISES:
        for worth in (low, middle, high):
            for times in (1, 2):
                found = simulate(Scenario(noise, 0.5, times * worth, worth), runs)
                wrong = " | ".join(_wrong(found[key]) for key in ("against", "against again"))
                cells = f"{_percent(found['once'], found['replicated'])} | {wrong}"
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
    for noise in NOISES:
        for effects, wrong in cases:
            shares = end_in(join_rivals, noise, [worth * effect for effect in effects], worth, runs)
            cells = _percent(shares[1], shares[2], shares[-1] + shares[-2], shares[0])
            lines.append(f"| {noise} | {', '.join(map(str, effects))} | {cells} | {wrong} |")
    return lines


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
    for noise in NOISES:
        for effects, wrong in cases:
            shares = end_in(join_outcomes, noise, [worth * effect for effect in effects], worth, runs)
            cells = _percent(shares[1], shares[-1], shares[-2], shares[0])
            lines.append(f"| {noise} | {', '.join(map(str, effects))} | {cells} | {wrong} |")
    return lines


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
        shares = called_absent(there, 0.9, runs)
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
    for noise in (name for name in NOISES if "dead" not in name):
        for what, deaths in DEATHS.items():
            shares = [
                share
                for times in (0, 1, 2)
                for share in supported_with_deaths(noise, deaths, times * worth, worth, runs)
            ]
            cells = " | ".join([*map(_wrong, shares[:2]), _percent(*shares[2:])])
            lines.append(f"| {noise} | {what} | {cells} |")
    return lines


def supported_with_deaths(
    noise: str, deaths: Deaths, effect: float, worth: float, runs: int, seed: int = 0
) -> tuple[float, float]:
    """Shares of runs that end in supported, by the first tries and by the last."""
    both = restarted(np.random.default_rng(seed), noise, deaths, effect, runs)
    first, last = (float(np.mean(decide(differences, worth) == 1)) for differences in both)
    return first, last


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
