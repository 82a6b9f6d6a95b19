"""Attribution methods against captum, closed forms and limit cases (the sheet's checks 2 to 6)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from captum.attr import InputXGradient as CaptumInputXGradient
from captum.attr import LayerGradCam, LimeBase, NoiseTunnel, Saliency
from scipy.ndimage import map_coordinates
from sklearn.linear_model import Ridge
from torch import Tensor, nn

from modules.robust_explainability import passes
from modules.robust_explainability.explain import explain
from modules.robust_explainability.gradients import (
    GradCAM,
    Gradient,
    InputXGradient,
    IntegratedGradients,
    ScoreCAM,
    SmoothGrad,
    flat,
)
from modules.robust_explainability.networks import SplitNetwork, small_network
from modules.robust_explainability.perturbations import (
    LIME,
    RISE,
    MeaningfulPerturbation,
    cells,
    random_masks,
    ridge_regression,
    superpixels,
)

ALL: list[Any] = [
    Gradient(),
    InputXGradient(),
    SmoothGrad(4),
    IntegratedGradients(8),
    GradCAM(),
    ScoreCAM(),
    RISE(50, 4),
    LIME(60, 9),
    MeaningfulPerturbation(4, 5),
]


@pytest.fixture
def network() -> Any:
    torch.manual_seed(0)
    return small_network(10, in_channels=2).eval()


@pytest.fixture
def x() -> Tensor:
    return torch.randn(3, 2, 20, 20, generator=torch.Generator().manual_seed(1))


TARGETS = torch.tensor([2, 0, 7])


@pytest.mark.parametrize("method", ALL, ids=lambda m: type(m).__name__)
def test_maps_belong_to_their_image_alone_and_leave_the_network_as_it_is(method: Any, network: Any, x: Tensor) -> None:
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with torch.inference_mode():
        maps = explain(method, network, x.clone(), TARGETS)
        alone = explain(method, network, x[1:2].clone(), TARGETS[1:2])
        again = explain(method, network, x.clone(), TARGETS)
    assert maps.shape == (3, 20, 20)
    assert torch.isfinite(maps).all()
    assert torch.equal(maps, again)
    assert torch.allclose(maps[1:2], alone, atol=1e-5)
    assert not maps.requires_grad
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert not any(part._forward_hooks or part._backward_hooks for part in network.modules())


@pytest.mark.parametrize("method", ALL[:5], ids=lambda m: type(m).__name__)
def test_a_factor_on_logits_changes_no_order_of_gradient_maps(method: Any, network: Any, x: Tensor) -> None:
    """The sheet's check 10: what is measured from a map's order cannot see a network's confidence.

    ScoreCAM's weights are a softmax of logits, so that its maps do change.
    """
    sharper = SplitNetwork(network.features, nn.Sequential(network.head, Times(3.0))).eval()
    maps, sharp = (explain(method, net, x, TARGETS) for net in (network, sharper))
    assert torch.allclose(sharp, 3 * maps, rtol=1e-4, atol=1e-6)
    assert torch.equal(sharp.flatten(1).argmax(1), maps.flatten(1).argmax(1))


class Times(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x


def test_gradients_are_captums(network: Any, x: Tensor) -> None:
    saliency = Saliency(network)
    expected = flat(saliency.attribute(x, TARGETS, abs=False))
    assert torch.allclose(explain(Gradient(), network, x, TARGETS), expected, atol=1e-5)
    expected = flat(CaptumInputXGradient(network).attribute(x, TARGETS))
    assert torch.allclose(explain(InputXGradient(), network, x, TARGETS), expected.detach(), atol=1e-5)


def test_smoothgrad_without_noise_is_the_gradient_and_with_it_captums_in_the_mean(network: Any, x: Tensor) -> None:
    plain = explain(Gradient(), network, x, TARGETS)
    assert torch.allclose(explain(SmoothGrad(3, 0.0), network, x, TARGETS), plain, atol=1e-6)

    tunnel = NoiseTunnel(Saliency(network))
    torch.manual_seed(5)
    expected = tunnel.attribute(x, nt_type="smoothgrad", nt_samples=400, stdevs=0.3, target=TARGETS, abs=False)
    ours = explain(SmoothGrad(400, 0.3), network, x, TARGETS)
    assert torch.corrcoef(torch.stack([ours.flatten(), flat(expected).flatten()]))[0, 1] > 0.97


def test_smoothgrads_noise_is_each_channels_own() -> None:
    """Of the squared difference of two channels, noise that they shared would change nothing."""

    class Apart(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x[:, 0] - x[:, 1]).square().sum((1, 2))[:, None]

    x, target = torch.randn(1, 2, 6, 6), torch.zeros(1, dtype=torch.long)
    noise = torch.randn(2, 6, 6, generator=torch.Generator().manual_seed(3))
    noisy = x[0] + 0.5 * noise
    expected = 4 * (noisy[0] - noisy[1]).abs()  # 2 of either channel
    assert torch.allclose(explain(SmoothGrad(1, 0.5, seed=3), Apart(), x, target)[0], expected, atol=1e-5)


def test_integrated_gradients_are_complete(network: Any, x: Tensor) -> None:
    signed = IntegratedGradients(256).signed(network, x, TARGETS)
    with torch.no_grad():
        rise = network(x) - network(torch.zeros_like(x))
    total = rise.gather(1, TARGETS[:, None])[:, 0]
    assert torch.allclose(signed.detach().sum((1, 2, 3)), total, rtol=0.02, atol=2e-3)


def test_without_biases_they_are_input_times_gradient(x: Tensor) -> None:
    """A network of ReLUs without biases is homogeneous of degree 1: its gradient is constant on the way from 0."""
    torch.manual_seed(2)
    features = nn.Sequential(nn.Conv2d(2, 4, 3, bias=False), nn.ReLU())
    homogeneous = SplitNetwork(features, nn.Sequential(nn.Flatten(), nn.Linear(4 * 18 * 18, 10, bias=False)))
    ours = explain(IntegratedGradients(4), homogeneous, x, TARGETS)
    assert torch.allclose(ours, explain(InputXGradient(), homogeneous, x, TARGETS), atol=1e-5)


def test_of_a_linear_network_all_gradient_maps_are_its_weights(x: Tensor) -> None:
    linear = SplitNetwork(nn.Identity(), nn.Sequential(nn.Flatten(), nn.Linear(800, 10)))
    weight = linear.head[1].weight[TARGETS].view_as(x).detach()
    assert torch.allclose(explain(Gradient(), linear, x, TARGETS), weight.abs().sum(1), atol=1e-6)
    assert torch.allclose(explain(SmoothGrad(3), linear, x, TARGETS), weight.abs().sum(1), atol=1e-6)
    assert torch.allclose(explain(IntegratedGradients(2), linear, x, TARGETS), (x * weight).abs().sum(1), atol=1e-5)


def test_gradcam_is_captums_and_of_pooled_maps_cam(network: Any, x: Tensor) -> None:
    ours = explain(GradCAM(), network, x, TARGETS)
    cam = LayerGradCam(network, network.features).attribute(x, TARGETS, relu_attributions=True)
    enlarged = nn.functional.interpolate(cam, (20, 20), mode="bilinear", align_corners=False)[:, 0]
    assert torch.allclose(ours, enlarged.detach(), atol=1e-6)

    with torch.no_grad():  # CAM / (h w): the head averages and multiplies
        features = network.features(x)
        by_hand = (
            torch.einsum("bk,bkhw->bhw", network.head[2].weight[TARGETS], features).relu() / features[0, 0].numel()
        )
    enlarged = nn.functional.interpolate(by_hand[:, None], (20, 20), mode="bilinear", align_corners=False)[:, 0]
    assert torch.allclose(ours, enlarged, atol=1e-6)


def test_gradcam_is_zero_where_all_weights_are_negative(network: Any, x: Tensor) -> None:
    network.head[2].weight.data.abs_().neg_()
    assert not explain(GradCAM(), network, x, TARGETS).any()


def test_scorecam_by_hand(network: Any, x: Tensor) -> None:
    image, target = x[:1], TARGETS[:1]
    with torch.no_grad():
        features = network.features(image)[0]
        scores = []
        for one in features:
            mask = nn.functional.interpolate(one[None, None], (20, 20), mode="bilinear", align_corners=False)
            mask = (mask - mask.min()) / (mask.max() - mask.min()).clamp(min=1e-30)
            scores.append(network(image * mask)[0, target[0]] - network(0 * image)[0, target[0]])
        cam = (torch.stack(scores).softmax(0)[:, None, None] * features).sum(0).relu()
    expected = nn.functional.interpolate(cam[None, None], (20, 20), mode="bilinear", align_corners=False)[0]
    assert torch.allclose(explain(ScoreCAM(at_once=7), network, image, target), expected, atol=1e-5)


def test_rises_masks() -> None:
    masks = random_masks(3000, 7, 0.5, (224, 224), torch.Generator().manual_seed(0))[:, ::16, ::16]
    assert masks.min() >= 0
    assert masks.max() <= 1
    assert masks.mean() == pytest.approx(0.5, abs=0.01)
    assert torch.allclose(masks.mean(0), torch.full((14, 14), 0.5), atol=0.05)
    assert 32 * (7 + 1) == 256  # cells of 32 pixels, one more than the image needs, before the cut


def test_rises_masks_are_mirrored_beyond_the_outer_cells() -> None:
    """scipy's linear interpolation of the same grids with the border that eclique/RISE asks for."""
    grid, cell = 4, 5
    masks = random_masks(6, grid, 0.5, (20, 20), torch.Generator().manual_seed(3))
    source = torch.Generator().manual_seed(3)
    coarse = (torch.rand(6, 1, grid, grid, generator=source) < 0.5).double()[:, 0]
    top, left = (torch.randint(cell, (6, 1), generator=source)[:, 0] for _ in range(2))
    for number, mask in enumerate(masks):
        rows, columns = (
            (np.arange(20) + int(shift[number]) + 0.5) * grid / ((grid + 1) * cell) - 0.5 for shift in (top, left)
        )
        places = np.meshgrid(rows, columns, indexing="ij")
        expected = map_coordinates(coarse[number].numpy(), places, order=1, mode="mirror")
        assert torch.allclose(mask.double(), torch.from_numpy(expected), atol=1e-6)


class Constant(nn.Module):
    """Probability 1 for class 0 whatever it sees; or as bright as the middle pixel."""

    def __init__(self, constant: bool) -> None:
        super().__init__()
        self.constant = constant

    def forward(self, x: Tensor) -> Tensor:
        p = torch.ones(len(x)) if self.constant else x[:, 0, 10, 10].clamp(1e-6, 1 - 1e-6)
        return torch.stack([p.log(), torch.log1p(-p.clamp(max=1 - 1e-6))], 1)


def test_rise_of_a_constant_is_about_constant_and_of_a_pixel_points_at_it() -> None:
    x, target = torch.ones(1, 1, 20, 20), torch.zeros(1, dtype=torch.long)
    flat_map = explain(RISE(4000, 5), Constant(constant=True), x, target)
    assert torch.allclose(flat_map, torch.ones(1, 20, 20), atol=0.06)  # O(1 / sqrt(N))
    pointed = explain(RISE(2000, 5), Constant(constant=False), x, target)[0]
    row, column = divmod(int(pointed.argmax()), 20)
    assert abs(row - 10) <= 2
    assert abs(column - 10) <= 2


def test_rise_by_hand(network: Any, x: Tensor) -> None:
    masks = random_masks(30, 4, 0.5, (20, 20), torch.Generator().manual_seed(0))
    with torch.no_grad():
        p = torch.stack([network(x * mask).softmax(1).gather(1, TARGETS[:, None])[:, 0] for mask in masks])  # (N, B)
    expected = torch.einsum("nb,nhw->bhw", p, masks) / (30 * 0.5)
    assert torch.allclose(explain(RISE(30, 4), network, x, TARGETS), expected, atol=1e-5)


def test_superpixels_cover_and_follow_edges() -> None:
    assert cells(50, (224, 224)) == (7, 7)
    x = torch.zeros(1, 1, 24, 24)
    x[:, :, :, 10:] = 3.0
    owner = superpixels(x, 9, 0.1)
    assert owner.shape == (1, 24, 24)
    assert int(owner.max()) < 9
    left, right = set(owner[0, :, :10].flatten().tolist()), set(owner[0, :, 10:].flatten().tolist())
    assert not left & right


def test_limes_surrogate_is_a_weighted_ridge_regression() -> None:
    source = torch.Generator().manual_seed(3)
    z = (torch.rand(80, 12, generator=source) < 0.5).double()
    scores = torch.rand(2, 80, generator=source).double()
    ours = ridge_regression(z, scores, 0.25, 1.0)
    weight = (-((1 - z.mean(1)) ** 2) / 0.25**2).exp()
    weight = 80 * weight / weight.sum() / 80  # normalised, as the penalty of 1 / n asks for
    for row in range(2):
        reference = Ridge(alpha=1 / 80).fit(z.numpy(), scores[row].numpy(), sample_weight=weight.numpy())
        assert torch.allclose(ours[row], torch.tensor(reference.coef_, dtype=torch.float32), atol=1e-5)


def test_lime_is_captums_with_the_same_samples(network: Any, x: Tensor) -> None:
    """LimeBase with LIME's samples, kernel and regression, one image."""
    method = LIME(40, 9, seed=4)
    image, target = x[:1], TARGETS[:1]
    owner = superpixels(image, 9, method.compactness)
    source = torch.Generator().manual_seed(4)
    chosen = iter((torch.rand(40, 9, generator=source) < 0.5).float())
    from captum._utils.models.linear_model import SkLearnLinearModel

    base = LimeBase(
        lambda inputs: network(inputs).softmax(1)[:, target[0]],
        SkLearnLinearModel("linear_model.Ridge", alpha=1e-6),
        similarity_func=lambda _x, _p, z, **_: torch.exp(-((1 - z.mean()) ** 2) / method.width**2),
        perturb_func=lambda *_args, **_kwargs: next(chosen)[None],
        perturb_interpretable_space=True,
        from_interp_rep_transform=lambda z, original, **_: original * z[0][owner][:, None],
        to_interp_rep_transform=None,
    )
    expected = base.attribute(image, n_samples=40)[0]
    ours = explain(LIME(40, 9, seed=4, ridge=1e-7), network, image, target)[0]
    assert torch.allclose(ours, expected[owner[0]].float(), atol=2e-3)


def test_meaningful_perturbation_finds_the_pixels_that_matter() -> None:
    x = torch.zeros(1, 1, 24, 24)
    x[0, 0, 6:14, 6:14] = 1.0

    class Bright(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            z = 8 * (image[:, 0, 8:12, 8:12].mean((1, 2)) - 0.5)
            return torch.stack([z, -z], 1)

    maps = explain(MeaningfulPerturbation(6, 60, sigma=5.0), Bright(), x, torch.zeros(1, dtype=torch.long))[0]
    assert maps[8:12, 8:12].mean() > 0.5
    assert maps[18:, 18:].mean() < 0.1


@pytest.mark.parametrize("method", ALL, ids=lambda m: type(m).__name__)
def test_maps_are_made_in_full_precision(method: Any, network: Any, x: Tensor) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        maps = explain(method, network, x.bfloat16().float(), TARGETS)
    assert maps.dtype == torch.float32
    assert torch.equal(maps, explain(method, network, x.bfloat16().float(), TARGETS))


def test_copies_go_through_the_network_in_passes_of_a_bounded_size(
    network: Any, x: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies = x[:, None] * torch.linspace(0, 1, 5).view(1, 5, 1, 1, 1)  # (3, 5, C, H, W)
    sizes = []

    def seen(images: Tensor) -> Tensor:
        sizes.append(len(images))
        return network(images)

    monkeypatch.setattr(passes, "IMAGES", 4)
    with torch.no_grad():
        z = passes.logits(seen, copies)
        assert sizes == [4, 4, 4, 3]
        for image, own in zip(copies, z, strict=True):
            torch.testing.assert_close(own, network(image))
