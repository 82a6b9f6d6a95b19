"""How many images per second networks process, measured side by side."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from modules.common.module import StageModule
from modules.inception_next.pictures import throughput_picture

LAYOUTS = {"channels_first": torch.contiguous_format, "channels_last": torch.channels_last}
MODES = {"train": "training step", "infer": "inference"}
Times = dict[str, dict[str, dict[str, list[float]]]]  # mode -> candidate -> layout -> seconds of each round


@dataclass(frozen=True)
class Timing:
    """How often and in what setting candidates are timed.

    Attributes:
        rounds: timed rounds.
        calls: forward passes or steps in one timing; their mean counts.
        warmup: calls before the rounds, for each candidate, mode and layout, that do not count.
        threads: of the CPU.
        layouts: memory layouts that are timed.
        bf16: autocast to bfloat16; false is fp32, with TF32 where the GPU has it.
    Raises:
        ValueError: rounds, calls, warmup or threads below 1; no layout or an unknown one.
    """

    rounds: int = 7
    calls: int = 1
    warmup: int = 3
    threads: int = 1
    layouts: Sequence[str] = ("channels_first", "channels_last")
    bf16: bool = False

    def __post_init__(self) -> None:
        if wrong := sorted(set(self.layouts) - set(LAYOUTS)):
            raise ValueError(f"layouts: {wrong[0]!r}: expected some of {', '.join(LAYOUTS)}")
        if min(self.rounds, self.calls, self.warmup, self.threads) < 1 or not self.layouts:
            raise ValueError("expected a layout, and rounds, calls, warmup and threads of at least 1")


class Throughput(StageModule):
    """Times candidates in turns on one batch of the data and compares each with the first. Nothing is trained.

    A training step is forward, backward and an SGD update. On a CPU the clock is the process's CPU time, so that other
    work on the machine disturbs little; on a GPU it is wall time between synchronisations.
    In every round all candidates are timed once in both modes and all layouts; ratios are taken within a round. A
    candidate counts in the layout whose median over the rounds is lower, one layout for each mode.

    Reports, for mode "train" and "infer" and each candidate,
        test/<mode>_per_s_<name>           images per second, median of the rounds
        test/<mode>_log2_<name>            log2(time of the candidate / time of the first): 1 says the first is twice
                                           as fast, each in its faster layout
        test/<mode>_noise_<name>           half the interquartile range of that logarithm over the rounds
        test/<mode>_log2_<layout>_<name>   the same logarithm with both in that layout
        test/<mode>_chose_last_<name>      1 where channels_last was the faster layout, 0 where channels_first was
    and test/madds_log2_<name>, the same logarithm of multiply-adds: what FLOPs would have predicted. The last two rows
    of the list are there if both layouts are timed.

    Args:
        candidates: name -> network or layer, (B, C, H, W) -> tensor; the first is what others are compared with. They
            must take weights and inputs in the layout that they are given in.
        timing: how.
        input_gradient: let the gradient flow to the input, as it does for a layer in the middle of a network.
    Raises:
        ValueError: fewer than two candidates.
    """

    def __init__(self, candidates: Mapping[str, nn.Module], timing: Timing, input_gradient: bool = False) -> None:
        super().__init__()
        if len(candidates) < 2:
            raise ValueError(f"candidates={list(candidates)}: expected two candidates or more")
        self.candidates = nn.ModuleDict(candidates)
        self.timing = timing
        self.input_gradient = input_gradient
        self.times: Times = {}
        self.madds: dict[str, float] = {}
        self.images = 0

    @property
    def reference(self) -> str:
        return next(iter(self.candidates))

    def forward(self, x: Tensor) -> Any:
        return self.candidates[self.reference](x)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        if batch_idx == 0:
            self.measure(batch[0])

    def measure(self, x: Tensor) -> None:
        """Time all candidates on this batch and count their operations."""
        with torch.inference_mode(False), torch.enable_grad(), timing_settings(self.timing.threads):
            x = x.clone().float()  # an inference tensor cannot take part in a backward pass; this copy can
            self.images = len(x)
            self.times = self.time_candidates(x)
            self.madds = {name: multiply_adds(network, x[:1]) for name, network in self.candidates.items()}

    def time_candidates(self, x: Tensor) -> Times:
        """Seconds of one call, for each mode, candidate, layout and round."""
        layouts = self.timing.layouts
        turns = [(name, layout) for name in self.candidates for layout in layouts]
        for mode in MODES:
            for name, layout in turns:
                self.seconds(name, mode, layout, x, self.timing.warmup)  # kernels are picked, memory is allocated

        times: Times = {mode: {name: {k: [] for k in layouts} for name in self.candidates} for mode in MODES}
        for round_index in range(self.timing.rounds):
            first = round_index % len(turns)  # nobody is always first
            for mode in MODES:
                for name, layout in turns[first:] + turns[:first]:
                    times[mode][name][layout].append(self.seconds(name, mode, layout, x, self.timing.calls))
        return times

    def seconds(self, name: str, mode: str, layout: str, x: Tensor, calls: int) -> float:
        """Mean seconds of a call of one candidate."""
        network = self.candidates[name]
        network.to(memory_format=LAYOUTS[layout])  # type: ignore[call-overload]
        network.train(mode == "train")
        inputs = x.detach().contiguous(memory_format=LAYOUTS[layout])
        inputs.requires_grad_(mode == "train" and self.input_gradient)
        run = self.step(network, inputs) if mode == "train" else self.infer(network, inputs)

        clock = self.clock()
        began = clock()
        for _ in range(calls):
            run()
        return (clock() - began) / calls

    def faster_layout(self, mode: str, name: str) -> str:
        """The layout in which a candidate is faster."""
        return min(self.timing.layouts, key=lambda layout: statistics.median(self.times[mode][name][layout]))

    def best_times(self, mode: str, name: str) -> list[float]:
        """Seconds of each round in that layout."""
        return self.times[mode][name][self.faster_layout(mode, name)]

    def step(self, network: nn.Module, x: Tensor) -> Callable[[], None]:
        parameters = list(network.parameters())
        optimizer = torch.optim.SGD(parameters, lr=1e-6) if parameters else None

        def run() -> None:
            if optimizer is not None:
                optimizer.zero_grad()
            x.grad = None
            with torch.autocast(x.device.type, torch.bfloat16, enabled=self.timing.bf16):
                loss = network(x).float().square().mean()
            if loss.requires_grad:
                loss.backward()
            if optimizer is not None:
                optimizer.step()

        return run

    def infer(self, network: nn.Module, x: Tensor) -> Callable[[], None]:
        def run() -> None:
            with torch.inference_mode(), torch.autocast(x.device.type, torch.bfloat16, enabled=self.timing.bf16):
                network(x)

        return run

    def clock(self) -> Callable[[], float]:
        if self.device.type != "cuda":
            return time.process_time

        def synchronised() -> float:
            torch.cuda.synchronize()
            return time.perf_counter()

        return synchronised

    def on_test_epoch_end(self) -> None:
        for mode in self.times:
            for name in self.candidates:
                self._report(mode, name)
        for name, count in self.madds.items():
            if name != self.reference:
                self.log(f"test/madds_log2_{name}", math.log2(count / self.madds[self.reference]))

    def _report(self, mode: str, name: str) -> None:
        """Log one candidate's speed in one mode."""
        several_layouts = len(self.timing.layouts) > 1
        self.log(f"test/{mode}_per_s_{name}", self.images / statistics.median(self.best_times(mode, name)))
        if several_layouts:
            self.log(f"test/{mode}_chose_last_{name}", float(self.faster_layout(mode, name) == "channels_last"))
        if name == self.reference:
            return

        logs = logarithms(self.best_times(mode, self.reference), self.best_times(mode, name))
        self.log(f"test/{mode}_log2_{name}", statistics.median(logs))
        self.log(f"test/{mode}_noise_{name}", spread(logs))
        for layout, seconds in self.times[mode][name].items() if several_layouts else ():
            same_layout = logarithms(self.times[mode][self.reference][layout], seconds)
            self.log(f"test/{mode}_log2_{layout}_{name}", statistics.median(same_layout))

    def pictures(self, data: Any) -> dict[str, Figure]:
        """Bars: every candidate's throughput over the first's, beside what multiply-adds alone would give."""
        if not self.times:
            return {}
        names = list(self.candidates)
        base = self.madds[self.reference]
        rows = {"if only multiply-adds counted": [base / self.madds[name] for name in names]}
        for mode, label in MODES.items():
            first = statistics.median(self.best_times(mode, self.reference))
            rows[label] = [first / statistics.median(self.best_times(mode, name)) for name in names]

        sizes = [sum(p.numel() for p in network.parameters()) for network in self.candidates.values()]
        labels = [f"{name}\n{count:,} parameters" for name, count in zip(names, sizes, strict=True)]
        shape = "x".join(map(str, data.spec.shape))
        title = f"{device_name(self.device)}, {self.images} inputs of {shape}, {self.timing.rounds} rounds"
        return {"throughput": throughput_picture(rows, labels, self.reference, title)}


def logarithms(first: Sequence[float], second: Sequence[float]) -> list[float]:
    """log2(second / first) of each round."""
    return [math.log2(b / a) for a, b in zip(first, second, strict=True)]


def spread(values: Sequence[float]) -> float:
    """Half the interquartile range; 0 for a single value."""
    if len(values) < 2:
        return 0.0
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return (high - low) / 2


def multiply_adds(network: nn.Module, x: Tensor) -> float:
    """Of one forward pass: convolutions and matrix products; norms, activations and pooling are left out.

    Torch counts a multiply-add as two operations. At least 1, so that it has a logarithm.
    """
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network.eval()(x)
    return max(1.0, counter.get_total_flops() / 2)


@contextmanager
def timing_settings(threads: int) -> Iterator[None]:
    """So many CPU threads, TF32 for matrix products on GPUs (convolutions have it anyway), and cuDNN's fastest kernels
    for each shape; then as before."""
    before = torch.get_num_threads()
    tf32 = torch.backends.cuda.matmul.allow_tf32
    benchmark = torch.backends.cudnn.benchmark
    torch.set_num_threads(threads)
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.set_num_threads(before)
        torch.backends.cuda.matmul.allow_tf32 = tf32
        torch.backends.cudnn.benchmark = benchmark


def device_name(device: torch.device) -> str:
    """The GPU's or the processor's name."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return "CPU"
