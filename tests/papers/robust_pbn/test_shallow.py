"""The shallow networks, their module and what is measured of them."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from modules.robust_pbn.evaluation import Robustness
from modules.robust_pbn.heads import LinearRBF, NormalisedRBF, StableCBC
from modules.robust_pbn.losses import GLVQ, CrossEntropy, Margin, Robust
from modules.robust_pbn.module import Shallow
from modules.robust_pbn.networks import (
    Components,
    DetectionNetwork,
    PixelNetwork,
    PrototypeNetwork,
    TangentComponents,
    rank,
    right_concepts,
)


def published(head: Any = StableCBC, **options: Any) -> DetectionNetwork:
    return DetectionNetwork(Components(20, 784), 10, 2, head, **{"sigma": 7.61, **options})


def test_published_size() -> None:
    """20 components of 784 pixels, 2 x 20 x 20 numbers of reasoning, 20 sigmas."""
    assert sum(p.numel() for p in published().parameters()) == 16_500


def test_components_start_grey_and_stay_images() -> None:
    network = published()
    points = network.components.points
    assert float(points.min()) >= 0.45
    assert float(points.max()) <= 0.55
    with torch.no_grad():
        points.add_(torch.randn_like(points))
    network.constrain()
    assert float(points.min()) == 0
    assert float(points.max()) == 1


def test_distances_are_euclidean_and_detections_fall_with_them() -> None:
    torch.manual_seed(1)
    x = torch.rand(9, 784)
    for squared in (False, True):
        network = published(squared=squared)
        expected = (x[:, None] - network.components.points).square().sum(-1)
        distances = network.components(x)
        assert torch.allclose(distances.square(), expected, rtol=1e-4)
        power = expected if squared else expected.sqrt()
        assert torch.allclose(network.detect(distances), (-power / network.sigma).exp(), rtol=1e-3)


def test_distance_to_a_subspace() -> None:
    """By projection; an image within the subspace is at distance 0, whatever its coordinates."""
    components = TangentComponents(4, 8, dimensions=3)
    basis = components.basis()
    assert torch.allclose(basis.transpose(1, 2) @ basis, torch.eye(3).expand(4, 3, 3), atol=1e-5)
    x = torch.rand(6, 8)
    difference = x[:, None] - components.points  # (B, K, D)
    projected = torch.einsum("kdr,kr...->k...d", basis, torch.einsum("kdr,bkd->krb", basis, difference))
    expected = (difference - projected.transpose(0, 1)).norm(dim=-1)
    assert torch.allclose(components(x), expected, atol=1e-4)
    inside = components.points[1] + basis[1] @ torch.tensor([2.0, -1.0, 0.5])
    assert float(components(inside[None])[0, 1]) < 2e-3


def test_concepts_belong_to_classes_in_order() -> None:
    right = right_concepts(torch.tensor([0, 2]), classes=3, per_class=2)
    assert right.tolist() == [[True, True, False, False, False, False], [False, False, False, False, True, True]]
    reading = published().read(torch.rand(5, 784))
    assert torch.equal(reading.class_scores(), reading.scores.view(5, 10, 2).amax(2))


def test_prototypes_decide_by_the_nearest() -> None:
    network = PrototypeNetwork(Components(20, 784), 10)
    with torch.no_grad():
        network.components.points.copy_(torch.rand(20, 784))
    x = network.components.points.detach() + 0.01
    assert network.read(x).class_scores().argmax(1).tolist() == [k // 2 for k in range(20)]
    with pytest.raises(ValueError, match="20 prototypes cannot be shared out to 3 classes"):
        PrototypeNetwork(Components(20, 784), 3)


def test_pixels_are_what_was_normalised() -> None:
    network = published()
    network.mean.fill_(0.3)
    network.std.fill_(0.2)
    x = torch.rand(2, 1, 28, 28)
    assert torch.allclose(network.pixels((x - 0.3) / 0.2), x.flatten(1), atol=1e-6)


def test_pixels_are_the_datas_own_after_setup() -> None:
    """Mean and spread of each channel are the datamodule's."""
    network = PixelNetwork(Components(4, 12), 2, 1, channels=3)
    module = Shallow(network, 2, Margin(0.3))
    spec = SimpleNamespace(mean=(0.1, 0.2, 0.3), std=(0.5, 0.4, 0.2))
    module._trainer = SimpleNamespace(datamodule=SimpleNamespace(spec=spec))  # type: ignore[assignment]
    module.setup("test")
    x = torch.rand(2, 3, 2, 2)
    normalised = (x - torch.tensor(spec.mean).view(3, 1, 1)) / torch.tensor(spec.std).view(3, 1, 1)
    assert torch.allclose(network.pixels(normalised), x.flatten(1), atol=1e-6)


def test_the_test_reports_accuracy_radii_and_reasoning_of_all_images(
    small: Callable[..., Any], logged: Callable[..., dict[str, float]]
) -> None:
    """Two batches of unlike size, written out from the network's own answers on all of them."""
    torch.manual_seed(0)
    network = small(per_class=2)
    module = Shallow(network, 3, Margin(0.3), Robustness(lengths=(0.05,), steps=3))
    x, y = torch.rand(30, 5), torch.randint(3, (30,))
    batches = [(x[rows].view(-1, 1, 1, 5), y[rows]) for rows in (slice(0, 22), slice(22, 30))]
    with torch.inference_mode():
        values = logged(module, *batches)
        right = network.read(x).class_scores().argmax(1) == y
        radii = network.certify(x, y)
        _, negative = network.head.reasoning()
    assert values["test/top1"] == pytest.approx(100 * float(right.float().mean()))
    assert values["test/mean_radius"] == pytest.approx(float(radii.mean()), rel=1e-4)
    assert values["test/certified_acc@0.05"] == pytest.approx(100 * float((radii >= 0.05).float().mean()))
    assert values["test/smallest_sigma"] == pytest.approx(float(network.sigma.detach().min()))
    assert values["test/negative_share"] == pytest.approx(float(negative.sum(0).mean()), rel=1e-5)
    assert 0.05 < values["test/negative_share"] < 0.95


def test_ranks_keep_differences_that_a_softmax_loses() -> None:
    scores = torch.tensor([[1e-9, 3e-9, 2e-9]])
    assert len(scores.softmax(1).unique()) == 1
    assert rank(scores).tolist() == [[0, 2, 1]]


@pytest.mark.parametrize("loss", [Margin(0.3), Robust(0.5), CrossEntropy()])
@pytest.mark.parametrize("head", [StableCBC, NormalisedRBF])
def test_heads_and_losses_combine_and_learn(head: Any, loss: Any) -> None:
    """Two groups of images: a few steps of any combination lower the loss, and components stay images."""
    torch.manual_seed(0)
    network = DetectionNetwork(Components(4, 16), 2, 1, head, sigma=2.0)
    module = Shallow(network, 2, loss)
    y = torch.arange(32) % 2
    x = (0.2 + 0.6 * y[:, None] + 0.1 * torch.rand(32, 16)).view(32, 1, 4, 4)
    optimizer = torch.optim.Adam(module.parameters(), lr=0.02)
    losses = []
    for _ in range(40):
        value = module.training_step((x, y), 0)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        module.on_train_batch_end(None, None, 0)
        losses.append(float(value.detach()))
    assert losses[-1] < losses[0]
    assert float(network.components.points.min()) >= 0
    assert float(network.components.points.max()) <= 1


def test_what_is_certified_survives_every_attack(small: Callable[..., Any]) -> None:
    network = small(per_class=2)
    robustness = Robustness(lengths=(0.02, 0.05, 0.2), steps=10, restarts=2)
    x, y = torch.rand(300, 5), torch.randint(3, (300,))
    with torch.inference_mode():
        values = robustness.measure(network, x, y)
    assert set(values) == set(robustness.names(certified=True))
    for e in robustness.lengths:
        assert not bool((values[f"certified_acc@{e}"] & ~values[f"robust_acc@{e}"]).any())
    assert bool(values["certified_acc@0.02"].any())
    assert bool((values["robust_acc@0.02"] & ~values["robust_acc@0.2"]).any())
    assert not bool(values["broken_certificates"].any())


def test_validation_counts_what_the_test_counts_at_the_first_length(small: Callable[..., Any]) -> None:
    """Two batches of unlike size, one network: the share of all images that are right under attack, in percent."""
    network = small(per_class=2)
    robustness = Robustness(lengths=(0.05, 0.2), steps=5)
    module: Any = Shallow(network, 3, Margin(0.3), robustness)
    network.mean.fill_(0.0)
    network.std.fill_(1.0)
    x, y = torch.rand(90, 5), torch.randint(3, (90,))
    expected = robustness.measure(network, x, y)["robust_acc@0.05"]
    assert 0 < int(expected.sum()) < 90

    seen: dict[str, float] = {}
    module.log_dict = lambda values, **_: seen.update({name: float(value) for name, value in values.items()})
    with torch.inference_mode():
        for rows in (slice(0, 70), slice(70, 90)):
            module.validation_step((x[rows].view(-1, 1, 1, 5), y[rows]), 0)
        module.on_validation_epoch_end()
    assert seen["val/robust_acc@0.05"] == pytest.approx(100 * float(expected.double().mean()))
    assert seen["val/top1"] >= seen["val/robust_acc@0.05"]


def test_a_network_without_certificate_is_attacked_alone() -> None:
    network = published(LinearRBF)
    assert not network.certified
    values = Robustness(lengths=(0.5,), steps=2).measure(network, torch.rand(4, 784), torch.zeros(4, dtype=torch.long))
    assert set(values) == {"robust_acc@0.5"}
    with pytest.raises(ValueError, match="no certificate is known for LinearRBF"):
        network.read(torch.rand(1, 784)).radius(network.right(torch.zeros(1, dtype=torch.long)))


def test_a_tie_is_not_right(small: Callable[..., Any]) -> None:
    """All concepts reason alike, so that every class has the same score."""
    network = small()
    with torch.no_grad():
        network.head.logits.copy_(network.head.logits[:, :, :1].expand_as(network.head.logits))
    x, y = torch.rand(4, 5), torch.zeros(4, dtype=torch.long)
    robustness = Robustness(lengths=(0.1,), steps=2)
    assert not robustness.measure_first(network, x, y)["robust_acc@0.1"].any()
    assert not robustness.measure(network, x, y)["robust_acc@0.1"].any()


def test_each_restart_asks_the_network_as_often(small: Callable[..., Any]) -> None:
    def asked(restarts: int) -> int:
        network = small()
        seen: list[int] = []
        network.components.register_forward_hook(lambda *_: seen.append(1))
        Robustness(lengths=(0.1,), steps=4, restarts=restarts).measure_first(
            network, torch.rand(3, 5), torch.zeros(3, dtype=torch.long)
        )
        return len(seen)

    assert asked(3) - asked(2) == asked(2) - asked(1) >= 4


def test_autoattack_gets_square_images_and_an_l2_ball(
    small: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the package's place stands an attack that shows negatives; what is right on those survives."""
    asked: list[tuple[Any, ...]] = []

    class Negatives:
        def __init__(self, classify: Any, norm: str, eps: float, seed: int, device: torch.device) -> None:
            asked.append((norm, eps, device.type))
            self.classify = classify

        def run_standard_evaluation(self, images: Tensor, y: Tensor, batch_size: int) -> tuple[Tensor, Tensor]:
            asked.append((tuple(images.shape), batch_size))
            torch.manual_seed(9)
            return 1 - images, self.classify(1 - images).argmax(1)

    monkeypatch.setitem(sys.modules, "pyautoattack", SimpleNamespace(AutoAttack=Negatives))
    network = small(features=9)
    x = torch.rand(6, 9)
    y = network.read(1 - x).class_scores().argmax(1)
    y[0] = (y[0] + 1) % 3
    before = torch.get_rng_state()
    assert Robustness().survivors(network, x, y, 0.5).tolist() == [False, *[True] * 5]
    assert asked == [("L2", 0.5, "cpu"), ((6, 1, 3, 3), 6)]
    assert torch.equal(torch.get_rng_state(), before)  # the attack's seed stays its own


@pytest.mark.skipif(importlib.util.find_spec("pyautoattack") is not None, reason="pyautoattack is installed")
def test_autoattack_that_is_not_installed_is_one_clear_line() -> None:
    with pytest.raises(ValueError, match=r"pip install 'reprise-papers\[attacks\]'"):
        Robustness(autoattack=True)


def test_autoattack_respects_certificates() -> None:
    pytest.importorskip("pyautoattack")
    network = DetectionNetwork(Components(20, 784), 10, 2, StableCBC, sigma=7.61)
    with torch.no_grad():
        network.components.points.copy_(torch.rand(20, 784))
        network.head.logits.add_(2 * torch.randn_like(network.head.logits))
    x = torch.rand(8, 784)
    y = network.read(x).class_scores().argmax(1)
    values = Robustness(lengths=(0.1,), steps=5, autoattack=True).measure(network, x, y)
    assert not bool((values["certified_acc@0.1"] & ~values["autoattack_acc@0.1"]).any())


def test_pictures_show_components_and_reasoning() -> None:
    module = Shallow(published(), 10, GLVQ())
    data = SimpleNamespace(spec=SimpleNamespace(shape=(1, 28, 28), classes=[str(c) for c in range(10)]))
    assert set(module.pictures(data)) == {"components", "reasoning"}
    assert set(Shallow(published(partial(LinearRBF)), 10, GLVQ()).pictures(data)) == {"components"}
