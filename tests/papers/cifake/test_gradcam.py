"""Grad-CAM with one output: against captum, against CAM, its invariances and limits."""

from __future__ import annotations

import pytest
import torch
from captum.attr import LayerGradCam
from torch import Tensor, nn
from torch.nn import functional as F

from modules.cifake.gradcam import energy_share, grad_cam, stretched
from modules.cifake.networks import CNN, Topology

X = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("topology", [Topology(16, 1), Topology(16, 2, 32, 1), Topology(8, 3, 16, 2)], ids=str)
def test_it_is_captums(topology: Topology) -> None:
    network = CNN(topology)
    most = 0.0
    for sign in (1.0, -1.0):

        def signed(x: Tensor, sign: float = sign) -> Tensor:
            return sign * network(x)

        layer = LayerGradCam(signed, network.features[-1])
        reference = layer.attribute(X, target=0, relu_attributions=True)
        large = F.interpolate(reference, (32, 32), mode="bilinear", align_corners=False)[:, 0]
        own = grad_cam(network, X, sign)
        assert torch.allclose(own, large, atol=1e-7, rtol=1e-4)
        most = max(most, float(own.max()))
    assert most > 0


class Averaged(nn.Module):
    """Global average pooling and a linear layer: CAM's own network."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.ReLU())
        self.head = nn.Linear(5, 1)

    def maps(self, x: Tensor) -> Tensor:
        return self.features(x)

    def read(self, maps: Tensor) -> Tensor:
        return self.head(maps.mean((2, 3)))


def test_behind_average_pooling_it_is_cam() -> None:
    network = Averaged()
    cam = torch.einsum("k,bkhw->bhw", network.head.weight[0], network.maps(X)).relu() / (32 * 32)
    assert torch.allclose(grad_cam(network, X, 1.0), cam, atol=1e-7)


def test_bias_of_the_output_does_not_matter_and_its_scale_is_taken_out() -> None:
    network = CNN(Topology(16, 2, 32, 1))
    before = grad_cam(network, X, 1.0)
    output = network.head[-1]
    with torch.no_grad():
        output.bias += 100.0
    assert torch.equal(grad_cam(network, X, 1.0), before)
    with torch.no_grad():
        output.weight *= 3.0
    assert torch.allclose(grad_cam(network, X, 1.0), 3 * before, rtol=1e-4, atol=1e-7)
    assert torch.allclose(stretched(grad_cam(network, X, 1.0)), stretched(before), atol=1e-4)


def test_the_signs_are_not_each_other() -> None:
    network = CNN(Topology(16, 2))
    fake, real = grad_cam(network, X, 1.0), grad_cam(network, X, -1.0)
    assert not torch.allclose(fake, real)
    network.head[-1].weight.data.neg_()
    assert torch.allclose(grad_cam(network, X, 1.0), real, atol=1e-7)


def test_gradients_that_are_nowhere_above_0_give_an_empty_map() -> None:
    network = CNN(Topology(16, 1))
    network.head[-1].weight.data.fill_(-1.0)
    maps = grad_cam(network, X, 1.0)
    assert float(maps.abs().max()) == 0
    assert torch.equal(stretched(maps), torch.zeros_like(maps))
    share, there = energy_share(stretched(maps), torch.ones_like(maps, dtype=torch.bool))
    assert not bool(there.any())
    assert float(share.abs().max()) == 0


def test_it_goes_through_the_logit() -> None:
    """A sigmoid's gradient vanishes where the network is sure; the map does not."""
    network = CNN(Topology(16, 2))
    with torch.no_grad():
        network.head[-1].bias.fill_(1000.0)
    assert float(grad_cam(network, X, 1.0).max()) > 0


def test_it_works_where_nothing_is_recorded_and_leaves_no_gradient() -> None:
    network = CNN(Topology(16, 2))
    expected = grad_cam(network, X, 1.0)
    with torch.inference_mode():
        assert torch.equal(grad_cam(network, X, 1.0), expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(grad_cam(network, X, 1.0), expected)
        assert torch.equal(grad_cam(network, X.bfloat16().float(), 1.0), grad_cam(network, X.bfloat16(), 1.0))
    assert all(p.grad is None for p in network.parameters())


def test_stretching_and_shares_by_hand() -> None:
    maps = torch.tensor([[[1.0, 3.0], [5.0, 1.0]]])
    assert torch.equal(stretched(maps), torch.tensor([[[0.0, 0.5], [1.0, 0.0]]]))
    region = torch.tensor([[[False, True], [False, False]]])
    share, there = energy_share(stretched(maps), region)
    assert float(share) == pytest.approx(100 / 3)
    assert bool(there)
