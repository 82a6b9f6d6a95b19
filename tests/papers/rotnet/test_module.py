"""Rotations by hand, the loss's limit cases, and the calibration of the random baseline."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from datamodules.common.torchvision_sets import FashionMNIST
from modules.rotnet.module import Calibrated, RotNet, rotate, rotations

LN2 = math.log(2)


def test_rotation_by_hand_and_by_numpy(images: Callable[..., Tensor]) -> None:
    x = torch.arange(9.0).view(1, 1, 3, 3)
    assert rotate(x, 90)[0, 0].tolist() == [[2, 5, 8], [1, 4, 7], [0, 3, 6]]
    several = images(3)
    for k in range(4):
        assert np.array_equal(rotate(several, 90 * k).numpy(), np.rot90(several.numpy(), k, (2, 3)))
    assert torch.equal(rotate(rotate(several, 90), 270), several)
    assert torch.equal(rotate(rotate(rotate(rotate(several, 90), 90), 90), 90), several)


def test_interpolated_rotations_turn_the_same_way() -> None:
    """Two turns by 45 degrees are one by 90, up to interpolation; a smooth picture has little of it."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, 65), torch.linspace(-1, 1, 65), indexing="ij")
    blob = torch.exp(-8 * ((x - 0.3) ** 2 + (y + 0.1) ** 2))[None, None]
    inside = x.square() + y.square() < 0.9  # what no corner is turned into
    assert float((rotate(rotate(blob, 45), 45) - rotate(blob, 90)).abs()[0, 0, inside].max()) < 0.02
    assert torch.allclose(rotate(blob, 135), rotate(rotate(blob, 90), 45))
    assert float((rotate(blob, 45) - blob).abs().max()) > 0.3


def test_the_copies_of_an_image_are_neighbours_and_share_its_crop_and_flip() -> None:
    data = FashionMNIST(8, train_size=16, val_size=0, augment=[])
    data.setup()
    x = next(iter(data.train_dataloader()))[0]  # cropped and mirrored upright, before any rotation
    copies, y = rotations(x, (0, 90, 180, 270))
    assert copies.shape == (32, 1, 28, 28)
    assert y.tolist() == [0, 1, 2, 3] * 8
    for i, k in ((0, 1), (3, 2), (7, 3)):
        assert torch.equal(torch.rot90(copies[4 * i + k], -k, (1, 2)), x[i])


class Constant(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros(len(x), 4)


def test_constant_logits_give_ln_4(small: Callable[..., RotNet], labelled: tuple[Tensor, Tensor]) -> None:
    module = small()
    module.head = Constant()
    assert float(module.training_step(labelled, 0)) == pytest.approx(2 * LN2, abs=1e-6)


def test_loss_is_the_mean_over_images_and_their_copies(
    small: Callable[..., RotNet], images: Callable[..., Tensor]
) -> None:
    """Equations 2 and 3, one copy at a time, turned by numpy."""
    module = small().eval()
    module.head[-1].weight.data *= 30  # type: ignore[union-attr, operator]
    x = images(5)
    terms = []
    for image in x:
        for k in range(4):
            turned = torch.from_numpy(np.rot90(image.numpy(), k, (1, 2)).copy())
            terms.append(-float(module(turned[None]).detach().log_softmax(-1)[0, k]))
    assert max(terms) - min(terms) > 0.1
    loss = module.training_step((x, torch.full((5,), 7)), 0)  # labels are not looked at
    assert loss is not None
    assert float(loss.detach()) == pytest.approx(sum(terms) / 20, abs=1e-5)


@pytest.mark.parametrize(("symmetry", "bound"), [(4, 2 * LN2), (2, LN2)])
def test_symmetric_images_cannot_be_told_apart(
    symmetry: int, bound: float, small: Callable[..., RotNet], images: Callable[..., Tensor]
) -> None:
    """Copies that are equal get equal logits: the loss is at least ln 4 (or ln 2 with 180-degree symmetry)."""
    turns = range(0, 4, 4 // symmetry)
    x = torch.stack([torch.rot90(images(32), k, (2, 3)) for k in turns]).mean(0)
    for seed in range(3):
        module = small(seed).eval()  # one image at a time: batch statistics would tie the images together
        module.head[-1].weight.data *= 30  # type: ignore[union-attr, operator]
        assert float(module.training_step((x, torch.zeros(32)), 0).detach()) >= bound - 1e-5


def test_a_network_that_sees_a_histogram_cannot_beat_chance(images: Callable[..., Tensor]) -> None:
    class Histogram(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(2, 4)

        def forward(self, x: Tensor) -> Tensor:
            flat = x.flatten(1).sort(1).values  # the same numbers in the same order for every copy
            return self.linear(torch.stack([flat.mean(1), flat.square().mean(1)], 1))

    copies, y = rotations(images(64), (0, 90, 180, 270))
    torch.manual_seed(0)
    network = Histogram()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    for _ in range(30):
        loss = nn.functional.cross_entropy(network(copies), y)
        assert float(loss.detach()) >= 2 * LN2 - 1e-6
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def test_calibration_averages_all_batches_and_moves_no_weight(
    small: Callable[..., RotNet], images: Callable[..., Tensor]
) -> None:
    start = small()
    weights = [p.clone() for p in start.parameters()]
    module = Calibrated(start).train()
    batches = [images(10, seed) for seed in range(3)]
    for batch in batches:
        module.training_step((batch, torch.zeros(10)), 0)
    conv, norm = module.trunk[0][0], module.trunk[0][1]  # type: ignore[index]
    with torch.no_grad():
        outputs = [conv(batch) for batch in batches]
    assert torch.allclose(norm.running_mean, torch.stack([o.mean((0, 2, 3)) for o in outputs]).mean(0), atol=1e-6)
    assert torch.allclose(norm.running_var, torch.stack([o.var((0, 2, 3)) for o in outputs]).mean(0), atol=1e-5)
    assert all(torch.equal(a, b) for a, b in zip(weights, module.parameters(), strict=True))


def test_calibration_is_a_fit_of_one_epoch_that_optimises_nothing(
    small: Callable[..., RotNet], images: Callable[..., Tensor]
) -> None:
    """Through the trainer, as the stage runs: statistics of all batches, weights as they were."""
    start = small()
    weights = [p.clone() for p in start.parameters()]
    batches = [[images(10, seed), torch.zeros(10)] for seed in range(3)]
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = pl.Trainer(accelerator="cpu", devices=1, max_epochs=1, enable_checkpointing=False, **quiet)
    module = Calibrated(start)
    trainer.fit(module, DataLoader(batches, batch_size=None))  # type: ignore[arg-type]
    norm = module.trunk[0][1]  # type: ignore[index]
    assert int(norm.num_batches_tracked) == 3
    with torch.no_grad():
        outputs = [module.trunk[0][0](batch) for batch, _ in batches]  # type: ignore[index]
    assert torch.allclose(norm.running_mean, torch.stack([o.mean((0, 2, 3)) for o in outputs]).mean(0), atol=1e-6)
    assert all(torch.equal(a, b) for a, b in zip(weights, module.parameters(), strict=True))


def test_a_rotnet_without_a_network_is_named() -> None:
    with pytest.raises(ValueError, match="either network and head, or start"):
        RotNet()
