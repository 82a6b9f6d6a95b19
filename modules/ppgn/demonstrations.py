"""What else the same chains do: fill a hole, change their class on the way, show what a hidden unit looks for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from datamodules.common.base import generator
from modules.common.precision import at_least_single
from modules.ppgn.conditions import CaptionCondition, ClassCondition, UnitCondition
from modules.ppgn.networks import encode
from modules.ppgn.pictures import draw_rows
from modules.ppgn.sampler import ChainNoise, Sampler
from modules.ppgn.sampling import World
from modules.ppgn.spaces import Inpainting, square_holes
from modules.ppgn.sums import Sums, percent

SHOWN = 12


def normal_to_uniform(z: Tensor) -> Tensor:
    """N(0, 1) -> uniform in [0, 1), by the distribution function."""
    return ((1 + torch.erf(z / 2**0.5)) / 2).clamp(0, 1 - 1e-6)


class Demonstration(World):
    """A World whose test adds up sums, logs their means over chains, and shows rows of images."""

    def begin(self, *names: str) -> None:
        """Name the sums, besides `n`."""
        self.sums = Sums(*names)
        self._rows: dict[str, Tensor] = {}

    def on_test_epoch_start(self) -> None:
        self._tested = 0
        self._rows = {}

    def show(self, **rows: Tensor) -> None:
        """Images (B, C, S, S), a row for each name; those of the first batch are drawn."""
        if not self._rows:
            self._rows = {name: x[:SHOWN].detach().cpu() for name, x in rows.items()}

    def on_test_epoch_end(self) -> None:
        self.log_dict({f"test/{name}": value for name, value in self.sums.means().items()})

    def pictures(self, data: Any) -> dict[str, Figure]:
        if not self._rows:
            return {}
        titles = [name.replace("_", " ") for name in self._rows]
        return {"chains": draw_rows([data.shown(x) for x in self._rows.values()], titles, SHOWN)}


class Inpaint(Demonstration):
    """Fills a square hole at a random place of each test image, as its class.

    Test metrics, in the mean over images: `judge_top1` of the filled image and `empty_top1` of the one whose hole is
    filled with the mean colour, percent; `hole_mse` and `empty_mse`, of these to the true pixels in the hole.

    Args:
        hole: its side, pixels.
        sampler, world: see World.
    Raises:
        ValueError: a hole without pixels.
    """

    def __init__(self, sampler: Sampler, hole: int = 100, **world: Any) -> None:
        super().__init__(sampler, **world)
        if hole < 1:
            raise ValueError(f"hole={hole}: expected 1 or more pixels")
        self.hole = hole
        self.begin("judge_top1", "empty_top1", "hole_mse", "empty_mse")

    def test_step(self, batch: Any, batch_idx: int) -> None:
        with torch.inference_mode(False):
            x = batch.x.clone()
            target = self.targets(batch.y).clone()
            noise = ChainNoise(self.seed, self.numbers(len(x)))
            corners = normal_to_uniform(noise.draw(x.new_empty(len(x), 2)))
            hole = square_holes(corners, min(self.hole, x.shape[-1]), x.shape[-1])
            masked = x.masked_fill(hole, 0.0)

            space = Inpainting(self.space(tuple(x.shape[1:])), x, hole)
            with torch.no_grad():
                start = at_least_single(encode(self.network("encoder"), masked)[1])
            condition = ClassCondition(self.network("condition"), self.gradient)
            state, _ = self.sampler.run(space, condition, start, target, noise, self.bounds(x)[1])
            filled = space.compose(self.picture(space.space, state))

        judge = self.network("judge")
        area = hole.float().flatten(1).sum(1) * x.shape[1]
        self.sums.add(
            judge_top1=percent(judge(filled).argmax(1) == target),
            empty_top1=percent(judge(masked).argmax(1) == target),
            hole_mse=(filled - x).square().flatten(1).sum(1) / area,
            empty_mse=(masked - x).square().flatten(1).sum(1) / area,
        )
        self.sums.count(len(x))
        self.show(true=x, hole=masked, filled=filled)


class ChangeClass(Demonstration):
    """Long chains whose class changes every so many steps, without a new start.

    Test metrics, in the mean over chains and the classes after the first: `judge_top1`, percent that the judge sees in
    the new class; `left_top1`, percent still seen in the one before; `moved`, the distance between the states before
    and after, over the length of the one before.

    Args:
        changes: of the class, each followed by a whole run of the sampler.
        among: classes that are gone through, in turn, beginning with the image's; None is all of the condition's.
        sampler, world: see World.
    Raises:
        ValueError: no change.
    """

    def __init__(self, sampler: Sampler, among: Sequence[int], changes: int = 3, **world: Any) -> None:
        super().__init__(sampler, **world)
        if changes < 1:
            raise ValueError(f"changes={changes}: expected 1 or more")
        self.among = torch.tensor(list(among))
        self.changes = changes
        self.begin("judge_top1", "left_top1", "moved")

    def test_step(self, batch: Any, batch_idx: int) -> None:
        space = self.space(tuple(batch.x.shape[1:]))
        condition = ClassCondition(self.network("condition"), self.gradient)
        noise = ChainNoise(self.seed, self.numbers(len(batch.x)))
        state = noise.draw(batch.x.new_empty(len(batch.x), *space.shape))
        high = self.bounds(batch.x)[1]
        among = self.among.to(self.device)
        place = (self.targets(batch.y)[:, None] == among).int().argmax(1)

        rows, sums = {}, {"judge_top1": torch.zeros(len(batch.x)), "left_top1": torch.zeros(len(batch.x))}
        moved = torch.zeros(len(batch.x))
        for change in range(self.changes + 1):
            before, target = state, among[(place + change) % len(among)]
            state, _ = self.sampler.run(space, condition, before, target, noise, high)
            images = self.picture(space, state)
            rows[f"class_{change}"] = images
            if change == 0:
                continue
            seen = self.network("judge")(images).argmax(1)
            sums["judge_top1"] += percent(seen == target).cpu() / self.changes
            sums["left_top1"] += percent(seen == among[(place + change - 1) % len(among)]).cpu() / self.changes
            moved += ((state - before).flatten(1).norm(dim=1) / before.flatten(1).norm(dim=1).clamp(min=1e-6)).cpu()
        self.sums.add(**sums, moved=moved / self.changes)
        self.sums.count(len(batch.x))
        self.show(**rows)


class Captioned(Demonstration):
    """Chains pulled towards captions, one caption after another. In no recipe: no captioner comes with this suite.

    Test metrics, in the mean over chains: `log_p` of the caption at the end, and `log_p_start` at the start, nats.

    Args:
        captions: word numbers of each, as the captioner counts them.
        captioner: see modules.ppgn.conditions.Captioner.
        sampler, world: see World; published: e1 = 1e-3, lr from 1 to 1e-10, 200 steps.
    Raises:
        ValueError: there is no captioner, or no caption.
    """

    def __init__(
        self, sampler: Sampler, captions: Sequence[Sequence[int]], captioner: Any = None, **world: Any
    ) -> None:
        super().__init__(sampler, **world)
        if not captions:
            raise ValueError("captions=[]: expected at least one, a list of word numbers")
        self.condition = CaptionCondition(captioner)
        longest = max(map(len, captions))
        self.captions = torch.tensor([[*words, *[-1] * (longest - len(words))] for words in captions])
        self.begin("log_p", "log_p_start")

    def test_step(self, batch: Any, batch_idx: int) -> None:
        space = self.space(tuple(batch.x.shape[1:]))
        numbers = self.numbers(len(batch.x))
        noise = ChainNoise(self.seed, numbers)
        start = noise.draw(batch.x.new_empty(len(batch.x), *space.shape))
        target = self.captions[torch.tensor(numbers) % len(self.captions)].to(self.device)
        state, (first,) = self.sampler.run(
            space, self.condition, start, target, noise, self.bounds(batch.x)[1], keep=[0]
        )
        with torch.no_grad():
            log_p, log_p_start = (self.condition(space.decode(s), target) for s in (state, first))
        self.sums.add(log_p=log_p, log_p_start=log_p_start)
        self.sums.count(len(batch.x))
        self.show(captioned=self.picture(space, state))


class Facets(Demonstration):
    """Multifaceted pictures of hidden units: chains that start anew, each with a prior drawn anew.

    Test metrics, in the mean over chains: `kept`, percent of the ends of rounds with p > `least`; `p`, the unit's
    mean share of the softmax over the channels at its place; `p_start`, that of the starts.

    Args:
        units: channels that are shown, one after another.
        place: row and column in the encoder's last map.
        rounds: how often a chain starts anew.
        e1: lowest and highest prior, uniform between them.
        least: share of the softmax above which a picture is kept.
        sampler: of each round.
        world: see World.
    """

    def __init__(
        self,
        sampler: Sampler,
        units: Sequence[int],
        place: Sequence[int] = (6, 6),
        rounds: int = 10,
        e1: Sequence[float] = (1e-6, 1e-2),
        least: float = 0.98,
        **world: Any,
    ) -> None:
        super().__init__(sampler, **world)
        self.units = torch.tensor(list(units))
        self.place = place
        self.rounds = rounds
        self.e1_low, self.e1_high = e1
        self.least = least
        self.begin("kept", "p", "p_start")

    def test_step(self, batch: Any, batch_idx: int) -> None:
        space = self.space(tuple(batch.x.shape[1:]))
        condition = UnitCondition(self.network("encoder"), self.place, self.gradient)
        numbers = self.numbers(len(batch.x))
        noise = ChainNoise(self.seed, numbers)
        target = self.units[torch.tensor(numbers) % len(self.units)].to(self.device)
        high = self.bounds(batch.x)[1]

        rows = {}
        for round_ in range(self.rounds):
            start = noise.draw(batch.x.new_empty(len(batch.x), *space.shape))
            share = float(torch.rand((), generator=generator("PPGN facet", self.seed, round_)))
            sampler = replace(self.sampler, e1=self.e1_low + share * (self.e1_high - self.e1_low))
            state, (first,) = sampler.run(space, condition, start, target, noise, high, keep=[0])
            with torch.no_grad():
                p, p_start = (
                    condition.logits(space.decode(s)).softmax(1).gather(1, target[:, None]).squeeze(1)
                    for s in (state, first)
                )
            self.sums.add(
                kept=percent(p > self.least) / self.rounds,
                p=p / self.rounds,
                p_start=p_start / self.rounds,
            )
            rows[f"round_{round_}"] = self.picture(space, state)
        self.sums.count(len(batch.x))
        self.show(**rows)
