"""How many images per second networks process, measured side by side."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from modules.common.module import StageModule

LAYOUTS = {"channels_first": torch.contiguous_format, "channels_last": torch.channels_last}
MODES = {"train": "training step", "infer": "inference"}
Times = dict[str, dict[str, dict[str, list[float]]]]  # mode -> candidate -> layout -> seconds of each round


class Throughput(StageModule):
    """Times candidates in turns on one batch of the data and compares each with the first. Nothing is trained.

    A training step is forward, backward and an SGD update. On a CPU the clock is the process's CPU time on `threads`
    threads, so that other work on the machine disturbs little; on a GPU it is wall time between synchronisations.
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
        rounds: timed rounds.
        calls: forward passes or steps in one timing; their mean counts.
        warmup: calls before the rounds, for each candidate, mode and layout, that do not count.
        threads: of the CPU.
        layouts: memory layouts that are timed.
        input_gradient: let the gradient flow to the input, as it does for a layer in the middle of a network.
        bf16: autocast to bfloat16; false is fp32, with TF32 where the GPU has it.
    Raises:
        ValueError: fewer than two candidates; rounds, calls, warmup or threads below 1; no layout or an unknown one.
    """

    def __init__(
        self,
        candidates: Mapping[str, nn.Module],
        rounds: int = 7,
        calls: int = 1,
        warmup: int = 3,
        threads: int = 1,
        layouts: Sequence[str] = ("channels_first", "channels_last"),
        input_gradient: bool = False,
        bf16: bool = False,
    ) -> None:
        super().__init__()
        if wrong := sorted(set(layouts) - set(LAYOUTS)):
            raise ValueError(f"layouts: {wrong[0]!r}: expected some of {', '.join(LAYOUTS)}")
        if len(candidates) < 2 or min(rounds, calls, warmup, threads) < 1 or not layouts:
            raise ValueError(
                "expected two candidates or more, a layout, and rounds, calls, warmup and threads of at least 1"
            )
        self.candidates = nn.ModuleDict(candidates)
        self.rounds, self.calls, self.warmup, self.threads = rounds, calls, warmup, threads
        self.layouts, self.input_gradient, self.bf16 = list(layouts), input_gradient, bf16
        self.measured: Times = {}
        self.images = 0

    @property
    def reference(self) -> str:
        return next(iter(self.candidates))

    def forward(self, x: Tensor) -> Any:
        return self.candidates[self.reference](x)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        if batch_idx:
            return
        self.measure(batch[0])

    def measure(self, x: Tensor) -> None:
        """Time all candidates on this batch and count their operations."""
        with torch.inference_mode(False), torch.enable_grad(), measuring(self.threads):
            x = x.clone().float()  # an inference tensor cannot take part in a backward pass; this copy can
            self.images = len(x)
            self.measured = self.race(x)
            self.madds = {name: multiply_adds(network, x[:1]) for name, network in self.candidates.items()}

    def race(self, x: Tensor) -> Times:
        """Seconds of one call, for each mode, candidate, layout and round."""
        turns = [(name, layout) for name in self.candidates for layout in self.layouts]
        for mode in MODES:
            for name, layout in turns:
                self.seconds(name, mode, layout, x, self.warmup)  # kernels are picked and memory is allocated here
        found: Times = {mode: {name: {k: [] for k in self.layouts} for name in self.candidates} for mode in MODES}
        for number in range(self.rounds):
            first = number % len(turns)  # nobody is always first
            for mode in MODES:
                for name, layout in turns[first:] + turns[:first]:
                    found[mode][name][layout].append(self.seconds(name, mode, layout, x, self.calls))
        return found

    def seconds(self, name: str, mode: str, layout: str, x: Tensor, calls: int) -> float:
        """Mean seconds of a call of one candidate."""
        network = self.candidates[name]
        network.to(memory_format=LAYOUTS[layout])  # type: ignore[call-overload]
        given = x.detach().contiguous(memory_format=LAYOUTS[layout])
        given.requires_grad_(mode == "train" and self.input_gradient)
        network.train(mode == "train")
        run = self.step(network, given) if mode == "train" else self.infer(network, given)
        clock = self.clock()
        began = clock()
        for _ in range(calls):
            run()
        return (clock() - began) / calls

    def chosen(self, mode: str, name: str) -> str:
        """The layout in which a candidate is faster."""
        return min(self.layouts, key=lambda layout: statistics.median(self.measured[mode][name][layout]))

    def best(self, mode: str, name: str) -> list[float]:
        """Seconds of each round in that layout."""
        return self.measured[mode][name][self.chosen(mode, name)]

    def step(self, network: nn.Module, x: Tensor) -> Callable[[], None]:
        parameters = list(network.parameters())
        optimizer = torch.optim.SGD(parameters, lr=1e-6) if parameters else None

        def run() -> None:
            if optimizer is not None:
                optimizer.zero_grad()
            x.grad = None
            with torch.autocast(x.device.type, torch.bfloat16, enabled=self.bf16):
                loss = network(x).float().square().mean()
            if loss.requires_grad:
                loss.backward()
            if optimizer is not None:
                optimizer.step()

        return run

    def infer(self, network: nn.Module, x: Tensor) -> Callable[[], None]:
        def run() -> None:
            with torch.inference_mode(), torch.autocast(x.device.type, torch.bfloat16, enabled=self.bf16):
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
        first = self.reference
        for mode, found in self.measured.items():
            for name, by_layout in found.items():
                self.log(f"test/{mode}_per_s_{name}", self.images / statistics.median(self.best(mode, name)))
                if len(self.layouts) > 1:
                    self.log(f"test/{mode}_chose_last_{name}", float(self.chosen(mode, name) == "channels_last"))
                if name == first:
                    continue
                logs = logarithms(self.best(mode, first), self.best(mode, name))
                self.log(f"test/{mode}_log2_{name}", statistics.median(logs))
                self.log(f"test/{mode}_noise_{name}", spread(logs))
                for layout, seconds in by_layout.items() if len(self.layouts) > 1 else ():
                    same = logarithms(found[first][layout], seconds)
                    self.log(f"test/{mode}_log2_{layout}_{name}", statistics.median(same))
        for name, count in self.madds.items():
            if name != first:
                self.log(f"test/madds_log2_{name}", math.log2(count / self.madds[first]))

    def pictures(self, data: Any) -> dict[str, Figure]:
        """Bars: every candidate's throughput over the first's, beside what multiply-adds alone would give."""
        if not self.measured:
            return {}
        names = list(self.candidates)
        base = self.madds[self.reference]
        rows = {"if only multiply-adds counted": [base / self.madds[name] for name in names]}
        for mode in MODES:
            first = statistics.median(self.best(mode, self.reference))
            rows[MODES[mode]] = [first / statistics.median(self.best(mode, name)) for name in names]
        figure = Figure(figsize=(9, 3.2), layout="constrained")
        ax = figure.subplots()
        for number, (label, values) in enumerate(rows.items()):
            bars = ax.bar([i + 0.27 * (number - 1) for i in range(len(names))], values, 0.25, label=label)
            ax.bar_label(bars, fmt="%.2f", fontsize=8)
        sizes = [sum(p.numel() for p in network.parameters()) for network in self.candidates.values()]
        ax.set_xticks(range(len(names)), [f"{n}\n{count:,} parameters" for n, count in zip(names, sizes, strict=True)])
        shape = "x".join(map(str, data.spec.shape))
        ax.set_ylabel(f"throughput, {self.reference} = 1")
        ax.set_title(f"{device_name(self.device)}, {self.images} inputs of {shape}, {self.rounds} rounds", fontsize=9)
        ax.legend(fontsize=8)
        return {"throughput": figure}


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
def measuring(count: int) -> Iterator[None]:
    """So many CPU threads, TF32 for matrix products on GPUs (convolutions have it anyway), and cuDNN's fastest kernels
    for each shape; then as before."""
    threads, tf32 = torch.get_num_threads(), torch.backends.cuda.matmul.allow_tf32
    picks = torch.backends.cudnn.benchmark
    torch.set_num_threads(count)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.benchmark = tf32, picks


def device_name(device: torch.device) -> str:
    """The GPU's or the processor's name."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return "CPU"
