"""Names of NASNet-A's weights: timm's (ported from TensorFlow's released checkpoint) and pytorchcv's, as ours."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from torch import Tensor

TIMM = (  # a part of timm's name -> ours, within a cell
    (r"conv_prev_1x1\.", "adapt.1."),
    (r"conv_1x1\.", "adapt.0."),
    (r"path_([12])\.conv\.", r"adapt.1.conv\1."),
    (r"final_path_bn\.", "adapt.1.bn."),
    (r"comb_iter_(\d)_(left|right)\.separable_([12])\.(depth|point)wise_conv2d\.", r"operations.\1\2.\4wise\3."),
    (r"comb_iter_(\d)_(left|right)\.bn_sep_([12])\.", r"operations.\1\2.bn\3."),
)
PYTORCHCV = (
    (r"conv1x1_prev\.", "adapt.1."),
    (r"conv1x1\.", "adapt.0."),
    (r"path\.path([12])\.conv\.", r"adapt.1.conv\1."),
    (r"path\.bn\.", "adapt.1.bn."),
    (r"comb(\d)_(left|right)\.conv([12])\.conv\.dw_conv\.", r"operations.\1\2.depthwise\3."),
    (r"comb(\d)_(left|right)\.conv([12])\.conv\.pw_conv\.", r"operations.\1\2.pointwise\3."),
    (r"comb(\d)_(left|right)\.conv([12])\.bn\.", r"operations.\1\2.bn\3."),
)


def _in_cell(name: str, patterns: Sequence[tuple[str, str]]) -> str:
    for pattern, ours in patterns:
        if re.match(pattern, name):
            name = re.sub("^" + pattern, ours, name)
            side = re.match(r"operations\.(\d)(left|right)", name)
            if side:
                number = 2 * int(side[1]) + (side[2] == "right")
                name = name.replace(side[0], f"operations.{number}")
            return name
    raise ValueError(f"{name}: not a parameter of NASNet-A")


def from_timm(state: Mapping[str, Tensor], repeats: int = 6) -> dict[str, Tensor]:
    """timm's nasnetalarge state dict under our names. Raises ValueError for a name that is not NASNet-A's."""
    renamed = {}
    for name, value in state.items():
        head, _, rest = name.partition(".")
        if head == "conv0":
            ours = rest.replace("conv.", "stem.0.").replace("bn.", "stem.1.")
        elif head == "last_linear":
            ours = f"fc.{rest}"
        else:
            kind, _, digits = head.rpartition("_")
            if kind not in ("cell_stem", "cell", "reduction_cell"):
                raise ValueError(f"{name}: not a parameter of timm's nasnetalarge")
            number = int(digits)
            cell = {
                "cell_stem": number,
                "cell": 2 + number + number // repeats,
                "reduction_cell": 2 + (number + 1) * repeats + number,
            }[kind]
            ours = f"cells.{cell}.{_in_cell(rest, TIMM)}"
        renamed[ours] = value
    return renamed


def from_pytorchcv(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State dicts of pytorchcv's nasnet_4a1056 and nasnet_6a4032 under our names. Raises ValueError as from_timm."""
    repeats = max(int(m[1]) for m in (re.match(r"features\.stage1\.unit(\d+)\.", name) for name in state) if m)
    renamed = {}
    for name, value in state.items():
        if m := re.match(r"features\.init_block\.(conv|bn)\.", name):
            ours = f"stem.{int(m[1] == 'bn')}." + name[m.end() :]
        elif m := re.match(r"features\.stem(\d)_unit\.", name):
            ours = f"cells.{int(m[1]) - 1}.{_in_cell(name[m.end() :], PYTORCHCV)}"
        elif m := re.match(r"features\.stage(\d)\.unit(\d+)\.", name):
            stage = int(m[1]) - 1
            unit = int(m[2]) - 1
            cell = 2 + stage * (repeats + 1) - bool(stage) + unit
            ours = f"cells.{cell}.{_in_cell(name[m.end() :], PYTORCHCV)}"
        elif m := re.match(r"output\.fc\.", name):
            ours = f"fc.{name[m.end() :]}"
        else:
            raise ValueError(f"{name}: not a parameter of pytorchcv's NASNet")
        renamed[ours] = value
    return renamed
