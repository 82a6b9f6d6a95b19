"""The published workflow: Stable Diffusion 1.5 with a LoRA, a depth ControlNet and key prompts, through diffusers.

diffusers is an extra: pip install "reprise-papers[diffusion]". It is loaded when the first image is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F

from datamodules.common.needs import Need
from modules.common.diffusion import RowNoise
from modules.common.module import StageModule
from modules.common.needs import from_hub, own_file, package
from modules.copyscope.pictures import draw_coalitions
from modules.copyscope.workflow import coalition_name

LATENT = (4, 8)  # channels of Stable Diffusion's latent images, pixels on a side of each of theirs


class Pipeline(Protocol):
    """Makes images of latent noise."""

    def __call__(self, prompt: str, latents: Tensor, lora: bool, hint: Tensor | None) -> Tensor:
        """latents (B, 4, H / 8, W / 8), hint (B, 3, H, W) in [0, 1] -> images (B, 3, H, W) in [0, 1]."""


class StableDiffusion:
    """A checkpoint of Stable Diffusion 1.x with a ControlNet and a LoRA that are switched on by the image.

    Args:
        checkpoint: name on the Hugging Face hub, or a .safetensors file.
        controlnet: name on the hub, or a folder.
        lora: a .safetensors file.
        lora_scale: the LoRA's weight.
        steps: of PNDM.
        guidance: of classifier-free guidance.
        negative_prompt: what to keep away from.
    Raises:
        ValueError: a file of another kind: others may hold code.
    """

    def __init__(
        self,
        checkpoint: str,
        controlnet: str,
        lora: str,
        lora_scale: float = 1.0,
        steps: int = 100,
        guidance: float = 7.5,
        negative_prompt: str = "",
    ) -> None:
        unsafe = (".ckpt", ".pt", ".pth", ".bin")
        for key, value in (("checkpoint", checkpoint), ("controlnet", controlnet), ("lora", lora)):
            if value.endswith(unsafe) or (key == "lora" and not value.endswith(".safetensors")):
                raise ValueError(f"{key}={value}: expected .safetensors; other files of weights may hold code")
        self.checkpoint, self.controlnet, self.lora, self.lora_scale = checkpoint, controlnet, lora, lora_scale
        self.options = {"num_inference_steps": steps, "guidance_scale": guidance}
        self.negative_prompt = negative_prompt
        self._loaded: list[Any] = []  # the pipelines without and with a ControlNet, of the same networks

    def load(self, device: torch.device) -> Any:
        """The two pipelines. Raises ValueError where diffusers is not installed or a file is missing."""
        if self._loaded:
            return self._loaded
        try:
            import diffusers
        except ModuleNotFoundError as error:
            raise ValueError('diffusers is not installed: pip install "reprise-papers[diffusion]"') from error
        if not Path(self.lora).is_file():
            raise ValueError(f"lora={self.lora}: no such file; put the LoRA's .safetensors there")

        kind = diffusers.StableDiffusionPipeline
        options: dict[str, Any] = {"torch_dtype": torch.float32, "use_safetensors": True}
        read = kind.from_single_file if self.checkpoint.endswith(".safetensors") else kind.from_pretrained
        plain = read(self.checkpoint, safety_checker=None, **options)
        plain.scheduler = diffusers.PNDMScheduler.from_config(plain.scheduler.config)
        plain.load_lora_weights(self.lora, adapter_name="lora", use_safetensors=True)
        plain.set_adapters(["lora"], [self.lora_scale])
        branch = diffusers.ControlNetModel.from_pretrained(self.controlnet, **options)
        controlled = diffusers.StableDiffusionControlNetPipeline(**plain.components, controlnet=branch)
        self._loaded = [pipeline.to(device) for pipeline in (plain, controlled)]
        for pipeline in self._loaded:
            pipeline.set_progress_bar_config(disable=True)
        return self._loaded

    def __call__(self, prompt: str, latents: Tensor, lora: bool, hint: Tensor | None) -> Tensor:
        plain, controlled = self.load(latents.device)
        if lora:  # both pipelines have the same U-Net
            plain.enable_lora()
        else:
            plain.disable_lora()
        count = len(latents)
        arguments: dict[str, Any] = {
            "prompt": [prompt] * count,
            "negative_prompt": [self.negative_prompt] * count,
            "latents": latents,
            "height": LATENT[1] * latents.shape[-2],
            "width": LATENT[1] * latents.shape[-1],
            "output_type": "pt",
            **self.options,
        }
        made = plain(**arguments) if hint is None else controlled(image=hint, **arguments)
        images: Tensor = made.images
        return images


class StandIn:
    """For dry runs, without diffusers: images of the right size that depend on everything they should depend on."""

    def __call__(self, prompt: str, latents: Tensor, lora: bool, hint: Tensor | None) -> Tensor:
        x = F.interpolate(latents[:, :3], scale_factor=float(LATENT[1]))
        x = x + 0.1 * len(prompt) * torch.linspace(-1, 1, x.shape[-1], device=x.device)
        x = x.roll(LATENT[1] // 2, dims=-1) if lora else x
        x = x if hint is None else x + hint
        return torch.sigmoid(x)


class StableDiffusionWorkflow(StageModule):
    """Generates the images of all coalitions of add-ons from the same latent noise. Nothing is trained.

    Makes the same arrays as workflow.Workflow. Runs in one process: a stage's configuration says
    `trainer: {devices: 1, strategy: auto}`.

    Test metric: `n`, images of each coalition.

    Args:
        pipeline: see Pipeline.
        prompt: the neutral prompt, which every coalition has.
        players: name -> `lora`, `control`, or words that are added to the prompt; from bit 0 on.
        coalitions: which are made; None is all.
        seed: of the latent noise.
        shift: added to the noise's row numbers, for noise that no other stage has.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        prompt: str,
        players: Mapping[str, str],
        coalitions: list[int] | None = None,
        seed: int = 0,
        shift: int = 0,
    ) -> None:
        super().__init__()
        self.pipeline, self.prompt, self.players = pipeline, prompt, dict(players)
        self.coalitions = list(range(1 << len(players))) if coalitions is None else list(coalitions)
        self.seed, self.shift = seed, shift
        self.noise = RowNoise(0)
        self.made: list[list[Tensor]] = []
        self.arrays: dict[str, np.ndarray] = {}

    def forward(self, x: Tensor) -> Tensor:
        return x

    def parts(self, coalition: int) -> tuple[str, bool, bool]:
        """Prompt, whether the LoRA is on, whether the control branch is."""
        chosen = [kind for i, kind in enumerate(self.players.values()) if coalition >> i & 1]
        words = [kind for kind in chosen if kind not in ("lora", "control")]
        return ", ".join([self.prompt, *words]), "lora" in chosen, "control" in chosen

    def on_test_epoch_start(self) -> None:
        self.noise = RowNoise(self.seed * 1_000_003 + self.shift)
        self.made = [[] for _ in self.coalitions]

    def test_step(self, batch: Any, batch_idx: int) -> None:
        channels, pixels = LATENT
        height, width = batch.x.shape[-2:]
        _, latents = self.noise(batch.x.new_empty(len(batch.x), channels, height // pixels, width // pixels))
        for coalition, images in zip(self.coalitions, self.made, strict=True):
            prompt, lora, control = self.parts(coalition)
            made = self.pipeline(prompt, latents, lora, batch.hint if control else None)
            images.append((255 * made.float()).round().clamp(0, 255).to(torch.uint8).cpu())

    def on_test_epoch_end(self) -> None:
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        images = torch.stack([torch.cat(parts) for parts in self.made])  # (coalitions, N, 3, H, W)
        self.made = []
        self.arrays = {
            "images": images.numpy(),
            "coalitions": np.array(self.coalitions),
            "originals": data.originals.numpy(),
        }
        self.log("test/n", float(images.shape[1]))

    def artifacts(self) -> dict[str, np.ndarray]:
        return self.arrays

    def pictures(self, data: Any) -> dict[str, Figure]:
        """What each coalition makes of the same noise, below the originals."""
        if not self.arrays:
            return {}
        names = [coalition_name(c, list(self.players)) for c in self.coalitions]
        return {"coalitions": draw_coalitions(self.arrays["originals"], self.arrays["images"], names)}


def stable_diffusion_needs(options: Mapping[str, Any]) -> list[Need]:
    """The packages, and the weights of both networks and of the LoRA, from files or from the Hugging Face hub."""
    checkpoint, controlnet = str(options["checkpoint"]), str(options["controlnet"])
    own = checkpoint.endswith((".safetensors", ".ckpt"))
    unet = "unet/diffusion_pytorch_model.safetensors"
    return [
        package("diffusers", extra="diffusion"),
        own_file(checkpoint) if own else from_hub(checkpoint, checkpoint, (unet, unet.replace("safetensors", "bin"))),
        from_hub(controlnet, controlnet, ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")),
        own_file(str(options["lora"]), "the LoRA's .safetensors"),
    ]


NEEDS = {"StableDiffusion": stable_diffusion_needs}
