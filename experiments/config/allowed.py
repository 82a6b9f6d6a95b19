"""What a configuration may name: this project's own classes and functions, and these of libraries, each by its whole
name. A namespace is no list: `timm.` holds functions that run what a file says, and so does every large library.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Any

from experiments.common import overlay
from experiments.common.errors import InputError
from experiments.identity import definitions
from experiments.identity.definitions import Definition

# A name goes in when a recipe needs it and calling it only builds: it opens no file, runs no text, fetches nothing.
LIBRARIES = frozenset(
    {
        "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet",
        "dynamic_network_architectures.architectures.unet.ResidualUNet",
        "timm.create_model",
        "timm.optim.AdamP",
        "timm.optim.RMSpropTF",
        "torch.nn.BatchNorm2d",
        "torch.nn.GroupNorm",
        "torch.nn.Identity",
        "torch.nn.LayerNorm",
        "torch.optim.Adam",
        "torch.optim.AdamW",
        "torch.optim.NAdam",
        "torch.optim.RAdam",
        "torch.optim.RMSprop",
        "torch.optim.SGD",
        "torchvision.models.resnet18",
    }
)

# Arguments with which one of these would read a file or fetch from wherever it is told.
NETWORKS = {
    "timm.create_model": ("checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"),
    "torchvision.models.resnet18": ("weights",),
}


def check_target(target: Any, where: str) -> None:
    """Raises InputError unless a `_target_` is a class or function of this project, or stands in LIBRARIES."""
    text = target if isinstance(target, str) and len(target) <= 200 else ""
    if text in LIBRARIES:
        return
    if not definitions.is_first_party(text) or not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)+", text):
        close = difflib.get_close_matches(text, LIBRARIES, n=1)
        hint = f"did you mean {close[0]!r}?" if close else "of libraries, only names in experiments/config/allowed.py"
        raise InputError(f"{where}._target_: {target!r:.200} is not allowed; {hint}")
    extra = overlay.current()
    if extra is not None and extra.holds(text) and text not in extra.allow:
        close = difflib.get_close_matches(text, extra.allow, n=1)
        hint = f"did you mean {close[0]!r}?" if close else "its name is not under allow: in overlay.yaml"
        raise InputError(f"{where}._target_: {text!r:.200} is not allowed; {hint}")
    definition = definitions.locate(text)
    module, _, name = text.rpartition(".")
    exists = isinstance(definition, Definition) and definitions.is_callable(definition)
    if not exists or definition != Definition(module, name):
        hint = nearest(module, name)
        if exists and isinstance(definition, Definition):  # imported there from where it is defined
            hint = f"; did you mean '{definition.module}.{definition.name}'?"
        raise InputError(f"{where}._target_: {text!r:.200} is not allowed; no class or function of that name{hint}")


def nearest(module: str, name: str) -> str:
    """`; did you mean ...?`, from what the module defines."""
    close = difflib.get_close_matches(name, definitions.callables(module), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def check_arguments(target: str, config: Mapping[str, Any], where: str) -> None:
    """Raises InputError for arguments that would make a network read a file, or a model that is no name of timm's."""
    for key in NETWORKS.get(target, ()):
        if config.get(key) is not None:
            raise InputError(f"{where}.{key}: not allowed for {target}; weights come from this project's own functions")
    name = config.get("model_name")
    if target == "timm.create_model" and not (isinstance(name, str) and re.fullmatch(r"\w+(\.\w+)?", name)):
        raise InputError(f"{where}.model_name: {name!r:.200}: expected one of timm's own names, as resnet18.a1_in1k")
