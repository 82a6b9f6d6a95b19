"""The denoising loss, the embedding's gradient, k-means against scikit-learn, clusters inside classes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.metrics import normalized_mutual_info_score

from datamodules.common.loader import batch_type
from datamodules.g_simclr.images import UnitImages
from modules.g_simclr.autoencoder import DenoisingAutoencoder, PseudoLabels, encode, share_clusters, training_images
from modules.g_simclr.module import GSimCLR
from modules.g_simclr.networks import Autoencoder

BATCH = batch_type(("x", "y"))


def autoencoder(**options: Any) -> DenoisingAutoencoder:
    torch.manual_seed(0)
    return DenoisingAutoencoder(Autoencoder(1, (3, 4)), **options)


def test_loss_is_the_squared_distance_to_the_clean_image() -> None:
    module = autoencoder(noise=0.3)
    module.network.forward = lambda x: x  # type: ignore[method-assign]
    x = torch.rand(50, 1, 28, 28)
    loss = module.training_step(BATCH(x, x), 0)
    assert float(loss) == pytest.approx(0.09, rel=0.02)  # what remains of an identity is the noise


def test_noise_is_in_training_alone(logged: Callable[..., dict[str, float]], attach: Callable[..., Any]) -> None:
    module = autoencoder(noise=0.5).eval()
    attach(module)
    x = torch.rand(6, 1, 28, 28)
    with torch.no_grad():
        metrics = logged(module, BATCH(x[:4], x), BATCH(x[4:], x))
        expected = (module(x) - x).square().mean()
    assert metrics["test/mse"] == pytest.approx(float(expected), rel=1e-5)
    assert metrics["test/n"] == 6


def test_a_large_error_hides_none_of_those_that_follow(
    logged: Callable[..., dict[str, float]], attach: Callable[..., Any]
) -> None:
    """2^26 and forty times 1: in single precision the sum would stay at 2^26."""
    module = autoencoder()
    attach(module)
    module.forward = lambda x: x + (2.0**13 if bool(x.any()) else 1.0)  # type: ignore[method-assign]
    black, white = torch.zeros(1, 1, 4, 4), torch.ones(1, 1, 4, 4)
    metrics = logged(module, BATCH(white, white), *[BATCH(black, black)] * 40)
    assert metrics["test/mse"] == pytest.approx((2**26 + 40) / 41, rel=1e-9)


def pseudo_labels(images: UnitImages, attach: Callable[..., Any], **options: Any) -> PseudoLabels:
    module = PseudoLabels(autoencoder(), classes=10, initialisations=2, **options)
    attach(module, images)
    module.on_test_start()
    return module


def test_clusters_are_those_of_scikit_learn_on_unaugmented_training_images(
    images: UnitImages, attach: Callable[..., Any], logged: Callable[..., dict[str, float]]
) -> None:
    module = pseudo_labels(images, attach, clusters=8)
    with torch.no_grad():
        embeddings = autoencoder().network.eval().embed(images.splits["train"][0] / 255)
    expected = KMeans(8, n_init=2, random_state=0).fit(embeddings.numpy())
    assert np.array_equal(module.artifacts()["clusters"], expected.labels_)

    labels = images.splits["train"][1].numpy()
    right = sum(np.bincount(labels[expected.labels_ == k]).max() for k in range(8))
    module.eval()
    batch = BATCH(images.splits["train"][0] / 255, images.splits["train"][1])
    with torch.no_grad():
        metrics = logged(module, batch)
    assert metrics["test/purity"] == pytest.approx(100 * right / 60)
    assert metrics["test/assigned"] == pytest.approx(100 * right / 60)  # on the images they were made of
    assert metrics["test/largest"] == np.bincount(expected.labels_).max()
    assert metrics["test/smallest"] == np.bincount(expected.labels_).min()
    assert metrics["test/nmi"] == pytest.approx(normalized_mutual_info_score(labels, expected.labels_))
    assert metrics["test/n"] == 60
    assert PseudoLabels(autoencoder(), 8, 10).initialisations == 10  # k-means starts as often as scikit-learn's did


def test_permuted_labels_do_not_move_the_clusters(images: UnitImages, attach: Callable[..., Any]) -> None:
    before = pseudo_labels(images, attach, clusters=8).assignment
    pictures, labels = images.splits["train"]
    images.splits["train"] = (pictures, labels.flip(0))
    assert np.array_equal(before, pseudo_labels(images, attach, clusters=8).assignment)


def test_clusters_inside_classes_hold_one_class(images: UnitImages, attach: Callable[..., Any]) -> None:
    module = pseudo_labels(images, attach, clusters=13, within_classes=True)
    labels = images.splits["train"][1].numpy()
    assert set(module.assignment) == set(range(13))
    assert all(len(set(labels[module.assignment == k])) == 1 for k in range(13))
    rows, shares = share_clusters(np.array([0, 3, 3, 5, 0]), 8)
    assert [list(r) for r in rows] == [[0, 4], [1, 2], [3]]
    assert shares == [3, 3, 2]
    with pytest.raises(ValueError, match="clusters=2: expected at least one for each of the 3 classes"):
        share_clusters(np.array([0, 1, 2]), 2)


def test_the_autoencoder_gets_no_gradient_of_the_contrastive_loss(
    images: UnitImages, attach: Callable[..., Any], small: Callable[..., GSimCLR]
) -> None:
    labeller = pseudo_labels(images, attach, clusters=8)
    module = small()
    x = training_images(images)[:8]
    module.training_step(batch_type(("x", "y", "x2"))(x, x, x.flip(-1)), 0).backward()
    assert all(p.grad is None and not p.requires_grad for p in labeller.parameters())
    assert not {id(p) for p in labeller.parameters()} & {id(p) for p in module.parameters()}


def test_encoding_is_in_evaluation_mode_and_leaves_the_mode_as_it_was() -> None:
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.BatchNorm1d(784)).train()
    x = torch.rand(1200, 1, 28, 28)
    assert torch.allclose(encode(network, x, torch.device("cpu")), x.flatten(1), atol=1e-4)
    assert network.training
    assert int(network[1].num_batches_tracked) == 0  # type: ignore[arg-type]
