"""What a configuration may name, and what of the outside gets into it."""

from __future__ import annotations

from typing import Any

import pytest

from experiments.benchmarks import frame as frame_benchmark
from experiments.common.errors import InputError
from experiments.config import allowed, compose, instantiate
from experiments.identity.fingerprint import targets


def test_every_name_of_a_library_serves_a_recipe_or_its_users() -> None:
    """Optimisers and norms that a sweep may want are there without a recipe; networks and their kin are not."""
    files = [compose.load(path) for path in compose.CONF.rglob("*.yaml")]
    used = {
        target
        for content in [*files, *(step.network for step in frame_benchmark.STEPS), frame_benchmark.OPTIMIZER]
        for target in targets(content)
    }
    free = {name for name in allowed.LIBRARIES if name.startswith(("torch.optim.", "torch.nn."))}
    assert {name for name in used if not name.startswith(("modules.", "datamodules."))} <= allowed.LIBRARIES
    assert allowed.LIBRARIES - free <= used


@pytest.mark.parametrize(
    "arguments",
    [
        {"model_name": "resnet18", "checkpoint_path": "weights.pth"},
        {"model_name": "resnet18", "pretrained_cfg": {"url": "https://example.org/weights.pth"}},
        {"model_name": "hf-hub:someone/network"},
        {"model_name": "local-dir:/tmp/network"},
        {"model_name": None},
    ],
)
@pytest.mark.parametrize("partial", [False, True])
def test_networks_by_name_read_no_file(arguments: dict[str, Any], partial: bool) -> None:
    node = {"_target_": "timm.create_model", "_partial_": partial, **arguments}
    for act in (instantiate.check, instantiate.build):
        with pytest.raises(InputError, match=r"checkpoint_path|pretrained_cfg|model_name"):
            act([{"deeper": node}], "stages.x.module")


def test_a_name_nearby_is_offered() -> None:
    with pytest.raises(InputError, match=r"did you mean 'torch\.optim\.Adam'"):
        allowed.check_target("torch.optim.Adamw", "x")
    with pytest.raises(InputError, match="did you mean 'RandomCrop'"):
        allowed.check_target("datamodules.common.augment.RandomCorp", "x")
    with pytest.raises(InputError, match=r"did you mean 'datamodules\.mswal\.preprocessing\.Preprocessing'"):
        allowed.check_target("datamodules.mswal.nnunet.Preprocessing", "x")


def test_the_environment_gives_the_data_folder_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPRISE_DATA", "/elsewhere")
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    lines = ["paper=meal_v2", "scale=smoke"]
    assert compose.resolve(compose.compose(lines), 0)["data_dir"] == "/elsewhere"
    with pytest.raises(InputError, match="WANDB_API_KEY"):
        compose.resolve(compose.compose([*lines, "runs_dir=${oc.env:WANDB_API_KEY}"]), 0)
