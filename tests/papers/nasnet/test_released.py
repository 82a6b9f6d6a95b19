"""Released weights: the outputs of timm's and pytorchcv's networks."""

from __future__ import annotations

import pytest
import timm
import torch
from timm.layers.pool2d_same import AvgPool2dSame
from torch import Tensor, nn

from modules.nasnet import architectures, released
from tests.papers.nasnet.helpers import (
    calibrated,
)


def agree(ours: nn.Module, reference: nn.Module, x: Tensor) -> None:
    with torch.inference_mode():
        expected, actual = reference(x), ours.eval()(x)
    assert 0.1 < float(expected.std()) < 10
    assert float((actual - expected).abs().max()) < 1e-4


def test_mobile_agrees_with_pytorchcv() -> None:
    provider = pytest.importorskip("pytorchcv.model_provider")
    x = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    reference = calibrated(provider.get_model("nasnet_4a1056", pretrained=False), x)
    ours = architectures.nasnet_a_mobile()
    ours.load_state_dict(released.from_pytorchcv(reference.state_dict()))
    agree(ours, reference, x)


@pytest.mark.slow
def test_large_agrees_with_pytorchcv() -> None:
    provider = pytest.importorskip("pytorchcv.model_provider")
    x = torch.randn(2, 3, 331, 331, generator=torch.Generator().manual_seed(0))
    reference = calibrated(provider.get_model("nasnet_6a4032", pretrained=False), x)
    ours = architectures.nasnet_a_large()
    ours.load_state_dict(released.from_pytorchcv(reference.state_dict()))
    agree(ours, reference, x)


class UncountedPadding(nn.Module):
    """TensorFlow's SAME average: timm pads with zeros first and then counts them (a fault, by its own source)."""

    def __init__(self, pool: AvgPool2dSame) -> None:
        super().__init__()
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(x) / self.pool(torch.ones_like(x))


@pytest.mark.slow
def test_large_agrees_with_timm() -> None:
    """Once timm's average pooling at stride 2 leaves out the padding, as TensorFlow's does."""
    x = torch.randn(2, 3, 331, 331, generator=torch.Generator().manual_seed(0))
    reference = calibrated(timm.create_model("nasnetalarge", pretrained=False), x)
    ours = architectures.nasnet_a_large().eval()
    ours.load_state_dict(released.from_timm(reference.state_dict()))
    for part in list(reference.modules()):
        for name, child in list(part.named_children()):
            if isinstance(child, AvgPool2dSame):
                setattr(part, name, UncountedPadding(child))
    agree(ours, reference, x)


def test_every_name_of_timm_is_known() -> None:
    """Names and shapes of all weights and statistics, without memory."""
    with torch.device("meta"):
        theirs = timm.create_model("nasnetalarge", pretrained=False).state_dict()
        ours = architectures.nasnet_a_large().state_dict()
    renamed = released.from_timm(theirs)
    assert {name: value.shape for name, value in renamed.items()} == {name: value.shape for name, value in ours.items()}


def test_names_that_are_not_nasnets() -> None:
    for function in (released.from_timm, released.from_pytorchcv):
        name = "features.stage1.unit1.conv1x1.conv.weight"
        with pytest.raises(ValueError, match="wrong: not a parameter"):
            function(
                {name: torch.zeros(1), "wrong": torch.zeros(1)}
                if function is released.from_pytorchcv
                else {"wrong": torch.zeros(1)}
            )
    with pytest.raises(ValueError, match="not a parameter"):
        released.from_timm({"cell_0.wrong.weight": torch.zeros(1)})
