"""The recipes: the published workflow's numbers, equal budgets of the LoRAs, and what the claims' controls share."""

from __future__ import annotations

from collections.abc import Callable

from experiments.config import claims
from experiments.running.plan import Plan

LORAS = ("lora_0", "lora_25", "lora_50", "lora_100", "lora_other")


def test_loras_differ_in_their_images_alone(make_plan: Callable[..., Plan]) -> None:
    stages = make_plan("paper=copyscope", "scale=mini").stages
    first = stages["lora_0"]
    for name, dose in zip(LORAS, (0, 25, 50, 100, 100), strict=True):
        stage = stages[name]
        assert (stage.module, stage.trainer, stage.start_like) == (first.module, first.trainer, "lora")
        assert stage.data["dose"] == dose
        assert {k: v for k, v in stage.data.items() if k not in ("dose", "artist")} == {
            k: v for k, v in first.data.items() if k not in ("dose", "artist")
        }
    assert stages["lora_other"].data["artist"] == "other_artist"


def test_all_coalitions_have_the_same_noise_but_the_ablation(make_plan: Callable[..., Plan]) -> None:
    stages = make_plan("paper=copyscope", "scale=mini", seed=7).stages
    made = {name: stage.module for name, stage in stages.items() if name.startswith("generated")}
    assert {module["seed"] for module in made.values()} == {7}
    assert {name for name, module in made.items() if module.get("shift")} == {"generated_again"}
    assert {module["steps"] for module in made.values()} == {10}
    assert {stage.data["batch_size"] for name, stage in stages.items() if name.startswith("generated")} == {128}


def test_numbers_of_the_full_recipe(make_plan: Callable[..., Plan]) -> None:
    stages = make_plan("paper=copyscope", "scale=full").stages
    checkpoints = set()
    for name in ("generated_sd15", "generated_sdm"):
        module = stages[name].module
        assert list(module["players"]) == ["depth", "davinci", "mona_lisa", "leonardo"]
        assert module.get("coalitions") is None
        assert stages[name].data["images"] == 100
        checkpoints.add(module["pipeline"]["checkpoint"])
    assert len(checkpoints) == 2
    assert stages["ablation"].module["batches"] == 20
    assert stages["table"].module.get("dimensions") is None
    assert stages["features"].module["_target_"] == "modules.copyscope.extractors.InceptionFeatures"


def test_the_released_values_are_asked_for_in_their_variant_alone(make_plan: Callable[..., Plan]) -> None:
    default = make_plan("paper=copyscope", "scale=full").stages["attribution"].module
    assert "dividends_as_released" not in default.get("methods", [])
    released = make_plan("paper=copyscope", "scale=full", "variant=released").stages["attribution"].module
    assert "dividends_as_released" in released["methods"]


def test_claims_of_both_scales(make_plan: Callable[..., Plan]) -> None:
    for scale in ("mini", "full"):
        questions = claims.read(make_plan("paper=copyscope", f"scale={scale}").config)
        assert questions.main is not None
    published = claims.read(make_plan("paper=copyscope", "scale=full").config).published
    assert len(published) == 14 + 4 + 4
