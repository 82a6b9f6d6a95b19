"""The published sizes: parameters and multiply-adds."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from modules.inception_next.module import InceptionDWConv
from modules.inception_next.networks import Attention, DWConv, MetaNeXt
from modules.inception_next.sizes import SIZES, convnext, inception_next
from modules.inception_next.timing import multiply_adds
from tests.papers.inception_next.helpers import CONVNEXT, COUNTS, parameters

MADDS = {"atto": 0.505, "tiny": 4.195, "small": 8.364, "base": 14.853}


def fvcore(network: nn.Module) -> float:
    """GMAC at 224 as fvcore counts them: convolutions and linear layers, and 2 (batch norm) or 5 (layer norm) for each
    number that is normalised."""
    normalised = [0]

    def hook(module: nn.Module, _: Any, output: Tensor) -> None:
        normalised[0] += output.numel() * (2 if isinstance(module, nn.BatchNorm2d) else 5)

    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d | nn.LayerNorm):
            module.register_forward_hook(hook)
    return (multiply_adds(network, torch.zeros(1, 3, 224, 224)) + normalised[0]) / 1e9


@pytest.mark.parametrize("size", COUNTS)
def test_published_parameters_and_multiply_adds(size: str) -> None:
    with torch.device("meta"):
        network, baseline = inception_next(size), convnext(size)
        assert parameters(network) == COUNTS[size]
        assert parameters(baseline) == CONVNEXT[size]
        assert fvcore(network) == pytest.approx(MADDS[size], abs=0.001)
        if size == "tiny":
            assert fvcore(baseline) == pytest.approx(4.470, abs=0.001)


def test_features_at_224() -> None:
    with torch.device("meta"):
        shapes = [tuple(f.shape[1:]) for f in inception_next("tiny").features(torch.zeros(1, 3, 224, 224))]
    assert shapes == [(96, 56, 56), (192, 28, 28), (384, 14, 14), (768, 7, 7)]


def test_counts_by_hand() -> None:
    mixer = InceptionDWConv(96)
    assert sum(p.numel() for p in mixer.parameters() if p.ndim > 1) == 12 * 9 + 2 * 12 * 11 == 372
    assert parameters(mixer) == 372 + 36
    assert parameters(DWConv(96, 7)) == 4704 + 96
    with torch.device("meta"):
        network = inception_next("tiny")
        assert parameters(network.blocks()[0]) == 74_904
        assert parameters(network.head) == 768 * 2304 + 2304 + 2 * 2304 + 2304 * 1000 + 1000 == 4_081_384
        s = SIZES["tiny"]
        assert parameters(MetaNeXt(s.depths, s.dims, InceptionDWConv, 4)) == 31_596_928
        printed = MetaNeXt((2, 2, 6, 2), (40, 90, 180, 320), partial(InceptionDWConv, band_kernel=9, ratio=0.25))
        assert parameters(printed) / 1e6 == pytest.approx(4.55, abs=0.01)  # the widths in the paper's table
        x = torch.zeros(1, 96, 56, 56)
        assert multiply_adds(mixer.to("meta"), x) == 372 * 3136
        assert multiply_adds(DWConv(96, 11), x) == 11_616 * 3136
        for size, mixers in (("isotropic", InceptionDWConv), ("isotropic12", Attention)):
            assert parameters(inception_next(size)) / 1e6 == pytest.approx(22, abs=0.5), mixers
        assert parameters(convnext("isotropic")) / 1e6 == pytest.approx(22, abs=0.5)
        assert round(parameters(inception_next("isotropic", mixer=Attention)) / 1e6) == 33  # hence 12 blocks
        isotropic = inception_next("isotropic"), inception_next("isotropic12"), convnext("isotropic")
        assert all(b.gamma is None for network in isotropic for b in network.blocks())


@pytest.mark.parametrize(
    ("kernel", "ratio", "millions"), [(5, 1.0, 28.4), (3, 1.0, 28.3), (3, 0.5, 28.3), (3, 1 / 16, 28.3)]
)
def test_parameters_of_table_1(kernel: int, ratio: float, millions: float) -> None:
    with torch.device("meta"):
        assert parameters(convnext("tiny", kernel, ratio)) / 1e6 == pytest.approx(millions, abs=0.06)
