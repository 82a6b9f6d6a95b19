"""The workflow, run with any part of its components: one picture of every coalition for each original.

A coalition is a number whose bit i is set where player i takes part. The base model always does: it is the empty
coalition. What a missing player leaves behind: no LoRA, the base's own weights; no control branch, nothing is added;
no class word or style word, the word that stands for none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.func import functional_call

from modules.common.diffusion import RowNoise
from modules.common.frozen import Frozen
from modules.common.velocity import VelocityDDPM
from modules.copyscope.adapters import relief
from modules.copyscope.addons import ControlTraining, LoRATraining
from modules.copyscope.base import Base, PromptedUNet
from modules.copyscope.pictures import draw_coalitions

PLAYERS = ("lora", "control", "class_word", "style_word")
LORA, CONTROL, CLASS_WORD, STYLE_WORD = (1 << i for i in range(4))


def coalition_name(coalition: int, players: Sequence[str] = PLAYERS) -> str:
    """Names of a coalition's players, joined by +; `base` for none."""
    return "+".join(name for i, name in enumerate(players) if coalition >> i & 1) or "base"


def to_bytes(images: Tensor) -> np.ndarray:
    """[-1, 1] -> uint8."""
    return ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).cpu().numpy()


@dataclass(frozen=True)
class Sampling:
    """How images are made.

    Attributes:
        steps: of DDIM.
        guidance: w of v = v_none + w (v_words - v_none); 1 asks the network once.
        seed: of the latent noise; with the same one every stage starts from the same noise.
        shift: added to the noise's row numbers, for noise that no other stage has.
    """

    steps: int = 10
    guidance: float = 1.0
    seed: int = 0
    shift: int = 0


class Workflow(VelocityDDPM):
    """Generates, for every original, an image by each coalition, all from the same noise. Nothing is trained.

    Later stages are fed with `images` (coalitions, N, 3, S, S) uint8, `coalitions` (coalitions,), `originals` (N, 3, S,
    S), and where the data has them `other_originals` and `reference`. Runs in one process: a stage's configuration says
    `trainer: {devices: 1, strategy: auto}`.

    Test metrics: `n`, originals; where there is a judge, `artist_<coalition>`: percent of a coalition's images that it
    gives to the artist, for each coalition asked for in `judged`, and `artist_originals`, of the originals.

    Args:
        base, control: the stages of these components.
        lora: that of the LoRA; None makes the coalitions without one, else those with it are made.
        judge: a stage that says who made an image.
        style: number of the style word.
        coalitions: which are made; None is all.
        sampling: how they are made.
        artist: the judge's label of whoever it looks for.
    Raises:
        ValueError: a coalition that is not one.
    """

    def __init__(
        self,
        base: Base,
        control: ControlTraining,
        lora: LoRATraining | None = None,
        judge: Any = None,
        style: int = 2,
        coalitions: Sequence[int] | None = None,
        sampling: Sampling | None = None,
        artist: int = 4,
    ) -> None:
        super().__init__(base.averaged(), base.noise, decay=None)
        self.lora = Frozen([] if lora is None else [lora.network])
        self.control = Frozen([control.network])
        self.judge = Frozen([] if judge is None else [judge])
        here = [c for c in range(16) if bool(c & LORA) == (lora is not None)]
        self.coalitions = here if coalitions is None else list(coalitions)
        if wrong := [c for c in self.coalitions if not 0 <= c < 16 or (c & LORA and lora is None)]:
            raise ValueError(f"coalitions: {wrong[0]}: expected numbers below 16, odd ones only with a LoRA")
        self.style, self.artist = style, artist
        self.sampling = sampling or Sampling()
        self.made: list[list[Tensor]] = []
        self.originals: list[Tensor] = []
        self.arrays: dict[str, np.ndarray] = {}

    network: PromptedUNet

    def velocity(self, noisy: Tensor, t: Tensor, **inputs: Any) -> Tensor:
        """v of a coalition: inputs are `coalition`, `y` (B,), `hint` (B, 1, S, S) of the originals."""
        words = self.words(inputs["coalition"], inputs["y"])
        v = self.once(noisy, t, *words, inputs)
        guidance = self.sampling.guidance
        if guidance == 1:
            return v
        none = self.once(noisy, t, *self.words(0, inputs["y"]), inputs)
        return none + guidance * (v - none)

    def words(self, coalition: int, y: Tensor) -> tuple[Tensor, Tensor]:
        """Class and style words (B,) of a coalition, for originals of classes y."""
        said = y if coalition & CLASS_WORD else torch.full_like(y, self.network.no_class)
        style = self.style if coalition & STYLE_WORD else self.network.no_style
        return said, torch.full_like(y, style)

    def once(self, noisy: Tensor, t: Tensor, y: Tensor, style: Tensor, inputs: dict[str, Any]) -> Tensor:
        """v for given words."""
        added = None
        if inputs["coalition"] & CONTROL:
            (branch,) = self.control.on(noisy.device)
            added = branch(noisy, t, y, style, inputs["hint"])
        weights: dict[str, Tensor] = dict(self.network.named_parameters())
        if inputs["coalition"] & LORA:
            (lora,) = self.lora.on(noisy.device)
            weights = lora.changed(weights)
        return functional_call(self.network, weights, (noisy, t, y, style, added)).float()

    def example(self, shape: tuple[int, ...]) -> tuple[Any, ...]:
        zero = torch.zeros(1, dtype=torch.long, device=self.device)
        return torch.zeros(1, *shape, device=self.device), zero, zero, zero

    def forward(self, noisy: Tensor, t: Tensor, *words: Tensor, **inputs: Any) -> Tensor:
        return self.network(noisy, t, *words, **inputs)

    def on_test_epoch_start(self) -> None:
        self.row_noise = RowNoise(self.sampling.seed * 1_000_003 + self.sampling.shift)
        self.made, self.originals = [[] for _ in self.coalitions], []

    def test_step(self, batch: Any, batch_idx: int) -> None:
        _, start = self.row_noise(batch.x)
        hint = relief(batch.x)
        for coalition, images in zip(self.coalitions, self.made, strict=True):
            images.append(self.sample(start, steps=self.sampling.steps, coalition=coalition, y=batch.y, hint=hint))
        self.originals.append(batch.x)

    def on_test_epoch_end(self) -> None:
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        originals = torch.cat(self.originals)
        images = {c: torch.cat(parts) for c, parts in zip(self.coalitions, self.made, strict=True)}
        self.arrays = {
            "images": np.stack([to_bytes(x) for x in images.values()]),
            "coalitions": np.array(self.coalitions),
            "originals": to_bytes(originals),
        }
        for name in ("others", "reference"):
            if len(getattr(data, name, ())):
                self.arrays[name] = getattr(data, name).numpy()

        metrics = {"n": float(len(originals))}
        if len(self.judge):
            metrics["artist_originals"] = self.recognised(originals)
            metrics |= {f"artist_{coalition_name(c)}": self.recognised(x) for c, x in images.items()}
        self.log_dict({f"test/{name}": value for name, value in metrics.items()})
        self.made, self.originals = [], []

    def recognised(self, images: Tensor) -> float:
        """Percent of images (N, 3, S, S) that the judge gives to the artist."""
        (judge,) = self.judge.on(images.device)
        return 100 * float((judge(images).argmax(1) == self.artist).float().mean())

    def artifacts(self) -> dict[str, np.ndarray]:
        return self.arrays

    def pictures(self, data: Any) -> dict[str, Figure]:
        """What each coalition makes of the same noise, beside the originals."""
        if not self.arrays:
            return {}
        names = [coalition_name(c) for c in self.coalitions]
        return {"coalitions": draw_coalitions(self.arrays["originals"], self.arrays["images"], names)}
