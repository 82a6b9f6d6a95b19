"""What files may say: every mistake in one line that names the file, the key and what was expected."""

from __future__ import annotations

import copy
import dataclasses
import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic.dataclasses import dataclass

from experiments.commands import schema as schema_command
from experiments.common.errors import InputError
from experiments.config import claims, compose, reading, schema
from experiments.config.comparisons import HASHED, Claim
from experiments.config.published import Published
from experiments.config.stages import Trainer
from experiments.config.written import CLOSED, Text, read

CLAIM = {"name": "a beats b", "better": "a/test/x", "than": "b/test/x", "worth": 1, "main": True}
CLAIM |= {"worth_reason": "the paper's own difference"}
PAPER = {
    "key": "k",
    "title": "K",
    "arxiv": "0000.00000",
    "stages": {"a": {"needs": {"teacher": "b"}, "fit": False}, "b": {"trainer": {"max_epochs": "${epochs}"}}},
    "groups": {"both": ["a", "b"]},
    "claims": [CLAIM],
    "published": [{"values": {"a/test/x": 1}, "dataset": "d", "protocol": "p", "source": "s"}],
    "variants": {"wide": {"about": "wide", "scale": "mini", "overrides": ["a=1"], "scope": "32x32"}},
    "finding": {"text": "At mini, a beats b.", "written_for": {"mini": "supported"}},
    "scope": {"mini": "8x8"},
    "deviations": [{"what": "w", "paper": 1, "code": "none", "ours": 2, "why": "y"}],
}


def put(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """A change: the value at a dotted path; None takes the key away."""

    def change(content: Any) -> None:
        *above, last = [int(step) if step.isdigit() else step for step in path.split(".")]
        for step in above:
            content = content[step]
        if value is None:
            del content[last]
        else:
            content[last] = value

    return change


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        ("claims.0.margin", math.inf, "claims.0.margin=inf: expected a finite number"),
        ("claims.0.than", math.nan, "claims.0.than=nan: expected a finite number or a text"),
        ("claims.0.worth", 0, "claims.0.worth=0: expected a positive number"),
        ("claims.0.worth", True, "claims.0.worth=True: expected a positive number"),
        ("claims.0.worth", None, "claims.0: 'a beats b': worth is missing, the smallest difference worth the name"),
        (
            "claims.0.worth_reason",
            None,
            "claims: 'a beats b': worth_reason is missing, why it is worth or within so m",
        ),
        ("finding.text", "x" * 201, "finding: text has 201 letters; expected at most 200"),
        (
            "finding.written_for.mini",
            "suported",
            "finding.written_for: mini 'suported' does not exist; did you mean 's",
        ),
        ("scope", {"minni": "8x8"}, "scope"),
        ("claims.0.main", False, "claims: none has main: true; expected it of the one that the paper is cited for"),
        ("claims.0.main", "yes", "claims.0.main='yes': expected true or false"),
        ("claims.0.name", None, "claims.0: name is missing"),
        ("claims.0.beter", "a/test/x", "claims.0: key 'beter' does not exist; did you mean 'better'?"),
        ("claims.0.kind", "shares", "claims.0: kind 'shares' does not exist; did you mean 'share'?"),
        ("claims.0.kind", "bounded", "claims.0: kind bounded needs range"),
        ("claims.0.kind", "folds", "claims.0: kind folds needs test_over_train"),
        ("claims.0.requires", "a/test/x > 1", "claims.0.requires='a/test/x > 1': expected a list"),
        ("claims.0.published", {"diference": 1, "source": "s"}, "claims.0.published: key 'diference' does not exist"),
        ("claims", {"a": 1}, "claims={'a': 1}: expected a list"),
        ("arxiv", 2404.14581, "arxiv=2404.14581: expected a text"),
        ("arxiv", "24041.4581", "arxiv='24041.4581': expected a text that is an arXiv number"),
        ("key", "K-1", "key='K-1': expected a name of small letters, digits and _"),
        ("title", None, "title is missing"),
        ("stages.a.nedes", {}, "stages.a: key 'nedes' does not exist; did you mean 'needs'?"),
        ("stages.a.needs", ["b"], "stages.a.needs=['b']: expected stages by argument, as in {teachers: [a, b]}"),
        ("stages.a.fit", "no", "stages.a.fit='no': expected true or false"),
        ("stages.a", "abc", "stages.a='abc': expected a mapping"),
        ("stages.b.trainer", {"max_epoch": 1}, "stages.b.trainer: key 'max_epoch' does not exist; did you mean 'max_e"),
        ("stages.b.trainer.max_epochs", 0, "stages.b.trainer.max_epochs=0: expected a whole number from 1"),
        ("stages.b.dry", {"btach": 1}, "stages.b.dry: key 'btach' does not exist; did you mean 'batch'?"),
        ("groups.both", "a", "groups.both='a': expected a list of stages"),
        ("groups.both", [], "groups.both=[]: expected a list of stages"),
        ("groups.both", {"but": ["a"]}, "groups.both: key 'but' does not exist; did you mean 'all_but'?"),
        ("published.0.values", {"a/test/x": "1%"}, "published.0.values.a/test/x='1%': expected a finite number"),
        ("published.0.datset", "d", "published.0: key 'datset' does not exist; did you mean 'dataset'?"),
        ("variants.wide.scale", "min", "variants.wide: scale 'min' does not exist; did you mean 'mini'?"),
        ("variants.wide.overrides", None, "variants.wide: overrides is missing"),
        ("variants.wide.overrides", "a=1", "variants.wide.overrides='a=1': expected a list"),
        ("deviations.0.why", None, "deviations.0: why is missing"),
    ],
)
def test_a_mistake_in_a_paper_s_file_is_one_line(path: str, value: Any, told: str) -> None:
    content = copy.deepcopy(PAPER)
    read(schema.PaperFile, content, "conf/paper/k.yaml", later=True)
    put(path, value)(content)
    with pytest.raises(InputError) as caught:
        read(schema.PaperFile, content, "conf/paper/k.yaml", later=True)
    assert str(caught.value).startswith(f"conf/paper/k.yaml: {told}")
    assert "\n" not in str(caught.value)


def test_an_open_reference_is_for_files_alone() -> None:
    node = {"max_epochs": "${epochs}"}
    read(Trainer, node, "stages.a.trainer", later=True)
    with pytest.raises(InputError, match=r"^stages\.a\.trainer\.max_epochs='\$\{epochs\}': expected a whole number"):
        read(Trainer, node, "stages.a.trainer")


def test_values_stay_as_they_were_written() -> None:
    """1 and 1.0 have different hashes."""
    claim = read(Claim, {**CLAIM, "worth": 1, "margin": 2.0, "requires": ["a/test/x > 1"]}, "claims.0")
    assert (repr(claim.worth), repr(claim.margin), claim.requires) == ("1", "2.0", ["a/test/x > 1"])


def test_a_field_added_later_changes_no_hash_unless_it_says_something() -> None:
    @dataclass(frozen=True, config=CLOSED)
    class Later(Claim):
        all_of: Text | None = None

    hashed = {key: value for key, value in vars(Claim(**CLAIM)).items() if key in HASHED}
    assert Claim(**CLAIM).content() == hashed  # every field of the first hash counts, defaults too
    assert Later(**CLAIM).content() == Claim(**CLAIM).content()
    assert Later(**CLAIM, all_of="x").content() == {**Claim(**CLAIM).content(), "all_of": "x"}
    assert {field.name for field in dataclasses.fields(Claim)} >= HASHED


@pytest.fixture
def conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of all configuration, which is read instead."""
    folder = shutil.copytree(reading.CONF, tmp_path / "conf")
    monkeypatch.setattr(reading, "CONF", folder)
    for cached in (reading.paper_file, reading.known_stages):
        cached.cache_clear()
    yield folder
    for cached in (reading.paper_file, reading.known_stages):
        cached.cache_clear()


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count(old) > 0
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


@pytest.mark.parametrize(
    ("file", "old", "new", "told"),
    [
        ("paper/meal_v2.yaml", "venue:", "venu:", "key 'venu' does not exist; did you mean 'venue'?"),
        ("paper/meal_v2.yaml", "\nabout:", "\nabut:", "key 'abut' does not exist; did you mean 'about'?"),
        ("paper/meal_v2.yaml", "\nvariants:", "\nvariant:", "key 'variant' does not exist; did you mean 'variants'?"),
        ("paper/meal_v2.yaml", "main: true", "margin: .inf", "meal_v2.yaml: claims.0.margin=inf: expected a finite"),
        ("paper/meal_v2.yaml", "main: true", "main: false", "conf/paper/meal_v2.yaml: claims: none has main: true"),
        ("paper/meal_v2.yaml", "key: meal_v2", "key: meal", "key='meal': expected the file's own name, meal_v2"),
        ("recipe/meal_v2/mini.yaml", "data: fashion", "data: fashon", "mini.yaml: data 'fashon_mnist' does not"),
        ("recipe/meal_v2/mini.yaml", "data: fashion", "dta: fashion", "mini.yaml: key 'dta' does not exist; did you"),
        ("recipe/meal_v2/mini.yaml", "max_epochs: 100", "max_epochs: x", "stages.init.trainer.max_epochs='x'"),
        ("trainer/cpu.yaml", "devices: 1", "device: 1", "conf/trainer/cpu.yaml: key 'device' does not exist"),
    ],
)
def test_a_mistake_in_a_file_is_refused_when_it_is_composed(
    conf: Path, file: str, old: str, new: str, told: str
) -> None:
    change(conf / file, old, new)
    with pytest.raises(InputError) as caught:
        compose.compose(compose.request(["paper=meal_v2", "scale=mini", "trainer=cpu"]).overrides)
    assert told in str(caught.value)
    assert "..." not in str(caught.value)  # no list that is cut
    assert "\n" not in str(caught.value)


def test_a_value_of_one_s_own_is_one_that_another_line_reads(conf: Path) -> None:
    path = conf / "recipe" / "meal_v2" / "mini.yaml"
    change(path, "data: fashion_mnist", "data: fashion_mnist\nfew: 300")
    with pytest.raises(InputError, match=r"key 'few' does not exist.* is read somewhere as \$\{few\}"):
        compose.request(["paper=meal_v2", "scale=mini"])
    change(path, "train_size: 250", "train_size: ${few}")
    reading._text_of.cache_clear()
    composed = compose.compose(compose.request(["paper=meal_v2", "scale=mini"]).overrides)
    assert composed.stages.student.data.train_size == 300


def test_a_sweep_s_file_is_checked(conf: Path) -> None:
    (conf / "sweep" / "meal_v2" / "wrong.yaml").write_text(yaml.safe_dump({"argument": ["seed=0,1"]}))
    with pytest.raises(InputError, match=r"^conf/sweep/meal_v2/wrong\.yaml: key 'argument' does not exist; did you"):
        compose.sweep_file("meal_v2", "wrong")


def test_one_of_a_setting_s_claims_is_main() -> None:
    ask = "claims=[{name:x,better:student/test/top1,than:init/test/top1,worth:1}]"
    config = compose.resolve(compose.compose(compose.request(["paper=meal_v2", "scale=mini", ask]).overrides), 0)
    with pytest.raises(InputError, match="none of 1 in this setting has main: true"):
        claims.read(config)
    assert not claims.read({**config, "claims": []}).claims
    assert claims.read({**config, "scale": "smoke"}).main is None  # a variant of full scale may lack it there


def test_a_metric_that_no_stage_reports_is_named_with_the_nearest() -> None:
    ask = read(Claim, {**CLAIM, "requires": ["mean(arm_*/train/loss) < 1"]}, "claims.0")
    row = {"stage": "b", "metric": "test/y", "value": 1.0, "dataset": "d", "protocol": "p", "source": "s"}
    questions = claims.Questions([ask], [], [read(Published, row, "published.0")])
    stages = ["a", "b", "arm_1", "arm_2"]

    def told(stage: str, *metrics: str, scale: str = "mini") -> str:
        with pytest.raises(InputError) as caught:
            claims.check_reported(questions, scale, stages, stage, metrics)
        return str(caught.value)

    claims.check_reported(questions, "mini", stages, "a", ["test/x", "test/n"])
    assert told("a", "test/xx").startswith(
        "claim 'a beats b': a: metric 'test/x' does not exist; did you mean 'test/xx'?"
    )
    assert "arm_2: metric 'train/loss' does not exist" in told("arm_2", "test/x")
    claims.check_reported(questions, "mini", stages, "b", ["test/x"])  # where nothing tries to reach what was published
    assert told("b", "test/x", scale="full").startswith("published b/test/y: b: metric 'test/y' does not exist")


@pytest.mark.parametrize("kind", schema_command.WRITTEN)
def test_the_schema_for_editors_is_today_s(kind: str) -> None:
    assert schema_command.path(kind).read_text(encoding="utf-8") == schema_command.text(kind), "make schema"
    told = schema_command.document(kind)
    assert all("description" in item for item in told["properties"].values())
    assert told["$defs"]["Trainer"]["properties"]["max_epochs"]["description"] == "Epochs of training."


def test_the_schema_refuses_what_the_classes_refuse() -> None:
    closed = {name for name, node in schema_command.document("paper")["$defs"].items() if "properties" in node}
    assert closed >= {
        "Claim",
        "Outcome",
        "Check",
        "Published",
        "Variant",
        "WrittenStage",
        "Trainer",
        "Deviation",
        "Pair",
    }
    nodes = schema_command.document("paper")["$defs"]
    assert not [name for name in closed if nodes[name]["additionalProperties"]]
    assert nodes["Claim"]["required"] == ["name"]  # better and than, or all: the classes say so


@pytest.mark.parametrize(("kind", "up"), [("paper", ".."), ("recipe", "../..")])
def test_every_file_names_its_schema_in_its_second_line(kind: str, up: str) -> None:
    line = f"# yaml-language-server: $schema={up}/schema/{kind}.json"
    lacking = [
        str(path.relative_to(reading.CONF))
        for path in sorted((reading.CONF / kind).rglob("*.yaml"))
        if path.read_text(encoding="utf-8").splitlines()[1] != line
    ]
    assert not lacking, f"expected {line}"
