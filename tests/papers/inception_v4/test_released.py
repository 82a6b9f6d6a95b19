"""Released weights: timm's names and outputs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import timm
import torch
from torch import nn

from modules.inception_v4 import architectures, released
from modules.inception_v4.networks import Inception
from modules.inception_v4.released import timm_key


def filled(make: Callable[[], nn.Module]) -> nn.Module:
    """Random weights of He's size (without the seconds an own initialisation takes), and batch statistics, gains and
    biases that are not 0 and 1, so that leaving one out shows."""
    with torch.device("meta"):
        module = make()
    module = module.to_empty(device="cpu").eval()
    source = torch.Generator().manual_seed(0)
    for name, value in module.state_dict().items():
        if value.ndim > 1:
            value.normal_(0, (2 / value[0].numel()) ** 0.5, generator=source)
        elif name.endswith(("running_var", "weight")):
            value.uniform_(0.5, 1.5, generator=source)
        elif value.is_floating_point():
            value.normal_(0, 0.3, generator=source)
        else:
            value.zero_()
    return module


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("inception_v4", architectures.inception_v4),
        ("inception_resnet_v2", architectures.inception_resnet_v2_released),
    ],
)
def test_timms_weights_give_timms_outputs(name: str, make: Callable[[], Inception]) -> None:
    """Random weights and statistics carried over by name; features relative to their size, and logits."""
    theirs = filled(partial(timm.create_model, name, pretrained=False, num_classes=1000))
    carried = {timm_key(key): value for key, value in theirs.state_dict().items()}
    assert len(carried) == len(theirs.state_dict())
    with torch.device("meta"):
        ours = make().eval()
    ours.load_state_dict(carried, assign=True)
    x = torch.randn(1, 3, 299, 299, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected, actual = theirs.forward_features(x), ours.maps(x)[-1]  # type: ignore[operator]
        assert expected.shape == (1, 1536, 8, 8)
        assert float((actual - expected).abs().max() / expected.std()) < 1e-4
        logits = theirs.forward_head(expected)  # type: ignore[operator]
        assert float(logits.std()) > 0.1
        assert torch.allclose(ours.decide(actual.mean((2, 3))), logits, atol=1e-4)


@pytest.mark.slow
def test_inception_v3_is_timms() -> None:
    """Carried over in order of definition. timm's averages count the padding; ours do so here for the comparison."""
    theirs = filled(partial(timm.create_model, "inception_v3", pretrained=False, aux_logits=False))
    with torch.device("meta"):
        ours = architectures.inception_v3().eval()
    carried = released.carry_weights("inception_v3", theirs, ours)
    assert {k: v.shape for k, v in carried.items()} == {k: v.shape for k, v in ours.state_dict().items()}
    ours.load_state_dict(carried, assign=True)
    x = torch.randn(1, 3, 299, 299, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        logits = theirs(x)
        assert not torch.allclose(ours(x), logits, atol=1e-4)
        for part in ours.modules():
            if isinstance(part, nn.AvgPool2d):
                part.count_include_pad = True
        assert torch.allclose(ours(x), logits, atol=1e-4)


def test_a_ported_network_has_as_many_outputs_as_are_asked_for() -> None:
    with torch.device("meta"):
        network = released.port("inception_v4.tf_in1k", 7, pretrained=False)
    assert network.classifier.weight.shape == (7, 1536)


def test_every_name_of_timm_is_known() -> None:
    with torch.device("meta"):
        for name, make in (
            ("inception_v4", architectures.inception_v4),
            ("inception_resnet_v2", architectures.inception_resnet_v2_released),
        ):
            ours = {key: value.shape for key, value in make().state_dict().items()}
            theirs = timm.create_model(name, pretrained=False).state_dict()
            assert {timm_key(key): value.shape for key, value in theirs.items()} == ours
    for wrong in ("blocks.0.weight", "features.9.branchx.weight", "repeat_7.1.branch0.conv.weight"):
        with pytest.raises(KeyError, match="neither inception_v4 nor"):
            timm_key(wrong)
    with pytest.raises(ValueError, match="expected one of inception_v3, inception_v4, inception_resnet_v2"):
        released.port("resnet50.tv_in1k", pretrained=False)
