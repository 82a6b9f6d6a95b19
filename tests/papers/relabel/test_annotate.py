"""What is measured while label maps are made, and what a student tracks of a step."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modules.common.classifier import Classifier
from modules.common.networks import ConvNet
from modules.relabel.annotate import LabelMaps, split_at_pooling
from modules.relabel.module import CutMix, Labels, ReLabel
from modules.relabel.pooling import cell_weights, keep_best
from tests.schedules import half

Numbered = namedtuple("Numbered", ["x", "y", "row"])
Cropped = namedtuple("Cropped", ["x", "y", "box", "map"])


def network() -> ConvNet:
    torch.manual_seed(0)
    return ConvNet(1, 16, [6, 8], [2, 1], 5, grid=1).eval()


@pytest.fixture
def annotate(tmp_path: Path) -> Callable[..., list[dict[str, float]]]:
    """What is logged of each test, of so many images each."""

    def run(module: LabelMaps, *tests: tuple[Tensor, Tensor]) -> list[dict[str, float]]:
        logged: list[dict[str, float]] = []
        module.log_dict = lambda values, **_: logged.append({k: float(v) for k, v in values.items()})  # type: ignore[method-assign, assignment]
        for x, y in tests:
            loader = SimpleNamespace(batches=SimpleNamespace(size=len(x)))
            trainer = {"test_dataloaders": loader, "default_root_dir": str(tmp_path), "world_size": 1}
            module._trainer = SimpleNamespace(**trainer)  # type: ignore[assignment]
            module.on_test_start()
            for rows in torch.arange(len(x)).split(4):
                module.test_step(Numbered(x[rows], y[rows], rows), 0)
            module.on_test_epoch_end()
        return logged

    return run


def test_the_annotators_label_of_the_whole_image_is_measured(annotate: Callable[..., list[dict[str, float]]]) -> None:
    """With all classes kept that label is the classifier's own answer; the second test starts anew."""
    classifier = network()
    classifier[-1].weight.data *= 5  # type: ignore[union-attr, operator] # answers that are neither sure nor blind
    x = torch.randn(10, 1, 16, 16, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        p = classifier(x).softmax(1)
    y = p.argmax(1)
    y[:3] = (y[:3] + 1) % 5
    first, second = annotate(LabelMaps(Classifier(classifier, 5), kept=5), (x, y), (x[6:], y[6:]))
    assert first["test/top1"] == pytest.approx(70)
    assert first["test/confidence"] == pytest.approx(100 * float(p.amax(1).mean()), abs=0.01)
    assert 21 < first["test/confidence"] < 99
    assert first["test/n"] == 10
    assert (second["test/top1"], second["test/n"]) == (100, 4)
    assert second["test/confidence"] == pytest.approx(100 * float(p[6:].amax(1).mean()), abs=0.01)


def test_five_classes_of_a_cell_are_kept_unless_told_otherwise() -> None:
    classifier = ConvNet(1, 16, [6], [2], 9, grid=1)
    assert LabelMaps(Classifier(classifier, 9))(torch.zeros(1, 1, 16, 16)).shape == (1, 2, 5, 8, 8)


def test_maps_are_made_in_one_process() -> None:
    module = LabelMaps(Classifier(network(), 5))
    module._trainer = SimpleNamespace(world_size=2)  # type: ignore[assignment]
    with pytest.raises(ValueError, match="made in one process"):
        module.on_test_start()


def test_a_network_is_split_before_its_pooling() -> None:
    classifier = network()
    features, head = split_at_pooling(classifier)
    x = torch.randn(2, 1, 16, 16)
    assert head is classifier[-1]
    with torch.no_grad():
        assert torch.allclose(head(features(x).mean((2, 3))), classifier(x), atol=1e-6)
    by_size = nn.Sequential(nn.Conv2d(1, 3, 3), nn.AdaptiveAvgPool2d((1, 1)), nn.Flatten(), nn.Linear(3, 2))
    assert split_at_pooling(by_size)[1] is by_size[-1]
    wrong = {
        "two poolings": nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 2)),
        "a grid": nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4, 2)),
    }
    for broken in wrong.values():
        with pytest.raises(ValueError, match="expected a network with one global average pooling"):
            split_at_pooling(broken)
    convolutional = timm.create_model("mobilenetv3_small_050", num_classes=0)
    with pytest.raises(ValueError, match="MobileNetV3: expected a linear layer at the end, got Identity"):
        split_at_pooling(convolutional)


def student(**options: Any) -> tuple[ReLabel, dict[str, Any]]:
    """Options that Labels has go there."""
    labels = Labels(**{name: options.pop(name) for name in [*options] if name in Labels.__dataclass_fields__})
    module = ReLabel(network(), 5, labels, **options)
    module._trainer = SimpleNamespace(max_epochs=10, current_epoch=0)  # type: ignore[assignment]
    tracked: dict[str, Any] = {}
    module.track = lambda count, **terms: tracked.update(terms, count=count)  # type: ignore[method-assign]
    return module, tracked


@pytest.fixture
def crops() -> Any:
    source = torch.Generator().manual_seed(1)
    corner = torch.rand(4, 2, generator=source) / 2
    maps = keep_best(3 * torch.randn(4, 5, 6, 6, generator=source), 3)
    x = torch.randn(4, 1, 16, 16, generator=source)
    return Cropped(x, torch.tensor([0, 1, 2, 3]), torch.cat([corner, corner + 0.4], 1), maps)


def test_the_student_learns_the_mixed_label_of_the_mixed_crop(crops: Any) -> None:
    """Cross-entropy with what CutMix makes of picture and label under the same draw."""
    module, tracked = student(cutmix=CutMix())
    target = module.target(crops)
    torch.manual_seed(3)
    x, y = module.mix(crops.x, target)
    assert not torch.equal(x, crops.x)
    torch.manual_seed(3)
    loss = module.training_step(crops, 0)
    expected = -(y * module.network(x).log_softmax(1)).sum(1).mean()
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    assert float(tracked["loss"]) == float(loss)
    assert tracked["count"] == 4
    relabelled = (target.argmax(1) != crops.y).float().mean()  # of the crop's own label, before it is mixed
    assert float(tracked["relabelled"]) == pytest.approx(100 * float(relabelled))
    assert "alone" not in tracked  # nothing says what these crops show


def test_a_box_around_the_middle_of_a_cell_asks_it_most() -> None:
    """Narrower than a cell it is widened to one, to the right and downwards: the cell itself counts a little more."""
    for column, row in ((0, 0), (2, 1), (3, 3)):
        box = torch.tensor([[column / 4 + 0.124, row / 4 + 0.124, column / 4 + 0.126, row / 4 + 0.126]])
        weights = cell_weights(box, 4, 4)[0]
        assert float(weights.sum()) == pytest.approx(1, abs=1e-5)
        at = divmod(int(weights.argmax()), 4)
        assert at == (row, column)


def test_cells_of_a_map_that_is_not_square() -> None:
    """The left half of 2 x 4 cells: each of its four cells has one sample, in its middle."""
    weights = cell_weights(torch.tensor([[0.0, 0.0, 0.5, 1.0]]), 2, 4)[0]
    assert torch.allclose(weights, torch.tensor([[0.25, 0.25, 0.0, 0.0]] * 2))


def test_labels_are_hard_or_smooth_by_hand(crops: Any) -> None:
    plain, _ = student(kind="original")
    assert torch.equal(plain.target(crops), F.one_hot(crops.y, 5).float())
    smooth, _ = student(kind="original", smoothing=0.2)
    assert smooth.target(crops)[1].tolist() == pytest.approx([0.04, 0.84, 0.04, 0.04, 0.04])


def test_a_student_trains_with_its_own_optimizer_and_schedule() -> None:
    module, _ = student(optimizer=torch.optim.SGD, schedule=half)
    assert (module.optimizer_factory, module.schedule) == (torch.optim.SGD, half)
