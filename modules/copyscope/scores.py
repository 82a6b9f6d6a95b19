"""How near images are to originals, pair by pair: the released code's pixel scores and the parts of its fusion score.

All take images (N, 3, H, W) in [0, 1] and originals of the same shape and give (N,), more for nearer.

The released `calculate_image_ssim` reshapes with np.resize, which repeats or cuts the flat array; here images are
resized.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

Score = Callable[[Tensor, Tensor], Tensor]


def resized(x: Tensor, height: int, width: int) -> Tensor:
    """(N, C, H, W) at another size, bilinear and antialiased."""
    return F.interpolate(x, (height, width), mode="bilinear", antialias=True, align_corners=False)


def grey(x: Tensor) -> Tensor:
    """Luma of (N, 3, H, W) in [0, 1], (N, 1, H, W), ITU-R 601 as PIL's mode L."""
    weights = torch.tensor([0.299, 0.587, 0.114], device=x.device, dtype=x.dtype).view(1, 3, 1, 1)
    return (x * weights).sum(1, keepdim=True)


def thumbnail_cosine(x: Tensor, originals: Tensor) -> Tensor:
    """Cosine of the pixels' mean colours at 64 x 64, as vectors of 4,096."""
    a, b = (resized(image, 64, 64).mean(1).flatten(1) for image in (x, originals))
    return F.cosine_similarity(a, b, dim=1)


def colour_histogram(x: Tensor, originals: Tensor) -> Tensor:
    """Mean over the channels of the correlation of two histograms with 256 bins."""
    return (_histograms(x) * _histograms(originals)).sum(-1).mean(1)


def _histograms(x: Tensor) -> Tensor:
    """Centred histograms (N, 3, 256) of length 1."""
    bins = (x * 255).round().clamp(0, 255).long().flatten(2)  # (N, 3, HW)
    counts = torch.zeros(*bins.shape[:2], 256, device=x.device, dtype=x.dtype)
    counts.scatter_add_(2, bins, torch.ones_like(bins, dtype=x.dtype))
    centred = counts - counts.mean(-1, keepdim=True)
    return F.normalize(centred, dim=-1)


def difference_hash(x: Tensor, originals: Tensor) -> Tensor:
    """1 - Hamming distance / 64 of dHash: whether each of 9 x 8 grey pixels is brighter than its right neighbour."""
    a, b = (resized(grey(image), 8, 9)[:, 0] for image in (x, originals))  # (N, 8, 9)
    same = (a[..., :-1] > a[..., 1:]) == (b[..., :-1] > b[..., 1:])
    return same.flatten(1).double().mean(1).to(x.dtype)


def structural_similarity(x: Tensor, originals: Tensor, window: int = 7) -> Tensor:
    """SSIM of the luma as scikit-image's default: uniform window, sample covariances, no border."""
    a, b = grey(x).double(), grey(originals).double()
    n = window * window

    def mean(image: Tensor) -> Tensor:
        return F.avg_pool2d(image, window, 1)

    mean_a, mean_b = mean(a), mean(b)
    scale = n / (n - 1)
    var_a = scale * (mean(a * a) - mean_a.square())
    var_b = scale * (mean(b * b) - mean_b.square())
    covariance = scale * (mean(a * b) - mean_a * mean_b)
    return _ssim(mean_a, mean_b, var_a, var_b, covariance).flatten(1).mean(1).to(x.dtype)


def global_similarity(x: Tensor, originals: Tensor) -> Tensor:
    """The released "RGB-SSIM": SSIM's formula on each channel's mean, variance and covariance over the whole image."""
    a, b = x.double().flatten(2), originals.double().flatten(2)
    mean_a, mean_b = a.mean(-1), b.mean(-1)
    var_a, var_b = a.var(-1, correction=0), b.var(-1, correction=0)
    covariance = (a * b).mean(-1) - mean_a * mean_b
    return _ssim(mean_a, mean_b, var_a, var_b, covariance).mean(1).to(x.dtype)


def _ssim(mean_a: Tensor, mean_b: Tensor, var_a: Tensor, var_b: Tensor, covariance: Tensor) -> Tensor:
    c1, c2 = 0.01**2, 0.03**2  # of a range of 1
    luminance = (2 * mean_a * mean_b + c1) / (mean_a.square() + mean_b.square() + c1)
    return luminance * (2 * covariance + c2) / (var_a + var_b + c2)


PIXEL_SCORES: Mapping[str, Score] = {
    "cosine": thumbnail_cosine,
    "histogram": colour_histogram,
    "dhash": difference_hash,
    "ssim": structural_similarity,
    "rgb_ssim": global_similarity,
}


# Fusion


def cut_out(x: Tensor) -> Tensor:
    """The main subject: pixels further than half the largest distance from the border's median colour, else black."""
    frame = torch.cat([x[..., 0, :], x[..., -1, :], x[..., :, 0], x[..., :, -1]], dim=-1)  # (N, 3, border)
    distance = (x - frame.median(-1).values[..., None, None]).square().sum(1, keepdim=True).sqrt()
    return x * (distance > distance.amax((2, 3), keepdim=True) / 2)


def part_similarity(x: Tensor, originals: Tensor) -> Tensor:
    """Thumbnail cosine of the main subjects."""
    return thumbnail_cosine(cut_out(x), cut_out(originals))


def channel_statistics(maps: Tensor) -> Tensor:
    """AdaIN's description of a style: mean and standard deviation of each channel, (N, C, H, W) -> (N, 2 C)."""
    flat = maps.float().flatten(2)
    return torch.cat([flat.mean(-1), flat.std(-1, correction=0)], dim=1)


def fuse(scores: Tensor) -> Tensor:
    """Scores (M, k), each brought to [0, 1] over the M images, then their first principal component, (M,).

    Its sign is the one that agrees with the scores' mean; a score that is the same for all images counts as 0.
    """
    low, high = scores.min(0).values, scores.max(0).values
    scaled = (scores - low) / (high - low).clamp(min=1e-12)
    centred = scaled - scaled.mean(0)
    values, vectors = torch.linalg.eigh(centred.T @ centred)
    direction = vectors[:, values.argmax()]
    if direction.sum() < 0:
        direction = -direction
    return centred @ direction
