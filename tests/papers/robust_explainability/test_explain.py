"""Which images count, what a factor on logits changes, and what the networks' side by side shows."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from scipy.signal import convolve2d
from torch import Tensor, nn

from modules.robust_explainability.compare import Compare
from modules.robust_explainability.curves import Curves
from modules.robust_explainability.explain import CONTROLS, Explain, Measures
from modules.robust_explainability.gradients import GradCAM, Gradient
from modules.robust_explainability.networks import SplitNetwork, small_network
from modules.robust_explainability.other_images import OnOtherImages

Batch = namedtuple("Batch", ("x", "y", "boxes", "row", "in_test"))
Logged = Callable[..., dict[str, float]]
METHODS: dict[str, Any] = {"gradient": Gradient(), "gradcam": GradCAM()}


def stage(seed: int, factor: float = 1.0) -> Any:
    """Networks that mostly agree and see every class; their logits are multiplied by a factor."""
    torch.manual_seed(0)
    network = small_network(4, (4, 8), (2, 1)).eval()
    source = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.03 * bool(seed) * torch.randn(parameter.shape, generator=source))
        x = torch.randn(100, 1, 16, 16, generator=torch.Generator().manual_seed(9))
        network.head[2].bias -= network(x).mean(0)
    network.head.append(Scaled(30 * factor))
    return SimpleNamespace(network=network)


class Scaled(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x


@pytest.fixture
def batch() -> Any:
    source = torch.Generator().manual_seed(0)
    x = torch.randn(40, 1, 16, 16, generator=source)
    boxes = torch.tensor([4.0, 4, 12, 10]).expand(40, 1, 4)
    row = torch.arange(20).repeat(2)
    in_test = torch.arange(2).repeat_interleave(20)
    with torch.no_grad():
        y = stage(0).network(x).argmax(1)
    y[::5] = (y[::5] + 1) % 4  # a fifth is wrong
    return Batch(x, y, boxes, row, in_test)


def explained(model: Any, others: list[Any], measures: dict[str, Any] | None = None, **options: Any) -> Explain:
    ways = Measures(Curves(steps=4, blur=3, sigma=1.0), tolerance=2.0, **(measures or {}))
    return Explain(model, others, METHODS, ways, **options).eval()


def test_images_that_one_network_gets_wrong_do_not_count(batch: Any, logged: Logged) -> None:
    one, other = stage(0), stage(1)
    values = logged(explained(one, [one]), batch)
    assert values["test/images"] == 16
    assert values["test/top1"] == values["test/common"] == 80
    assert values["test/n"] == 40
    assert values["test/chance"] == pytest.approx(100 * 48 / 256)

    both = logged(explained(one, [one, other]), batch)
    with torch.no_grad():
        right = (one.network(batch.x).argmax(1) == batch.y) & (other.network(batch.x).argmax(1) == batch.y)
    assert both["test/images"] == int(right[20:].sum())
    assert 3 < both["test/images"] < 16
    again = logged(explained(other, [one, other]), batch)
    assert again["test/images"] == both["test/images"]
    for control in CONTROLS:  # they ask no network
        assert again[f"test/pointing_{control}"] == both[f"test/pointing_{control}"]

    module = explained(one, [one, other])
    logged(module, batch)
    outcomes = module.artifacts()["test-pointing_gradient"]
    assert len(outcomes) == both["test/images"]
    assert outcomes.mean() == pytest.approx(both["test/pointing_gradient"])

    everything = logged(explained(one, [one, other], only_common=False), batch)
    assert everything["test/images"] == 20


def test_batches_may_be_of_any_size(batch: Any, logged: Logged) -> None:
    one = stage(0)
    blurs = {"smoothed": ["gradient", "edges"], "sigmas": [0, 1, 2]}
    whole = logged(explained(one, [one], blurs), batch)
    parts = [Batch(*columns) for columns in zip(*(column.split(7) for column in batch), strict=True)]
    split = logged(explained(one, [one], blurs), *parts)
    assert split.keys() == whole.keys()
    assert all(split[name] == pytest.approx(whole[name], abs=1e-3) for name in whole)


def test_limits_are_by_an_images_number(batch: Any, logged: Logged, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, list[int]]] = []
    measure = Explain.measure

    def watched(self: Explain, name: str, some: Any, maps: Tensor) -> None:
        seen.append((name, some.row.tolist()))
        measure(self, name, some, maps)

    monkeypatch.setattr(Explain, "measure", watched)
    one = stage(0)
    logged(explained(one, [one], {"slow": ["gradcam"], "slow_images": 10}), batch)
    rows = dict(seen)
    assert max(rows["gradient"]) == 19
    assert max(rows["gradcam"]) == 9


def test_areas_are_of_the_first_images_alone(batch: Any, logged: Logged) -> None:
    """Of images 0 to 9 to measure on, a fifth is wrong: 8 are left, and one pass for each method and control."""
    lengths: list[int] = []

    class Watched(Curves):
        def __call__(self, network: Any, x: Tensor, *others: Any) -> Any:
            lengths.append(len(x))
            return super().__call__(network, x, *others)

    one = stage(0)
    measures = Measures(Watched(steps=2, blur=3), curve_images=10)
    logged(Explain(one, [one], METHODS, measures).eval(), batch)
    assert lengths == [8] * (len(METHODS) + len(CONTROLS))


def test_images_need_not_be_square(batch: Any, logged: Logged) -> None:
    one = stage(0)
    wide = batch._replace(x=batch.x[:, :, 2:14], boxes=torch.tensor([4.0, 2, 12, 8]).expand(40, 1, 4))
    with torch.no_grad():
        wide = wide._replace(y=one.network(wide.x).argmax(1))
    values = logged(explained(one, [one], {"smoothed": ["edges"], "sigmas": [0, 5]}), wide)
    assert values["test/images"] == 20
    assert values["test/chance"] == pytest.approx(100 * 48 / (12 * 16))


def test_confidence_moves_areas_and_no_pointing(batch: Any, logged: Logged) -> None:
    """The sheet's check 10."""
    plain, sharper = stage(0), stage(0, 2.0)
    one, two = (logged(explained(model, [model]), batch) for model in (plain, sharper))
    for name in ("pointing_gradient", "pointing_near_gradient", "wsl_gradient", "energy_gradient"):
        assert two[f"test/{name}"] == pytest.approx(one[f"test/{name}"], abs=1e-3)
    assert two["test/pointing_gradcam"] == one["test/pointing_gradcam"]
    assert two["test/confidence"] > one["test/confidence"]
    assert two["test/insertion_gradient"] != pytest.approx(one["test/insertion_gradient"], abs=0.1)
    assert two["test/deletion_gradient"] != pytest.approx(one["test/deletion_gradient"], abs=0.01)


def test_areas_at_matched_confidence_are_those_of_the_scaled_network(
    batch: Any, logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Logits doubled and matched to the plain network's confidence give the plain network's areas."""
    plain, sharper = stage(0), stage(0, 2.0)
    module = explained(sharper, [plain, sharper], reference=plain)
    loader = SimpleNamespace(datamodule=SimpleNamespace(test_dataloader=lambda: [batch]))
    monkeypatch.setattr(type(module), "trainer", loader, raising=False)
    with torch.inference_mode():
        module.on_test_epoch_start()
    assert module.scale == pytest.approx(0.5, rel=1e-3)
    matched = logged(module, batch)
    expected = logged(explained(plain, [plain, sharper]), batch)
    for kind in ("insertion", "deletion"):
        for end in ("", "_gradient", "_gradcam", "_random", "_input"):
            assert matched[f"test/{kind}_matched{end}"] == pytest.approx(expected[f"test/{kind}{end}"], abs=0.05)
    assert matched["test/confidence_matched"] == pytest.approx(expected["test/confidence"], abs=0.05)


def test_insertion_starts_from_the_blurred_image_and_deletion_ends_with_the_mean(batch: Any, logged: Logged) -> None:
    """With one step an area is the mean of both ends."""
    one = stage(0)
    module = Explain(one, [one], METHODS, Measures(Curves(steps=1, blur=5, sigma=2.0), tolerance=2.0)).eval()
    values = logged(module, batch)
    pulse = np.zeros((5, 5))
    pulse[2, 2] = 1
    kernel = gaussian_filter(pulse, 2.0)
    start = torch.stack([torch.from_numpy(convolve2d(image[0], kernel, mode="same")) for image in batch.x])[:, None]
    chosen = (batch.in_test == 1) & (one.network(batch.x).argmax(1) == batch.y)
    p = {}
    for name, x in {"whole": batch.x, "blurred": start.float(), "mean": 0 * batch.x}.items():
        with torch.no_grad():
            p[name] = one.network(x).softmax(1).gather(1, batch.y[:, None])[chosen, 0]
    insertion = 50 * float((p["blurred"] + p["whole"]).mean())
    assert insertion != pytest.approx(50 * float((p["mean"] + p["whole"]).mean()), abs=0.1)
    for name in ("_gradient", "_gradcam", ""):
        assert values[f"test/insertion{name}"] == pytest.approx(insertion, abs=1e-3)
        assert values[f"test/deletion{name}"] == pytest.approx(50 * float((p["whole"] + p["mean"]).mean()), abs=1e-3)


def test_maps_are_measured_under_the_blur_that_suits_them_best(batch: Any, logged: Logged) -> None:
    """One sigma leaves no choice: 0 gives what the map gives as it is; without a list nothing is blurred."""
    one = stage(0)
    plain = logged(explained(one, [one]), batch)
    assert not any("smoothed" in name or "sigma" in name for name in plain)
    asis = logged(explained(one, [one], {"smoothed": ["gradient", "edges"], "sigmas": [0]}), batch)
    for name in ("gradient", "edges"):
        assert asis[f"test/pointing_smoothed_{name}"] == pytest.approx(plain[f"test/pointing_{name}"])
        assert asis[f"test/sigma_{name}"] == 0
    wide = logged(explained(one, [one], {"smoothed": ["edges"], "sigmas": [2]}), batch)
    assert wide["test/sigma_edges"] == 2
    assert "test/sigma_gradient" not in wide


def test_gradcam_points_at_evidence_for_the_class(logged: Logged) -> None:
    """What speaks against the class is larger and brighter and lies elsewhere; the first class is right."""
    features = nn.Conv2d(1, 2, 1, bias=False)  # what is bright, and what is dark
    head = nn.Linear(2, 2)
    with torch.no_grad():
        features.weight.copy_(torch.tensor([1.0, -1]).view(2, 1, 1, 1))
        head.weight.copy_(torch.tensor([[1.0, -1], [-1, 1]]))
        head.bias.copy_(torch.tensor([9.0, 0]))
    pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)
    model = SimpleNamespace(network=SplitNetwork(nn.Sequential(features, nn.ReLU()), pooled).eval())
    x = torch.zeros(6, 1, 16, 16)
    x[:, :, 2:6, 2:6] = 1
    x[:, :, 8:15, 8:15] = -3
    boxes = torch.tensor([2.0, 2, 6, 6]).expand(6, 1, 4)
    batch = Batch(x, torch.zeros(6, dtype=torch.long), boxes, torch.arange(6), torch.ones(6, dtype=torch.long))
    values = logged(explained(model, [model]), batch)
    assert values["test/images"] == 6
    assert values["test/pointing_gradcam"] == values["test/energy_gradcam"] == 100


def test_nothing_in_common_is_no_error(batch: Any, logged: Logged) -> None:
    one = stage(0)
    values = logged(explained(one, [one]), batch._replace(y=batch.y * 0 - 1))
    assert values["test/images"] == 0
    assert values["test/n"] == 40
    assert all(value == value for value in values.values())


def test_bad_options_are_named() -> None:
    one = stage(0)
    with pytest.raises(ValueError, match="slow: 'rise': expected names of methods: gradient, gradcam"):
        explained(one, [one], {"slow": ["rise"]})
    with pytest.raises(ValueError, match="smoothed: 'rise': expected names of methods or controls: gradient, gradcam"):
        explained(one, [one], {"smoothed": ["rise"]})
    with pytest.raises(ValueError, match="methods: 'input': expected another name"):
        Explain(one, [one], {"input": Gradient()})
    with pytest.raises(ValueError, match="expected one for each of 1 networks"):
        Compare([one], ["a", "b"], METHODS)
    with pytest.raises(ValueError, match="curve_methods: 'rise'"):
        Compare([one], ["a"], METHODS, curve_methods=["rise"])


def test_networks_side_by_side(batch: Any, logged: Logged) -> None:
    one, other = stage(0), stage(1)
    curves = Curves(steps=4, blur=3)
    module = Compare([one, other], ["vanilla", "robust"], METHODS, curves, shown=1, followed=5).eval()
    halves = [Batch(*columns) for columns in zip(*(column.split(25) for column in batch), strict=True)]
    values = logged(module, *halves)
    assert values["test/n"] == 40
    assert 0 < values["test/common"] < 80
    assert values["test/common"] + values["test/apart"] <= 100

    data = SimpleNamespace(test_dataloader=lambda: [batch], shown=lambda x: x.clamp(0, 1))
    with torch.inference_mode():
        drawn = module.pictures(data)
        empty = module.pictures(SimpleNamespace(test_dataloader=lambda: [batch._replace(y=batch.y * 0 - 1)]))
    assert set(drawn) == {"maps of image 1", "insertion and deletion"}
    grid = drawn["maps of image 1"].axes
    assert len(grid) == 2 * 3
    assert all(len(axis.patches) == 1 for axis in grid)  # the box, everywhere
    assert empty == {}


def test_accuracy_among_the_classes_that_a_set_has(monkeypatch: pytest.MonkeyPatch) -> None:
    network = SplitNetwork(nn.Identity(), nn.Flatten())
    module = OnOtherImages(SimpleNamespace(network=network), 4)
    items = {"test": [("a", 1), ("b", 3)]}
    monkeypatch.setattr(
        type(module), "trainer", SimpleNamespace(datamodule=SimpleNamespace(items=items)), raising=False
    )
    module.on_test_epoch_start()
    logits = torch.tensor([[9.0, 1, 8, 0], [9, 0, 8, 1]])
    module.test_step(SimpleNamespace(x=logits, y=torch.tensor([1, 3])), 0)
    assert float(module.test_metrics.compute()["top1"]) == 100
