"""Small phantoms that the tests of MSWAL's data share."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from datamodules.mswal.phantoms import Phantoms, Volumes
from datamodules.mswal.volumes import PatchSampling, nnunet_augmentation

SMALL: dict[str, Any] = {"volumes": Volumes(size=32, train=5, val=2, test=3)}
SAMPLING = PatchSampling([16, 16, 16], iterations=4)
AUGMENTED = PatchSampling([16, 16, 16], iterations=4, margin=1.375, augment=nnunet_augmentation)


def served(data: Phantoms, epoch: int = 0, skip: int = 0) -> list[tuple[Tensor, Tensor]]:
    data.setup()
    loader = data.train_dataloader()
    loader.sampler.set_epoch(epoch)
    loader.load_state_dict({"position": skip})
    return list(loader)
