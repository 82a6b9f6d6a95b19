"""What a search has drawn so far, and which architectures that speaks for."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class History(nn.Module):
    """Every architecture that a search drew, in order, with its reward and its test accuracy.

    Args:
        samples: how many each replay will draw.
        replays: R, searches side by side.
        choices: T, of an architecture.
    """

    drawn: Tensor  # (samples, R, T), in canonical form
    outcome: Tensor  # (samples, R, 2): reward and test accuracy, in [0, 1]
    seen: Tensor  # how many of the samples are there

    def __init__(self, samples: int, replays: int, choices: int) -> None:
        super().__init__()
        self.register_buffer("drawn", torch.zeros(samples, replays, choices, dtype=torch.long))
        self.register_buffer("outcome", torch.zeros(samples, replays, 2))
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))

    @property
    def count(self) -> int:
        return int(self.seen)

    @property
    def rewards(self) -> Tensor:
        """(count, R), in [0, 1]."""
        return self.outcome[: self.count, :, 0]

    def add(self, actions: Tensor, outcome: Tensor) -> None:
        """n more of each replay: canonical actions (R, n, T), reward and test accuracy (R, n, 2)."""
        rows = slice(self.count, self.count + actions.shape[1])
        self.drawn[rows] = actions.transpose(0, 1)
        self.outcome[rows] = outcome.transpose(0, 1)
        self.seen += actions.shape[1]

    def known(self) -> dict[tuple[int, ...], Tensor]:
        """Reward and test accuracy (2,) of every architecture that was drawn, by its canonical choices."""
        outcomes = self.outcome[: self.count].flatten(0, 1)
        return dict(zip(keys(self.drawn[: self.count]), outcomes, strict=True))

    def ranked(self) -> tuple[Tensor, Tensor]:
        """The different architectures that all replays drew: canonical (M, T) and rewards (M,), best last."""
        actions, row_of = self.drawn[: self.count].flatten(0, 1).unique(dim=0, return_inverse=True)
        rewards = self.outcome.new_zeros(len(actions))
        rewards[row_of] = self.rewards.flatten()
        order = rewards.argsort(stable=True)
        return actions[order], rewards[order]

    def best(self) -> list[int]:
        """The architecture with the highest reward that the first replay drew: one search's, unlike `ranked`."""
        return self.drawn[int(self.rewards[:, 0].argmax()), 0].tolist()

    def best_ones(self, number: int) -> Tensor:
        """The first replay's `number` best different architectures by reward, (n, T), best first; n may be fewer."""
        actions, row_of = self.drawn[: self.count, 0].unique(dim=0, return_inverse=True)
        rewards = self.outcome.new_zeros(len(actions))
        rewards[row_of] = self.rewards[:, 0]
        return actions[rewards.argsort(descending=True, stable=True)[:number]]

    def most_frequent(self, last: int) -> list[int]:
        """The first replay's most frequent architecture among its last so many; of several, that of higher reward."""
        drawn = self.drawn[self.count - last : self.count, 0]
        actions, row_of, counts = drawn.unique(dim=0, return_inverse=True, return_counts=True)
        rewards = self.outcome.new_zeros(len(actions))
        rewards[row_of] = self.rewards[-last:, 0]
        return actions[int(rewards.masked_fill(counts < counts.max(), -1.0).argmax())].tolist()

    def top(self, number: int, samples: int | None = None) -> Tensor:
        """Mean reward of each replay's best `number` different architectures, mean over replays.

        `samples`: among the first so many; None is all.
        """
        count = self.count if samples is None else samples
        means = []
        for replay in range(self.drawn.shape[1]):
            _, row_of = self.drawn[:count, replay].unique(dim=0, return_inverse=True)
            rewards = self.outcome.new_zeros(int(row_of.max()) + 1)
            rewards[row_of] = self.outcome[:count, replay, 0]
            means.append(rewards.topk(min(number, len(rewards))).values.mean())
        return torch.stack(means).mean()


def keys(actions: Tensor) -> list[tuple[int, ...]]:
    """Sequences (..., T) as tuples, one after the other."""
    return [tuple(row) for row in actions.flatten(0, -2).tolist()]
