"""Class embeddings and the noise put on them: what denoising a label needs, whoever trains the denoiser.

    q(z_t|y) = N(sqrt(abar_t) u_y, 1 - abar_t),   SNR(t) = abar_t / (1 - abar_t), rising with t
    z_t = A_t uhat_t(z_{t-1}, x) + B_t z_{t-1} + sqrt(C_t) eps

Equations of arXiv 2503.24322 (NoProp); a time of theirs runs from noise, t = 0, to the label, t = 1 or T.
"""

from __future__ import annotations

import math

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from modules.common.distributed import world_size


class LabelSpace(nn.Module):
    """The class embeddings W_Embed (m, d) and the classifier of noisy labels f_out, which all blocks share.

    f_out starts as the classifier by the nearest embedding. From random weights nothing says which embedding means
    which class: trained end to end, several classes soon share one, and the softmax of the last blocks is by then too
    sharp to part them.

    Args:
        kind: "onehot" (fixed identity, d = m), "learned" (orthogonal rows at first where m <= d, else Gaussian ones of
            unit mean square norm) or "prototype" (learned; starts as images, see `start_from`).
        classes: m.
        dim: d.
        output: p(y|z) by "softmax" of f_out(z), or "posterior": by the distance of softmax(f_out(z)) W_Embed to u_y.
        sigma: of the posterior.
    Raises:
        ValueError: a switch has no such value, or a one-hot embedding has d != m.
    """

    def __init__(self, kind: str, classes: int, dim: int, output: str = "softmax", sigma: float = 1.0) -> None:
        super().__init__()
        for name, value, valid in (
            ("kind", kind, ("onehot", "learned", "prototype")),
            ("output", output, ("softmax", "posterior")),
        ):
            if value not in valid:
                raise ValueError(f"{name}={value!r}: expected one of {', '.join(valid)}")
        if kind == "onehot" and dim != classes:
            raise ValueError(f"dim={dim}: a one-hot embedding of {classes} classes has {classes}")
        self.kind = kind
        self.classes = classes
        self.dim = dim
        self.output = output
        self.sigma = sigma
        self.f_out = nn.Linear(dim, classes)
        self.embedding: Tensor
        if kind == "onehot":
            self.register_buffer("embedding", torch.eye(classes))
        else:
            self.embedding = nn.Parameter(torch.randn(classes, dim) / math.sqrt(dim))
            if classes <= dim:
                nn.init.orthogonal_(self.embedding)
        self.match()

    @torch.no_grad()
    def match(self) -> None:
        """Let f_out(z) be -|z - u_k|^2 / 2 up to a constant, in units of the embeddings' mean square norm."""
        squares = self.embedding.square().sum(-1)
        self.f_out.weight.copy_(self.embedding / squares.mean())
        self.f_out.bias.copy_(-squares / (2 * squares.mean()))

    def mixed(self, weights: Tensor) -> Tensor:
        """(B, m) -> (B, d), sums of class embeddings, in float32 at any precision."""
        with torch.autocast(weights.device.type, enabled=False):
            return weights.float() @ self.embedding

    def nearness(self, z: Tensor) -> Tensor:
        """Minus the squared distance of (B, d) to each class embedding, (B, m)."""
        return -torch.cdist(z, self.embedding, compute_mode="donot_use_mm_for_euclid_dist").square()

    def forward(self, z: Tensor) -> Tensor:
        """log p(y|z) up to a constant (Eq. 14, or 15 and 16). (B, d) -> (B, m)."""
        logits = self.f_out(z)
        if self.output == "posterior":
            return self.nearness(self.mixed(logits.softmax(-1))) / (2 * self.sigma**2)
        return logits

    def start_from(self, images: Tensor, labels: Tensor) -> None:
        """Give each class that has images its `medoid`, and match f_out.

        images (N, C, H, W) normalised, labels (N,).
        """
        with torch.no_grad():
            for label in labels.unique().tolist():
                self.embedding[label] = medoid(images[labels == label].flatten(1)).to(self.embedding)
        self.match()


def medoid(points: Tensor) -> Tensor:
    """The one of (N, d) points with the smallest median Euclidean distance to the others."""
    n = len(points)
    distance = torch.cdist(points, points).fill_diagonal_(math.inf)  # the distance to itself comes last
    return points[distance.kthvalue(max(1, n // 2), -1).values.argmin()]


def cosine_schedule(steps: int, offset: float = 0.008, floor: float = 1e-4, cap: float = 0.9999) -> Tensor:
    """abar_0..abar_T, float64 (T + 1,): Nichol & Dhariwal's cosine with t reversed, so that it rises, then clipped."""
    k = torch.arange(steps, -1, -1, dtype=torch.float64)
    f = torch.cos((k / steps + offset) / (1 + offset) * math.pi / 2).square()
    return (f / f[-1]).clamp(floor, cap)


def transitions(abar: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A_t, B_t, C_t of Equation 3 for t = 1..T, from abar_0..abar_T (T + 1,)."""
    before, after = abar[:-1], abar[1:]
    alpha = before / after  # alpha_{t-1}
    a = after.sqrt() * (1 - alpha) / (1 - before)
    b = alpha.sqrt() * (1 - after) / (1 - before)
    c = (1 - after) * (1 - alpha) / (1 - before)
    return a, b, c


def noised(u: Tensor, abar: Tensor, eps: Tensor) -> Tensor:
    """A draw from q(z_t|y). u, eps (B, d); abar () or (B, 1)."""
    return abar.sqrt() * u + (1 - abar).sqrt() * eps


def squared_error(u_hat: Tensor, u: Tensor) -> Tensor:
    """|uhat - u|^2, a sum over d. (B, d) each -> (B,)."""
    return (u_hat - u).square().sum(-1)


def prior_kl(u: Tensor, abar: Tensor) -> Tensor:
    """KL(q(z_0|y) || N(0, 1)) in nats, (B,). u (B, d); abar () of t = 0."""
    return 0.5 * (abar * u.square().sum(-1) - u.shape[-1] * (abar + torch.log1p(-abar)))


class LearnedSchedule(nn.Module):
    """gamma(t) = gamma_0 + (gamma_1 - gamma_0)(1 - gbar(t)), SNR(t) = exp(-gamma(t)); App. B.

    gbar is a two-layer network h with positive weights, rescaled to rise from 0 to 1.

    Args:
        gamma_0, gamma_1: minus the logarithm of the SNR at t = 1 and at t = 0, before training.
        hidden: units of h.
    """

    def __init__(self, gamma_0: float, gamma_1: float, hidden: int = 32) -> None:
        super().__init__()
        self.gamma_0 = nn.Parameter(torch.tensor(gamma_0))
        self.gamma_1 = nn.Parameter(torch.tensor(gamma_1))
        self.raw_1 = nn.Parameter(torch.randn(hidden))  # the weights are softplus of these
        self.bias = nn.Parameter(torch.randn(hidden))
        self.raw_2 = nn.Parameter(torch.randn(hidden))

    def forward(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """t (B,) -> gamma(t) and its derivative, both (B,), in t's precision."""
        w_1 = F.softplus(self.raw_1).to(t.dtype)
        w_2 = F.softplus(self.raw_2).to(t.dtype)
        bias = self.bias.to(t.dtype)

        ends_first = torch.cat([t.new_tensor([0, 1]), t])  # (2 + B,)
        s = torch.sigmoid(ends_first[:, None] * w_1 + bias)  # (2 + B, hidden)
        h = (s * w_2).sum(-1)
        h_slope = (s * (1 - s) * w_1 * w_2).sum(-1)

        span = self.gamma_1 - self.gamma_0
        rise = h[1] - h[0]
        gamma = self.gamma_0 + span * (1 - (h[2:] - h[0]) / rise)
        return gamma, -span * h_slope[2:] / rise


class Noise:
    """Random numbers per image of a training batch: drawn for the global batch on every process, cut to its share."""

    def __init__(self, x: Tensor) -> None:
        self.total = len(x)
        self.mine = slice(len(x))
        self.device = x.device
        if world_size() > 1:
            sizes = [torch.zeros(1, dtype=torch.long, device=x.device) for _ in range(world_size())]
            dist.all_gather(sizes, torch.tensor([len(x)], device=x.device))
            start = int(sum(sizes[: dist.get_rank()]))
            self.total = int(sum(sizes))
            self.mine = slice(start, start + len(x))

    def normal(self, dim: int) -> Tensor:
        return torch.randn(self.total, dim, device=self.device)[self.mine]

    def uniform(self) -> Tensor:
        return torch.rand(self.total, device=self.device)[self.mine]
