"""Metrics, schedules and bookkeeping against values by hand and independent references."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from sklearn.metrics import accuracy_score, log_loss, top_k_accuracy_score
from torch import nn
from torchmetrics.utilities import dim_zero_sum

from modules.common.frozen import Frozen
from modules.common.inference import training_images
from modules.common.metrics import Classification, Means
from modules.common.module import StageModule
from modules.common.networks import ConvNet
from modules.common.precision import at_least_single
from modules.common.schedules import Position, cosine, multistep, poly, staircase


def test_means_count_every_image_once() -> None:
    means = Means(["a", "b"])
    means.update({"a": torch.tensor([True, False, True]), "b": torch.tensor([1.0, 0.0, 0.5])})
    means.update({"a": torch.tensor([False]), "b": torch.tensor([0.5])})
    assert {name: float(value) for name, value in means.compute().items()} == {"a": 0.5, "b": 0.5, "n": 4.0}


def test_classification_metrics_agree_with_scikit_learn_over_uneven_batches() -> None:
    source = torch.Generator().manual_seed(0)
    logits = torch.randn(101, 10, generator=source) * 3
    labels = torch.randint(10, (101,), generator=source)
    metrics = Classification(10)
    for part in torch.arange(101).split(32):
        metrics.update(logits[part], labels[part])
    actual = {name: float(value) for name, value in metrics.compute().items()}
    probabilities = logits.double().softmax(-1).numpy()
    assert actual["top1"] == pytest.approx(100 * accuracy_score(labels, probabilities.argmax(1)), abs=1e-4)
    assert actual["top5"] == pytest.approx(100 * top_k_accuracy_score(labels, probabilities, k=5), abs=1e-4)
    assert actual["nll"] == pytest.approx(log_loss(labels, probabilities, labels=range(10)), abs=1e-5)
    assert actual["n"] == 101
    metrics.reset()
    metrics.update(logits[:1], labels[:1])
    assert float(metrics.compute()["n"]) == 1


def test_top1_is_micro_not_macro() -> None:
    """Three of four right, one class absent: micro 75, macro over present classes 83.3."""
    logits = torch.eye(4)[[0, 0, 1, 2]] * 9
    metrics = Classification(4)
    metrics.update(logits, torch.tensor([0, 0, 1, 1]))
    assert float(metrics.compute()["top1"]) == 75.0


def test_ranks_are_those_of_logits_where_probabilities_are_all_0() -> None:
    """Every class but the first is below float32's smallest probability; the label is the second of seven."""
    logits = torch.tensor([[-140.0, 0.0, -130.0, -150.0, -160.0, -170.0, -120.0]])
    assert (logits.softmax(-1) > 0).sum() == 1
    metrics = Classification(7)
    for label in range(7):
        metrics.update(logits, torch.tensor([label]))
    assert float(metrics.compute()["top5"]) == pytest.approx(100 * 5 / 7)
    metrics.reset()
    metrics.update(logits, torch.tensor([5]))
    assert float(metrics.compute()["top5"]) == 0


def test_logits_that_are_no_numbers_are_refused() -> None:
    metrics = Classification(3, ["top1"])
    metrics.update(torch.tensor([[0.0, 1.0, math.nan], [math.nan] * 3, [1.0, 0.0, -math.inf]]), torch.tensor([0, 0, 0]))
    with pytest.raises(ValueError, match="logits of 2 of 3 images hold NaN"):
        metrics.compute()
    metrics.reset()
    metrics.update(torch.tensor([[1.0, 0.0, -math.inf]]), torch.tensor([0]))
    assert float(metrics.compute()["top1"]) == 100


def test_calibration_error_by_hand() -> None:
    """Half the answers at 0.9 confidence and half right, half at 0.6 and all right: .5 x .4 + .5 x .4."""
    confident, unsure = [math.log(9.0), 0.0], [math.log(1.5), 0.0]
    metrics = Classification(2, ["ece"])
    metrics.update(torch.tensor([confident, confident, unsure, unsure]), torch.tensor([0, 1, 0, 0]))
    assert float(metrics.compute()["ece"]) == pytest.approx(0.4, abs=1e-5)


def test_metrics_are_given_by_name_and_top5_needs_classes() -> None:
    with pytest.raises(ValueError, match="unknown metric 'top2'"):
        Classification(10, ["top2"])
    metrics = Classification(5)
    metrics.update(torch.randn(4, 5), torch.tensor([0, 1, 2, 3]))
    assert set(metrics.compute()) == {"top1", "ece", "nll", "n"}
    assert not metrics.state_dict()


def test_cosine_schedule_by_hand() -> None:
    assert cosine(Position(0, 0, 10, 4)) == 1.0
    assert cosine(Position(2, 0, 10, 4)) == pytest.approx(0.5)
    assert cosine(Position(3, 9, 10, 4)) == pytest.approx(0.5 * (1 + math.cos(math.pi * 39 / 40)))
    assert cosine(Position(0, 0, 10, 4), warmup_epochs=1) == pytest.approx(0.1)
    assert cosine(Position(1, 0, 10, 4), warmup_epochs=1) == pytest.approx(1.0)
    assert cosine(Position(2, 5, 10, 4), warmup_epochs=1, final=0.2) == pytest.approx(0.2 + 0.8 * 0.5)


def test_multistep_counts_milestones_reached() -> None:
    assert [multistep(Position(e, 0, 1, 9), [3, 5]) for e in (2, 3, 4, 5)] == pytest.approx([1, 0.1, 0.1, 0.01])


def test_frozen_networks_keep_their_statistics_and_hand_out_usable_tensors() -> None:
    class Student(StageModule):
        def __init__(self) -> None:
            super().__init__()
            self.frozen = Frozen([nn.Sequential(nn.Flatten(), nn.BatchNorm1d(4), nn.Dropout(0.5))])
            self.weight = nn.Parameter(torch.ones(4))

    student = Student().train()
    before = student.frozen.networks[0][1].running_mean.clone()
    target = student.frozen.logits(torch.randn(8, 4))[0]
    (target * student.weight).sum().backward()
    assert torch.equal(student.frozen.networks[0][1].running_mean, before)
    assert student.weight.grad is not None
    assert not target.is_inference()
    assert list(student.state_dict()) == ["weight"]


def test_convnet_shapes() -> None:
    net = ConvNet(1, 8, [24, 32, 48], [1, 2, 1], 10, grid=2)
    assert net(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
    assert net[-1].in_features == 48 * 4
    pooled = ConvNet(3, 32, [8, 16], [0, 0], 7, dropout=0.3)
    assert pooled[-1].in_features == 16 * 8 * 8
    with pytest.raises(ValueError, match="expected as many"):
        ConvNet(1, 8, [4], [1, 2], 10)


def test_a_new_convnet_trains_its_batch_norms() -> None:
    """Lightning puts no layer into training mode: one that a constructor left in evaluation mode stays there."""
    net = ConvNet(1, 8, [4, 6], [1, 0], 3, grid=1, dropout=0.5)
    assert all(layer.training for layer in net.modules())
    net(torch.randn(16, 1, 8, 8))
    norms = [layer for layer in net if isinstance(layer, nn.BatchNorm2d)]
    assert [int(layer.num_batches_tracked) for layer in norms] == [1, 1]
    assert all(float(layer.running_mean.abs().max()) > 0 for layer in norms)


def test_calibration_is_of_probabilities_and_ranks_of_logits() -> None:
    """Logits beyond 0 to 1 are no probabilities; torchmetrics would rescale some and not others."""
    metrics = Classification(2, ["ece", "top1"])
    metrics.update(torch.tensor([[0.9, 0.1]]), torch.tensor([0]))
    assert float(metrics.compute()["ece"]) == pytest.approx(1 - 1 / (1 + math.exp(-0.8)), abs=1e-5)


def test_means_add_up_over_processes() -> None:
    means = Means(["a"])
    assert set(means._reductions) == {"totals", "count"}
    assert all(reduce is dim_zero_sum for reduce in means._reductions.values())


def test_a_staircase_falls_after_whole_steps() -> None:
    """0.94 after every two epochs; of 2.4 epochs of 10 steps, after 24 steps."""
    assert [staircase(Position(e, 9, 10, 99)) for e in (0, 1, 2, 3, 4)] == pytest.approx([1, 1, 0.94, 0.94, 0.94**2])
    edges = [staircase(Position(step // 10, step % 10, 10, 99), 0.5, 2.4) for step in (23, 24, 47, 48)]
    assert edges == [1, 0.5, 0.5, 0.25]
    assert [staircase(Position(0, step, 10, 99), 0.5, 0.01) for step in (0, 1, 2)] == [1, 0.5, 0.25]  # every step


def test_a_power_of_what_is_left_is_constant_within_an_epoch() -> None:
    assert [poly(Position(e, 3, 10, 4)) for e in range(4)] == pytest.approx([1, 0.75**0.9, 0.5**0.9, 0.25**0.9])
    assert poly(Position(1, 0, 10, 4), exponent=2.0) == pytest.approx(0.5625)


def test_warm_up_reaches_its_rate_over_all_its_epochs() -> None:
    rates = [cosine(Position(step // 2, step % 2, 2, 8), warmup_epochs=2) for step in range(4)]
    assert rates == pytest.approx([0.25, 0.5, 0.75, 1.0])


def test_training_images_come_from_the_data_as_the_network_sees_them() -> None:
    held = SimpleNamespace(splits={"train": (torch.arange(5.0), None)}, normalised=lambda x: 10 * x)
    assert training_images(held, [3, 1]).tolist() == [30, 10]
    read = SimpleNamespace(training_images=lambda rows: torch.tensor(rows) + 0.5)
    assert training_images(read, [3, 1]).tolist() == [3.5, 1.5]


def test_a_convnets_convolutions_have_no_bias_and_its_own_strides() -> None:
    net = ConvNet(2, 8, [4, 6, 8], [1, 2, 0], 3)
    convolutions = [layer for layer in net if isinstance(layer, nn.Conv2d)]
    assert [(c.stride, c.bias) for c in convolutions] == [((1, 1), None), ((2, 2), None), ((1, 1), None)]
    assert not any(isinstance(layer, nn.Dropout) for layer in net)
    assert net[-1].in_features == 8 * 2 * 2


def test_half_precision_is_widened_and_nothing_else() -> None:
    kinds = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
    widened = [at_least_single(torch.zeros(1, dtype=kind)).dtype for kind in kinds]
    assert widened == [torch.float32, torch.float32, torch.float32, torch.float64]
