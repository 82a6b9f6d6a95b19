"""Sampling of all variants, and the choice of a sampler's numbers on other classes than those it is judged on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from modules.common.frozen import Frozen
from modules.common.judge import Judge
from modules.common.module import StageModule
from modules.ppgn.codes import Codes
from modules.ppgn.conditions import ClassCondition
from modules.ppgn.denoiser import Denoiser
from modules.ppgn.evaluation import SampleScores
from modules.ppgn.generator import GeneratorTraining
from modules.ppgn.networks import encode
from modules.ppgn.pictures import draw_rows
from modules.ppgn.rivals import Prior
from modules.ppgn.sampler import ChainNoise, Sampler, with_options
from modules.ppgn.spaces import CodeSpace, PixelSpace, Space
from modules.ppgn.sums import Sums

COLUMNS = 12  # of a picture


class Samples(NamedTuple):
    """What a batch of chains gives: images (B, C, S, S), and the chains' states (B, ...)."""

    images: Tensor
    halfway: Tensor
    states: Tensor


@dataclass(frozen=True)
class Chains:
    """Which chains are made.

    Attributes:
        seed: of starts and noise: chains of all stages start alike.
        classes: the labels that the data's 0, 1, ... stand for, where it holds some of them alone.
        gradient: of the condition, `exact` or `released`.
    """

    seed: int = 0
    classes: Sequence[int] | None = None
    gradient: str = "exact"


class World(StageModule):
    """The frozen networks that chains need, and chains in them. What is done with the chains, a subclass says.

    Images in codes' space are the middle of the generator's. Nothing is trained here.

    Args:
        sampler: how chains step.
        encoder: the stage whose network is E.
        condition: the stage of the classifier that pulls.
        judge: the stage of the classifier that judges; another one than `condition`.
        codes: the stage that knows where chains are clipped.
        generator: the stage of G; None moves in pixels, which needs a denoiser of pixels.
        denoiser: the stage of R_h or R_x, or of a rival of theirs; None takes E(G(h)).
        chains: their seed, classes and gradient.
    Raises:
        ValueError: condition and judge are one network, or there is nothing to move in.
    """

    def __init__(
        self,
        sampler: Sampler,
        encoder: Any,
        condition: Any,
        judge: Judge,
        codes: Codes,
        generator: GeneratorTraining | None = None,
        denoiser: Denoiser | Prior | None = None,
        chains: Chains | None = None,
    ) -> None:
        super().__init__()
        chains = chains or Chains()
        if generator is None and denoiser is None:
            raise ValueError("expected a generator, or a denoiser of pixels")
        if condition is judge or getattr(condition, "network", None) is judge.network:
            raise ValueError("condition and judge are one network; a classifier's own samples are always right for it")
        self.automatic_optimization = False
        self.sampler = sampler
        networks = {"encoder": encoder.network, "condition": condition, "judge": judge}
        networks |= {"generator": generator} if generator is not None else {}
        networks |= {"denoiser": denoiser} if denoiser is not None else {}
        self.places = {name: place for place, name in enumerate(networks)}
        self.frozen = Frozen(networks.values())
        self.top = codes.top.clone()  # (code,), the highest value of each entry of h
        self.seed, self.gradient = chains.seed, chains.gradient
        self.labels = torch.tensor(list(chains.classes)) if chains.classes is not None else None
        self.judge_features, self.suffix = judge.features, judge.suffix
        self._tested = 0

    def network(self, name: str) -> Any:
        """One of the frozen networks, on this module's device."""
        return self.frozen.on(self.device)[self.places[name]]

    def space(self, shape: tuple[int, ...]) -> Space:
        """What chains move in, for images of that shape."""
        denoiser: Any = self.network("denoiser") if "denoiser" in self.places else None
        if "generator" not in self.places:
            return PixelSpace(denoiser, shape)
        return CodeSpace(self.network("encoder"), self.network("generator").generate, denoiser)

    def bounds(self, x: Tensor) -> tuple[float, Tensor]:
        """Lowest and highest value of an entry: of codes, or of the data's pixels."""
        if "generator" in self.places:
            return self.sampler.low, self.top.to(x.device)
        low, high = self.pixel_range(x)
        return float(low.min()), high

    def pixel_range(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Black and white as the data normalises them, (C, 1, 1) each."""
        spec = self.trainer.datamodule.spec  # type: ignore[attr-defined]
        mean, std = (torch.tensor(v, device=x.device).view(-1, 1, 1) for v in (spec.mean, spec.std))
        return -mean / std, (1 - mean) / std

    def targets(self, y: Tensor) -> Tensor:
        """The classes that the data's labels stand for."""
        return y if self.labels is None else self.labels.to(y.device)[y]

    def numbers(self, count: int) -> list[int]:
        """Where the next `count` samples of this process are in the split."""
        rank, world = self.trainer.global_rank, self.trainer.world_size
        made = range(rank + world * self._tested, rank + world * (self._tested + count), world)
        self._tested += count
        return list(made)

    def picture(self, space: Space, states: Tensor) -> Tensor:
        """The images of states, as one could save them: clipped to what pixels can be."""
        with torch.no_grad():
            x = space.decode(states)
        low, high = self.pixel_range(x)
        return x.maximum(low).minimum(high)

    def chains(self, sampler: Sampler, x: Tensor, target: Tensor, numbers: list[int]) -> Samples:
        """Chains of these numbers, one for each target, from N(0, 1) codes."""
        space = self.space(tuple(x.shape[1:]))
        low, high = self.bounds(x)
        noise = ChainNoise(self.seed, numbers)
        start = noise.draw(x.new_empty(len(target), *space.shape))
        condition = ClassCondition(self.network("condition"), self.gradient)

        sampler = with_options(sampler, {"low": low})
        run = partial(sampler.run, space, condition, start, target, noise, high)
        state, (halfway,) = run(keep=[sampler.steps // 2])
        return Samples(self.picture(space, state), self.picture(space, halfway), state)

    def score(self, scores: SampleScores, x: Tensor, samples: Samples, target: Tensor) -> None:
        """Add a batch of real images and of chains of the same classes."""
        judge = self.network("judge")
        features, logits = judge.describe(samples.images)
        halfway = judge.describe(samples.halfway)[0]
        scores.update(judge.describe(x)[0], features, target)
        scores.judge(
            judge=logits.argmax(1) == target,
            condition=self.network("condition")(samples.images).argmax(1) == target,
            moved=(features - halfway).norm(dim=1),
        )
        low, high = self.pixel_range(x)
        scores.compare((samples.images - low) / (high - low), target)

    def forward(self, h: Tensor) -> Tensor:
        """What a step of a chain evaluates without its gradient: codes -> images -> logits."""
        x = h if "generator" not in self.places else self.network("generator").generate(h)
        return self.network("condition")(x)

    def example(self, shape: tuple[int, ...]) -> tuple[Any, ...]:
        codes = (len(self.top),) if "generator" in self.places else shape
        return (torch.zeros(1, *codes, device=self.device),)

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        return []


class Sampling(World):
    """One chain for each test image, of its class; the test images are what the samples are compared with.

    Test metrics: see SampleScores; `e1` and `lr` of the sampler; in codes, `unexplained`: |E(G(h)) - h| over |h| of the
    chains' ends, whatever pulled them, which is 0 where the learned prior would leave them.

    Args:
        sampler: see World.
        choice: a stage that has chosen a sampler, which is taken instead; None takes the sampler as it is.
        k: neighbours of density and coverage.
        ms_ssim: see SampleScores.
        others: of World.
    """

    def __init__(
        self, sampler: Sampler, choice: Choice | None = None, k: int = 5, ms_ssim: bool = False, **world: Any
    ) -> None:
        super().__init__(sampler if choice is None else choice.chosen(), **world)
        self.scores = SampleScores(self.judge_features, self.suffix, k, ms_ssim)
        self.ends = Sums("unexplained")
        self._shown: dict[int, list[Tensor]] = {}

    def on_test_epoch_start(self) -> None:
        self._tested = 0
        self._shown = {}

    def test_step(self, batch: Any, batch_idx: int) -> None:
        target = self.targets(batch.y)
        samples = self.chains(self.sampler, batch.x, target, self.numbers(len(target)))
        self.score(self.scores, batch.x, samples, target)
        if "generator" in self.places:
            self.ends.add(unexplained=self.unexplained(samples.states))
            self.ends.count(len(target))

        for image, label in zip(samples.images, target.tolist(), strict=True):
            row = self._shown.setdefault(label, [])
            if len(row) < COLUMNS and len(self._shown) <= COLUMNS:
                row.append(image.cpu())

    def on_test_epoch_end(self) -> None:
        metrics = self.scores.compute()
        self.log_dict({f"test/{name}": value for name, value in metrics.items()})
        self.log_dict({"test/e1": self.sampler.e1, "test/lr": self.sampler.lr})
        if "generator" in self.places:
            self.log("test/unexplained", self.ends.means()["unexplained"])

    @torch.no_grad()
    def unexplained(self, h: Tensor) -> Tensor:
        """|E(G(h)) - h| / |h| of codes (B, code), (B,)."""
        kept = encode(self.network("encoder"), self.network("generator").generate(h))[1]
        return (kept - h).norm(dim=1) / h.norm(dim=1).clamp(min=1e-6)

    def pictures(self, data: Any) -> dict[str, Figure]:
        """Ends of chains, one row for each class."""
        rows = {label: row for label, row in sorted(self._shown.items()) if row}
        if not rows:
            return {}
        names = data.spec.classes
        order = {} if self.labels is None else {label: place for place, label in enumerate(self.labels.tolist())}
        titles = [str(names[order.get(label, label)]) for label in rows]
        return {"samples": draw_rows([data.shown(torch.stack(row)) for row in rows.values()], titles, COLUMNS)}


class Choice(World):
    """Which of several samplers has the lowest FID in the judge's features, on validation images of some classes.

    The stage's configuration says `trainer: {max_epochs: 1, devices: 1, strategy: auto}`; training batches are not
    looked at. Logs val/<score>_<number> for each candidate, val/chosen, a number, and val/<score> of that one.

    Args:
        candidates: attributes of the sampler in which they differ.
        sampler, world: see World.
    Raises:
        ValueError: no candidate.
    """

    choice: Tensor

    def __init__(self, sampler: Sampler, candidates: Sequence[Mapping[str, float]], **world: Any) -> None:
        super().__init__(sampler, **world)
        if not candidates:
            raise ValueError("candidates=[]: expected at least one")
        self.candidates = [with_options(sampler, dict(options)) for options in candidates]
        self.scores = nn.ModuleList([SampleScores(self.judge_features, self.suffix) for _ in candidates])
        self.register_buffer("choice", torch.tensor(0))

    def chosen(self) -> Sampler:
        """The one that was best."""
        return self.candidates[int(self.choice)]

    def training_step(self, batch: Any, batch_idx: int) -> None:
        """Nothing is trained."""

    def on_validation_epoch_start(self) -> None:
        self._tested = 0

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        target = self.targets(batch.y)
        numbers = self.numbers(len(target))
        for sampler, scores in zip(self.candidates, self.scores, strict=True):
            assert isinstance(scores, SampleScores)
            self.score(scores, batch.x, self.chains(sampler, batch.x, target, numbers), target)

    def on_validation_epoch_end(self) -> None:
        metrics = [scores.compute() for scores in self.scores]  # type: ignore[operator]
        fid = torch.stack([each[f"fid{self.suffix}"] for each in metrics])
        self.choice.fill_(int(fid.nan_to_num(torch.inf).argmin()))
        for number, each in enumerate(metrics):
            self.log_dict({f"val/{name}_{number}": value for name, value in each.items() if name != "n"})
        best = metrics[int(self.choice)]
        self.log_dict({f"val/{name}": value for name, value in best.items() if name != "n"})
        self.log("val/chosen", self.choice.double())
        self.log_dict(
            {
                f"val/{name}": float(value)
                for name, value in asdict(self.candidates[int(self.choice)]).items()
                if name in ("e1", "lr")
            }
        )
