"""The published workflow without diffusers: its coalitions, one noise for all, and what it says where it is missing."""

from __future__ import annotations

import importlib.util
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from datamodules.copyscope.original import Artwork, Original
from modules.copyscope import stable_diffusion as sd
from modules.copyscope.stable_diffusion import StableDiffusion, StableDiffusionWorkflow, StandIn

PLAYERS = {"depth": "control", "davinci": "da Leonardo da vinci", "mona_lisa": "mona_lisa", "leonardo": "lora"}


def stable_diffusion(**options: Any) -> StableDiffusion:
    return StableDiffusion("stable-diffusion-v1-5/stable-diffusion-v1-5", "depth", "nowhere.safetensors", **options)


@pytest.mark.skipif(importlib.util.find_spec("diffusers") is not None, reason="diffusers is installed")
def test_without_diffusers_one_line_says_what_to_do() -> None:
    with pytest.raises(ValueError, match=r'diffusers is not installed: pip install "reprise-papers\[diffusion\]"'):
        stable_diffusion()("a portrait", torch.zeros(1, 4, 8, 8), False, None)


def test_what_the_published_recipe_asks_of_diffusers() -> None:
    pipeline = stable_diffusion()
    assert pipeline.options == {"num_inference_steps": 100, "guidance_scale": 7.5}
    assert pipeline.lora_scale == 1.0


def test_parts_of_coalitions() -> None:
    flow = StableDiffusionWorkflow(StandIn(), "a portrait", PLAYERS)
    assert flow.coalitions == list(range(16))
    assert flow.parts(0) == ("a portrait", False, False)
    assert flow.parts(0b0010) == ("a portrait, da Leonardo da vinci", False, False)
    assert flow.parts(0b1111) == ("a portrait, da Leonardo da vinci, mona_lisa", True, True)


def test_all_coalitions_start_from_the_same_noise() -> None:
    seen: list[tuple[str, bool, bool, Tensor]] = []

    class Recorder(StandIn):
        def __call__(self, prompt: str, latents: Tensor, lora: bool, hint: Tensor | None) -> Tensor:
            seen.append((prompt, lora, hint is not None, latents.clone()))
            return super().__call__(prompt, latents, lora, hint)

    small = Artwork(height=32, width=24, copy=(64, 48))
    data = Original("nowhere", 2, images=4, artwork=small, generated=True)
    data.setup()
    flow = StableDiffusionWorkflow(Recorder(), "a portrait", PLAYERS, seed=3)
    flow._trainer = SimpleNamespace(datamodule=data)  # type: ignore[assignment]
    flow.log = lambda *_, **__: None  # type: ignore[method-assign, assignment]
    flow.on_test_epoch_start()
    for number, batch in enumerate(data.test_dataloader()):
        flow.test_step(batch, number)
    flow.on_test_epoch_end()

    first, second = seen[:16], seen[16:]
    assert len({(prompt, lora, hint) for prompt, lora, hint, _ in first}) == 16  # each coalition once
    assert all(torch.equal(latents, first[0][3]) for *_, latents in first)
    assert not torch.equal(first[0][3], second[0][3])
    assert first[0][3].shape == (2, 4, 4, 3)
    arrays = flow.artifacts()
    assert arrays["images"].shape == (16, 4, 3, 32, 24)
    assert len({images.tobytes() for images in arrays["images"]}) == 16
    assert arrays["originals"].shape == (2, 3, 32, 24)


@pytest.mark.parametrize("wrong", ["checkpoint", "controlnet", "lora"])
@pytest.mark.parametrize("ending", [".ckpt", ".bin", ".pt", ".pth"])
def test_only_safetensors_are_read(wrong: str, ending: str) -> None:
    files = {"checkpoint": "a.safetensors", "controlnet": "a/b", "lora": "a.safetensors"}
    StableDiffusion(**files)
    with pytest.raises(ValueError, match=rf"{wrong}=x\{ending}: expected \.safetensors"):
        StableDiffusion(**files | {wrong: f"x{ending}"})


class Loaded:
    """A pipeline of diffusers that keeps what it is asked for."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.lora: list[bool] = []

    def enable_lora(self) -> None:
        self.lora.append(True)

    def disable_lora(self) -> None:
        self.lora.append(False)

    def __call__(self, **arguments: Any) -> Any:
        self.asked.append(arguments)
        return SimpleNamespace(images=torch.ones(2, 3, 24, 40))


def test_what_diffusers_is_asked_for() -> None:
    pipeline = stable_diffusion(steps=7, guidance=2.0, negative_prompt="a cat")
    plain, controlled = Loaded(), Loaded()
    pipeline._loaded = [plain, controlled]
    latents, hint = torch.randn(2, 4, 3, 5), torch.rand(2, 3, 24, 40)
    assert torch.equal(pipeline("a dog", latents, True, None), torch.ones(2, 3, 24, 40))
    pipeline("a dog", latents, False, hint)
    assert plain.lora == [True, False]
    (without,), (with_hint,) = plain.asked, controlled.asked
    assert with_hint.pop("image") is hint
    assert with_hint == without
    assert without.pop("latents") is latents
    assert without == {
        "prompt": ["a dog", "a dog"],
        "negative_prompt": ["a cat", "a cat"],
        "height": 24,
        "width": 40,
        "output_type": "pt",
        "num_inference_steps": 7,
        "guidance_scale": 2.0,
    }


def test_a_stand_in_works_where_its_noise_is() -> None:
    made = StandIn()("a portrait", torch.zeros(2, 4, 3, 5, device="meta"), True, None)
    assert (made.device.type, tuple(made.shape)) == ("meta", (2, 3, 24, 40))


def test_weights_that_are_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str, tuple[str, ...]]] = []
    monkeypatch.setattr(sd, "from_hub", lambda name, repository, files: asked.append((name, repository, files)))
    own = {"checkpoint": "there/own.safetensors", "controlnet": "a/b", "lora": "there/lora.safetensors"}
    branch = ("a/b", "a/b", ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"))
    _, checkpoint, _, lora = sd.stable_diffusion_needs(own)
    assert (checkpoint.files, lora.files) == ("there/own.safetensors", "there/lora.safetensors")
    assert asked == [branch]
    asked.clear()
    sd.stable_diffusion_needs(own | {"checkpoint": "c/d"})
    names = ("unet/diffusion_pytorch_model.safetensors", "unet/diffusion_pytorch_model.bin")
    assert asked == [("c/d", "c/d", names), branch]
