"""Accuracy over inference runs, the shuffled control, the memory of backward passes."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modules.noprop.arms import Arm
from modules.noprop.baselines import EndToEnd
from modules.noprop.evaluation import RepeatedAccuracy, majority, shuffled_top1
from modules.noprop.module import NoProp


def test_what_backward_needs_is_counted_by_hand(
    without_trainer: Callable[..., Any], batch: Callable[..., tuple[Tensor, Tensor]]
) -> None:
    class Tiny(Arm):
        def descend(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
            for _ in range(3):  # each graph goes before the next comes, so this counts once
                self.step(F.relu(x.flatten(1) @ self.w).sum(), self.optimizers())
            return {"loss": torch.zeros(())}

    module: Any = Tiny(10, 1, 1, [], partial(torch.optim.SGD, lr=0.1))
    module.w = nn.Parameter(torch.randn(64, 7))
    without_trainer(module)
    module.track = lambda *args, **values: None
    module._trainer = type("Trainer", (), {"current_epoch": 0})()
    module.training_step(batch(), 0)
    assert int(module.saved.most) == 4 * 32 * (64 + 7)  # the input and the ReLU's output; not the weights


def test_memory_of_blocks_trained_alone_does_not_grow_with_their_number(
    stack: Callable[..., NoProp], end_to_end: Callable[..., EndToEnd], batch: Callable[..., tuple[Tensor, Tensor]]
) -> None:
    def held(module: Any) -> int:
        module.track = lambda *args, **values: None
        module._trainer = type("Trainer", (), {"current_epoch": 0})()
        module.training_step(batch(), 0)
        return int(module.saved.most)

    assert held(stack(2)) == held(stack(6))
    ends = [held(end_to_end(blocks)) for blocks in (2, 6)]
    assert ends[1] > 2.8 * ends[0]
    assert ends[1] > 5 * held(stack(6))


def test_images_are_averaged_before_anything_sees_them() -> None:
    seen: list[Tensor] = []

    class Seeing(Arm):
        def descend(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
            seen.extend((x, y))
            return {"loss": x.mean()}

    module: Any = Seeing(10, 1, 2, [], None)
    tracked: dict[str, Any] = {}
    module.track = lambda count, **values: tracked.update(values, count=count)
    module._trainer = type("Trainer", (), {"current_epoch": 0})()
    module.training_step((torch.arange(16.0).view(1, 1, 4, 4), torch.tensor([3])), 0)
    assert seen[0].tolist() == [[[[2.5, 4.5], [10.5, 12.5]]]]
    assert seen[1].tolist() == [3]
    assert tracked == {"loss": 7.5, "count": 1}


def test_validation_counts_all_images_alike_and_each_epoch_anew(shown: Callable[..., Tensor]) -> None:
    """Six and two images; the arm reads the class off the image, and is asked whether it is 3."""

    class Known(Arm):
        def infer(self, x: Tensor, runs: int) -> tuple[Tensor, list[Tensor]]:
            return x.flatten(1)[None, :, :10], []

    module: Any = Known(10, 2, 1, [], None)
    logged: list[tuple[str, float]] = []
    module.log = lambda name, value: logged.append((name, float(value)))
    for _ in range(2):
        for labels in (torch.tensor([3, 3, 3, 3, 3, 1]), torch.tensor([3, 2])):
            module.validation_step((shown(labels), torch.full((len(labels),), 3)), 0)
        module.on_validation_epoch_end()
    assert logged == [("val/top1", 75.0)] * 2


def test_a_test_epoch_reports_each_block_and_what_explains_a_run(
    stack: Callable[..., NoProp],
    batch: Callable[..., tuple[Tensor, Tensor]],
    logged: Callable[..., dict[str, float]],
) -> None:
    module = stack(3, inference_runs=2).eval()
    with torch.no_grad():
        values = logged(module, batch(8), batch(5, seed=2))
    on_the_way = {f"block{t}_top1" for t in (1, 2, 3)} | {"block1_p", "block3_p", "quiet_top1"}
    of_runs = {"top1", "top1_std", "vote_top1", "shuffled_top1", "n"}
    assert set(values) == {f"test/{name}" for name in on_the_way | of_runs}
    assert values["test/n"] == 13


def test_answers_are_scored_over_runs_and_beside_images_of_other_classes(shown: Callable[..., Tensor]) -> None:
    """Also where the test images come class by class, as from folders."""

    class Known(Arm):
        def infer(self, x: Tensor, runs: int) -> tuple[Tensor, list[Tensor]]:
            right = x.flatten(1)[:, :10]
            return torch.stack([right, right.roll(1, -1)]), [right.argmax(-1).expand(runs, -1)]

    module: Any = Known(10, 2, 1, ["block1"], None)
    logged: dict[str, float] = {}
    module.log_dict = logged.update
    for label in range(10):
        y = torch.full((4,), label)
        module.test_step((shown(y), y), label)
    module.on_test_epoch_end()
    expected = {"top1": 50, "top1_std": 100 / math.sqrt(2), "shuffled_top1": 10, "block1_top1": 100, "n": 40}
    expected["vote_top1"] = 90  # of two answers the lower class: wrong for the last, whose other answer is 0
    assert logged == pytest.approx({f"test/{name}": value for name, value in expected.items()})


def test_images_dealt_out_at_random_score_by_the_margins() -> None:
    answers, labels = torch.tensor([0, 0, 1, 2, 2, 2]), torch.tensor([0, 1, 1, 2, 2, 0])
    confusion = torch.zeros(3, 3).index_put((labels, answers), torch.ones(6), accumulate=True)
    every_order = [(answers.roll(shift) == labels).float().mean() for shift in range(6)]  # each pair once
    assert shuffled_top1(confusion) == pytest.approx(100 * float(torch.stack(every_order).mean()))


def test_majority_by_hand() -> None:
    answers = torch.tensor([[2, 0, 1, 1], [2, 1, 0, 0], [0, 1, 2, 1]])  # (runs, B)
    assert majority(answers, 3).tolist() == [2, 1, 0, 1]  # three different answers: the lowest class


def test_vote_and_notes_by_hand() -> None:
    """Two runs of three are right on the first image, one on the second; notes count each image once."""
    accuracy = RepeatedAccuracy(3, 3, [], notes=["p"])
    answers = torch.tensor([[2, 0], [2, 1], [0, 0]])
    accuracy.update(answers, [], torch.tensor([2, 1]))
    accuracy.note({"p": torch.tensor([0.5, 0.1])})
    accuracy.update(torch.tensor([[1], [1], [1]]), [], torch.tensor([1]))
    accuracy.note({"p": torch.tensor([0.9])})
    scores = accuracy.compute()
    assert scores["vote_top1"] == pytest.approx(200 / 3)
    assert scores["top1"] == pytest.approx(100 * (2 + 1 + 3) / 9)
    assert scores["p"] == pytest.approx(50)
    assert "train_top1" not in scores  # no training image was classified


def test_training_images_are_classified_once(shown: Callable[..., Tensor]) -> None:
    """By an arm that reads the class off the image, and answers wrongly where it is 9."""

    class Known(Arm):
        def infer(self, x: Tensor, runs: int) -> tuple[Tensor, list[Tensor]]:
            return x.flatten(1)[None, :, :9], []

    labels = torch.arange(10).repeat_interleave(60)
    module: Any = Known(10, 1, 1, [], None)
    data = type("Data", (), {"splits": {"train": (shown(labels), labels)}, "normalised": staticmethod(lambda x: x)})
    module._trainer = type("Trainer", (), {"datamodule": data, "world_size": 1, "global_rank": 0})()
    module.on_test_epoch_start()
    module.accuracy.update(labels[None], [], labels)
    assert module.accuracy.compute()["train_top1"] == pytest.approx(90)
    module.accuracy.reset()
    assert not module.accuracy.training_images.update_called
