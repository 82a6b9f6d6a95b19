"""Arithmetic over stage metrics, as claims write it. No eval: a grammar of a few lines.

    student/test/top1                       a metric: <stage>/<split>/<name>
    a/test/top1 - b/test/top1               + - * / with a space on either side, numbers, parentheses
    mean(arm_*/test/top1)                   mean, min or max over all stages that fit, or over several arguments
    student/train/disc < 0.69               a comparison (of `requires` and `checks`): < <= > >=

Imports no torch.
"""

from __future__ import annotations

import fnmatch
import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from experiments.common.errors import InputError, unknown

TOKEN = re.compile(
    r"\s*(?:([A-Za-z_][\w*?]*/[a-z]+/[\w.@+-]*[\w@+])|([A-Za-z]+(?=\())|(\d[\d.eE+-]*|\.\d+)|([-+*/(),]))"
)
COMPARISON = re.compile(r"\s(<=|>=|<|>)\s")
COMPARE: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
FUNCTIONS: dict[str, Callable[[Sequence[float]], float]] = {
    "mean": lambda values: math.fsum(values) / len(values),
    "min": min,
    "max": max,
}
LONGEST = 2_000  # letters of an expression
MOST_WORDS = 300  # names, numbers and signs of one
DEEPEST = 40  # parentheses inside each other
Table = Mapping[str, Mapping[str, Mapping[int, float]]]  # stage -> metric -> seed -> value


@dataclass(frozen=True)
class Metric:
    """`<stage>/<split>/<name>`; a stage with * or ? stands for every stage that fits."""

    stage: str
    name: str  # <split>/<metric>

    def __str__(self) -> str:
        return f"{self.stage}/{self.name}"


@dataclass(frozen=True)
class Call:
    """An operation or function and its arguments."""

    name: str
    arguments: tuple[Expression, ...]


Expression = Metric | Call | float


def parse(text: str | float, where: str) -> Expression:
    """Raises InputError naming `where` and what cannot be read."""
    if isinstance(text, int | float) and not isinstance(text, bool):
        return _finite(text, where)
    if not isinstance(text, str):
        raise InputError(f"{where}: {text!r}: expected a number or arithmetic over <stage>/<split>/<metric>")
    if len(text) > LONGEST:
        raise InputError(f"{where}: {text[:60]!r}...: {len(text)} letters; expected at most {LONGEST}")
    tokens: list[tuple[str, str]] = []
    position = 0
    while position < len(text.rstrip()):
        match = TOKEN.match(text, position)
        if match is None:
            raise InputError(f"{where}: cannot read {text[position:].strip()!r}; expected <stage>/<split>/<metric>")
        kind = next(
            k for k, value in zip(("metric", "function", "number", "sign"), match.groups(), strict=True) if value
        )
        tokens.append((kind, match[0].strip()))
        position = match.end()
    if len(tokens) > MOST_WORDS:
        raise InputError(f"{where}: {text[:60]!r}...: {len(tokens)} names and signs; expected at most {MOST_WORDS}")
    reader = _Reader(tokens, where, text)
    expression = reader.sum()
    if reader.tokens:
        raise InputError(f"{where}: {text!r}: {reader.tokens[0][1]!r} is not expected there")
    return expression


def _finite(number: str | float, where: str) -> float:
    """Raises InputError for what is no number or none that a float can hold."""
    try:
        value = float(number)
    except (ValueError, OverflowError):
        value = math.nan
    if not math.isfinite(value):
        raise InputError(f"{where}: {str(number)[:60]!r} is no finite number")
    return value


class _Reader:
    def __init__(self, tokens: list[tuple[str, str]], where: str, text: str) -> None:
        self.tokens, self.where, self.text = tokens, where, text
        self.depth = 0

    def _next_is(self, *signs: str) -> bool:
        return bool(self.tokens) and self.tokens[0][0] == "sign" and self.tokens[0][1] in signs

    def _take(self) -> tuple[str, str]:
        if not self.tokens:
            raise InputError(f"{self.where}: {self.text!r} ends too early")
        return self.tokens.pop(0)

    def _expect(self, sign: str) -> None:
        kind, word = self._take()
        if (kind, word) != ("sign", sign):
            raise InputError(f"{self.where}: {self.text!r}: expected {sign!r} instead of {word!r}")

    def sum(self) -> Expression:
        return self._chain(("+", "-"), self.product)

    def product(self) -> Expression:
        return self._chain(("*", "/"), self.atom)

    def _chain(self, signs: Sequence[str], operand: Callable[[], Expression]) -> Expression:
        """Operands with signs of one rank between them, from left to right."""
        left = operand()
        while self._next_is(*signs):
            sign = self._take()[1]
            left = Call(sign, (left, operand()))
        return left

    def atom(self) -> Expression:
        self.depth += 1
        if self.depth > DEEPEST:
            raise InputError(f"{self.where}: {self.text[:60]!r}...: nested deeper than {DEEPEST}")
        atom = self._atom()
        self.depth -= 1
        return atom

    def _atom(self) -> Expression:
        kind, word = self._take()
        if kind == "number":
            return _finite(word, self.where)
        if kind == "metric":
            stage, _, name = word.partition("/")
            return Metric(stage, name)
        if kind == "function":
            return self.call(word)
        if word == "-":
            return Call("-", (0.0, self.atom()))
        if word == "(":
            inside = self.sum()
            self._expect(")")
            return inside
        raise InputError(f"{self.where}: {self.text!r}: {word!r} is not expected there")

    def call(self, name: str) -> Call:
        if name not in FUNCTIONS:
            raise unknown(f"{self.where}: function", name, FUNCTIONS)
        self._expect("(")
        arguments = [self.sum()]
        while self._next_is(","):
            self._take()
            arguments.append(self.sum())
        self._expect(")")
        return Call(name, tuple(arguments))


def comparison(text: str, where: str) -> tuple[Expression, str, Expression]:
    """`left < right`. Raises InputError unless there is exactly one comparison."""
    parts = COMPARISON.split(text) if isinstance(text, str) else []
    if len(parts) != 3:
        raise InputError(f"{where}: {text!r}: expected one comparison, as in student/train/disc < 0.69")
    return parse(parts[0], where), parts[1], parse(parts[2], where)


def metrics(expression: Expression) -> list[Metric]:
    """Every metric in an expression, patterns as they are."""
    if isinstance(expression, Metric):
        return [expression]
    if isinstance(expression, Call):
        return [metric for argument in expression.arguments for metric in metrics(argument)]
    return []


def fitting(metric: Metric, stages: Iterable[str]) -> list[str]:
    """The stages a metric names; several where its stage is a pattern."""
    return fnmatch.filter(list(stages), metric.stage)


def check(expression: Expression, stages: Iterable[str], where: str, elsewhere: Iterable[str] = ()) -> list[str]:
    """The stages an expression needs; of stages that are only `elsewhere` in the paper, where none here fits.

    Raises InputError for a stage that does not exist and for a pattern outside a function.
    """
    stages = list(dict.fromkeys(stages))

    def walk(part: Expression, in_function: bool) -> list[str]:
        if isinstance(part, Metric):
            named = fitting(part, stages) or fitting(part, dict.fromkeys(elsewhere))
            if not named:
                raise unknown(f"{where}: stage", part.stage, stages)
            if named != [part.stage] and not in_function:
                raise InputError(f"{where}: {part}: a pattern stands in mean(), min() or max() alone")
            return named
        if isinstance(part, Call):
            return [stage for a in part.arguments for stage in walk(a, part.name in FUNCTIONS)]
        return []

    return list(dict.fromkeys(walk(expression, False)))


def over_images(expression: Expression, arrays: Callable[[Metric], Any]) -> Any:
    """An expression's value for each image, or its number. Raises Missing what `arrays` raises."""
    if isinstance(expression, Metric):
        return arrays(expression)
    if isinstance(expression, Call):
        if expression.name in FUNCTIONS:
            raise Missing(f"{expression.name}() has no meaning for single images")
        left, right = (over_images(argument, arrays) for argument in expression.arguments)
        operations = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}
        return operations[expression.name](left, right)
    return expression


class Missing(Exception):
    """A value that an expression needs is not there; says which."""


def evaluate(expression: Expression, table: Table, seed: int) -> float:
    """The value for one seed. Raises Missing if a stage, a metric or a finite value lacks."""

    def value(metric: Metric, stage: str) -> float:
        if not table.get(stage):
            raise Missing(f"{stage} did not finish")
        if metric.name not in table[stage]:
            raise Missing(f"{stage} reports no {metric.name}; it reports {', '.join(table[stage])}")
        if seed not in table[stage][metric.name]:
            raise Missing(f"{stage} did not finish for seed {seed}")
        number = table[stage][metric.name][seed]
        if not math.isfinite(number):
            raise Missing(f"{stage}/{metric.name} is {number} for seed {seed}")
        return number

    def walk(part: Expression) -> list[float]:
        if isinstance(part, Metric):
            named = fitting(part, table)
            if not any(table[stage] for stage in named):
                raise Missing(f"{part.stage} did not finish")
            return [value(part, stage) for stage in named]
        if isinstance(part, Call):
            values = [number for argument in part.arguments for number in walk(argument)]
            return [_apply(part.name, values)]
        return [part]

    (number,) = walk(expression)
    return number


def _apply(name: str, values: Sequence[float]) -> float:
    if name in FUNCTIONS:
        return float(FUNCTIONS[name](values))
    left, right = values
    if name == "/":
        if right == 0:
            raise Missing("a division by 0")
        return left / right
    return {"+": operator.add, "-": operator.sub, "*": operator.mul}[name](left, right)
