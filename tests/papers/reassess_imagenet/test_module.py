"""The stage that measures two sets: what it reports, learns from and draws."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchmetrics
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.running import training
from experiments.running.plan import Plan
from modules.reassess_imagenet.module import Reassessment, set_cross_entropy
from modules.reassess_imagenet.scores import Subgroups

Batch = namedtuple("Batch", ("x", "y", "valid"))


class Given(nn.Module):
    """A network whose logits are its input."""

    def forward(self, x: Tensor) -> Tensor:
        return x


def batch(seed: int, count: int = 200, classes: int = 8, most: int = 4) -> Batch:
    """Random logits that know the valid labels a little; the first label is the original one."""
    draw = torch.Generator().manual_seed(seed)
    order = torch.rand(count, classes, generator=draw).argsort(1)[:, :most]
    counts = torch.randint(1, most + 1, (count, 1), generator=draw)
    valid = order.masked_fill(torch.arange(most) >= counts, -1)
    known = torch.zeros(count, classes + 1).scatter_(1, valid.masked_fill(valid < 0, classes), 1.0)[:, :classes]
    return Batch(torch.randn(count, classes, generator=draw) + known, valid[:, 0], valid)


def report(module: Any, *loaders: list[Batch]) -> dict[str, float]:
    """What a test of these loaders logs, without a trainer."""
    actual: dict[str, float] = {}
    module.log_dict = lambda values, **_: actual.update({name: float(value) for name, value in values.items()})
    for number, batches in enumerate(loaders):
        for index, item in enumerate(batches):
            module.test_step(item, index, number)
    module.on_test_epoch_end()
    return {name.removeprefix("test/"): value for name, value in actual.items()}


def test_cross_entropy_of_a_set_by_hand() -> None:
    z = torch.tensor([[2.0, 0.0, 1.0], [0.0, 1.0, 3.0]])
    valid = torch.tensor([[0, -1, 2], [1, -1, -1]])
    log_p = z.log_softmax(1)
    expected = -((log_p[0, 0] + log_p[0, 2]) / 2 + log_p[1, 1]) / 2
    assert float(set_cross_entropy(z, valid)) == pytest.approx(float(expected))
    single = torch.tensor([[2], [1]])
    assert float(set_cross_entropy(z, single)) == pytest.approx(float(F.cross_entropy(z, single[:, 0])))


def test_the_gradient_of_a_set_ends_at_equal_probabilities() -> None:
    """Cross-entropy with a uniform target: its gradient is p - target."""
    z = torch.randn(5, 6, requires_grad=True)
    valid = torch.tensor([[0, 1, -1], [2, -1, -1], [3, 4, 5], [1, -1, 5], [0, 5, -1]])
    set_cross_entropy(z, valid).backward()
    target = torch.zeros(5, 6)
    for row, labels in enumerate(valid.tolist()):
        named = [label for label in labels if label >= 0]
        target[row, named] = 1 / len(named)
    assert z.grad is not None
    assert torch.allclose(z.grad, (z.detach().softmax(1) - target) / 5, atol=1e-6)


def test_what_a_stage_learns_from() -> None:
    x, y, valid = batch(0)
    losses = {}
    for learns in ("one", "all"):
        module = Reassessment(Given(), 8, learns=learns)
        losses[learns] = float(module.training_step(Batch(x, y, valid), 0))
    assert losses["one"] == pytest.approx(float(F.cross_entropy(x, y)))
    assert losses["all"] == pytest.approx(float(set_cross_entropy(x, valid)))
    with pytest.raises(ValueError, match="learns='both': expected one or all"):
        Reassessment(Given(), 8, learns="both")
    with pytest.raises(ValueError, match="last=0: expected a number from 1 to 16"):
        Reassessment(Given(), 8, last=0)


def test_two_sets_and_their_gap() -> None:
    first, second = batch(1), batch(2, most=2)
    actual = report(Reassessment(Given(), 8, least=1), [first], [second])
    assert actual["gap_top1"] == pytest.approx(actual["v1_top1"] - actual["v2_top1"], abs=1e-4)
    assert actual["gap_real"] == pytest.approx(actual["v1_real"] - actual["v2_real"], abs=1e-4)
    assert actual["gap_asma"] == pytest.approx(actual["v1_asma"] - actual["v2_asma"], abs=1e-4)
    for name in ("top1", "real", "vtk"):
        assert actual[f"gap_{name}_k1"] == pytest.approx(actual[f"v1_k1_{name}"] - actual[f"v2_k1_{name}"], abs=1e-4)
        assert f"gap_{name}_reweighted" not in actual  # the second set has no image with three labels
        assert actual[f"gap_{name}"] == pytest.approx(
            actual[f"counts_{name}"] + actual[f"gap_{name}_reverse"], abs=1e-4
        )
        overall = sum(actual[f"v1_k{k}_n"] * actual[f"v1_k{k}_{name}"] for k in (1, 2, 3, 4)) / 200
        assert overall == pytest.approx(actual["v1_top1_usable" if name == "top1" else f"v1_{name}"], abs=1e-4)
    assert actual["v1_asma"] == pytest.approx(sum(actual[f"v1_k{k}_vtk"] for k in (1, 2, 3, 4)) / 4, abs=1e-4)
    assert actual["v1_asma_groups"] == 4
    assert actual["v2_labels"] == pytest.approx(1 + actual["v2_multi"] / 100, abs=1e-5)
    assert all(value == value for value in actual.values())


def test_small_groups_count_in_the_gap_where_they_count_in_the_sets() -> None:
    """20 images in four groups: none of them has 30."""
    first, second = batch(1, count=20), batch(2, count=20, most=2)
    actual = report(Reassessment(Given(), 8, least=1), [first], [second])
    assert actual["gap_asma"] == pytest.approx(actual["v1_asma"] - actual["v2_asma"], abs=1e-4)
    assert (actual["v1_asma_groups"], actual["v2_asma_groups"]) == (4, 2)


def test_one_sets_scores_image_by_image() -> None:
    """Plain Python on each image's ranking, in percent; mlpc takes off what the same first rank and guesses score."""
    x, original, valid = batch(1)
    actual = report(Reassessment(Given(), 8, sets=["v1"], least=1), [Batch(x, original, valid)])
    strict, several = [], []
    right_first: dict[int, list[bool]] = {}
    for z, labels in zip(x.tolist(), valid.tolist(), strict=True):
        named = {label for label in labels if label >= 0}
        ranked = sorted(range(8), key=lambda c: -z[c])
        hits = len(named & set(ranked[: len(named)]))
        strict.append(hits == len(named))
        right_first.setdefault(len(named), []).append(ranked[0] in named)
        if len(named) > 1:
            several.append((len(named), hits / len(named)))
    h = {k: sum(first) / len(first) for k, first in right_first.items()}
    gained = [score - (h[k] + (k - h[k]) * (k - 1) / 7) / k for k, score in several]
    assert actual["v1_strict"] == pytest.approx(100 * sum(strict) / len(strict), abs=1e-4)
    assert actual["v1_vtk_multi"] == pytest.approx(100 * sum(score for _, score in several) / len(several), abs=1e-4)
    assert actual["v1_multi"] == pytest.approx(100 * len(several) / 200, abs=1e-4)
    assert actual["v1_mlpc"] == pytest.approx(100 * sum(gained) / len(gained), abs=1e-4)
    assert abs(actual["v1_mlpc"]) > 1


def test_images_without_labels_and_labels_without_the_original_one() -> None:
    x = torch.eye(3)
    valid = torch.tensor([[0, -1], [2, -1], [-1, -1]])
    actual = report(Reassessment(Given(), 3, sets=["v1"], least=1), [Batch(x, torch.tensor([0, 1, 2]), valid)])
    assert (actual["v1_n"], actual["v1_usable"]) == (3, 2)
    assert actual["v1_top1"] == 100
    assert actual["v1_top1_usable"] == 100
    assert actual["v1_real"] == actual["v1_ceiling"] == 50  # a perfect single-label model is wrong on the second
    assert not [name for name in actual if name.startswith("gap_")]


def test_an_earlier_stage_gives_its_network_and_a_loader_too_many_is_named() -> None:
    inner = Reassessment(Given(), 3)
    assert Reassessment(inner, 3).network is inner.network
    with pytest.raises(ValueError, match=r"sets=\['v1'\]: the data has 2 test loaders or more"):
        report(Reassessment(Given(), 8, sets=["v1"]), [batch(0)], [batch(1)])


def test_parts_of_a_set_add_up_to_the_whole() -> None:
    """What several processes hold is summed: whole numbers, so that any split gives the same bits."""
    whole, *parts = (Subgroups(8) for _ in range(4))
    whole.update(*batch(3, count=201))
    for number, part in enumerate(parts):
        part.update(*(column[number::3] for column in batch(3, count=201)))
    for name in Subgroups.COUNTED:
        assert whole._reductions[name] is torchmetrics.utilities.dim_zero_sum
        assert torch.equal(sum(getattr(part, name) for part in parts), getattr(whole, name))


def test_pictures(make_plan: Callable[..., Plan]) -> None:
    stage = make_plan("paper=reassess_imagenet").stages["network"]
    data = training.build(stage.data)
    data.setup()
    module = training.build(stage.module).eval()
    assert module.pictures(data) == {}
    report(module, *(list(loader) for loader in data.test_dataloader()))
    drawn = module.pictures(data)
    assert [len(figure.axes) for figure in drawn.values()] == [2, 1, 6]
    labels, _ = next(iter(drawn["labels and first ranks"].axes)).get_title().split("\n", 1)
    assert labels == "valid"
