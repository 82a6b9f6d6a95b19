"""The recurrent controller of an architecture search (Zoph et al., arXiv 1707.07012, appendix A.2)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Controller(nn.Module):
    """An LSTM that makes T choices, each fed to the next step; a softmax layer of its own for each (appendix A.2).

    Args:
        sizes: options of each choice.
        units: of the LSTM; the paper's 100.
        replays: R independent controllers, side by side in each parameter.
        init: parameters start uniform in (-init, init).
    """

    def __init__(self, sizes: Sequence[int], units: int = 100, replays: int = 1, init: float = 0.1) -> None:
        super().__init__()
        self.sizes = list(sizes)
        self.units = units

        def parameter(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(replays, *shape).uniform_(-init, init))

        self.first = parameter(1, units)
        self.embeddings = nn.ParameterList(parameter(size, units) for size in self.sizes[:-1])
        self.weight = parameter(2 * units, 4 * units)
        self.bias = parameter(1, 4 * units)
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
