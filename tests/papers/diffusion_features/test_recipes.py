"""The recipes: what the arms of a comparison share, and two processes against one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from experiments.config import claims
from experiments.running import engine, training
from experiments.running.plan import Plan


def test_sources_that_are_compared_share_all_but_their_weights(make_plan: Callable[..., Plan]) -> None:
    stages = make_plan("paper=diffusion_features", "scale=mini", seed=3).stages
    sweep = stages["sweep"]
    for name in ("sweep_untrained", "sweep_random", "sweep_bigan", "sweep_pixels"):
        assert stages[name].data == sweep.data
        assert stages[name].trainer == sweep.trainer
        assert stages[name].module | {"pools": 0} == sweep.module | {"pools": 0}
    assert stages["sweep_untrained"].module == stages["sweep_random"].module == sweep.module
    assert sweep.data["source"]["train_size"] == stages["heads"].data["source"]["train_size"]
    assert stages["bigan"].data == stages["diffusion"].data


def test_labelled_images_are_none_of_the_test_images(make_plan: Callable[..., Plan]) -> None:
    stages = make_plan("paper=diffusion_features", "scale=mini", seed=3).stages
    splits = {}
    for name in ("diffusion", "sweep"):
        data = training.build(stages[name].data)
        data.setup()
        splits[name] = {split: {bytes(image.numpy()) for image in data.splits[split][0]} for split in ("train", "test")}
    assert splits["sweep"]["train"] <= splits["diffusion"]["train"]
    assert splits["sweep"]["test"] == splits["diffusion"]["test"]
    assert not splits["sweep"]["test"] & splits["diffusion"]["train"]


def test_the_untrained_network_is_where_training_starts(make_plan: Callable[..., Plan]) -> None:
    plan = make_plan("paper=diffusion_features", "scale=mini", seed=3)
    first, second, third = (training.construct(plan, plan.stages[n]) for n in ("diffusion", "untrained", "random"))
    ours, theirs, random = (module.network.state_dict() for module in (first, second, third))
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    assert not ours["middle_block.1.proj_out.weight"].any()
    assert bool(random["middle_block.1.proj_out.weight"].any())


def test_encoders_are_of_about_one_size(make_plan: Callable[..., Plan]) -> None:
    plan = make_plan("paper=diffusion_features", "scale=mini", seed=3)
    network = training.construct(plan, plan.stages["diffusion"]).network
    encoder = training.construct(plan, plan.stages["bigan"]).encoder
    sizes = [sum(p.numel() for p in part.parameters()) for part in (network.up_to(7), encoder)]
    assert 0.5 < sizes[1] / sizes[0] < 2, sizes


def test_probes_that_are_solved_run_on_one_device(make_plan: Callable[..., Plan]) -> None:
    """They choose among places by images held out of all, whatever trainer was asked for."""
    stages = make_plan("paper=diffusion_features", "scale=mini", "trainer=ddp_cpu").stages
    sweeps = {name: stage for name, stage in stages.items() if name.startswith("sweep")}
    assert len(sweeps) == 5
    assert all((stage.trainer["devices"], stage.trainer["strategy"]) == (1, "auto") for stage in sweeps.values())
    assert all(stages[name].trainer["devices"] == 2 for name in ("diffusion", "bigan", "heads", "supervised"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["diffusion", "bigan", "heads", "supervised"])
def test_a_stage_on_two_processes_is_the_stage_on_one(make_plan: Callable[..., Plan], name: str) -> None:
    """Time steps and noise are drawn for the whole batch; noise of a test image is its row's."""
    weights, metrics = [], []
    for trainer in ("cpu", "ddp_cpu"):
        plan = make_plan("paper=diffusion_features", f"trainer={trainer}")
        stage = plan.stages[name]
        for needed in ("diffusion", "sweep"):
            if needed in stage.needs.values():
                engine.ensure(plan, plan.stages[needed])
        metrics.append(engine.ensure(plan, stage).metrics)
        weights.append(torch.load(stage.directory / "last.ckpt", weights_only=True)["state_dict"])
    # embeddings of time steps are in fp32, in which sums of two halves round differently
    assert metrics[1] == pytest.approx(metrics[0], rel=5e-3, abs=1e-3)
    # a bias before a batch norm has no gradient: Adam makes steps of its rounding
    compared = [key for key in weights[0] if not (name == "bigan" and key.endswith(".0.bias"))]
    assert all(float((weights[0][key] - weights[1][key]).double().abs().mean()) < 2e-5 for key in compared)


def test_the_main_claim_has_its_rivals_and_equal_passes(make_plan: Callable[..., Plan]) -> None:
    """The GAN is the baseline; the lowest time step of the sweep is the lowest that there is."""
    plan = make_plan("paper=diffusion_features", "scale=mini")
    main = claims.read(plan.config).main
    assert main is not None
    assert isinstance(main.than, dict)
    arms = ["sweep_bigan", "sweep_untrained", "sweep_random", "sweep_pixels"]
    assert list(main.than.values()) == [f"{arm}/test/top1" for arm in arms]

    stages = plan.stages
    assert stages["bigan"].trainer["max_epochs"] == stages["diffusion"].trainer["max_epochs"]
    assert stages["bigan"].data == stages["diffusion"].data
    assert min(stages["sweep"].module["steps"]) == 0
    assert 90 in stages["sweep"].module["steps"]  # the paper's
