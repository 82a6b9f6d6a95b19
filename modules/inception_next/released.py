"""Names of released weights: InceptionNeXt's and the ConvNeXt code's, timm's of both, as ours."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor


def rename_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of the released InceptionNeXt, of timm's inception_next_* and convnext_*, or of the ConvNeXt code, under
    our names. Linear layers inside blocks become 1x1 convolutions."""
    rules = (
        (r"^downsample_layers\.0\.(\d)", r"stem.\1"),  # the ConvNeXt code's names
        (r"^downsample_layers\.(\d)\.", r"stages.\1.downsample."),
        (r"^stages\.(\d+)\.(\d+)\.", r"stages.\1.blocks.\2."),
        (r"\.(dwconv|conv_dw)\.(conv\.)?(?=weight|bias)", r".token_mixer.conv."),
        (r"\.pwconv", r".mlp.fc"),
        (r"^norm\.", r"head.norm."),
        (r"^head\.(?=weight|bias)", r"head.fc."),
        (r"\.dwconv_", r".dwconv."),  # timm's and the released names of the Inception branches
    )

    renamed = {}
    for key, value in state.items():
        for pattern, replacement in rules:
            key = re.sub(pattern, replacement, key)
        linear = re.search(r"mlp\.fc\d\.weight$", key) and value.ndim == 2
        renamed[key] = value[:, :, None, None] if linear else value
    return renamed
