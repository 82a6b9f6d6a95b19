"""Released weights: timm's files hold TensorFlow's, by other names."""

from __future__ import annotations

import re

from torch import Tensor, nn

from modules.common.needs import timm_weights
from modules.inception_v4.architectures import inception_resnet_v2_released, inception_v3, inception_v4
from modules.inception_v4.networks import Inception

V4_FORKS = {"1a": "1.branches.0", "1b": "1.branches.1", "3a": "3.branches.0", "3b": "3.branches.1"}
RELEASED_STEM = {"1a": 0, "2a": 1, "2b": 2, "3b": 4, "4a": 5}
RELEASED_START = {"mixed_5b": 1, "repeat": 2, "mixed_6a": 12, "repeat_1": 13, "mixed_7a": 33, "repeat_2": 34}


def timm_key(key: str) -> str:
    """Our name of a weight of timm's `inception_v4` or `inception_resnet_v2` (the released one).

    timm's files hold the TensorFlow weights, without the background class.

    Raises:
        KeyError: neither network has it.
    """
    if match := re.fullmatch(r"(?:last_linear|classif)\.(\w+)", key):
        return f"classifier.{match[1]}"
    if match := re.fullmatch(r"features\.([012])\.((?:conv|bn)\.\w+)", key):
        return f"features.0.branches.0.{match[1]}.{match[2]}"
    if match := re.fullmatch(r"conv2d_(1a|2a|2b|3b|4a)\.((?:conv|bn)\.\w+)", key):
        return f"features.0.branches.0.{RELEASED_STEM[match[1]]}.{match[2]}"
    if match := re.fullmatch(r"conv2d_7b\.((?:conv|bn)\.\w+)", key):
        return f"features.44.branches.0.0.{match[1]}"

    place, _, rest = key.partition(".branch") if ".branch" in key else key.partition(".conv")
    if match := re.fullmatch(r"features\.(\d+)", place):
        layer = int(match[1]) - 2
    elif place == "block8":
        layer = 43
    elif (match := re.fullmatch(r"(\w+?)(?:\.(\d+))?", place)) and match[1] in RELEASED_START:
        layer = RELEASED_START[match[1]] + int(match[2] or 0)
    else:
        raise KeyError(f"{key!r} belongs to neither inception_v4 nor inception_resnet_v2")

    if ".branch" not in key:  # an expansion, or the one convolution beside a pooling
        if rest.startswith("2d."):
            return f"features.{layer}.expand{rest[2:]}"
        return f"features.{layer}.branches.{1 if layer == 1 else 0}.0{rest}"

    match = re.fullmatch(r"(\d)(?:_(\d[ab]?)|\.(\d))?\.((?:conv|bn)\.\w+)", rest)
    if match is None:
        raise KeyError(f"{key!r} belongs to neither inception_v4 nor inception_resnet_v2")
    branch, step_name, number, tail = match.groups()
    step = f"{V4_FORKS[step_name]}.0" if step_name in V4_FORKS else step_name or number or "0"
    return f"features.{layer}.branches.{branch}.{step}.{tail}"


def carry_weights(name: str, theirs: nn.Module, ours: nn.Module) -> dict[str, Tensor]:
    """The weights of timm's network `name` by our names. Those of inception_v3 are in the same order as ours.

    Raises ValueError for an inception_v3 with other weights, e.g. an auxiliary classifier's.
    """
    values = theirs.state_dict()
    if name == "inception_v3":
        return dict(zip(ours.state_dict(), values.values(), strict=True))
    return {timm_key(key): value for key, value in values.items()}


def port(model_name: str, classes: int = 1000, pretrained: bool = True) -> Inception:
    """Our network with timm's weights.

    timm's inception_v3 counts the padding in its average pools; ours does not, and neither did TensorFlow, where the
    weights come from.

    Args:
        model_name: e.g. "inception_v3.tf_in1k", "inception_v4.tf_in1k", "inception_resnet_v2.tf_in1k".
        classes: outputs; another number than 1000 gets a new last layer.
        pretrained: false takes timm's random weights.
    Raises:
        ValueError: another network.
    """
    import timm

    builders = {
        "inception_v3": inception_v3,
        "inception_v4": inception_v4,
        "inception_resnet_v2": inception_resnet_v2_released,
    }
    name = model_name.partition(".")[0]
    if name not in builders:
        raise ValueError(f"model_name={model_name!r}: expected one of {', '.join(builders)}, with or without a tag")
    theirs = timm.create_model(model_name, pretrained=pretrained, num_classes=classes)
    network = builders[name](classes)
    network.load_state_dict(carry_weights(name, theirs, network))
    return network


NEEDS = {"port": timm_weights(default=True)}
