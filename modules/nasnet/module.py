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
  growth over training alone (by_depth=False of DropPath).
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
from dataclasses import dataclass
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from modules.common.module import OptimizerFactory
from modules.nasnet.cells import Genotype
from modules.nasnet.children import Children, ChildStage
from modules.nasnet.controller import Controller
from modules.nasnet.history import History, keys
from modules.nasnet.pictures import cell_pictures, reward_picture
from modules.nasnet.space import Space
from modules.nasnet.table import RewardTable

FINDS = ("best", "frequent")
TOP = (1, 5, 25)  # how many of the best architectures Fig. 6 averages


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


@dataclass(frozen=True)
class PPO:
    """The controller, and how it learns from a minibatch.

    Attributes:
        units: of its LSTM.
        clip: eps.
        epochs: gradient steps on a minibatch.
        entropy_weight: w.
        baseline_decay: of the moving average b.
    """

    units: int = 100
    clip: float = 0.2
    epochs: int = 4
    entropy_weight: float = 1e-5
    baseline_decay: float = 0.95


@dataclass(frozen=True)
class Choice:
    """Which architecture a search hands on.

    Attributes:
        finds: "best" by reward, as in the paper, or the most "frequent" late one, which is the controller's choice
            rather than the luckiest draw.
        late: the fraction of samples at the end that count as late, also for `late_` metrics.
    Raises:
        ValueError: an unknown `finds`.
    """

    finds: str = "best"
    late: float = 0.2

    def __post_init__(self) -> None:
        if self.finds not in FINDS:
            raise ValueError(f"finds={self.finds!r}: expected one of {', '.join(FINDS)}")


class Search(ChildStage):
    """PPO, or random search, for the architecture with the highest reward.

    Step by step over data.trials = samples; data.batch_size is the minibatch. Rewards come from a table, or from
    children trained here (an architecture drawn again keeps its reward). With a table, reward and test accuracy are of
    two trainings; a child trained here gives both, so that a lucky one is lucky in both.

    Args:
        space: what is searched.
        samples: architectures drawn per replay in all.
        table: rewards to look up; None trains children.
        children: how; not needed with a table.
        replays: searches side by side; more than one makes sense with a table.
        ppo: how PPO learns; None is random search: every choice uniform, nothing is learned.
        choice: what this search hands on.
        optimizer: of the controller.
    Raises:
        ValueError: neither table nor children, or a table of another space.
    """

    baseline: Tensor  # b, (R, 1)

    def __init__(
        self,
        space: Space,
        samples: int,
        table: RewardTable | None = None,
        children: Children | None = None,
        replays: int = 1,
        ppo: PPO | None = None,
        choice: Choice = Choice(),
        optimizer: OptimizerFactory | None = None,
    ) -> None:
        super().__init__(optimizer)
        if table is None and children is None:
            raise ValueError("expected children to train or a table from needs: {table: <stage>}")
        if table is not None and table.space != space:
            raise ValueError(f"space: the table has another one, {table.space}")
        self.space = space
        self.samples = samples
        self.looked_up = None if table is None else torch.stack([table.rewards, table.accuracies], -1)  # (M, 2)
        self.training_of = children
        self.replays = replays
        self.ppo = ppo
        self.choice = choice
        self.controller = Controller(space.sizes, (ppo or PPO()).units, replays)
        self.history = History(samples, replays, len(space.sizes))
        self.register_buffer("baseline", torch.full((replays, 1), math.nan))

    def training_step(self, batch: Tensor, batch_idx: int) -> None:
        n: int = self.trainer.datamodule.batch_size  # type: ignore[attr-defined] # over all processes, who draw the same
        if self.history.count + n > self.samples:
            raise ValueError(f"samples={self.samples}: the data has more trials; expected trials x epochs of it")

        actions = self.draw(n)  # (R, n, T)
        outcome = self.evaluate(actions)  # (R, n, 2): reward R, test accuracy
        self.history.add(self.space.canonical(actions), outcome)

        terms = self.improve(actions, outcome[..., 0]) if self.ppo else {}
        self.track(n, reward=100 * outcome[..., 0].mean(), **terms)

    def draw(self, n: int) -> Tensor:
        """n architectures of every replay, (R, n, T)."""
        with torch.autocast(self.device.type, enabled=False):
            if self.ppo is None:
                return self.space.uniform(self.replays, n, device=self.device)
            return self.controller.sample(n)

    def evaluate(self, actions: Tensor) -> Tensor:
        """(R, n, T) -> reward and test accuracy (R, n, 2), looked up or of children trained now."""
        if self.looked_up is not None:
            self.looked_up = self.looked_up.to(actions.device)
            return self.looked_up[self.space.place(actions)]

        assert self.training_of is not None
        drawn = keys(self.space.canonical(actions))
        known = self.history.known()
        new = [key for key in dict.fromkeys(drawn) if key not in known]
        outcomes = self.train_children(self.training_of, [self.space.decode(key) for key in new])
        known |= dict(zip(new, outcomes, strict=True))
        return torch.stack([known[key] for key in drawn]).view(*actions.shape[:2], 2)

    def improve(self, actions: Tensor, rewards: Tensor) -> dict[str, Tensor]:
        """PPO on one minibatch: actions (R, n, T), rewards (R, n). Every process computes the same."""
        ppo = self.ppo
        assert ppo is not None
        with torch.autocast(self.device.type, enabled=False):
            mean = rewards.mean(1, keepdim=True)  # (R, 1)
            self.baseline.copy_(torch.where(self.baseline.isnan(), mean, self.baseline))
            advantage = rewards - self.baseline  # A = R - b
            with torch.no_grad():
                log_p_old, _ = self.controller(actions)

            terms: dict[str, Tensor] = {}
            for _ in range(ppo.epochs):
                log_p, entropy = self.controller(actions)  # (R, n) each
                loss = ppo_loss(log_p, log_p_old, advantage, entropy, ppo.clip, ppo.entropy_weight)
                self.descend(loss)
                terms = {"loss": loss / len(actions), "entropy": entropy.mean()}

            self.baseline.lerp_(mean, 1 - ppo.baseline_decay)
        return terms

    def descend(self, loss: Tensor) -> None:
        """One step of the controller's optimiser."""
        optimizer: Any = self.optimizers()
        parameters = list(self.controller.parameters())
        # not backward(): its gradients would be averaged over processes again
        for p, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            p.grad = gradient
        optimizer.step()

    def forward(self, actions: Tensor) -> tuple[Tensor, Tensor]:
        """log p and entropy (R, n) of sequences (R, n, T), in nats."""
        return self.controller(actions)

    def example(self, shape: tuple[int, ...]) -> tuple[Any, ...]:
        return (torch.zeros(self.replays, 1, len(self.space.sizes), dtype=torch.long, device=self.device),)

    def on_fit_start(self) -> None:
        if self.looked_up is not None and bool(self.looked_up.isnan().any()):
            missing = int(self.looked_up[:, 0].isnan().sum())
            count = len(self.looked_up)
            raise ValueError(f"table: {missing} architectures have no reward; its data.trials must be {count}")

    # What other stages take over.

    @property
    def late_samples(self) -> int:
        return max(1, round(self.choice.late * self.history.count))

    def select(self) -> list[int]:
        """The architecture that this search hands on (Choice), as canonical choices."""
        return self.history.best() if self.choice.finds == "best" else self.history.most_frequent(self.late_samples)

    def genotype(self) -> Genotype:
        return self.space.decode(self.select())

    def ranked(self) -> tuple[Tensor, Tensor]:
        return self.history.ranked()

    def on_train_epoch_end(self) -> None:
        """Rewards are accuracies on validation images: what a search has found so far, in percent."""
        self.log_dict({f"train/top{k}_reward": 100 * self.history.top(k) for k in TOP})
        super().on_train_epoch_end()

    def entropy_left(self, n: int = 256) -> Tensor:
        """The mean entropy of the controller's sequences, as a share of what uniform choices have, by n drawn ones."""
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            _, entropy = self.controller(self.controller.sample(n))
        return entropy.mean() / sum(math.log(size) for size in self.space.sizes)

    def on_test_epoch_end(self) -> None:
        """In percent. `late_reward`, `late_top1` (test images; a table's second training): last samples; see `top`.

        Of PPO also `entropy_left`.
        """
        outcome = self.history.outcome[: self.history.count]
        late = outcome[-self.late_samples :]
        metrics = {
            "mean_reward": outcome[..., 0].mean(),
            "late_reward": late[..., 0].mean(),
            "late_top1": late[..., 1].mean(),
        }
        metrics |= {f"top{k}_reward": self.history.top(k) for k in TOP}
        if self.ppo:
            metrics["entropy_left"] = self.entropy_left()
        self.log_dict({f"test/{name}": 100 * value for name, value in metrics.items()})

    def pictures(self, data: Any) -> dict[str, Figure]:
        """Rewards as the search goes on, and the cells it hands on."""
        title = f"mean of each minibatch ({'ppo' if self.ppo else 'random'})"
        rewards = reward_picture(100 * self.history.rewards.cpu(), data.batch_size, title)
        return {"rewards": rewards, **cell_pictures(self.space, self.select(), "found")}
