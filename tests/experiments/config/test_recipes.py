"""What files may leave unsaid, written out."""

from __future__ import annotations

from typing import Any

import pytest

from experiments.common.errors import InputError
from experiments.config import compose, recipes


def expand(**raw: Any) -> dict[str, Any]:
    return recipes.expand(raw, "file.yaml", ["teacher", "student"])


def test_one_line_gives_every_stage_its_data_in_front_of_self() -> None:
    expanded = expand(data="digits", defaults=["_self_"], stages={"probe": {}})
    names = ("teacher", "student", "probe")
    assert expanded["defaults"] == [*({f"/data@stages.{n}.data": "digits"} for n in names), "_self_"]
    assert "data" not in expanded


def test_chains_patterns_and_lines_of_its_own() -> None:
    own = {"/data@stages.teacher.data": "cifar10"}
    expanded = expand(data={"*": "digits", "stu*": ["subset", "mnist"]}, defaults=["/recipe/k/mini", own, "_self_"])
    assert expanded["defaults"] == [
        "/recipe/k/mini",
        own,
        {"/data@stages.student.data": "subset"},
        {"/data@stages.student.data.source": "mnist"},
        "_self_",
    ]


def test_like_copies_all_but_about_and_replaces_what_is_another_thing() -> None:
    model = {"_target_": "A", "width": 1, "depth": 2}
    stages = {
        "one": {"about": "first", "needs": {"x": "a"}, "module": model, "trainer": {"max_epochs": 3}},
        "two": {"like": "one", "module": {"width": 5}},
        "three": {"like": "two", "needs": {"y": "b"}, "module": {"_target_": "B", "height": 7}},
    }
    expanded = expand(stages=stages)["stages"]
    assert expanded["two"] == {
        "needs": {"x": "a"},
        "module": {"_target_": "A", "width": 5, "depth": 2},
        "trainer": {"max_epochs": 3},
    }
    assert expanded["three"]["module"] == {"_target_": "B", "height": 7}
    assert expanded["three"]["needs"] == {"y": "b"}


def test_patterns_reach_stages_of_the_paper_and_lose_against_what_is_said() -> None:
    stages = {"*": {"trainer": {"max_epochs": 2, "devices": 1}}, "student": {"trainer": {"max_epochs": 9}}}
    expanded = expand(stages=stages)["stages"]
    assert expanded["teacher"] == {"trainer": {"max_epochs": 2, "devices": 1}}
    assert expanded["student"] == {"trainer": {"max_epochs": 9, "devices": 1}}


def test_arms_that_differ_in_a_number_are_a_list() -> None:
    arms = {
        "svm_{n}_{kind}": {"each": {"n": [1, 2], "kind": ["a"]}, "about": "{n} of {kind}", "data": {"first": "{n}"}}
    }
    expanded = expand(stages=arms)["stages"]
    assert expanded["svm_2_a"] == {"about": "2 of a", "data": {"first": 2}}
    assert len(expanded) == 2


def test_variants_and_published_rows() -> None:
    expanded = expand(
        variants={
            "k{k}": {"each": {"k": [3, 5]}, "about": "kernel {k}", "scale": "full", "overrides": ["a={k}"]},
            "wide": {"like": "k5", "about": "wide", "overrides": ["b=1"]},
        },
        published=[{"values": {"student/test/top1": 80.67, "student/test/top5": 95}, "source": "Table 1"}],
    )
    assert expanded["variants"]["wide"] == {"about": "wide", "scale": "full", "overrides": ["a=5", "b=1"]}
    assert expanded["published"][1] == {"stage": "student", "metric": "test/top5", "value": 95, "source": "Table 1"}


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ({"stages": {"a": {"like": "studnet"}, "student": {}}}, "a.like: stage 'studnet' does not exist; did you mean"),
        ({"stages": {"a": {"like": "b"}, "b": {"like": "a"}}}, "like each other in a circle: a -> b -> a"),
        ({"stages": {"zz*": {}}}, "stages: pattern 'zz*' does not exist"),
        ({"stages": {"a": {"each": {"n": [1]}}}}, "a stage's name holds each as {name}"),
        (
            {"stages": {"{s}": {"each": {"s": ["a", "b"]}, "fit": False}, "b": {"test": False}}},
            "stages.b stands twice, in '{s}' and in 'b'",
        ),
        ({"data": {"zz*": "digits"}}, "data: pattern 'zz*' does not exist"),
        ({"variants": {"a": {"like": "b"}}}, "variants.a.like: variant 'b' does not exist"),
        ({"published": [{"values": {"top1": 1}}]}, "expected <stage>/<split>/<metric>: number"),
    ],
)
def test_what_makes_no_sense_is_named(raw: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=r"^file\.yaml") as caught:
        expand(**raw)
    assert said in str(caught.value)


def test_no_line_of_the_configuration_is_longer_than_a_screen() -> None:
    long = [
        f"{path.relative_to(compose.CONF)}:{number}"
        for path in sorted(compose.CONF.rglob("*.yaml"))
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if len(line) > 140
    ]
    assert not long


@pytest.mark.parametrize("paper", compose.papers())
def test_published_numbers_have_a_source_besides_memory(paper: str) -> None:
    sources = [str(row.get("source")) for row in compose.paper_file(paper).get("published") or []]
    assert not [source for source in sources if "from memory" in source]


GROUPS = {"both": ["teacher", "student"], "rest": {"all_but": ["teacher"]}}


def test_a_group_stands_for_its_stages_wherever_a_pattern_may() -> None:
    stages = {"both": {"trainer": {"max_epochs": 2}}, "rest": {"seed": 3}, "probe": {"trainer": {"max_epochs": 9}}}
    expanded = expand(groups=GROUPS, data={"*": "digits", "rest": "mnist"}, stages=stages)
    assert expanded["stages"]["teacher"] == {"trainer": {"max_epochs": 2}}
    assert expanded["stages"]["student"] == {"trainer": {"max_epochs": 2}, "seed": 3}
    assert expanded["stages"]["probe"] == {"trainer": {"max_epochs": 9}, "seed": 3}
    assert "both" not in expanded["stages"]
    chosen = {key: name for line in expanded["defaults"][:-1] for key, name in line.items()}
    assert chosen["/data@stages.teacher.data"] == "digits"
    assert chosen["/data@stages.probe.data"] == "mnist"


@pytest.mark.parametrize(
    ("groups", "told"),
    [
        ({"both": ["teacher", "studnet"]}, r"groups\.both: stage 'studnet'.*did you mean 'student'"),
        ({"both": {"all_but": ["teachers"]}}, r"groups\.both: stage 'teachers'.*did you mean 'teacher'"),
        ({"student": ["teacher"]}, r"groups\.student: a stage has this name"),
    ],
)
def test_a_group_that_makes_no_sense_is_named(groups: Any, told: str) -> None:
    with pytest.raises(InputError, match=told):
        recipes.check_groups(groups, ["teacher", "student"], "conf/paper/k.yaml")


@pytest.mark.parametrize("paper", compose.papers())
def test_the_groups_of_every_paper_hold_stages_of_it(paper: str) -> None:
    recipes.check_groups(compose.groups(paper), compose.known_stages(paper), paper)


@pytest.mark.parametrize("raw", [{"stages": {"[ts]*": {}}}, {"data": {"*": "digits", "?tudent": "mnist"}}])
def test_a_pattern_of_letters_is_refused(raw: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"expected `\*`, name_\* or a group"):
        expand(**raw)
