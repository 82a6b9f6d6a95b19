"""What a verdict is about: derived from the record, with what a paper's file adds."""

from __future__ import annotations

from typing import Any

import pytest

from experiments.evidence.judged import SeedsThatHold
from experiments.evidence.ran import Dataset
from experiments.evidence.records import Entry
from experiments.pages import scope, view
from tests import example


def data(name: str, train: int, test: int, split: str = "at random") -> Dataset:
    sizes = {"train": train, "val": 100, "test": test}
    return Dataset(name=name, source="real", identity="ab", split=split, sizes=sizes)


def entry(stages: dict[str, dict[str, Any]], **more: Any) -> Entry:
    main = example.claim(
        "a beats b", "supported", [1.0, 2.0], [0.0, 3.0], main=True, better="a/test/x", than="b/test/x"
    )
    recorded = {name: example.stage(2, **facts) for name, facts in stages.items()}
    return example.entry([0, 1], claims=[main], stages=recorded, **more)


def test_the_arms_data_and_parameters() -> None:
    digits = data("digits", 400, 1000)
    shown = entry(
        {
            "a": {"data": digits, "parameters": 1711},
            "b": {"data": digits, "parameters": 1638},
            "teacher": {"data": data("other", 9, 9), "parameters": 5},  # no arm of the main claim
        }
    )
    assert scope.of(shown) == "digits, 400 for training, 1,000 for the test; 1,638 to 1,711 parameters"
    added = "digits, 400 for training, 1,000 for the test; 8x8; 1,638 to 1,711 parameters"
    assert scope.of(shown, "8x8") == added


def test_stages_that_a_precondition_alone_looks_at_are_no_arms() -> None:
    shown = entry({name: {"data": data("digits", 400, 1000), "parameters": 7} for name in ("a", "b")})
    shown.stages["probe"] = example.stage(2, data=data("other", 5, 5), parameters=9)
    asked = SeedsThatHold(text="probe/test/x > 1", share=0.9, held=2, fails_in=[], interval=None, verdict="holds")
    main = shown.claims[0].model_copy(update={"requires_each": [asked]})
    assert "other" not in scope.of(shown.model_copy(update={"claims": [main]}))


def test_arms_that_only_test_tell_what_they_learnt_from() -> None:
    tested = {"fit": False, "data": data("embeddings", 0, 8000), "parameters": None}
    shown = entry(
        {
            "model": {"data": data("pairs", 12000, 2000), "parameters": 76865},
            "a": {**tested, "needs": ["maps"]},
            "b": {**tested, "needs": ["maps"]},
            "maps": {"fit": False, "needs": ["model"], "data": None, "parameters": None},
        }
    )
    assert scope.of(shown) == "pairs, 12,000 for training, 8,000 for the test: embeddings; 76,865 parameters"


def test_what_the_record_lacks_is_left_out() -> None:
    shown = entry({"a": {"data": None, "parameters": None}, "b": {"data": None, "parameters": None}})
    assert scope.of(shown) == ""
    assert view.of(shown).scope == "at mini"


def test_a_search_counts_the_images_of_a_trial() -> None:
    split = "train counts trials; each has 1,600 train, 700 val, 497 test images: one set"
    trials = data("digits", 72, 497, split)
    shown = entry({"a": {"data": trials, "parameters": 7}, "b": {"data": trials, "parameters": 7}})
    assert scope.of(shown) == "digits, 1,600 for training, 497 for the test; 7 parameters"


@pytest.mark.parametrize(
    ("scale", "variant", "told"),
    [
        ("mini", None, "noisy labels"),
        ("full", None, ""),
        ("mini", "clean", ""),  # its own text, an empty one
        ("mini", "wide", "noisy labels"),
        ("mini", "gone", ""),
    ],
)
def test_a_variant_s_text_stands_in_place_of_its_scale_s(scale: str, variant: str | None, told: str) -> None:
    declared = {"scope": {"mini": "noisy labels"}, "variants": {"clean": {"scope": ""}, "wide": {"about": "wide"}}}
    assert scope.told(declared, scale, variant) == told
    assert scope.told({}, scale, None) == ""


def test_the_reason_for_a_worth_is_shown_where_the_paper_s_file_still_asks_the_same() -> None:
    shown = entry({"a": {"data": None}, "b": {"data": None}})
    asked = {"name": "a beats b", "worth": 1.0, "worth_reason": "the paper's own"}
    assert view.of(shown, {"claims": [asked]}).worth_reason == "the paper's own"
    assert view.of(shown, {"claims": [{**asked, "worth": 2.0}]}).worth_reason == ""
    assert view.of(shown, {}).worth_reason == ""
