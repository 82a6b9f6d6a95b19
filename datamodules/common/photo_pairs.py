"""Photos of which a training batch has two views, as columns of their own: x, y, x2."""

from __future__ import annotations

from torch import Tensor
from torch.utils.data import Dataset

from datamodules.common.folders import Generated, ImageFolder, Photos
from datamodules.common.loader import WorkerLoader


class Pairs(Dataset):
    """The columns x, y, x2 of photos whose transform gives both views, (2, 3, S, S)."""

    def __init__(self, photos: Dataset) -> None:
        self.photos = photos

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, int, Tensor]:
        (first, second), label = self.photos[key]
        return first, label, second


def load_pairs(data: ImageFolder) -> WorkerLoader:
    """Training batches of a folder whose training transform gives two views: x, y, x2."""
    photos: Dataset
    if data.generated:
        length = min(data.spec.sizes["train"], 2 * data.batch_size)
        photos = Generated((2, *data.spec.shape), len(data.spec.classes), length)
    else:
        assert data.source is not None
        length = len(data.items["train"])
        photos = Photos(data.source, data.items["train"], data.transform(train=True), data.seed)

    batches = data.batches(length, shuffle=True)
    workers = 0 if data.generated else data.num_workers
    return WorkerLoader(Pairs(photos), batches, columns=("x", "y", "x2"), num_workers=workers)
