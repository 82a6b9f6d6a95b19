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
Result = dict[str, dict[str, list[float]]]  # mode -> candidate -> seconds of each round


class Throughput(StageModule):
    """Times candidates in turns on one batch of the data and compares each with the first. Nothing is trained.

    A training step is forward, backward and an SGD update. On a CPU the clock is the process's CPU time on `threads`
    threads, so that other work on the machine disturbs little; on a GPU it is wall time between synchronisations.
    In every round all candidates are timed once, in both modes; ratios are taken within a round.

    Reports, for mode "train" and "infer" and each candidate,
        test/<mode>_per_s_<name>   images per second, median of the rounds
        test/<mode>_log2_<name>    log2(time of the candidate / time of the first): 1 says the first is twice as fast
        test/<mode>_noise_<name>   half the interquartile range of that logarithm over the rounds
    and test/madds_log2_<name>, the same logarithm of multiply-adds: what FLOPs would have predicted.

    Args:
        candidates: name -> network or layer, (B, C, H, W) -> tensor; the first is what others are compared with. They
            must take weights and inputs in the layout that they are given in.
        rounds: timed rounds, after one warm-up for each layout.
        calls: forward passes or steps in one timing; their mean counts.
        threads: of the CPU.
        layouts: memory layouts tried for each candidate and mode; the one that was faster after warm-up is used.
        input_gradient: let the gradient flow to the input, as it does for a layer in the middle of a network.
        bf16: autocast to bfloat16; false is fp32, with TF32 where the GPU has it.
    Raises:
        ValueError: fewer than two candidates, rounds or calls below 1, or an unknown layout.
    """

    def __init__(
        self,
        candidates: Mapping[str, nn.Module],
        rounds: int = 7,
        calls: int = 1,
        threads: int = 1,
        layouts: Sequence[str] = ("channels_first", "channels_last"),
        input_gradient: bool = False,
        bf16: bool = False,
    ) -> None:
        super().__init__()
        if wrong := sorted(set(layouts) - set(LAYOUTS)):
            raise ValueError(f"layouts: {wrong[0]!r}: expected some of {', '.join(LAYOUTS)}")
        if len(candidates) < 2 or min(rounds, calls, threads) < 1 or not layouts:
            raise ValueError("expected two candidates or more, a layout, and rounds, calls and threads of at least 1")
        self.candidates = nn.ModuleDict(candidates)
        self.rounds, self.calls, self.threads, self.layouts = rounds, calls, threads, list(layouts)
        self.input_gradient, self.bf16 = input_gradient, bf16
        self.measured: Result = {}
        self.images = 0

    @property
    def reference(self) -> str:
        return next(iter(self.candidates))

    def forward(self, x: Tensor) -> Any:
        return self.candidates[self.reference](x)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        if batch_idx:
            return
        with torch.inference_mode(False), torch.enable_grad(), measuring(self.threads):
            x = batch[0].clone().float()  # an inference tensor cannot take part in a backward pass; this copy can
            self.images = len(x)
            self.measured = self.race(x)
            self.madds = {name: multiply_adds(network, x[:1]) for name, network in self.candidates.items()}

    def race(self, x: Tensor) -> Result:
        """Seconds of one call, for each mode, candidate and round."""
        chosen: dict[tuple[str, str], str] = {}
        for mode in MODES:
            for name in self.candidates:
                tried = {}
                for layout in self.layouts:
                    self.seconds(name, mode, layout, x)  # kernels are picked and memory is allocated here
                    tried[layout] = self.seconds(name, mode, layout, x) if len(self.layouts) > 1 else 0.0
                chosen[mode, name] = min(tried, key=lambda layout: tried[layout])
        found: Result = {mode: {name: [] for name in self.candidates} for mode in MODES}
        for number in range(self.rounds):
            for mode in MODES:
                names = list(self.candidates)
                for name in names[number % len(names) :] + names[: number % len(names)]:  # nobody is always first
                    found[mode][name].append(self.seconds(name, mode, chosen[mode, name], x))
        return found

    def seconds(self, name: str, mode: str, layout: str, x: Tensor) -> float:
        """Mean seconds of a call of one candidate."""
        network = self.candidates[name]
        network.to(memory_format=LAYOUTS[layout])  # type: ignore[call-overload]
        given = x.detach().contiguous(memory_format=LAYOUTS[layout])
        given.requires_grad_(mode == "train" and self.input_gradient)
        network.train(mode == "train")
        run = self.step(network, given) if mode == "train" else self.infer(network, given)
        clock = self.clock()
        began = clock()
        for _ in range(self.calls):
            run()
        return (clock() - began) / self.calls

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
        for mode, found in self.measured.items():
            first = found[self.reference]
            for name, seconds in found.items():
                self.log(f"test/{mode}_per_s_{name}", self.images / statistics.median(seconds))
                if name != self.reference:
                    logs = sorted(math.log2(b / a) for a, b in zip(first, seconds, strict=True))
                    self.log(f"test/{mode}_log2_{name}", statistics.median(logs))
                    self.log(f"test/{mode}_noise_{name}", spread(logs))
        for name, count in self.madds.items():
            if name != self.reference:
                self.log(f"test/madds_log2_{name}", math.log2(count / self.madds[self.reference]))

    def pictures(self, data: Any) -> dict[str, Figure]:
        """Bars: every candidate's throughput over the first's, beside what multiply-adds alone would give."""
        if not self.measured:
            return {}
        names = list(self.candidates)
        base = self.madds[self.reference]
        rows = {"if only multiply-adds counted": [base / self.madds[name] for name in names]}
        for mode, found in self.measured.items():
            first = statistics.median(found[self.reference])
            rows[MODES[mode]] = [first / statistics.median(found[name]) for name in names]
        figure = Figure(figsize=(9, 3.2), layout="constrained")
        ax = figure.subplots()
        for number, (label, values) in enumerate(rows.items()):
            bars = ax.bar([i + 0.27 * (number - 1) for i in range(len(names))], values, 0.25, label=label)
            ax.bar_label(bars, fmt="%.2f", fontsize=8)
        ax.set_xticks(range(len(names)), names)
        shape = "x".join(map(str, data.spec.shape))
        ax.set_ylabel(f"throughput, {self.reference} = 1")
        ax.set_title(f"{device_name(self.device)}, {self.images} inputs of {shape}, {self.rounds} rounds", fontsize=9)
        ax.legend(fontsize=8)
        return {"throughput": figure}


def spread(values: Sequence[float]) -> float:
    """Half the interquartile range; 0 for a single value."""
    if len(values) < 2:
        return 0.0
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return (high - low) / 2


def multiply_adds(network: nn.Module, x: Tensor) -> float:
    """Of one forward pass; torch counts a multiply-add as two operations. At least 1, so that it has a logarithm."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network.eval()(x)
    return max(1.0, counter.get_total_flops() / 2)


@contextmanager
def measuring(count: int) -> Iterator[None]:
    """So many CPU threads, and TF32 for matrix products on GPUs (convolutions have it anyway); then as before."""
    threads, tf32 = torch.get_num_threads(), torch.backends.cuda.matmul.allow_tf32
    torch.set_num_threads(count)
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.backends.cuda.matmul.allow_tf32 = tf32


def device_name(device: torch.device) -> str:
    """The GPU's or the processor's name."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return "CPU"
