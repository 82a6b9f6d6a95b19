"""The whole decision procedure on made-up differences whose truth is known. Imports no torch.

A setting is registered and run from 6 to 32 seeds, looked at after each; a verdict that its authors do not like may be
followed by another registration, at most three; a replication looks at fresh seeds, each with a recipe of its own. The
seeds' noise is normal, skewed, heavy-tailed, or now and then of a network that died; recipes differ by a share of the
seeds' deviation. A claim may name rivals, be about several outcomes, have a precondition of each seed, or start seeds
again in which a network died.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments.evidence import restarts, sequences

FIRST, MOST, REGISTRATIONS = 6, 32, 3
Array = Any  # numpy's arrays of floats or flags
Noise = Callable[[np.random.Generator, tuple[int, int]], Array]
Join = Callable[[Sequence[Array]], Array]


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
    most = [most_that_fail(count, share) for count in range(1, MOST + 1)]
    failed = held <= np.array(most)
    failed[:, : FIRST - 1] = False
    return [float(failed[:, :count].any(1).mean()) for count in (FIRST, 12, MOST)]


def most_that_fail(count: int, share: float) -> int:
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


def supported_with_deaths(
    noise: str, deaths: Deaths, effect: float, worth: float, runs: int, seed: int = 0
) -> tuple[float, float]:
    """Shares of runs that end in supported, by the first tries and by the last."""
    both = restarted(np.random.default_rng(seed), noise, deaths, effect, runs)
    first, last = (float(np.mean(decide(differences, worth) == 1)) for differences in both)
    return first, last


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
