"""InceptionNeXt and ConvNeXt at the published sizes (arXiv 2303.16900, tables 1, 3 and 5)."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

from modules.inception_next.module import InceptionDWConv
from modules.inception_next.networks import Attention, DWConv, LayerFactory, MetaNeXt, Stem, one_of


@dataclass(frozen=True)
class Size:
    """A published size: what InceptionNeXt and ConvNeXt share, the former's own parts, and both drop paths."""

    depths: tuple[int, ...]
    dims: tuple[int, ...]
    drop_path: float
    convnext_drop_path: float
    mixer: LayerFactory = InceptionDWConv
    mlp_ratios: tuple[int, ...] = (4, 4, 4, 3)
    head: str = "mlp"
    stem: Stem = field(default_factory=Stem)
    gamma: float | None = 1e-6


# 16x16 patches and equal blocks, without a norm after the stem and without gamma
isotropic = partial(
    Size,
    dims=(384,),
    drop_path=0.1,
    convnext_drop_path=0.1,
    mlp_ratios=(4,),
    head="linear",
    stem=Stem(patch=16, norm=False),
    gamma=None,
)

SIZES = {
    "atto": Size((2, 2, 6, 2), (40, 80, 160, 320), 0.1, 0.1, partial(InceptionDWConv, band_kernel=9, ratio=0.25)),
    "tiny": Size((3, 3, 9, 3), (96, 192, 384, 768), 0.1, 0.1),
    "small": Size((3, 3, 27, 3), (96, 192, 384, 768), 0.3, 0.4),
    "base": Size((3, 3, 27, 3), (128, 256, 512, 1024), 0.4, 0.5),
    "isotropic": isotropic((18,)),
    "isotropic12": isotropic((12,), mixer=Attention),  # MetaNeXt-Attn
}


def inception_next(
    size: str = "tiny",
    mixer: LayerFactory | None = None,
    norm: str = "batch",
    drop_path: float | None = None,
    classes: int = 1000,
    channels_last: bool = True,
) -> MetaNeXt:
    """InceptionNeXt at a published size.

    Args:
        size: one of SIZES.
        mixer: another token mixer; None takes the size's own.
        drop_path: None takes the size's own.
        norm, classes, channels_last: see MetaNeXt.
    """
    s = SIZES[one_of("size", size, SIZES)]
    return MetaNeXt(
        s.depths,
        s.dims,
        mixer or s.mixer,
        mlp_ratios=s.mlp_ratios,
        norm=norm,
        head=s.head,
        stem=s.stem,
        gamma=s.gamma,
        drop_path=s.drop_path if drop_path is None else drop_path,
        classes=classes,
        channels_last=channels_last,
    )


def convnext(
    size: str = "tiny",
    kernel: int = 7,
    ratio: float = 1.0,
    drop_path: float | None = None,
    classes: int = 1000,
    channels_last: bool = True,
) -> MetaNeXt:
    """ConvNeXt at a published size with a depthwise kernel x kernel on `ratio` of the channels (table 1)."""
    s = SIZES[one_of("size", size, SIZES)]
    return MetaNeXt(
        s.depths,
        s.dims,
        partial(DWConv, kernel=kernel, ratio=ratio),
        mlp_ratios=4,
        norm="layer",
        head="linear",
        stem=s.stem,
        gamma=s.gamma,
        drop_path=s.convnext_drop_path if drop_path is None else drop_path,
        classes=classes,
        channels_last=channels_last,
    )
