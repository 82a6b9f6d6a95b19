"""Inception-v4 and the Inception-ResNets of arXiv 1602.07261, Inception-v3, and the Inception-ResNet-v2 of TF-slim.

Where paper and released code differ, and why ours is as it is:
- Released Inception-ResNet-v2 is another network than the paper's: another stem, 10/20/10 blocks instead of 5/10/5 on
  320/1088/2080 instead of 384/1152/2144 filters, a last block with s = 1 and no ReLU, 1x1 1536 before the pooling. Both
  are here: the paper's numbers belong to one, the released weights to the other.
- The paper's figures print 1154 and 2048 filters for its expansions. Those cannot be added; ours are 1152 and 2144.
- The stem's figure leaves out a stride of 2, without which the next map's size is wrong. The order 1x7, 7x1 in
  Inception-v4's stem is the code's, so that its weights fit.

Sizes at the line ends are those of 299x299 inputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from modules.inception_v4.networks import Grid, Inception

STEM_V4 = (  # figure 3, also of the paper's Inception-ResNet-v2
    ("3x3/2V 32 - 3x3V 32 - 3x3 64",),  # 147x147x64
    ("max", "3x3/2V 96"),  # 73x73x160
    ("1x1 64 - 3x3V 96", "1x1 64 - 1x7 64 - 7x1 64 - 3x3V 96"),  # 71x71x192
    ("3x3/2V 192", "max"),  # 35x35x384
)
STEM_V1 = (("3x3/2V 32 - 3x3V 32 - 3x3 64 - max - 1x1 80 - 3x3V 192 - 3x3/2V 256",),)  # figure 14: 35x35x256
STEM_V3 = (("3x3/2V 32 - 3x3V 32 - 3x3 64 - max - 1x1 80 - 3x3V 192 - max",),)  # 35x35x192
STEM_RELEASED = (*STEM_V3, ("1x1 96", "1x1 48 - 5x5 64", "1x1 64 - 3x3 96 - 3x3 96", "avg - 1x1 64"))  # 35x35x320


def reduction_a(k: int, l: int, m: int, n: int) -> tuple[str, str, str]:  # noqa: E741 - the paper's letters
    """Figure 7 with the filters of table 1: 35x35 to 17x17."""
    return f"3x3/2V {n}", f"1x1 {k} - 3x3 {l} - 3x3/2V {m}", "max"


def inception_v4(classes: int = 1000, **options: Any) -> Inception:
    """Figures 3 to 9; options: see Inception."""
    a = Grid(("1x1 96", "1x1 64 - 3x3 96", "1x1 64 - 3x3 96 - 3x3 96", "avg - 1x1 96"), 4)  # 35x35x384
    b = Grid(
        (
            "1x1 384",
            "1x1 192 - 1x7 224 - 7x1 256",
            "1x1 192 - 7x1 192 - 1x7 224 - 7x1 224 - 1x7 256",
            "avg - 1x1 128",
        ),
        7,
        reduction_a(192, 224, 256, 384),
    )  # 17x17x1024
    c = Grid(
        (
            "1x1 256",
            "1x1 384 - (1x3 256 | 3x1 256)",
            "1x1 384 - 3x1 448 - 1x3 512 - (1x3 256 | 3x1 256)",
            "avg - 1x1 256",
        ),
        3,
        ("1x1 192 - 3x3/2V 192", "1x1 256 - 1x7 256 - 7x1 320 - 3x3/2V 320", "max"),
    )  # 8x8x1536
    return Inception(STEM_V4, (a, b, c), classes, **options)


def inception_resnet_v1(
    classes: int = 1000,
    scale: float = 0.1,
    repeats: Sequence[int] = (5, 10, 5),
    join: str = "residual",
    **options: Any,
) -> Inception:
    """Figures 10 to 15, at the cost of Inception-v3."""
    a = Grid(("1x1 32", "1x1 32 - 3x3 32", "1x1 32 - 3x3 32 - 3x3 32"), repeats[0], (), scale)  # 35x35x256
    b = Grid(("1x1 128", "1x1 128 - 1x7 128 - 7x1 128"), repeats[1], reduction_a(192, 192, 256, 384), scale)
    c = Grid(
        ("1x1 192", "1x1 192 - 1x3 192 - 3x1 192"),
        repeats[2],
        ("1x1 256 - 3x3/2V 384", "1x1 256 - 3x3/2V 256", "1x1 256 - 3x3 256 - 3x3/2V 256", "max"),
        scale,
    )  # b: 17x17x896, c: 8x8x1792
    return Inception(STEM_V1, (a, b, c), classes, join=join, **options)


def resnet_v2_grids(repeats: Sequence[int], scales: Sequence[float], linear_last: bool) -> tuple[Grid, Grid, Grid]:
    """The blocks of figures 16 to 19, which the paper's and the released network share."""
    a = Grid(("1x1 32", "1x1 32 - 3x3 32", "1x1 32 - 3x3 48 - 3x3 64"), repeats[0], (), scales[0])
    b = Grid(("1x1 192", "1x1 128 - 1x7 160 - 7x1 192"), repeats[1], reduction_a(256, 256, 384, 384), scales[1])
    c = Grid(
        ("1x1 192", "1x1 192 - 1x3 224 - 3x1 256"),
        repeats[2],
        ("1x1 256 - 3x3/2V 384", "1x1 256 - 3x3/2V 288", "1x1 256 - 3x3 288 - 3x3/2V 320", "max"),
        scales[2],
        linear_last,
    )
    return a, b, c


def inception_resnet_v2(
    classes: int = 1000,
    scale: float = 0.1,
    repeats: Sequence[int] = (5, 10, 5),
    join: str = "residual",
    **options: Any,
) -> Inception:
    """As the paper draws it, at the cost of Inception-v4: 35x35x384, 17x17x1152, 8x8x2144."""
    grids = resnet_v2_grids(repeats, (scale,) * 3, False)
    return Inception(STEM_V4, grids, classes, join=join, **options)


def inception_resnet_v2_released(
    classes: int = 1000, repeats: Sequence[int] = (10, 20, 10), **options: Any
) -> Inception:
    """As released in TF-slim: 35x35x320, 17x17x1088, 8x8x2080, then 1x1 1536."""
    grids = resnet_v2_grids(repeats, (0.17, 0.10, 0.20), True)
    return Inception(STEM_RELEASED, grids, classes, join="residual", end="1x1 1536", **options)


def inception_v3(classes: int = 1000, **options: Any) -> Inception:
    """The baseline (arXiv 1512.00567), without its auxiliary classifier unless asked for."""

    def a(pool: int, repeats: int) -> Grid:  # 35x35x256, 35x35x288
        return Grid(("1x1 64", "1x1 48 - 5x5 64", "1x1 64 - 3x3 96 - 3x3 96", f"avg - 1x1 {pool}"), repeats)

    def b(c: int, repeats: int, reduction: Sequence[str] = ()) -> Grid:  # 17x17x768
        long = f"1x1 {c} - 7x1 {c} - 1x7 {c} - 7x1 {c} - 1x7 192"
        return Grid(("1x1 192", f"1x1 {c} - 1x7 {c} - 7x1 192", long, "avg - 1x1 192"), repeats, reduction)

    last = Grid(
        ("1x1 320", "1x1 384 - (1x3 384 | 3x1 384)", "1x1 448 - 3x3 384 - (1x3 384 | 3x1 384)", "avg - 1x1 192"),
        2,
        ("1x1 192 - 3x3/2V 320", "1x1 192 - 1x7 192 - 7x1 192 - 3x3/2V 192", "max"),
    )  # 8x8x2048
    middle = b(128, 1, ("3x3/2V 384", "1x1 64 - 3x3 96 - 3x3/2V 96", "max"))
    return Inception(STEM_V3, (a(32, 1), a(64, 2), middle, b(160, 2), b(192, 1), last), classes, **options)
