"""OpenAI's released diffusion model of ImageNet at 256 pixels, unconditional: 256x256_diffusion_uncond.pt."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import torch

from modules.common.needs import user_file
from modules.common.unet import UNet

UNREADABLE = (OSError, RuntimeError, EOFError, ValueError, LookupError, pickle.UnpicklingError, zipfile.BadZipFile)
WHERE = "https://github.com/openai/guided-diffusion links 256x256_diffusion_uncond.pt"


def imagenet256(
    path: str,
    pretrained: bool = True,
    image_size: int = 256,
    width: int = 256,
    attention: tuple[int, ...] = (32, 16, 8),
    zero: bool = True,
) -> UNet:
    """The U-Net, 552,814,086 parameters, with the weights of a file that is on this machine.

    Args:
        path: of the file; read as tensors alone, every name and shape must fit.
        pretrained: False leaves the weights as they are drawn, and the file alone.
        image_size, width, attention: as released.
        zero: see UNet; without the file alone.
    Raises:
        ValueError: the file is missing or damaged, or its network is another one.
    """
    network = UNet(image_size, 3, width, (1, 1, 2, 2, 4, 4), 2, attention, 64, 32, learned_variance=True, zero=zero)
    if pretrained:
        load_released(network, Path(path))
    return network


def load_released(network: UNet, path: Path) -> None:
    """Fill a network, in place.

    Raises:
        ValueError: one line that names the file and what is wrong.
    """
    if not path.is_file():
        raise ValueError(f"path={path}: there is no such file; {WHERE}")
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except UNREADABLE as error:
        raise ValueError(f"path={path}: cannot be read as weights ({type(error).__name__}); {WHERE}") from error
    if not isinstance(stored, dict) or not all(isinstance(value, torch.Tensor) for value in stored.values()):
        raise ValueError(f"path={path}: expected names of tensors, as {WHERE}")
    if any(str(name).startswith("label_emb") for name in stored):
        raise ValueError(f"path={path}: this network has seen the labels; expected the unconditional one, {WHERE}")

    own = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    there = {str(name): tuple(value.shape) for name, value in stored.items()}
    wrong = sorted(name for name in own.keys() | there.keys() if own.get(name) != there.get(name))
    if wrong:
        name = wrong[0]
        raise ValueError(f"path={path}: {name} is {there.get(name)}, expected {own.get(name)}; {WHERE}")
    network.load_state_dict({name: value.float() for name, value in stored.items()})


NEEDS = {"imagenet256": user_file("path", WHERE)}
