"""The published study in numbers: two games of four add-ons, 100 images a coalition, and every released value."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from experiments.config import compose
from experiments.running import training
from experiments.running.plan import Plan, plan

SD15, SDM = "sd15", "sdm"
FIDS = {  # README: base model of each game and its alliances
    (SD15, "base"): 310.18,
    (SD15, "depth"): 289.24,
    (SD15, "depth+davinci"): 239.17,
    (SD15, "depth+davinci+mona_lisa"): 233.21,
    (SD15, "depth+davinci+mona_lisa+leonardo"): 220.40,
    (SD15, "davinci"): 265.01,
    (SD15, "davinci+mona_lisa"): 241.18,
    (SD15, "davinci+mona_lisa+leonardo"): 275.92,
    (SD15, "mona_lisa"): 336.24,
    (SD15, "leonardo"): 307.06,
    (SDM, "base"): 320.48,
    (SDM, "depth+davinci"): 209.06,
    (SDM, "depth+davinci+mona_lisa"): 212.13,
    (SDM, "depth+davinci+mona_lisa+leonardo"): 184.69,
}
SHARES = {"davinci": 48.44, "depth": 28.24, "mona_lisa": 11.73, "leonardo": 8.06}  # shapely_FID.json
WITHOUT = {"davinci": 309.4, "depth": 261.2, "mona_lisa": 226.8, "leonardo": 199.5}  # verifyVS.csv, random seed


@pytest.fixture(scope="module")
def full() -> Plan:
    return plan(compose.compose(compose.request(["paper=copyscope", "scale=full"]).overrides), 0)


def test_two_games_of_four_add_ons(full: Plan) -> None:
    """All 16 coalitions, though 10 and 4 were released; a game for each checkpoint, which is no player."""
    checkpoints = []
    for game in (SD15, SDM):
        stage = full.stages[f"generated_{game}"]
        players = stage.module["players"]
        assert players == {
            "depth": "control",
            "davinci": "da Leonardo da vinci",
            "mona_lisa": "mona_lisa",
            "leonardo": "lora",
        }
        assert stage.module.get("coalitions") is None
        data = training.build(stage.data)
        assert (data.count, data.artwork.size, tuple(data.artwork.copy)) == (100, (736, 512), (1472, 1024))
        checkpoints.append(stage.module["pipeline"]["checkpoint"])
    assert checkpoints[0] == "stable-diffusion-v1-5/stable-diffusion-v1-5"
    assert checkpoints[1].endswith("copyscope/stablydiffusedsMagnum_v10.safetensors")


def test_the_pipeline(full: Plan) -> None:
    """100 steps of PNDM, guidance 7.5, the LoRA with weight 1, the depth ControlNet of Stable Diffusion 1.5; fp32."""
    stage = full.stages["generated_sd15"]
    pipeline = training.build(stage.module["pipeline"])
    assert pipeline.options == {"num_inference_steps": 100, "guidance_scale": 7.5}
    assert pipeline.lora_scale == 1.0
    assert pipeline.controlnet == "lllyasviel/sd-controlnet-depth"
    assert pipeline.lora.endswith("copyscope/wjqLeonardo.safetensors")
    assert stage.trainer["precision"] == "32-true"


def test_what_the_images_are_worth(full: Plan) -> None:
    """FID in all 2,048 of Inception-v3's features; 20 batches an arm with and without each add-on."""
    stages = full.stages
    assert stages["features"].module["_target_"] == "modules.copyscope.extractors.InceptionFeatures"
    assert stages["table"].module.get("dimensions") is None
    assert stages["ablation"].module["batches"] == 20
    assert stages["generated_again"].module["coalitions"] == [15, 14, 13, 11, 7]
    assert stages["generated_again"].module["shift"] > 0
    assert not any(stage.fit for stage in stages.values())


def test_the_released_values_are_asked_for_in_their_variant_alone(full: Plan, make_plan: Callable[..., Plan]) -> None:
    default = full.stages["attribution"].module
    assert "dividends_as_released" not in default.get("methods", [])
    released = make_plan("paper=copyscope", "scale=full", "variant=released").stages["attribution"].module
    assert "dividends_as_released" in released["methods"]


def test_published_values(full: Plan) -> None:
    expected = {("table", f"test/fid_{coalition}_{game}"): value for (game, coalition), value in FIDS.items()}
    expected |= {("attribution", f"test/fid_shapley_{player}_{SD15}"): value for player, value in SHARES.items()}
    expected |= {("ablation", f"test/without_{player}"): value for player, value in WITHOUT.items()}
    assert {(row["stage"], row["metric"]): row["value"] for row in full.config["published"]} == expected


def test_shares_are_those_of_the_released_values() -> None:
    """-23.44 (swap of the checkpoint: 10.29) and so on: of the sum of sizes, positive where FID falls."""
    values = {"leonardo": -23.44, "depth": -82.10, "davinci": -140.85, "mona_lisa": -34.10, "swap": 10.29}
    whole = sum(abs(value) for value in values.values())
    assert {player: round(-100 * values[player] / whole, 2) for player in SHARES} == pytest.approx(SHARES, abs=0.02)
