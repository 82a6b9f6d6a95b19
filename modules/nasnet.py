"""Learning Transferable Architectures for Scalable Image Recognition (Zoph, Vasudevan, Shlens & Le, CVPR 2018).

arXiv 1707.07012. A controller (one-layer LSTM, 100 units, appendix A.2) writes two cells as 2 x 5 B choices: per block
two hidden states, an operation on each, a way to combine them. A child network of a few such cells is trained; its
accuracy on held-out training images is the reward R of proximal policy optimisation:

    L = -mean min(r A, clip(r, 1 - eps, 1 + eps) A) - w H,    r = exp(log p - log p_old),    A = R - b

with b the moving average of rewards and H the entropy of the choices. Stacked more often and wider ("N @ P"), the best
cell is trained from scratch on larger data. Drop path on every operation's output but identities: ScheduledDropPath.

What deviates, and where paper and released code (an evaluator of NASNet-A alone, no search) differ:
- the reduction cell's state 3 is part of its output although state 5 reads it, as in the code and its weights.
- ScheduledDropPath also grows with depth, as in the code; the paper has the growth over training alone.
- not known: eps (0.2 here), PPO epochs over a minibatch (4), the optimiser (Adam), the first baseline (the first
  minibatch's mean).
- graphs of NASNet-B and C exist as figures alone: their spaces are here (inputs, merged and combinations of Space and
  Graph), their cells are not.
- 7@2304, 7@1920 and 5@1538 do not come out at their printed sizes with the released wiring; 6@768, 4@1056, 6@4032 do.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.func import functional_call

from modules.common.cells import Block, CellNetwork, Genotype, Graph, keep_probability
from modules.common.classifier import ClassificationModule
from modules.common.module import OptimizerFactory
from modules.common.schedules import Position, Schedule
from modules.common.search import (
    Children,
    ChildStage,
    RewardTable,
    Space,
    cell_picture,
    parameter_groups,
    rank_correlation,
    total_loss,
)

NORMAL_A = Graph(
    (
        Block(0, 1, "sep5", "sep3"),
        Block(1, 1, "sep5", "sep3"),
        Block(0, 1, "avg3", "identity"),
        Block(1, 1, "avg3", "avg3"),
        Block(0, 0, "sep3", "identity"),
    ),
    (1, 2, 3, 4, 5, 6),
)
REDUCTION_A = Graph(
    (
        Block(0, 1, "sep5", "sep7"),
        Block(0, 1, "max3", "sep7"),
        Block(0, 1, "avg3", "sep5"),
        Block(3, 2, "identity", "avg3"),
        Block(2, 0, "sep3", "max3"),
    ),
    (3, 4, 5, 6),
)
NASNET_A = Genotype(NORMAL_A, REDUCTION_A)
METHODS = ("ppo", "random")
DROP_PATHS = ("scheduled", "constant", "none")
TOP = (1, 5, 25)  # how many of the best architectures Fig. 6 averages


def nasnet_a(**options: Any) -> CellNetwork:
    """NASNet-A. Arguments: those of CellNetwork but the genotype."""
    return CellNetwork(NASNET_A, **options)


def nasnet_a_large(classes: int = 1000, input_size: int = 331, **options: Any) -> CellNetwork:
    """NASNet-A (6 @ 4032) for ImageNet at 331 pixels."""
    wiring: dict[str, Any] = {"stem": "imagenet", "stem_width": 96, "skip_reduction": True}
    return nasnet_a(repeats=6, penultimate=4032, classes=classes, input_size=input_size, **wiring, **options)


def nasnet_a_mobile(classes: int = 1000, input_size: int = 224, **options: Any) -> CellNetwork:
    """NASNet-A (4 @ 1056) for ImageNet at 224 pixels."""
    wiring: dict[str, Any] = {"stem": "imagenet", "stem_width": 32}
    return nasnet_a(repeats=4, penultimate=1056, classes=classes, input_size=input_size, **wiring, **options)


# --- released weights ------------------------------------------------------------------------------------------------

TIMM = (  # a part of timm's name -> ours, within a cell
    (r"conv_prev_1x1\.", "adapt.1."),
    (r"conv_1x1\.", "adapt.0."),
    (r"path_([12])\.conv\.", r"adapt.1.conv\1."),
    (r"final_path_bn\.", "adapt.1.bn."),
    (r"comb_iter_(\d)_(left|right)\.separable_([12])\.(depth|point)wise_conv2d\.", r"operations.\1\2.\4wise\3."),
    (r"comb_iter_(\d)_(left|right)\.bn_sep_([12])\.", r"operations.\1\2.bn\3."),
)
PYTORCHCV = (
    (r"conv1x1_prev\.", "adapt.1."),
    (r"conv1x1\.", "adapt.0."),
    (r"path\.path([12])\.conv\.", r"adapt.1.conv\1."),
    (r"path\.bn\.", "adapt.1.bn."),
    (r"comb(\d)_(left|right)\.conv([12])\.conv\.dw_conv\.", r"operations.\1\2.depthwise\3."),
    (r"comb(\d)_(left|right)\.conv([12])\.conv\.pw_conv\.", r"operations.\1\2.pointwise\3."),
    (r"comb(\d)_(left|right)\.conv([12])\.bn\.", r"operations.\1\2.bn\3."),
)


def _in_cell(name: str, patterns: Sequence[tuple[str, str]]) -> str:
    for pattern, ours in patterns:
        if re.match(pattern, name):
            name = re.sub("^" + pattern, ours, name)
            found = re.match(r"operations\.(\d)(left|right)", name)
            if found:
                number = 2 * int(found[1]) + (found[2] == "right")
                name = name.replace(found[0], f"operations.{number}")
            return name
    raise ValueError(f"{name}: not a parameter of NASNet-A")


def from_timm(state: Mapping[str, Tensor], repeats: int = 6) -> dict[str, Tensor]:
    """timm's nasnetalarge state dict under our names. Raises ValueError for a name that is not NASNet-A's."""
    found = {}
    for name, value in state.items():
        head, _, rest = name.partition(".")
        if head == "conv0":
            ours = rest.replace("conv.", "stem.0.").replace("bn.", "stem.1.")
        elif head == "last_linear":
            ours = f"fc.{rest}"
        else:
            kind, _, digits = head.rpartition("_")
            if kind not in ("cell_stem", "cell", "reduction_cell"):
                raise ValueError(f"{name}: not a parameter of timm's nasnetalarge")
            number = int(digits)
            places = {"cell_stem": number, "cell": 2 + number + number // repeats}
            cell = places.get(kind, 2 + (number + 1) * repeats + number)
            ours = f"cells.{cell}.{_in_cell(rest, TIMM)}"
        found[ours] = value
    return found


def from_pytorchcv(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State dicts of pytorchcv's nasnet_4a1056 and nasnet_6a4032 under our names. Raises ValueError as from_timm."""
    repeats = max(int(m[1]) for m in (re.match(r"features\.stage1\.unit(\d+)\.", name) for name in state) if m)
    found = {}
    for name, value in state.items():
        if m := re.match(r"features\.init_block\.(conv|bn)\.", name):
            ours = f"stem.{int(m[1] == 'bn')}." + name[m.end() :]
        elif m := re.match(r"features\.stem(\d)_unit\.", name):
            ours = f"cells.{int(m[1]) - 1}.{_in_cell(name[m.end() :], PYTORCHCV)}"
        elif m := re.match(r"features\.stage(\d)\.unit(\d+)\.", name):
            stage, unit = int(m[1]) - 1, int(m[2]) - 1
            cell = 2 + stage * (repeats + 1) - bool(stage) + unit
            ours = f"cells.{cell}.{_in_cell(name[m.end() :], PYTORCHCV)}"
        elif m := re.match(r"output\.fc\.", name):
            ours = f"fc.{name[m.end() :]}"
        else:
            raise ValueError(f"{name}: not a parameter of pytorchcv's NASNet")
        found[ours] = value
    return found


# --- controller and PPO ----------------------------------------------------------------------------------------------


class Controller(nn.Module):
    """An LSTM that makes T choices, each fed to the next step; a softmax layer of its own for each.

    Args:
        sizes: options of each choice.
        units: of the LSTM.
        replays: R independent controllers, side by side in each parameter.
        init: parameters start uniform in (-init, init).
    """

    def __init__(self, sizes: Sequence[int], units: int = 100, replays: int = 1, init: float = 0.1) -> None:
        super().__init__()
        self.sizes, self.units = list(sizes), units

        def parameter(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(replays, *shape).uniform_(-init, init))

        self.first = parameter(1, units)
        self.embeddings = nn.ParameterList(parameter(size, units) for size in self.sizes[:-1])
        self.weight, self.bias = parameter(2 * units, 4 * units), parameter(1, 4 * units)
        self.heads = nn.ParameterList(parameter(units, size) for size in self.sizes)
        self.head_biases = nn.ParameterList(parameter(1, size) for size in self.sizes)

    def log_probabilities(self, n: int, actions: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
        """n sequences per replay: the actions (R, n, T), given or drawn, and log p of all options (R, n, size)."""
        replays = len(self.first)
        x = self.first.expand(-1, n, -1)  # (R, n, H)
        h = c = torch.zeros_like(x)
        drawn: list[Tensor] = []
        all_log_p = []
        for t in range(len(self.sizes)):
            gates = torch.baddbmm(self.bias, torch.cat([x, h], -1), self.weight)  # (R, n, 4 H)
            i, f, g, o = gates.chunk(4, -1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            log_p = torch.baddbmm(self.head_biases[t], h, self.heads[t]).log_softmax(-1)  # (R, n, size)
            all_log_p.append(log_p)
            chosen = log_p.exp().flatten(0, 1).multinomial(1).view(replays, n) if actions is None else actions[..., t]
            drawn.append(chosen)
            if t + 1 < len(self.sizes):
                x = self.embeddings[t].gather(1, chosen[..., None].expand(-1, -1, self.units))
        return torch.stack(drawn, -1), all_log_p

    def forward(self, actions: Tensor) -> tuple[Tensor, Tensor]:
        """log p and entropy (R, n) of sequences (R, n, T), in nats, summed over the choices."""
        _, all_log_p = self.log_probabilities(actions.shape[1], actions)
        log_p = torch.stack([p.gather(-1, actions[..., t, None])[..., 0] for t, p in enumerate(all_log_p)])
        entropy = torch.stack([-(p.exp() * p).sum(-1) for p in all_log_p])
        return log_p.sum(0), entropy.sum(0)

    @torch.no_grad()
    def sample(self, n: int) -> Tensor:
        """(R, n, T)."""
        return self.log_probabilities(n)[0]


def ppo_loss(
    log_p: Tensor, log_p_old: Tensor, advantage: Tensor, entropy: Tensor, clip: float, entropy_weight: float
) -> Tensor:
    """-min(r A, clip(r) A) - w H, the mean over a minibatch (the last axis), summed over replays."""
    ratio = (log_p - log_p_old).exp()
    gain = torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)
    return -(gain + entropy_weight * entropy).mean(-1).sum()


# --- searches ------------------------------------------------------------------------------------------------------


class Search(ChildStage):
    """PPO, or random search, for the architecture with the highest reward.

    Step by step over data.trials = samples; data.batch_size is the minibatch. Rewards come from a table, or from
    children trained here (an architecture drawn again keeps its reward).

    Args:
        space: what is searched.
        samples: architectures drawn per replay in all.
        method: "ppo", or "random": every choice uniform, nothing is learned.
        table: rewards to look up; None trains children.
        children: how; not needed with a table.
        replays: searches side by side; more than one makes sense with a table.
        clip: eps of PPO.
        ppo_epochs: gradient steps on a minibatch.
        entropy_weight, baseline_decay, units: of the loss, of b, of the LSTM.
        late: the fraction of samples at the end that `late_` metrics average.
        optimizer: of the controller.
    Raises:
        ValueError: an unknown method, neither table nor children, or a table of another space.
    """

    drawn: Tensor  # (samples, R, T)
    outcome: Tensor  # (samples, R, 2): reward and test accuracy, in [0, 1]
    seen: Tensor
    baseline: Tensor  # (R, 1)

    def __init__(
        self,
        space: Space,
        samples: int,
        method: str = "ppo",
        table: RewardTable | None = None,
        children: Children | None = None,
        replays: int = 1,
        clip: float = 0.2,
        ppo_epochs: int = 4,
        entropy_weight: float = 1e-5,
        baseline_decay: float = 0.95,
        units: int = 100,
        late: float = 0.2,
        optimizer: OptimizerFactory | None = None,
    ) -> None:
        super().__init__(optimizer)
        if method not in METHODS:
            raise ValueError(f"method={method!r}: expected one of {', '.join(METHODS)}")
        if table is None and children is None:
            raise ValueError("expected children to train or a table from needs: {table: <stage>}")
        if table is not None and table.space != space:
            raise ValueError(f"space: the table has another one, {table.space}")
        self.space, self.method, self.training_of, self.late = space, method, children, late
        self.clip, self.ppo_epochs, self.entropy_weight = clip, ppo_epochs, entropy_weight
        self.baseline_decay = baseline_decay
        self.looked_up = None if table is None else torch.stack([table.rewards, table.accuracies], -1)  # (count, 2)
        self.controller = Controller(space.sizes, units, replays)
        self.register_buffer("drawn", torch.zeros(samples, replays, len(space.sizes), dtype=torch.long))
        self.register_buffer("outcome", torch.zeros(samples, replays, 2))
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))
        self.register_buffer("baseline", torch.full((replays, 1), math.nan))

    def forward(self, actions: Tensor) -> tuple[Tensor, Tensor]:
        return self.controller(actions)

    def example(self, shape: tuple[int, ...]) -> tuple[Any, ...]:
        replays = self.drawn.shape[1]
        return (torch.zeros(replays, 1, len(self.space.sizes), dtype=torch.long, device=self.device),)

    def on_fit_start(self) -> None:
        if self.looked_up is not None and bool(self.looked_up.isnan().any()):
            missing = int(self.looked_up[:, 0].isnan().sum())
            raise ValueError(
                f"table: {missing} architectures have no reward; its data.trials must be {self.space.count}"
            )

    def training_step(self, batch: Tensor, batch_idx: int) -> None:
        n: int = self.trainer.datamodule.batch_size  # type: ignore[attr-defined] # over all processes, who draw the same
        start = int(self.seen)
        if start + n > len(self.drawn):
            raise ValueError(f"samples={len(self.drawn)}: the data has more trials; expected trials x epochs of it")
        with torch.autocast(self.device.type, enabled=False):
            replays = self.drawn.shape[1]
            uniform = self.method == "random"
            actions = self.space.uniform(replays, n, device=self.device) if uniform else self.controller.sample(n)
        outcome = self.rewarded(actions)  # (R, n, 2)
        self.drawn[start : start + n], self.outcome[start : start + n] = (
            actions.transpose(0, 1),
            outcome.transpose(0, 1),
        )
        self.seen += n
        parts = {}
        if self.method == "ppo":
            with torch.autocast(self.device.type, enabled=False):
                parts = self.improve(actions, outcome[..., 0])
        self.track(n, reward=100 * outcome[..., 0].mean(), **parts)

    def rewarded(self, actions: Tensor) -> Tensor:
        """(R, n, T) -> reward and test accuracy (R, n, 2)."""
        if self.looked_up is not None:
            self.looked_up = self.looked_up.to(actions.device)
            return self.looked_up[self.space.number(actions)]
        assert self.training_of is not None
        start = int(self.seen)
        known = dict(zip(self.keys(self.drawn[:start]), self.outcome[:start].flatten(0, 1), strict=True))
        keys = self.keys(actions)
        new = [key for key in dict.fromkeys(keys) if key not in known]
        found = self.outcomes(self.training_of, [self.space.decode(key) for key in new])
        known |= dict(zip(new, found, strict=True))
        return torch.stack([known[key] for key in keys]).view(*actions.shape[:2], 2)

    @staticmethod
    def keys(actions: Tensor) -> list[tuple[int, ...]]:
        return [tuple(row) for row in actions.flatten(0, 1).tolist()]

    def improve(self, actions: Tensor, rewards: Tensor) -> dict[str, Tensor]:
        """PPO on one minibatch: actions (R, n, T), rewards (R, n). Every process computes the same."""
        mean = rewards.mean(1, keepdim=True)  # (R, 1)
        self.baseline.copy_(torch.where(self.baseline.isnan(), mean, self.baseline))
        advantage = rewards - self.baseline
        with torch.no_grad():
            log_p_old, _ = self.controller(actions)
        optimizer: Any = self.optimizers()
        parameters = list(self.controller.parameters())
        parts: dict[str, Tensor] = {}
        for _ in range(self.ppo_epochs):
            log_p, entropy = self.controller(actions)
            loss = ppo_loss(log_p, log_p_old, advantage, entropy, self.clip, self.entropy_weight)
            # not backward(): its gradients would be averaged over processes again
            for p, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
                p.grad = gradient
            optimizer.step()
            parts = {"loss": loss / len(actions), "entropy": entropy.mean()}
        self.baseline.lerp_(mean, 1 - self.baseline_decay)
        return parts

    def evaluated(self) -> tuple[Tensor, Tensor]:
        """The different architectures drawn, by any replay: actions (M, T) and rewards (M,), best last."""
        actions, place = self.drawn[: int(self.seen)].flatten(0, 1).unique(dim=0, return_inverse=True)
        rewards = self.outcome.new_zeros(len(actions))
        rewards[place] = self.outcome[: int(self.seen)].flatten(0, 1)[:, 0]
        order = rewards.argsort(stable=True)
        return actions[order], rewards[order]

    def best(self) -> list[int]:
        """Choices of the first replay's architecture with the highest reward."""
        return self.drawn[int(self.outcome[: int(self.seen), 0, 0].argmax()), 0].tolist()

    def genotype(self) -> Genotype:
        return self.space.decode(self.best())

    def top(self, number: int) -> Tensor:
        """Mean reward of each replay's best `number` different architectures, mean over replays."""
        means = []
        for replay in range(self.drawn.shape[1]):
            _, place = self.drawn[: int(self.seen), replay].unique(dim=0, return_inverse=True)
            rewards = self.outcome.new_zeros(int(place.max()) + 1)
            rewards[place] = self.outcome[: int(self.seen), replay, 0]
            means.append(rewards.topk(min(number, len(rewards))).values.mean())
        return torch.stack(means).mean()

    def on_test_epoch_end(self) -> None:
        """In percent. `late_reward` and `late_top1` (test images): of the last samples; `topN_reward`: see `top`."""
        done = self.outcome[: int(self.seen)]
        last = done[-max(1, round(self.late * len(done))) :]
        found = {
            "mean_reward": done[..., 0].mean(),
            "late_reward": last[..., 0].mean(),
            "late_top1": last[..., 1].mean(),
        }
        found |= {f"top{k}_reward": self.top(k) for k in TOP}
        self.log_dict({f"test/{name}": 100 * value for name, value in found.items()})

    def pictures(self, data: Any) -> dict[str, Figure]:
        """Rewards as the search goes on, one line per replay, and the best cell."""
        n = data.batch_size
        rewards = 100 * self.outcome[: int(self.seen), :, 0].cpu()  # (samples, R)
        means = rewards[: len(rewards) // n * n].unflatten(0, (-1, n)).mean(1)  # (steps, R)
        figure = Figure(figsize=(9, 3), layout="constrained")
        left, right = figure.subplots(1, 2)
        steps = n * torch.arange(1, len(means) + 1)
        left.plot(steps, means, color="C0", alpha=0.25, lw=0.8)
        left.plot(steps, means.mean(1), color="C0", lw=2)
        left.set(
            title=f"mean reward of each minibatch ({self.method})", xlabel="architectures drawn", ylabel="accuracy, %"
        )
        right.plot(rewards.cummax(0).values, color="C1", alpha=0.25, lw=0.8)
        right.plot(rewards.cummax(0).values.mean(1), color="C1", lw=2)
        right.set(title="best reward so far", xlabel="architectures drawn")
        found = {"rewards": figure, "best cell, normal": cell_picture(self.genotype().normal)}
        return (
            found
            if self.space.reduction is not None
            else found | {"best cell, reduction": cell_picture(self.genotype().reduction)}
        )


class Ranking(ChildStage):
    """Does the order found by the search hold elsewhere? Cells from the whole ranking, trained anew on other data.

    Trains `cells` architectures evenly spaced over the ranking of all that `searched` evaluated, then the one that
    `found` is about: data.trials = cells + 1. Configure the trainer as for RewardTable.

    Args:
        searched: the search whose ranking is used; a random one sees all of its space.
        found: the search whose best architecture is trained too.
        children: networks and training on the new data; weights are not taken over.
        cells: how many, a multiple of 3.
    """

    chosen: Tensor  # (cells + 1, T)
    rewards: Tensor  # (cells,) in the search
    accuracies: Tensor  # (cells + 1,) here, on test images

    def __init__(self, searched: Search, found: Search, children: Children, cells: int = 12) -> None:
        super().__init__()
        if cells < 3 or cells % 3:
            raise ValueError(f"cells={cells}: expected a multiple of 3")
        if searched.space != found.space:
            raise ValueError("searched and found: expected the same space")
        self.space, self.training_of, self.cells = searched.space, children, cells
        actions, rewards = searched.evaluated()
        places = torch.linspace(0, len(actions) - 1, cells).round().long()
        self.register_buffer("chosen", torch.cat([actions[places], torch.tensor([found.best()])]))
        self.register_buffer("rewards", rewards[places])
        self.register_buffer("accuracies", torch.full((cells + 1,), math.nan))

    def forward(self, numbers: Tensor) -> Tensor:
        return self.accuracies[numbers]

    def example(self, shape: tuple[int, ...]) -> tuple[Any, ...]:
        return (torch.zeros(1, dtype=torch.long, device=self.device),)

    def training_step(self, batch: Tensor, batch_idx: int) -> None:
        numbers = [n for n in batch.tolist() if n <= self.cells]
        found = self.outcomes(self.training_of, [self.space.decode(self.chosen[n].tolist()) for n in numbers], ["test"])
        self.accuracies[numbers] = found[:, 0]
        self.track(len(numbers), top1=100 * found.mean())

    def on_test_epoch_end(self) -> None:
        """`spearman` of reward there and accuracy here; accuracies of thirds of the ranking and of what was found."""
        ranked = self.accuracies[:-1].nan_to_num()  # a dry run stops early
        worst, middle, best = ranked.view(3, -1).mean(1)
        found = {"best_third": best, "middle_third": middle, "worst_third": worst, "mean": ranked.mean()}
        found["found"] = self.accuracies[-1].nan_to_num()
        self.log_dict({f"test/{name}_top1": 100 * value for name, value in found.items()})
        self.log("test/spearman", rank_correlation(self.rewards, ranked))

    def pictures(self, data: Any) -> dict[str, Figure]:
        """Accuracy on the new data against the reward in the search."""
        figure = Figure(figsize=(6, 4), layout="constrained")
        axes = figure.subplots()
        axes.scatter(100 * self.rewards.cpu(), 100 * self.accuracies[:-1].cpu(), label="cells from the whole ranking")
        axes.axhline(100 * float(self.accuracies[-1]), color="C1", label="the cell that PPO found")
        axes.set(xlabel="reward in the search, %", ylabel="test accuracy on the new data, %")
        axes.legend(fontsize=8)
        return {"transfer of the ranking": figure}


# --- training one architecture ---------------------------------------------------------------------------------------


def exponential(position: Position, rate: float = 0.97, epochs: float = 2.4) -> float:
    """`rate` once every `epochs` epochs, in steps."""
    return rate ** math.floor((position.epoch + position.step / position.steps_per_epoch) / epochs)


class NASNet(ClassificationModule):
    """One architecture trained to the end: auxiliary head, drop path, averaged weights.

    Args:
        classes: number of classes.
        network: a CellNetwork, or with `found` what makes one of a genotype.
        found: a search whose best architecture is trained.
        drop_path: "scheduled": up to the network's `keep`, linear in the step; "constant": from the start; "none".
        drop_path_steps: T, when the schedule ends; None is the end of training.
        auxiliary_weight: of the auxiliary head's loss, where the network has one.
        label_smoothing: in [0, 1).
        average_decay: test with an exponential moving average of the weights; None tests with the last ones.
        optimizer, schedule: see StageModule. Biases and batch norms have no weight decay.
    Raises:
        ValueError: an unknown drop_path, or a network that does not fit `found`.
    """

    def __init__(
        self,
        classes: int,
        network: CellNetwork | Callable[..., CellNetwork],
        found: Search | None = None,
        drop_path: str = "scheduled",
        drop_path_steps: int | None = None,
        auxiliary_weight: float = 0.4,
        label_smoothing: float = 0.0,
        average_decay: float | None = None,
        optimizer: OptimizerFactory | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        if drop_path not in DROP_PATHS:
            raise ValueError(f"drop_path={drop_path!r}: expected one of {', '.join(DROP_PATHS)}")
        if isinstance(network, nn.Module) != (found is None):
            raise ValueError("network: expected a network, or with `found` a _partial_ one without a genotype")
        made = network if isinstance(network, CellNetwork) else network(genotype=found.genotype())  # type: ignore[union-attr]
        super().__init__(made, classes, optimizer, schedule)
        self.network: CellNetwork = made
        self.drop_path, self.drop_path_steps = drop_path, drop_path_steps
        self.auxiliary_weight, self.label_smoothing = auxiliary_weight, label_smoothing
        self.average_decay = average_decay
        self.averaged = dict[str, str]()  # parameter -> buffer; buffers, so that nothing optimises or counts them
        if average_decay is not None:
            for number, (name, p) in enumerate(made.named_parameters()):
                self.averaged[name] = f"average_{number}"
                self.register_buffer(self.averaged[name], p.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        if self.training or not self.averaged:
            return self.network(x)
        average = {name: getattr(self, buffer) for name, buffer in self.averaged.items()}
        return functional_call(self.network, average, (x,))

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        super().on_train_batch_start(batch, batch_idx)
        trainer = self.trainer
        steps = int(trainer.num_training_batches)
        done = self.current_epoch * steps + batch_idx
        total = self.drop_path_steps or steps * (trainer.max_epochs or 1)
        self.network.progress = {"scheduled": min(1.0, done / total), "constant": 1.0, "none": 0.0}[self.drop_path]

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        logits, second = self.network.with_auxiliary(x)  # (B, C), (B, C)
        loss = total_loss(logits, second, y, self.auxiliary_weight, self.label_smoothing)
        self.track(len(y), loss=loss, top1=100 * (logits.argmax(-1) == y).float().mean())
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.average_decay is not None:
            done = self.current_epoch * int(self.trainer.num_training_batches) + batch_idx + 1
            decay = min(self.average_decay, (1 + done) / (10 + done))  # young averages forget faster, as TensorFlow's
            averages = [getattr(self, buffer) for buffer in self.averaged.values()]
            torch._foreach_lerp_(averages, [p.detach() for p in self.network.parameters()], 1 - decay)

    def on_test_epoch_end(self) -> None:
        super().on_test_epoch_end()
        head = self.network.auxiliary
        extra = 0 if head is None else sum(p.numel() for p in head.parameters())
        count = sum(p.numel() for p in self.network.parameters()) - extra
        self.log("test/parameters_m", count / 1e6)  # as the paper counts them, without the auxiliary head

    def trained(self) -> list[dict[str, Any]]:
        return parameter_groups(self.network)

    def pictures(self, data: Any) -> dict[str, Figure]:
        """Its two cells, and what ScheduledDropPath does with each cell's paths."""
        found = {f"{name} cell": cell_picture(getattr(self.network.genotype, name)) for name in ("normal", "reduction")}
        if self.drop_path == "none" or self.network.keep == 1:
            return found
        n = len(self.network.cells)
        figure = Figure(figsize=(9, 3), layout="constrained")
        axes = figure.subplots()
        times = [t / 20 for t in range(21)]
        for c in sorted({0, n // 2, n - 1}):
            seen = [1.0 if self.drop_path == "constant" else t for t in times]
            keep = [keep_probability(c, n, self.network.keep, t, self.network.keep_by_depth) for t in seen]
            axes.plot(times, keep, label=f"cell {c + 1} of {n}")
        axes.set(xlabel="fraction of training", ylabel="probability that a path is kept", ylim=(0, 1.05))
        axes.legend(fontsize=8)
        return {**found, "drop path": figure}
