"""What Throughput measures, with a clock whose readings are known."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from modules.inception_next.timing import Throughput, Timing, device_name, multiply_adds, spread, timing_settings


class Slow(nn.Module):
    """Does nothing, at a cost of `first` or `last` seconds by the layout of its input, times what `noise` draws."""

    def __init__(
        self, first: float, last: float | None = None, weight: bool = True, noise: Callable[[], float] = lambda: 1.0
    ) -> None:
        super().__init__()
        self.costs, self.noise = {False: first, True: first if last is None else last}, noise
        self.spent, self.calls = 0.0, 0
        self.scale = nn.Parameter(torch.ones(())) if weight else None

    def forward(self, x: Tensor) -> Tensor:
        self.spent += self.costs[x.is_contiguous(memory_format=torch.channels_last)] * self.noise()
        self.calls += 1
        return x if self.scale is None else x * self.scale


class Staged(Throughput):
    """The clock of a known machine: it shows what the candidates have spent."""

    def clock(self) -> Callable[[], float]:
        return lambda: sum(float(c.spent) for c in self.candidates.values())  # type: ignore[arg-type]


def test_ratios_are_those_of_the_clock(logged: Callable[..., dict[str, float]]) -> None:
    candidates = {"ours": Slow(1.0), "theirs": Slow(4.0), "bare": Slow(0.5, weight=False)}
    metrics = logged(Staged(candidates, Timing(rounds=3, calls=2, warmup=5)), (torch.zeros(5, 3, 4, 4), torch.zeros(5)))
    assert metrics["test/train_log2_theirs"] == metrics["test/infer_log2_theirs"] == 2.0
    assert metrics["test/train_log2_bare"] == -1.0
    assert metrics["test/infer_per_s_theirs"] == pytest.approx(5 / 4)
    assert metrics["test/train_noise_theirs"] == 0.0
    # 2 modes in 2 layouts: 5 calls to warm up, then 3 rounds of 2; one more to count operations
    assert all(c.calls == 2 * 2 * (5 + 3 * 2) + 1 for c in candidates.values())


@pytest.mark.parametrize("seed", range(5))
def test_every_candidate_counts_in_its_faster_layout_whatever_single_calls_say(
    logged: Callable[..., dict[str, float]], seed: int
) -> None:
    """Layouts differ by a quarter to a half; calls by a tenth, and one in six takes three times as long."""
    source = random.Random(seed)

    def noise() -> float:
        return math.exp(source.gauss(0.0, 0.1)) * (3.0 if source.random() < 1 / 6 else 1.0)

    candidates = {"ours": Slow(2.0, 1.0, noise=noise), "theirs": Slow(3.0, 4.0, noise=noise)}
    metrics = logged(Staged(candidates, Timing(rounds=25)), (torch.zeros(5, 3, 4, 4), torch.zeros(5)))
    for mode in ("train", "infer"):
        assert (metrics[f"test/{mode}_chose_last_ours"], metrics[f"test/{mode}_chose_last_theirs"]) == (1.0, 0.0)
        assert metrics[f"test/{mode}_log2_theirs"] == pytest.approx(math.log2(3), abs=0.2)
        assert metrics[f"test/{mode}_log2_channels_first_theirs"] == pytest.approx(math.log2(3 / 2), abs=0.2)
        assert metrics[f"test/{mode}_log2_channels_last_theirs"] == pytest.approx(2.0, abs=0.2)
        assert metrics[f"test/{mode}_per_s_ours"] == pytest.approx(5.0, rel=0.1)


def test_timing_leaves_settings_gradients_and_the_batch_alone() -> None:
    candidates = {"a": nn.Conv2d(8, 8, 1), "b": nn.Conv2d(8, 8, 3, padding=1)}
    module = Throughput(candidates, Timing(rounds=1, layouts=["channels_last"]), input_gradient=True)
    x = torch.randn(2, 8, 6, 6)
    before, threads, picks = x.clone(), torch.get_num_threads(), torch.backends.cudnn.benchmark
    with torch.inference_mode():  # where a test runs
        module.test_step((x, torch.zeros(2)), 0)
    assert torch.equal(x, before)
    assert not x.requires_grad
    assert (torch.get_num_threads(), torch.backends.cudnn.benchmark) == (threads, picks)
    with timing_settings(1):
        assert torch.backends.cudnn.benchmark
    assert torch.backends.cudnn.benchmark == picks
    assert all(s > 0 for by_name in module.times.values() for times in by_name.values() for s in times["channels_last"])
    assert math.log2(module.madds["b"] / module.madds["a"]) == pytest.approx(math.log2(9))
    assert spread([1.0, 2.0, 3.0, 4.0, 5.0]) == 1.0
    assert spread([1.0]) == 0.0


def test_training_calls_go_back_through_the_network_and_inference_does_not() -> None:
    """Where no gradients are kept, as in a test: 3 steps to warm up and 2 rounds of 2, all of them in training mode."""
    layer = nn.Conv2d(8, 8, 1)
    backward: list[bool] = []
    layer.weight.register_hook(lambda _: backward.append(layer.training))
    timing = Timing(rounds=2, calls=2, warmup=3, layouts=["channels_first"])
    module = Throughput({"a": layer, "b": nn.Identity()}, timing)
    with torch.inference_mode():
        module.test_step((torch.randn(2, 8, 6, 6), torch.zeros(2)), 0)
    assert backward == [True] * (3 + 2 * 2)
    assert module.madds["a"] == 8 * 8 * 36  # of one of the two images


def test_a_test_without_images_reports_nothing(logged: Callable[..., dict[str, float]]) -> None:
    assert logged(Throughput({"a": nn.Identity(), "b": nn.Identity()}, Timing())) == {}


def test_a_device_is_called_by_its_own_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"card {device.index}")
    assert device_name(torch.device("cuda:1")) == "card 1"
    assert device_name(torch.device("cpu"))


def test_multiply_adds_leave_norms_out() -> None:
    x = torch.zeros(1, 8, 6, 6)
    depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
    assert multiply_adds(nn.Sequential(depthwise, nn.BatchNorm2d(8), nn.GELU()), x) == 8 * 9 * 36
    assert multiply_adds(nn.BatchNorm2d(8), x) == 1.0
