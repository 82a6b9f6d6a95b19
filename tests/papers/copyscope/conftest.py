"""A small gallery, a base model that was not trained, and its add-ons."""

from __future__ import annotations

import pytest
import torch

from datamodules.common.torchvision_sets import FashionMNIST
from datamodules.copyscope.gallery import Deal, Gallery
from modules.common.diffusion import NoiseSchedule
from modules.copyscope.addons import ControlTraining, LoRATraining
from modules.copyscope.base import Base, PromptedUNet

DEAL = Deal(judge=60, studies=40, originals=24)


def gallery(purpose: str, **options: object) -> Gallery:
    """Of 1,200 training and 40 test images at 8 pixels."""
    source = FashionMNIST(subset="embedded", root="data", batch_size=32, train_size=1200, test_size=40)
    made = Gallery(source, 32, purpose, side=8, deal=DEAL, **options)  # type: ignore[arg-type]
    made.setup()
    return made


@pytest.fixture
def base() -> Base:
    network = PromptedUNet(
        10, 4, image_size=8, in_channels=3, width=8, multipliers=[1, 2], res_blocks=1, attention=[4], head_channels=8,
        groups=4, zero=False,
    )  # fmt: skip
    return Base(network, noise=NoiseSchedule(100), decay=0.9)


@pytest.fixture
def lora(base: Base) -> LoRATraining:
    made = LoRATraining(base, rank=2)
    for weight in made.network.up.values():
        torch.nn.init.normal_(weight, std=0.1)
    return made


@pytest.fixture
def control(base: Base) -> ControlTraining:
    made = ControlTraining(base)
    for layer in made.network.exits:
        torch.nn.init.normal_(layer.weight, std=0.1)  # type: ignore[arg-type]
    torch.nn.init.normal_(made.network.hint[-1].weight, std=0.1)  # type: ignore[arg-type]
    return made
