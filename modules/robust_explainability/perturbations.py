"""Attribution methods that ask the network about changed images. For the interface see gradients.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.functional import gaussian_blur

from modules.robust_explainability.gradients import enlarged
from modules.robust_explainability.passes import logits


def probabilities(network: Any, x: Tensor, targets: Tensor) -> Tensor:
    """softmax f(x) at each image's target: x (B, m, C, H, W), targets (B,) -> (B, m)."""
    p = logits(network, x).softmax(2)  # (B, m, classes)
    return p.gather(2, targets[:, None, None].expand(-1, x.shape[1], 1))[..., 0]


def upsampling(coarse: int, fine: int) -> Tensor:
    """Weights (fine, coarse) of a linear interpolation along one side, mirrored at the first and last cell's centre."""
    last = coarse - 1
    u = (torch.arange(fine) + 0.5) * coarse / fine - 0.5  # in cells, 0 in the middle of the first
    u = last - (last - u.abs()).abs()
    return (1 - (u[:, None] - torch.arange(coarse)).abs()).clamp(min=0)


def random_masks(count: int, grid: int, p: float, side: tuple[int, int], source: torch.Generator) -> Tensor:
    """RISE's masks: random grids of 0 and 1, enlarged to (grid + 1) cells and cut to the image at a random shift.

    As in eclique/RISE, a grid is mirrored beyond the middle of its outer cells.

    Args:
        count: N.
        grid: cells along a side.
        p: how often a cell is 1.
        side: H and W of the image.
    Returns:
        (N, H, W) in [0, 1], p in expectation.
    """
    cells = [-(-length // grid) for length in side]
    coarse = (torch.rand(count, 1, grid, grid, generator=source) < p).float()[:, 0]
    down, across = (upsampling(grid, (grid + 1) * cell) for cell in cells)
    fine = down @ coarse @ across.T  # (N, (grid + 1) cell, ...)
    rows, columns = (
        torch.randint(cell, (count, 1), generator=source) + torch.arange(length)
        for cell, length in zip(cells, side, strict=True)
    )
    return fine[torch.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]


@dataclass(frozen=True)
class RISE:
    """S = sum_i f_c(x * M_i) M_i / (N p), f_c the probability (Petsiuk et al. 2018). All images get the same masks.

    Args:
        masks: N.
        grid, p: see random_masks.
        seed: of the masks.
        at_once: masked copies of an image in one pass.
    """

    masks: int = 4000
    grid: int = 7
    p: float = 0.5
    seed: int = 0
    at_once: int = 100

    def __call__(self, network: Any, x: Tensor, targets: Tensor) -> Tensor:
        source = torch.Generator().manual_seed(self.seed)
        total = x.new_zeros(len(x), *x.shape[2:])
        done = 0
        with torch.no_grad():
            while done < self.masks:
                count = min(self.at_once, self.masks - done)
                masks = random_masks(count, self.grid, self.p, (x.shape[2], x.shape[3]), source).to(x)  # (m, H, W)
                scores = probabilities(network, x[:, None] * masks[:, None], targets)  # (B, m)
                total += torch.einsum("bm,mhw->bhw", scores, masks)
                done += count
        return total / (self.masks * self.p)


def cells(count: int, side: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of about `count` cells that are about square."""
    down = max(1, round((count * side[0] / side[1]) ** 0.5))
    return down, max(1, round(count / down))


def superpixels(x: Tensor, count: int, compactness: float, rounds: int = 5) -> Tensor:
    """Groups of neighbouring pixels of like colour: k-means on places and colours from a regular grid of centres.

    SLIC (Achanta et al. 2012) without its search window.

    Args:
        x: images (B, C, H, W).
        count: groups, see cells.
        compactness: weight of a distance of one grid cell against a difference of 1 in a channel.
        rounds: of k-means.
    Returns:
        (B, H, W) int64, from 0; a number may be used by no pixel.
    """
    height, width = x.shape[2:]
    down, across = cells(count, (height, width))
    rows = torch.arange(height, device=x.device, dtype=x.dtype)
    columns = torch.arange(width, device=x.device, dtype=x.dtype)
    places = torch.stack(torch.meshgrid(rows / height * down, columns / width * across, indexing="ij"))  # (2, H, W)
    start = (places[0].floor() * across + places[1].floor()).long()  # (H, W)

    points = torch.cat([x, (compactness * places).expand(len(x), -1, -1, -1)], 1).flatten(2)  # (B, C + 2, P)
    owner = start.flatten().expand(len(x), -1)  # (B, P)
    groups = down * across
    for _ in range(rounds):
        member = F.one_hot(owner, groups).to(x)  # (B, P, G)
        size = member.sum(1)  # (B, G)
        centres = torch.einsum("bcp,bpg->bgc", points, member) / size.clamp(min=1)[..., None]
        distance = torch.cdist(points.mT, centres).masked_fill((size == 0)[:, None], torch.inf)  # (B, P, G)
        owner = distance.argmin(2)
    return owner.unflatten(1, (height, width))


@dataclass(frozen=True)
class LIME:
    """Coefficients of a weighted ridge regression of f_c on which superpixels are there (Ribeiro et al. 2016).

    Superpixels that are not there are 0, the mean. A sample z weighs exp(-(1 - |z| / G)^2 / width^2): its distance from
    the whole image. f_c is the probability. All images get the same samples.

    Args:
        samples: how many.
        groups, compactness: see superpixels.
        width: of the kernel.
        ridge: penalty on squared coefficients.
        seed: of the samples.
        at_once: samples of an image in one pass.
    """

    samples: int = 1000
    groups: int = 50
    compactness: float = 0.5
    width: float = 0.25
    ridge: float = 1.0
    seed: int = 0
    at_once: int = 100

    def __call__(self, network: Any, x: Tensor, targets: Tensor) -> Tensor:
        owner = superpixels(x, self.groups, self.compactness)  # (B, H, W)
        down, across = cells(self.groups, (x.shape[2], x.shape[3]))
        source = torch.Generator().manual_seed(self.seed)
        chosen = (torch.rand(self.samples, down * across, generator=source) < 0.5).to(x)  # (n, G)
        scores = []
        with torch.no_grad():
            for z in chosen.split(self.at_once):
                there = z.T[owner].movedim(3, 1)  # (B, m, H, W)
                scores.append(probabilities(network, x[:, None] * there[:, :, None], targets))
        coefficients = ridge_regression(chosen, torch.cat(scores, 1), self.width, self.ridge)  # (B, G)
        return coefficients.gather(1, owner.flatten(1)).view_as(owner)


def ridge_regression(z: Tensor, scores: Tensor, width: float, ridge: float) -> Tensor:
    """LIME's surrogate, for several images at once.

    Args:
        z: samples (n, G) of 0 and 1.
        scores: (B, n).
        width, ridge: see LIME; the constant is not penalised.
    Returns:
        coefficients (B, G).
    """
    z, scores = z.double(), scores.double()
    weight = (-((1 - z.mean(1)) ** 2) / width**2).exp()
    weight = weight / weight.sum()
    centred = z - weight @ z
    moment = (centred * weight[:, None]).T @ centred
    penalty = ridge / len(z) * torch.eye(z.shape[1], dtype=z.dtype, device=z.device)
    right = (centred * weight[:, None]).T @ (scores - (scores @ weight)[:, None]).T  # (G, B)
    return torch.linalg.solve(moment + penalty, right).T.float()


@dataclass(frozen=True)
class MeaningfulPerturbation:
    """What has to be blurred for f_c to fall (Fong & Vedaldi 2017): 1 - m, where the coarse mask m minimises

        f_c( m x + (1 - m) blur(x) ) + l1 mean(1 - m) + tv mean |grad m|^3

    by Adam, each image for itself; f_c is the probability.

    Args:
        side: of the mask.
        steps, rate: of Adam.
        l1, tv: weights.
        sigma: of the blur, pixels.
    """

    side: int = 28
    steps: int = 300
    rate: float = 0.1
    l1: float = 0.1
    tv: float = 0.2
    sigma: float = 10.0

    def __call__(self, network: Any, x: Tensor, targets: Tensor) -> Tensor:
        reach = min(2 * int(2 * self.sigma) + 1, 2 * (min(x.shape[2:]) // 2) - 1)
        blurred = gaussian_blur(x, [reach, reach], [self.sigma, self.sigma])
        mask = torch.full((len(x), self.side, self.side), 0.5, device=x.device, requires_grad=True)
        optimizer = torch.optim.Adam([mask], self.rate)
        for _ in range(self.steps):
            fine = enlarged(mask, x.shape[2:])[:, None]
            p = probabilities(network, (fine * x + (1 - fine) * blurred)[:, None], targets).sum()
            rough = (mask.diff(dim=1).abs() ** 3).mean((1, 2)) + (mask.diff(dim=2).abs() ** 3).mean((1, 2))
            loss = p + self.l1 * (1 - mask).mean((1, 2)).sum() + self.tv * rough.sum()
            (mask.grad,) = torch.autograd.grad(loss, mask)
            optimizer.step()
            with torch.no_grad():
                mask.clamp_(0, 1)
        return enlarged(1 - mask.detach(), x.shape[2:])
