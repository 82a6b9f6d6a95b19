"""What the report shows of TransHP: who absorbs which prompt at the finest level."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F

from modules.transhp.networks import Absorbed, ViT

AVERAGED = 1000  # test images behind a picture of means, about
SHOWN = 6  # images


@dataclass(frozen=True)
class Absorption:
    """N test images and what became of their prompts, at the finest level.

    Attributes:
        x: images (N, C_in, S, S) as the network sees them.
        coarse: coarse class (N,).
        shares: (N, M) share of attention that goes to each prompt, mean over tokens.
        probabilities: (N, M) of the coarse classes.
    """

    x: Tensor
    coarse: Tensor
    shares: Tensor
    probabilities: Tensor


def collect_absorption(network: ViT, batches: Iterable[Any], device: torch.device) -> Absorption:
    """The first images of each coarse class, equally many, on the CPU.

    Args:
        network: with prompts.
        batches: (images, fine class, coarse classes (B, L)).
    """
    m = network.levels[-1][1]
    enough = math.ceil(AVERAGED / m)  # images of each coarse class
    counts = torch.zeros(m, dtype=torch.long)
    rows: list[tuple[Tensor, ...]] = []
    for x, _, coarse in batches:
        c = coarse[:, -1].cpu()
        one_hot = F.one_hot(c, m)
        wanted = (one_hot.cumsum(0) + counts)[torch.arange(len(c)), c] <= enough
        counts += one_hot.sum(0)
        if wanted.any():
            absorbed: list[Absorbed] = []
            x = x[wanted.to(x.device)]
            _, s = network.score(x.to(device), absorbed)
            rows.append((x.cpu(), c[wanted], absorbed[-1].tokens.cpu(), s[-1].float().softmax(-1).cpu()))
        if int(counts.min()) >= enough:
            break
    return Absorption(*(torch.cat(columns) for columns in zip(*rows, strict=True)))


def draw_absorption_by_class(absorption: Absorption, tokens: int, names: Sequence[str]) -> Figure:
    """Mean attention to each prompt, by the coarse class of the image.

    Args:
        tokens: N + 1 + M, among which attention is shared.
        names: of the M coarse classes.
    """
    m = absorption.shares.shape[1]
    means = torch.stack([absorption.shares[absorption.coarse == i].mean(0) for i in range(m)])  # NaN without images

    figure = Figure(figsize=(7, 5.5), layout="constrained")
    ax = figure.subplots()
    image = ax.imshow(means * tokens, cmap="viridis")
    figure.colorbar(image, label=f"attention to the prompt, 1 = equal shares of {tokens} tokens")
    ax.set(xlabel="prompt", ylabel="coarse class of the images", title=f"{len(absorption.coarse):,} test images")
    if m <= 25:
        ax.set_xticks(range(m), names, rotation=60, ha="right", fontsize=8)
        ax.set_yticks(range(m), names, fontsize=8)
    return figure


def draw_few_images(
    absorption: Absorption, tokens: int, names: Sequence[str], shown: Callable[[Tensor], Tensor]
) -> Figure:
    """Images of different coarse classes, with the prompts they attend to most and their coarse probabilities.

    Args:
        tokens, names: see draw_absorption_by_class.
        shown: an image as the network sees it -> the same in [0, 1].
    """
    c = absorption.coarse
    first = [int((c == i).nonzero()[0]) for i in c.unique().tolist()]
    chosen = first[:: math.ceil(len(first) / SHOWN)]

    figure = Figure(figsize=(1.7 * len(chosen), 4.2), layout="constrained")
    axes = figure.subplots(3, len(chosen), squeeze=False)
    for column, i in enumerate(chosen):
        own = int(c[i])
        axes[0, column].imshow(shown(absorption.x[i]).permute(1, 2, 0), cmap="gray", vmin=0, vmax=1)
        axes[0, column].set_title(str(names[own]), fontsize=8)
        axes[0, column].axis("off")

        share = absorption.shares[i]
        top = share.topk(min(len(share), 6)).indices.sort().values
        colours = ["C1" if k == own else "C0" for k in top.tolist()]
        for row, values in ((1, share[top] * tokens), (2, absorption.probabilities[i][top])):
            axes[row, column].bar(range(len(top)), values, color=colours)
            axes[row, column].set_xticks(range(len(top)), top.tolist(), fontsize=7)
            axes[row, column].tick_params(axis="y", labelsize=6)
        axes[2, column].set_ylim(0, 1)
    axes[1, 0].set_ylabel("attention to\nthe prompt", fontsize=8)
    axes[2, 0].set_ylabel("coarse\nprobability", fontsize=8)
    return figure
