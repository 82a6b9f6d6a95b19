"""The released weights under the names of our networks (arXiv 2205.12956)."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from modules.iformer.mixer import channels_first

RELEASED = (  # names of the released weights -> ours
    (r"^patch_embed\.proj1\.", "stages.0.embed.0."),
    (r"^patch_embed\.norm1\.", "stages.0.embed.1."),
    (r"^patch_embed\.proj2\.", "stages.0.embed.3."),
    (r"^patch_embed\.norm2\.", "stages.0.embed.4."),
    (r"^patch_embed([234])\.proj\.", r"stages.{\1}.embed.0."),
    (r"^patch_embed([234])\.norm\.", r"stages.{\1}.embed.1."),
    (r"^pos_embed([1234])$", r"stages.{\1}.position"),
    (r"^blocks([1234])\.", r"stages.{\1}.blocks."),
    (r"\.attn\.high_mixer\.conv1\.", ".mixer.branches.conv.expand."),
    (r"\.attn\.high_mixer\.proj1\.", ".mixer.branches.conv.depthwise."),
    (r"\.attn\.high_mixer\.proj2\.", ".mixer.branches.pool.expand."),
    (r"\.attn\.low_mixer\.", ".mixer.branches.attention."),
    (r"\.attn\.conv_fuse\.", ".mixer.depthwise."),
    (r"\.attn\.proj\.", ".mixer.project."),
    (r"\.mlp\.fc1\.", ".ffn.expand."),
    (r"\.mlp\.fc2\.", ".ffn.project."),
    (r"\.layer_scale_([12])$", r".scale\1"),
)


def from_released(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The released weights' state dict under our names and shapes: for `load_state_dict`, or `load_resized`."""
    renamed = {}
    for name, value in state.items():
        ours = name
        for pattern, replacement in RELEASED:
            ours = re.sub(pattern, replacement, ours)
        ours = re.sub(r"\{(\d)\}", lambda match: str(int(match[1]) - 1), ours)
        if ours.endswith("position"):
            value = channels_first(value)
        elif value.ndim == 4 and value.shape[2:] == (1, 1):
            value = value.flatten(1)  # their 1x1 convolutions are our linear layers
        renamed[ours] = value
    return renamed
