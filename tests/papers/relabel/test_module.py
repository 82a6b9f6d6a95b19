"""The student's loss and labels, and the stage that makes label maps."""

from __future__ import annotations

from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modules.common.classifier import Classifier
from modules.common.distillation import similarity_loss
from modules.common.networks import ConvNet
from modules.relabel.annotate import LabelMaps, label_map, split_at_pooling
from modules.relabel.module import CutMix, Labels, ReLabel
from modules.relabel.networks import resnet
from modules.relabel.pooling import keep_best, pool_labels

Batch = namedtuple("Batch", ["x", "y", "box", "shown", "map"])
Numbered = namedtuple("Numbered", ["x", "y", "row"])
BOXES = torch.tensor([[0.0, 0.0, 0.5, 0.5], [0.5, 0.0, 1.0, 0.5], [0.1, 0.2, 0.9, 0.7], [0.0, 0.0, 1.0, 1.0]])


def network(classes: int = 5) -> ConvNet:
    torch.manual_seed(0)
    return ConvNet(1, 16, [6, 8], [2, 1], classes, grid=1)


def batch() -> Any:
    torch.manual_seed(1)
    maps = keep_best(torch.randn(4, 5, 6, 6), 3)
    return Batch(torch.randn(4, 1, 16, 16), torch.tensor([0, 1, 2, 3]), BOXES, torch.tensor([0, -1, 4, 3]), maps)


def student(**options: Any) -> ReLabel:
    """Options that are not CutMix's go to the labels."""
    cutmix = options.pop("cutmix", None)
    module = ReLabel(network(), 5, Labels(**options), cutmix)
    module._trainer = SimpleNamespace(max_epochs=10, current_epoch=0)  # type: ignore[assignment]
    return module


def test_loss_values() -> None:
    logits = torch.tensor([[1.0, 0.0, 0.0, 0.0]])
    assert float(similarity_loss(logits, torch.tensor([[0.7, 0.3, 0.0, 0.0]]))) == pytest.approx(1.0437, abs=1e-4)
    assert torch.allclose(
        similarity_loss(logits, torch.tensor([[0.0, 1, 0, 0]])), F.cross_entropy(logits, torch.tensor([1]))
    )


def test_original_labels_are_plain_cross_entropy() -> None:
    module, given = student(kind="original"), batch()
    assert torch.allclose(module.training_step(given, 0), F.cross_entropy(module(given.x), given.y))
    smooth = student(kind="original", smoothing=0.1)
    expected = F.cross_entropy(smooth(given.x), given.y, label_smoothing=0.1)
    assert torch.allclose(smooth.training_step(given, 0), expected)


def test_labels_of_every_arm() -> None:
    given = batch()
    localised = student().target(given)
    assert torch.equal(localised, pool_labels(given.map, BOXES, 5).softmax(1))
    whole = student(kind="global").target(given)
    assert torch.equal(whole, pool_labels(given.map, BOXES[3:].expand(4, 4), 5).softmax(1))
    assert torch.allclose(whole[3], localised[3])
    assert not torch.allclose(whole[0], localised[0])
    swapped = student(coordinates="yxyx").target(given)
    assert torch.allclose(swapped[0], localised[0])  # the box is its own mirror image
    assert not torch.allclose(swapped[1], localised[1])
    single = student(single=True).target(given)
    assert torch.equal(single, F.one_hot(localised.argmax(1), 5).float())
    for target in (localised, whole, swapped, single):
        assert torch.allclose(target.sum(1), torch.ones(4))
        assert not target.requires_grad


def test_what_happens_to_pixels_does_not_reach_the_label() -> None:
    given = batch()
    mirrored = given._replace(x=given.x.flip(-1))
    assert torch.equal(student().target(given), student().target(mirrored))


def test_known_facts_about_labels() -> None:
    module, given = student(), batch()
    target = torch.eye(5)[[0, 2, 1, 3]]
    known = module.judge(target, given)
    assert float(known["relabelled"]) == 50  # two of four
    assert float(known["alone"]) == 75  # three crops show one thing alone
    assert float(known["alone_right"]) == 50  # and two of them are labelled so
    halves = [module.judge(target[i : i + 2], Batch(*(column[i : i + 2] for column in given))) for i in (0, 2)]
    for name, value in known.items():  # whatever the shares of several processes
        assert float(halves[0][name] + halves[1][name]) / 2 == float(value)


def test_cutmix_mixes_labels_by_area_and_stops_before_the_end() -> None:
    module, given = student(cutmix=CutMix(1.0, 5)), batch()
    images = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 1, 16, 16).contiguous()
    target = module.target(given)
    for seed in range(20):
        torch.manual_seed(seed)
        x, y = module.mix(images, target)
        own = (x == images).float().mean((1, 2, 3))
        assert torch.allclose(y, own[:, None] * target + (1 - own[:, None]) * target.roll(1, 0), atol=1e-5)
        assert torch.allclose(y.sum(1), torch.ones(4), atol=1e-5)
    module._trainer.current_epoch = 5  # type: ignore[union-attr]
    assert module.mix(images, target) == (images, target)
    module._trainer.current_epoch = 4  # type: ignore[union-attr]
    assert module.mix(images, target)[0] is not images


def test_cutmix_without_a_box_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    module, given = student(cutmix=CutMix()), batch()
    assert module.cutmix is not None
    monkeypatch.setattr(module.cutmix._dist, "sample", lambda shape: torch.ones(1))  # lambda = 1
    target = module.target(given)
    x, y = module.mix(given.x, target)
    assert torch.equal(x, given.x)
    assert torch.equal(y, target)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "soft"}, "kind='soft': expected one of localised, global, original"),
        ({"coordinates": "xywh"}, "coordinates='xywh': expected one of xyxy, yxyx"),
        ({"smoothing": 1.0}, "smoothing=1.0"),
    ],
)
def test_a_switch_names_its_values(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Labels(**options)


@pytest.mark.parametrize("name", ["small", "timm"])
def test_the_pooled_map_of_the_whole_image_is_the_annotators_answer(name: str) -> None:
    """Average pooling and a linear layer commute: nothing is fine-tuned."""
    classifier = network() if name == "small" else timm.create_model("efficientnet_b0", num_classes=5, in_chans=1)
    classifier = classifier.eval()
    side = 16 if name == "small" else 96
    x = torch.randn(3, 1, side, side)
    with torch.no_grad():
        actual = label_map(classifier, x)
        pooled = pool_labels(keep_best(actual, 5), BOXES[3:].expand(3, 4), 5)
        assert float((pooled - classifier(x)).abs().max()) < 1e-4
    assert actual.shape == (3, 5, *((8, 8) if name == "small" else (3, 3)))


def test_networks_without_global_pooling_are_refused() -> None:
    for broken in (ConvNet(1, 16, [4], [2], 5), ConvNet(1, 16, [4], [2], 5, grid=2), nn.Linear(3, 3)):
        with pytest.raises(ValueError, match="global average pooling"):
            split_at_pooling(broken)


def test_the_annotator_is_frozen_and_outside_the_module() -> None:
    module = LabelMaps(Classifier(network(), 5), kept=5)
    before = {name: value.clone() for name, value in module.frozen.networks[0].state_dict().items()}
    maps = module.train()(torch.randn(4, 1, 16, 16))
    assert maps.shape == (4, 2, 5, 8, 8)
    assert not maps.requires_grad
    assert all(torch.equal(before[name], value) for name, value in module.frozen.networks[0].state_dict().items())
    assert not list(module.parameters())


def test_maps_are_written_to_disk_by_row_and_leave_no_file_behind(tmp_path: Path) -> None:
    module = LabelMaps(Classifier(network(), 5), kept=2)
    loader = SimpleNamespace(batches=SimpleNamespace(size=6))
    module._trainer = SimpleNamespace(test_dataloaders=loader, default_root_dir=str(tmp_path))  # type: ignore[assignment]
    x, y = torch.randn(6, 1, 16, 16), torch.arange(6) % 5
    for rows in (torch.tensor([4, 1, 0]), torch.tensor([2, 5, 3])):
        module.test_step(Numbered(x[rows], y[rows], rows), 0)
    made = module.artifacts()
    assert isinstance(made["maps"], np.memmap)
    assert made["maps"].shape == (6, 2, 2, 8, 8)
    assert torch.allclose(torch.tensor(made["maps"]), module(x), atol=1e-6)
    assert made["labels"].tolist() == y.tolist()
    assert not list(tmp_path.iterdir())


def test_published_sizes() -> None:
    def parameters(module: nn.Module) -> int:
        return sum(p.numel() for p in module.parameters())

    with torch.device("meta"):
        assert parameters(resnet(50, 1000)) == 25_557_032
        assert parameters(resnet(18, 1000)) == 11_689_512
        assert parameters(resnet(101, 1000)) == 44_549_160
        annotator = timm.create_model("tf_efficientnet_l2.ns_jft_in1k_475", pretrained=False).eval()
        assert parameters(annotator) == 480_309_308
        features, head = split_at_pooling(annotator)
        assert features(torch.zeros(1, 3, 475, 475)).shape == (1, 5504, 15, 15)
        assert head.weight.shape == (1000, 5504)


def test_a_depth_that_no_resnet_has_is_refused() -> None:
    with pytest.raises(ValueError, match="depth=20: expected one of 18, 34, 50, 101, 152"):
        resnet(20, 10)


def collected(module: ReLabel, batches: list[Any]) -> dict[str, float]:
    logged: dict[str, Tensor] = {}
    module.log_dict = lambda values, **_: logged.update(values)  # type: ignore[method-assign, assignment]
    for number, given in enumerate(batches):
        module.test_step(given, 0, number)
    module.on_test_epoch_end()
    return {name: float(value) for name, value in logged.items()}


def test_single_items_and_pairs_are_judged_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    Single, Pair = namedtuple("Single", ["x", "y"]), namedtuple("Pair", ["x", "y", "valid"])
    module = student()
    monkeypatch.setattr(module, "forward", lambda x: F.one_hot(x, 5).float())  # x is what is predicted
    singles = Single(torch.tensor([0, 1, 2, 4]), torch.tensor([0, 1, 2, 3]))
    valid = torch.tensor([[0, 1], [1, 2], [2, -1], [-1, -1]])
    pairs = Pair(torch.tensor([1, 1, 0, 0]), torch.tensor([0, 1, 2, 3]), valid)
    actual = collected(module, [singles, pairs])
    assert actual["test/top1"] == 75
    assert actual["test/n"] == 4
    assert actual["test/real_acc"] == pytest.approx(200 / 3)  # right, right, wrong; the last has no valid label
    assert actual["test/single_top1"] == pytest.approx(100 / 3)


def test_what_all_processes_counted_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """After `compute` a metric's state is that of one process again."""
    module = student().eval()
    counts = {"counted": torch.tensor(10.0), "mistakes": torch.tensor(4.0), "ml_acc": torch.tensor(80.0)}
    monkeypatch.setattr(module.multilabel, "compute", lambda: counts)
    Single = namedtuple("Single", ["x", "y"])
    actual = collected(module, [Single(torch.randn(4, 1, 16, 16), torch.tensor([0, 1, 2, 3]))])
    assert actual["test/single_top1"] == pytest.approx(60)
    assert actual["test/real_acc"] == 80


def test_of_one_test_set_both_are_told() -> None:
    Judged = namedtuple("Judged", ["x", "y", "valid"])
    module = student().eval()
    x = torch.randn(6, 1, 16, 16)
    y = module(x).argmax(1)
    actual = collected(module, [Judged(x, y, torch.stack([(y + 1) % 5, y], 1))])
    assert (actual["test/top1"], actual["test/real_acc"], actual["test/n"]) == (100, 100, 6)
    actual = collected(module, [Judged(x, y, torch.full((6, 2), -1))])
    assert "test/real_acc" not in actual
