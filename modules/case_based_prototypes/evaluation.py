"""What a trained prototype network is compared with: all training images, in code space and in pixels."""

from __future__ import annotations

import torch
from torch import Tensor

from modules.case_based_prototypes.networks import CaseBasedNetwork
from modules.common.distances import squared_distances
from modules.common.frozen import Frozen

CHUNK = 1000  # images at a time


def nearest_of(queries: Tensor, items: Tensor, unit: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """For each of (m, d): the smallest squared distance to the rows of (N, d), and which row that is; (m,) each.

    The distance to a row is divided by the row's `unit` (N,) where units are given.
    """
    best = torch.full((len(queries),), torch.inf, device=queries.device)
    which = torch.zeros(len(queries), dtype=torch.long, device=queries.device)
    units = torch.ones(len(items)) if unit is None else unit
    for number, (rows, scale) in enumerate(zip(items.split(CHUNK), units.split(CHUNK), strict=True)):
        distances = squared_distances(queries, rows.to(queries)) / scale.to(queries)  # (m, CHUNK)
        value, index = distances.min(1)
        which = torch.where(value < best, index + number * CHUNK, which)
        best = torch.minimum(best, value)
    return best, which


def contrast(images: Tensor) -> Tensor:
    """(N, d) -> (N,): squared differences from an image's own mean, summed over its pixels."""
    return (images - images.mean(1, keepdim=True)).square().sum(1)


@torch.inference_mode()
def compare_with_training_images(
    network: CaseBasedNetwork, judge: Frozen, x: Tensor, labels: Tensor
) -> dict[str, float]:
    """Accuracy on the training images and, of a network with prototypes, how real and how varied these are.

    - train_top1: accuracy on the images, percent.
    - latent_realism: mean_j min_i ||p_j - f(x_i)||^2, in units of the codes' total variance. Better when lower.
    - classes_covered: how many labels the images have whose codes are nearest to the prototypes.
    - pixel_realism: mean_j min_i ||g(p_j) - x_i||^2 / contrast(x_i), 0 for a copy of a training image and 1 or more for
      a picture without any shape. Better when lower. Without the unit a black picture would pass for more real than
      most real images: it is close to the darkest of them.
    - agreement: in how many percent of the prototypes the judge gives g(p_j) the class of their most negative weight.

    Args:
        network: with its weights after training.
        judge: one classifier, or none.
        x: (N, C, H, W) in [0, 1], on the network's device.
        labels: (N,), there too.
    """
    codes = torch.cat([network.encoder(images) for images in x.split(CHUNK)])  # (N, d)
    answers = torch.cat([network.classify(rows)[1].argmax(-1) for rows in codes.split(CHUNK)])  # (N,)
    scores = {"train_top1": 100 * float((answers == labels).sum()) / len(labels)}
    if network.prototypes is None:
        return scores

    distance, nearest = nearest_of(network.prototypes, codes)
    scores["latent_realism"] = float(distance.mean() / codes.var(0, correction=0).sum())
    scores["classes_covered"] = float(len(labels[nearest].unique()))
    if network.decoder is None:
        return scores

    decoded = network.decoder(network.prototypes)  # (m, C, H, W)
    pixels = x.flatten(1)
    distance, _ = nearest_of(decoded.flatten(1), pixels, contrast(pixels))
    scores["pixel_realism"] = float(distance.mean())
    if judge:
        judged = judge.logits((decoded - network.mean) / network.std)[0].argmax(-1)  # (m,)
        agreed = judged == network.class_of_each_prototype()
        scores["agreement"] = 100 * float(agreed.float().mean())
    return scores
