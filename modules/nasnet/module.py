"""Learning Transferable Architectures for Scalable Image Recognition (Zoph, Vasudevan, Shlens & Le, CVPR 2018).

arXiv 1707.07012. A controller (one-layer LSTM, 100 units, appendix A.2) writes two cells as 2 x 5 B choices: per block
two hidden states, an operation on each, a way to combine them. A child network of a few such cells is trained; its
accuracy on held-out training images is the reward R of proximal policy optimisation:

    L = -mean min(r A, clip(r, 1 - eps, 1 + eps) A) - w H,    r = exp(log p - log p_old),    A = R - b

with b the moving average of rewards and H the entropy of the choices. Stacked more often and wider ("N @ P"), the best
cell is trained from scratch on larger data. Drop path on every operation's output but identities: ScheduledDropPath.

What deviates, and where paper and released code (slim: an evaluator of NASNet-A alone, no search) differ:
- the reduction cell's state 3 is part of its output although state 5 reads it, because the code has it so and the
  released weights need it.
- ScheduledDropPath also grows with depth, because the released models were trained so (slim's "v3"); the paper has the
  growth over training alone (keep_by_depth=False of CellNetwork).
- average pooling counts no padding at any stride, because TensorFlow's SAME does not; timm's nasnetalarge counts it at
  stride 2, so its outputs with the same weights differ a little.
- eps is 0.2, with 4 PPO epochs on a minibatch and Adam, because the paper states none of them and these are customary;
  the first baseline is the first minibatch's mean, because any other start would bias the first advantages.
- averaged weights (ImageNet) warm up, min(decay, (1 + n) / (10 + n)), and include the batch statistics, because
  TensorFlow's average with a step count and slim's evaluation do; the paper states the decay alone.
- an architecture is known by a canonical form (Space.canonical), because exchanging a block's two halves changes
  nothing; the paper does not say how it counts different ones.
- graphs of NASNet-B and C exist as figures alone: their spaces are here (inputs, merged and combinations of Space and
  Graph), their cells are not.
- 7@2304, 7@1920 and 5@1538 do not come out at their printed sizes with the released wiring; 6@768, 4@1056, 6@4032 do.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from modules.common.averaging import WeightAverage
from modules.common.classifier import ClassificationModule
from modules.common.module import OptimizerFactory
from modules.common.schedules import Schedule
from modules.nasnet.cells import CellNetwork, Genotype, keep_probability
from modules.nasnet.controller import Controller
from modules.nasnet.pictures import cell_picture, cell_pictures
from modules.nasnet.search import TOP, Children, ChildStage, RewardTable, parameter_groups, total_loss
from modules.nasnet.space import Space

METHODS = ("ppo", "random")
FINDS = ("best", "frequent")
DROP_PATHS = ("scheduled", "constant", "none")


# --- PPO ----------------------------------------------------------------------------------------------


def ppo_loss(
    log_p: Tensor, log_p_old: Tensor, advantage: Tensor, entropy: Tensor, clip: float, entropy_weight: float
) -> Tensor:
    """-min(r A, clip(r, 1 - eps, 1 + eps) A) - w H, the mean over a minibatch, summed over replays: a scalar.

    Args:
        log_p, log_p_old, advantage, entropy: (R, n), in nats where they are logarithms.
        clip: eps.
        entropy_weight: w.
    """
    ratio = (log_p - log_p_old).exp()
    gain = torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)
    return -(gain + entropy_weight * entropy).mean(-1).sum()


# --- searches ------------------------------------------------------------------------------------------------------


class Search(ChildStage):
    """PPO, or random search, for the architecture with the highest reward.

    Step by step over data.trials = samples; data.batch_size is the minibatch. Rewards come from a table, or from
    children trained here (an architecture drawn again keeps its reward). With a table, reward and test accuracy are of
    two trainings; a child trained here gives both, so that a lucky one is lucky in both.

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
        finds: which architecture this search hands on: "best" by reward, as in the paper, or the most "frequent" late
            one, which is the controller's choice rather than the luckiest draw.
        optimizer: of the controller.
    Raises:
        ValueError: an unknown method or `finds`, neither table nor children, or a table of another space.
    """

    drawn: Tensor  # (samples, R, T), in canonical form
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
        finds: str = "best",
        optimizer: OptimizerFactory | None = None,
    ) -> None:
        super().__init__(optimizer)
        if method not in METHODS:
            raise ValueError(f"method={method!r}: expected one of {', '.join(METHODS)}")
        if finds not in FINDS:
            raise ValueError(f"finds={finds!r}: expected one of {', '.join(FINDS)}")
        if table is None and children is None:
            raise ValueError("expected children to train or a table from needs: {table: <stage>}")
        if table is not None and table.space != space:
            raise ValueError(f"space: the table has another one, {table.space}")
        self.space, self.method, self.training_of, self.late, self.finds = space, method, children, late, finds
        self.clip, self.ppo_epochs, self.entropy_weight = clip, ppo_epochs, entropy_weight
        self.baseline_decay = baseline_decay
        self.looked_up = None if table is None else torch.stack([table.rewards, table.accuracies], -1)  # (M, 2)
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
            count = len(self.looked_up)
            raise ValueError(f"table: {missing} architectures have no reward; its data.trials must be {count}")

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
        self.drawn[start : start + n] = self.space.canonical(actions).transpose(0, 1)
        self.outcome[start : start + n] = outcome.transpose(0, 1)
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
            return self.looked_up[self.space.place(actions)]
        assert self.training_of is not None
        start = int(self.seen)
        known = dict(zip(self.keys(self.drawn[:start]), self.outcome[:start].flatten(0, 1), strict=True))
        keys = self.keys(self.space.canonical(actions))
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
        """The different architectures that all replays drew: canonical (M, T) and rewards (M,), best last."""
        actions, place = self.drawn[: int(self.seen)].flatten(0, 1).unique(dim=0, return_inverse=True)
        rewards = self.outcome.new_zeros(len(actions))
        rewards[place] = self.outcome[: int(self.seen)].flatten(0, 1)[:, 0]
        order = rewards.argsort(stable=True)
        return actions[order], rewards[order]

    def best(self) -> list[int]:
        """The architecture with the highest reward that the first replay drew: one search's, unlike `evaluated`."""
        return self.drawn[int(self.outcome[: int(self.seen), 0, 0].argmax()), 0].tolist()

    def frequent(self) -> list[int]:
        """The first replay's most frequent architecture among its late samples; of several, that of higher reward."""
        drawn, outcome = self.drawn[: int(self.seen), 0], self.outcome[: int(self.seen), 0, 0]
        first = len(drawn) - self.late_samples
        actions, place, counts = drawn[first:].unique(dim=0, return_inverse=True, return_counts=True)
        rewards = outcome.new_zeros(len(actions))
        rewards[place] = outcome[first:]
        return actions[int(rewards.masked_fill(counts < counts.max(), -1.0).argmax())].tolist()

    def found(self) -> list[int]:
        """The architecture that this search hands on (`finds`), as canonical choices."""
        return self.best() if self.finds == "best" else self.frequent()

    def genotype(self) -> Genotype:
        return self.space.decode(self.found())

    @property
    def late_samples(self) -> int:
        return max(1, round(self.late * int(self.seen)))

    def top(self, number: int, samples: int | None = None) -> Tensor:
        """Mean reward of each replay's best `number` different architectures, mean over replays.

        `samples`: among the first so many; None is all.
        """
        means = []
        seen = int(self.seen) if samples is None else samples
        for replay in range(self.drawn.shape[1]):
            _, place = self.drawn[:seen, replay].unique(dim=0, return_inverse=True)
            rewards = self.outcome.new_zeros(int(place.max()) + 1)
            rewards[place] = self.outcome[:seen, replay, 0]
            means.append(rewards.topk(min(number, len(rewards))).values.mean())
        return torch.stack(means).mean()

    def on_test_epoch_end(self) -> None:
        """In percent. `late_reward`, `late_top1` (test images; a table's second training): last samples; see `top`."""
        done = self.outcome[: int(self.seen)]
        last = done[-self.late_samples :]
        found = {
            "mean_reward": done[..., 0].mean(),
            "late_reward": last[..., 0].mean(),
            "late_top1": last[..., 1].mean(),
        }
        found |= {f"top{k}_reward": self.top(k) for k in TOP}
        self.log_dict({f"test/{name}": 100 * value for name, value in found.items()})

    def pictures(self, data: Any) -> dict[str, Figure]:
        """Rewards as the search goes on, one line per replay, and the cells it hands on."""
        n = data.batch_size
        rewards = 100 * self.outcome[: int(self.seen), :, 0].cpu()  # (samples, R)
        means = rewards[: len(rewards) // n * n].unflatten(0, (-1, n)).mean(1)  # (steps, R)
        figure = Figure(figsize=(6, 3), layout="constrained")
        axes = figure.subplots()
        steps = n * torch.arange(1, len(means) + 1)
        axes.plot(steps, means, color="C0", alpha=0.25, lw=0.8)
        axes.plot(steps, means.mean(1), color="C0", lw=2)
        axes.set(title=f"mean of each minibatch ({self.method})", xlabel="architectures drawn", ylabel="reward, %")
        return {"rewards": figure, **cell_pictures(self.space, self.found(), "found")}


# --- training one architecture ---------------------------------------------------------------------------------------


class NASNet(ClassificationModule):
    """One architecture trained to the end: auxiliary head, drop path, averaged weights.

    Args:
        classes: number of classes.
        network: a CellNetwork, or with `found` what makes one of a genotype.
        found: a search whose found architecture is trained.
        drop_path: "scheduled": up to the network's `keep`, linear in the step; "constant": from the start; "none".
        drop_path_steps: T, when the schedule ends; None is the end of training.
        auxiliary_weight: of the auxiliary head's loss, where the network has one.
        label_smoothing: in [0, 1).
        average_decay: test with an exponential moving average (WeightAverage, TensorFlow's rule); None tests with the
            last weights.
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
        self.average = None if average_decay is None else WeightAverage(made, average_decay)

    def forward(self, x: Tensor) -> Tensor:
        if self.training or self.average is None:
            return self.network(x)
        return self.average.call(self.network, x)

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

    def optimizer_step(self, *args: Any, **options: Any) -> None:
        super().optimizer_step(*args, **options)
        if self.average is not None:
            self.average.update(self.network)

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
