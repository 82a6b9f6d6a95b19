"""NASNet-A as published (Zoph et al., arXiv 1707.07012), and networks made of it."""

from __future__ import annotations

from typing import Any

from modules.nasnet.cells import Block, Genotype, Graph
from modules.nasnet.networks import CellNetwork, Size, Stem

NORMAL_A = Graph(
    (
        Block(0, 1, "sep5", "sep3"),
        Block(1, 1, "sep5", "sep3"),
        Block(0, 1, "avg3", "identity"),
        Block(1, 1, "avg3", "avg3"),
        Block(0, 0, "sep3", "identity"),
    ),
    (1, 2, 3, 4, 5, 6),
)
REDUCTION_A = Graph(
    (
        Block(0, 1, "sep5", "sep7"),
        Block(0, 1, "max3", "sep7"),
        Block(0, 1, "avg3", "sep5"),
        Block(3, 2, "identity", "avg3"),
        Block(2, 0, "sep3", "max3"),
    ),
    (3, 4, 5, 6),
)
NASNET_A = Genotype(NORMAL_A, REDUCTION_A)


def nasnet_a(**options: Any) -> CellNetwork:
    """NASNet-A. Arguments: those of CellNetwork but the genotype."""
    return CellNetwork(NASNET_A, **options)


def nasnet_a_large(classes: int = 1000, input_size: int = 331, **options: Any) -> CellNetwork:
    """NASNet-A (6 @ 4032) for ImageNet at 331 pixels."""
    return nasnet_a(
        size=Size(6, penultimate=4032),
        classes=classes,
        input_size=input_size,
        stem=Stem("imagenet", width=96),
        skip_reduction=True,
        **options,
    )


def nasnet_a_mobile(classes: int = 1000, input_size: int = 224, **options: Any) -> CellNetwork:
    """NASNet-A (4 @ 1056) for ImageNet at 224 pixels."""
    return nasnet_a(
        size=Size(4, penultimate=1056),
        classes=classes,
        input_size=input_size,
        stem=Stem("imagenet", width=32),
        **options,
    )
