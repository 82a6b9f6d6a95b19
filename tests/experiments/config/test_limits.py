"""Files that stand for more than a machine holds, and expressions: refused in one line before anything is made."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.common.errors import InputError
from experiments.config import expressions, limits, recipes
from experiments.evidence import registrations

LAUGHS = "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12))
MERGED = "a0: &a0 {x: 1}\n" + "".join(f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}]}}\n" for i in range(1, 40))
ATTACKS = {
    "ten to the power of eleven": (LAUGHS, "line 6: more than 200000 values, what repeats written out"),
    "doubled forty times by merging": (MERGED, "more than 200000 values"),
    "a list that holds itself": ("a: &a [1, *a]\n", r"line 1: \*a stands inside &a: it would hold itself"),
    "brackets within brackets": ("a: " + "[" * 20_000, "nested 65 deep|maximum nesting depth"),
    "lists within lists": ("- " * 200 + "a\n", "nested 65 deep"),
    "a number of 6,000 digits": ("a: " + "9" * 6_000 + "\n", "no YAML: Exceeds the limit"),
    "a day that does not exist": ("a: 2026-99-99\n", "no YAML: "),
    "NUL": ('a: "b\\0c"\n', r"'b\\x00c': expected no control character, got U\+0000"),
    "an escape sequence": ('"\\e[2J": b\n', r"got U\+001B"),
    "a turned reading direction": ("a: b\u202ec\n", r"got U\+202E"),
    "too many bytes": ("# " + "x" * 2**20 + "\n", "1048579 bytes; expected at most 1048576"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_file_that_stands_for_too_much_is_refused_by_its_name(attack: str, tmp_path: Path) -> None:
    text, told = ATTACKS[attack]
    path = tmp_path / "a.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=told) as raised:
        limits.read(path, "conf/a.yaml")
    assert str(raised.value).startswith("conf/a.yaml: ")
    assert len(str(raised.value).splitlines()) == 1
    assert limits.ACTING.search(str(raised.value)) is None


def test_what_repeats_counts_with_all_that_it_stands_for() -> None:
    """1 mapping, 3 keys, [x, y] as 3 nodes three times: 13; a scalar's name counts 1."""
    nodes = limits._Nodes("a")
    for event in limits.yaml.parse("a: &a [x, y]\nb: *a\nc: *a\n", limits.PARSER):
        nodes.take(event)
    assert nodes.count == 13
    limits.check("a: &a x\nb: [*a, *a]\nc: *missing\n", "a")  # an unknown name is told where it is read


def test_a_registration_that_is_a_bomb_is_refused_too(tmp_path: Path) -> None:
    path = tmp_path / "mini-abc.yaml"
    path.write_text(LAUGHS)
    with pytest.raises(InputError, match="what repeats written out"):
        registrations.read(path)


def test_lists_of_arms_have_a_limit_before_any_is_made() -> None:
    arm = {"each": {name: list(range(20)) for name in "abcdef"}}  # 64 million
    with pytest.raises(InputError, match=r"k\.yaml: arm_.*\.each: 8000 combinations up to 'c'; expected at most 1000"):
        recipes.expand({"stages": {"arm_{a}{b}{c}{d}{e}{f}": arm}}, "k.yaml")
    expanded = recipes.expand({"stages": {"arm_{a}_{b}": {"each": {"a": list(range(20)), "b": list(range(50))}}}}, "k")
    assert len(expanded["stages"]) == 1000


@pytest.mark.parametrize("kind", ["stages", "variants"])
def test_a_long_chain_of_likes_is_refused(kind: str) -> None:
    chain = {f"s{i}": {"like": f"s{i + 1}"} for i in range(5_000)} | {"s5000": {"overrides": []}}
    with pytest.raises(InputError, match="is like another one over 50 others"):
        recipes.expand({kind: chain}, "k.yaml")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("(" * 20_000 + "1" + ")" * 20_000, "40001 letters; expected at most 2000"),
        ("(" * 100 + "1" + ")" * 100, "nested deeper than 40"),
        ("-" * 100 + "1", "nested deeper than 40|cannot read"),
        ("min(" * 60 + "1" + ")" * 60, "nested deeper than 40"),
        (" + ".join(["1"] * 400), "799 names and signs; expected at most 300"),
        ("9" * 400, "is no finite number"),
        (float("inf"), "'inf' is no finite number"),
        (10**400, "is no finite number"),
    ],
)
def test_an_expression_has_limits(text: str | float, told: str) -> None:
    with pytest.raises(InputError, match=told):
        expressions.parse(text, "claims.0")


def test_what_is_within_the_limits_is_read_as_before() -> None:
    deep = expressions.parse("(" * 39 + "a/test/x" + ")" * 39, "c")
    assert deep == expressions.Metric("a", "test/x")
    long = expressions.parse(" + ".join(["1"] * 150), "c")
    assert expressions.evaluate(long, {}, 0) == 150.0
    assert expressions.metrics(long) == []
