"""Pictures show what the network says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from datamodules.common.torchvision_sets import FashionMNIST
from modules.case_based_prototypes.losses import LossWeights
from modules.case_based_prototypes.module import CaseBased
from modules.case_based_prototypes.networks import CaseBasedNetwork


def drawn(axis: Any) -> Tensor:
    """(H, W): the picture that an axis shows; imshow drops the last axis of (H, W, 1)."""
    return torch.as_tensor(axis.images[0].get_array())


def test_the_pictures_come_from_the_decoder(
    lively: Callable[..., CaseBasedNetwork], score: Callable[..., dict[str, float]]
) -> None:
    net = lively()
    data = FashionMNIST(100, val_size=0, train_size=100, test_size=100)
    module = CaseBased(net, 10, LossWeights())
    score(module, data)
    assert net.prototypes is not None
    assert net.decoder is not None
    pictures = module.pictures(data)
    assert set(pictures) == {"decoded prototypes", "one prediction", "weights"}
    with torch.no_grad():
        x = data.splits["test"][0][:1] / 255.0
        decoded, codes = net.decoder(net.prototypes), net.encoder(x)
        distances, _ = net.classify(codes)
        reconstruction = net.decoder(codes)
    names = [data.spec.classes[c] for c in net.weight.argmin(1).tolist()]
    shown = [axis for axis in pictures["decoded prototypes"].axes if axis.images]
    assert len(shown) == 15
    for place, axis in enumerate(shown):
        assert torch.allclose(drawn(axis), decoded[place, 0], atol=1e-6)
        assert axis.get_title() == f"{place}: {names[place]}"
    first, second, *nearest = pictures["one prediction"].axes
    for axis, image in ((first, x), (second, reconstruction)):
        assert torch.allclose(drawn(axis), image[0, 0], atol=1e-6)
    for axis, place in zip(nearest, distances[0].argsort().tolist(), strict=False):
        assert torch.allclose(drawn(axis), decoded[place, 0], atol=1e-6)
        assert axis.get_title() == f"{place}: {names[place]}\ndistance {float(distances[0, place]):.2f}"
