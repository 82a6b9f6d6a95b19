"""The published recipe in numbers: both stages and the probe, their steps, and the published scores."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from datamodules.vit_vqgan import FFHQ, CelebAHQ, Faces
from experiments.config import compose
from experiments.running import training
from experiments.running.plan import Plan, Stage, plan
from modules.common.schedules import Position

IMAGES = 1_281_167
TOKENIZERS = ("tokenizer", "vanilla", "vanilla_normal", "low_dim", "low_dim_uniform", "l2_only", "gan_late")


@pytest.fixture(scope="module")
def full() -> Plan:
    return plan(compose.compose(compose.request(["paper=vit_vqgan", "scale=full"]).overrides), 0)


def factors(stage: Stage, *steps: int) -> list[float]:
    """Of the rate, at steps of training."""
    schedule = training.build(stage.module["schedule"])
    per_epoch = math.ceil(IMAGES / stage.data["batch_size"])
    epochs = stage.trainer["max_epochs"]
    return [schedule(Position(*divmod(step, per_epoch), per_epoch, epochs)) for step in steps]


def rest(options: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in options.items() if not key.startswith("_")}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_training_of_stage_1(full: Plan, name: str) -> None:
    """500,000 steps of 256; AdamW 1e-4, after 50,000 steps of warm-up by a cosine to 5e-5."""
    stage = full.stages[name]
    assert stage.data["batch_size"] == stage.reference_batch == 256
    assert math.ceil(IMAGES / 256) * stage.trainer["max_epochs"] == pytest.approx(500_000, rel=1e-3)
    optimizer = stage.module["optimizer"]
    assert optimizer["_target_"] == "torch.optim.AdamW"
    assert rest(optimizer) == {"lr": 1e-4, "betas": [0.9, 0.99], "weight_decay": 1e-4}
    assert stage.module["clip"] == 1.0
    half, top, last = factors(stage, 25_000, 50_050, 500_399)
    assert (half, top, last) == pytest.approx((0.5, 1.0, 0.5), abs=2e-3)


def test_losses_and_lookup_of_stage_1(full: Plan) -> None:
    module = full.stages["tokenizer"].module
    quantizer = rest(module["quantizer"])
    assert (quantizer["codes"], quantizer["lookup_dim"], quantizer["beta"]) == (8192, 32, 0.25)
    assert (quantizer["normalise"], quantizer["init"], quantizer["over_normalisation"]) == (True, "normal", False)
    losses = rest(module["losses"])
    assert (losses["l2_weight"], losses["perceptual_weight"], losses["logit_laplace_weight"]) == (1.0, 0.1, 0.0)
    assert losses["perceptual"]["_target_"] == "modules.vit_vqgan.perceptual.lpips_vgg"
    critic = rest(module["critic"])
    assert (critic["weight"], critic["r1_gamma"], critic["r1_every"], critic["start"]) == (0.1, 10.0, 16, 0)
    assert critic["discriminator"]["_target_"] == "modules.vit_vqgan.adversarial.StyleDiscriminator"


def test_networks_of_stage_1(full: Plan, make_plan: Callable[..., Plan]) -> None:
    """Base; the generated images' tokenizer has a Small encoder and a Large decoder. Patches of 8, one tanh MLP."""
    base = {"dim": 768, "blocks": 12, "heads": 12, "mlp_dim": 3072}
    autoencoder = full.stages["tokenizer"].module["autoencoder"]
    assert (autoencoder["image_size"], autoencoder["patch"], autoencoder["channels"]) == (256, 8, 3)
    assert (rest(autoencoder["encoder"]), rest(autoencoder["decoder"])) == (base, base)
    assert (autoencoder["activation"], autoencoder["output_mlp"], autoencoder["maps"]) == ("gelu", True, 1)

    other = make_plan("paper=vit_vqgan", "scale=full", "variant=small_large").stages["tokenizer"].module["autoencoder"]
    assert rest(other["encoder"]) == {"dim": 512, "blocks": 8, "heads": 8, "mlp_dim": 2048}
    assert rest(other["decoder"]) == {"dim": 1280, "blocks": 32, "heads": 16, "mlp_dim": 5120}


def test_what_variants_leave_out_and_add(make_plan: Callable[..., Plan]) -> None:
    no_vgg, logit_laplace = (
        make_plan("paper=vit_vqgan", "scale=full", f"variant={name}").stages["tokenizer"].module
        for name in ("vim_large_no_vgg", "paper_loss")
    )
    assert no_vgg["losses"]["perceptual_weight"] == 0
    assert (logit_laplace["losses"]["logit_laplace_weight"], logit_laplace["autoencoder"]["maps"]) == (0.1, 2)


@pytest.mark.parametrize("name", ["vim", "vim_unconditional", "vim_vanilla"])
def test_training_of_stage_2(full: Plan, name: str) -> None:
    """450,000 steps of 1,024; 4.5e-4 after 5,000 steps of warm-up, from step 80,000 on exponentially to 1e-5."""
    stage = full.stages[name]
    assert stage.data["batch_size"] == stage.reference_batch == 1024
    assert math.ceil(IMAGES / 1024) * stage.trainer["max_epochs"] == pytest.approx(450_000, rel=2e-3)
    assert rest(stage.module["optimizer"]) == {"lr": 4.5e-4, "betas": [0.9, 0.96], "weight_decay": 0.045}
    rates = [4.5e-4 * factor for factor in factors(stage, 2_504, 5_010, 80_000, 450_719)]
    assert rates == pytest.approx([2.25e-4, 4.5e-4, 4.5e-4, 1e-5], rel=2e-3)
    assert stage.module["classes"] == (1000 if name == "vim" else None)


def test_networks_and_sampling_of_stage_2(full: Plan, make_plan: Callable[..., Plan]) -> None:
    module = full.stages["vim"].module
    assert rest(module["size"]) == {"dim": 1536, "blocks": 24, "heads": 16, "mlp_dim": 6144, "head_width": 96}
    assert (module["dropout"], module["temperature"]) == (0.1, 1.0)
    large = make_plan("paper=vit_vqgan", "scale=full", "variant=vim_large").stages
    assert rest(large["vim"].module["size"]) == {
        "dim": 2048,
        "blocks": 36,
        "heads": 32,
        "mlp_dim": 8192,
        "head_width": 64,
    }
    assert large["probe"].module["block"] == 18


def test_training_of_the_probe(full: Plan) -> None:
    """SGD on random resized crops, 1,024 at a time, of one middle block."""
    stage = full.stages["probe"]
    assert stage.data["batch_size"] == stage.reference_batch == 1024
    assert stage.data["crop_scale"] == [0.08, 1.0]
    assert full.stages["tokenizer"].data["crop_scale"] == [0.8, 1.0]
    assert (stage.trainer["max_epochs"], stage.module["block"]) == (100, 15)
    assert rest(stage.module["optimizer"]) == {"lr": 0.4, "momentum": 0.9}


def test_faces_are_generated_without_classes(make_plan: Callable[..., Plan]) -> None:
    faces = make_plan("paper=vit_vqgan", "scale=full", "variant=celeba_hq").stages
    assert {name for name, stage in faces.items() if stage.fit} == {"tokenizer", "vim_unconditional"}


@pytest.mark.parametrize(("variant", "kind"), [("celeba_hq", CelebAHQ), ("ffhq", FFHQ)])
def test_faces_are_trained_for_the_steps_of_imagenet(
    variant: str, kind: type[Faces], make_plan: Callable[..., Plan]
) -> None:
    spec = kind("nowhere", 4, 256, generated=True).spec  # as a dry run makes it
    assert (spec.shape, spec.classes) == ((3, 256, 256), ("face",))
    images = spec.sizes["train"]
    stages = make_plan("paper=vit_vqgan", "scale=full", f"variant={variant}").stages
    for name, batch, steps, warmup in (
        ("tokenizer", 256, 500_000, 50_000),
        ("vim_unconditional", 1024, 450_000, 5_000),
    ):
        per_epoch = math.ceil(images / batch)
        assert per_epoch * stages[name].trainer["max_epochs"] == pytest.approx(steps, rel=1e-3)
        assert per_epoch * stages[name].module["schedule"]["warmup_epochs"] == pytest.approx(warmup, rel=5e-3)
    assert per_epoch * stages["vim_unconditional"].module["schedule"]["decay_epoch"] == pytest.approx(80_000, rel=1e-3)


def test_published_scores_stand_with_the_arms_that_have_them(full: Plan) -> None:
    rows = {(row["variant"], row["stage"], row["metric"]): row["value"] for row in full.config["published"]}
    assert rows == {
        ("small_large", "tokenizer", "test/rfid"): 1.28,
        ("small_large", "vim", "test/fid"): 11.2,
        ("small_large", "vim", "test/is"): 97.2,
        ("vim_large", "vim", "test/fid"): 4.17,
        ("vim_large", "vim", "test/is"): 175.1,
        ("vim_large_no_vgg", "probe", "test/top1"): 73.2,
    }
