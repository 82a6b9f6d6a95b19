"""How long it takes to get at what a detector looks at: LOTA's patch, one reconstruction, twenty steps of diffusion."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from datamodules.lota.bits import FrontEnd
from modules.common.generators import AutoEncoder, PictureDDPM
from modules.common.module import StageModule

NAMES = ("extraction", "autoencoder", "ddim")


class Extraction(StageModule):
    """Times three arms in turns on single pictures, in one process. Nothing is trained.

    - extraction: noise image, crops, scores, the chosen patch; neither decoding nor the network.
    - autoencoder: one pass, what methods of reconstruction errors need at least.
    - ddim: `steps` passes of the U-Net; DIRE inverts first, with as many again, and encodes and decodes where codes are
      diffused.

    On a CPU the clock is the process's CPU time; on a GPU wall time between synchronisations. Reports, for each arm,
    test/ms_<arm>, milliseconds a picture, median of the rounds; test/log2_<arm>, log2 of its time over that of the
    extraction, median within rounds; test/noise_<arm>, half the range of that logarithm.

    Args:
        autoencoder, diffusion: stages whose networks are timed, on pictures of any size.
        front_end: LOTA's.
        steps: of DDIM.
        side: of the pictures, pixels.
        rounds: each arm is timed once in a round, after one that does not count.
        calls: calls in one timing of the extraction and of the autoencoder; their mean counts.
    Raises:
        ValueError: numbers below 1.
    """

    def __init__(
        self,
        autoencoder: AutoEncoder,
        diffusion: PictureDDPM,
        front_end: FrontEnd,
        steps: int = 20,
        side: int = 128,
        rounds: int = 5,
        calls: int = 10,
    ) -> None:
        super().__init__()
        if min(steps, side, rounds, calls) < 1:
            raise ValueError(f"steps={steps}, side={side}, rounds={rounds}, calls={calls}: expected 1 or more")
        self.networks = nn.ModuleDict({"autoencoder": autoencoder.network, "ddim": diffusion.averaged()})
        self.front_end = front_end
        self.noise = diffusion.noise
        self.encode = diffusion.encode
        self.steps, self.side, self.rounds, self.calls = steps, side, rounds, calls
        self.times: dict[str, list[float]] = {}

    def forward(self, x: Tensor) -> Tensor:
        return self.networks["autoencoder"](x)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        if batch_idx:
            return
        source = torch.Generator().manual_seed(0)
        pixels = torch.randint(256, (1, 3, self.side, self.side), generator=source, dtype=torch.uint8)
        self.times = self.measure(pixels.to(self.device))

    @torch.no_grad()
    def measure(self, x: Tensor) -> dict[str, list[float]]:
        """Seconds of a call, for each arm and round, on a picture (1, 3, S, S) uint8."""
        places = torch.rand(1, self.front_end.draws, 2)
        image = x.float() / 127.5 - 1
        respaced, kept = self.noise.respaced(self.steps)
        kept = kept.to(x.device)
        network = self.networks["ddim"].eval()
        autoencoder = self.networks["autoencoder"].eval()

        start = self.encode(image)

        def ddim() -> None:
            noisy = start
            for number in reversed(range(len(kept))):
                t = torch.full((1,), number, device=x.device)
                v = network(noisy, kept[t])
                clean = (respaced.at("signal", t) * noisy - respaced.at("noise", t) * v).clamp(-1, 1)
                before = respaced.abar[max(number - 1, 0)]
                noisy = before.sqrt() * clean + (1 - before).sqrt() * start

        arms: dict[str, tuple[Callable[[], Any], int]] = {
            "extraction": (lambda: self.front_end.extract(x, places, "max"), self.calls),
            "autoencoder": (lambda: autoencoder(image), self.calls),
            "ddim": (ddim, 1),
        }
        times: dict[str, list[float]] = {name: [] for name in arms}
        for number in range(self.rounds + 1):
            turns = list(arms.items())
            first = number % len(turns)  # nobody is always first
            for name, (run, calls) in turns[first:] + turns[:first]:
                seconds = self.seconds(run, calls)
                if number:
                    times[name].append(seconds)
        return times

    def seconds(self, run: Callable[[], Any], calls: int) -> float:
        """Mean of some calls."""
        began = self.clock()
        for _ in range(calls):
            run()
        return (self.clock() - began) / calls

    def clock(self) -> float:
        if self.device.type != "cuda":
            return time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter()

    def on_test_epoch_end(self) -> None:
        for name in NAMES:
            self.log(f"test/ms_{name}", 1000 * statistics.median(self.times[name]))
            if name != "extraction":
                logs = [math.log2(b / a) for a, b in zip(self.times["extraction"], self.times[name], strict=True)]
                self.log(f"test/log2_{name}", statistics.median(logs))
                self.log(f"test/noise_{name}", (max(logs) - min(logs)) / 2)

    def pictures(self, data: Any) -> dict[str, Figure]:
        """Bars of milliseconds, logarithmic."""
        if not self.times:
            return {}
        figure = Figure(figsize=(4.5, 3), layout="constrained")
        axis = figure.subplots()
        axis.bar(NAMES, [1000 * statistics.median(self.times[name]) for name in NAMES])
        axis.set_yscale("log")
        axis.set_ylabel(f"ms a picture of {self.side} x {self.side}")
        return {"time": figure}
