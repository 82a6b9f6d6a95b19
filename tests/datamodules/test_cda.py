"""Which images are recovered together, and what a student gets to see."""

from __future__ import annotations

import zipfile
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.distributions import Normal

from datamodules.cda import Distilled, Steps, Synthesis, labels_in_order
from datamodules.common.base import DataError, Fed
from datamodules.common.digits import Digits
from datamodules.common.folders import ImageFolder


def digits() -> Digits:
    return Digits(10, train_size=300, test_size=50, seed=1)


def fed(count: int) -> Fed:
    return Fed(nn.Identity(), {"images": np.arange(count * 64, dtype=np.uint8).reshape(count, 1, 8, 8)})


def test_a_batch_of_100_has_100_consecutive_classes() -> None:
    labels = labels_in_order(1000, 2)
    assert labels[:100].tolist() == list(range(100))
    assert labels[900:1000].tolist() == list(range(900, 1000))
    assert labels[1000:1100].tolist() == list(range(100))
    assert labels.bincount().tolist() == [2] * 1000


def test_an_epoch_is_one_recovery() -> None:
    data = Synthesis(digits(), 4, 4, 1, 3)  # 10 images, 4 together
    loader = data.train_dataloader()
    seen = []
    for epoch in range(3):
        loader.batches.set_epoch(epoch)
        batches = list(loader)
        assert len(batches) == len(loader) == 3
        assert all(torch.equal(batch.y, batches[0].y) for batch in batches)
        assert batches[0].slot.tolist() == list(range(len(batches[0].y)))
        seen += batches[0].y.tolist()
    assert seen == list(range(10))
    tested = list(data.test_dataloader())
    assert torch.cat([batch.row for batch in tested]).tolist() == list(range(10))
    assert data.spec.sizes == {"train": 12, "val": 0, "test": 10}


def test_a_resumed_recovery_goes_on_with_its_next_step() -> None:
    steps = Steps(10, 4, 5)
    taken = iter(steps)
    next(taken)
    next(taken)
    state = steps.state_dict()
    again = Steps(10, 4, 5)
    again.load_state_dict(state)
    assert len(list(again)) == 3
    assert len(list(again)) == 5


def test_processes_share_a_batch() -> None:
    parts = [next(iter(Steps(10, 5, 2, rank, 2))).indices.tolist() for rank in range(2)]
    assert parts == [[0, 1], [2, 3, 4]]


def test_too_few_epochs_would_leave_images_out() -> None:
    data = Synthesis(digits(), 4, 4, 1, 3)
    data.trainer = SimpleNamespace(max_epochs=2, global_rank=0, world_size=1)  # type: ignore[assignment]
    with pytest.raises(DataError, match="max_epochs=2: expected 3"):
        data.train_dataloader()
    with pytest.raises(DataError, match="batch_size=5: expected that of the images together, 4"):
        Synthesis(digits(), 5, 4, 1, 3)


def test_recovered_images_are_trained_on_and_the_sources_tested_on() -> None:
    data = Distilled(digits(), 8, 2, recovered=fed(20), passes=3)
    data.setup()
    batches = list(data.train_dataloader())
    assert sum(len(batch.y) for batch in batches) == data.spec.sizes["train"] == 60
    assert torch.cat([batch.y for batch in batches]).bincount().tolist() == [6] * 10
    pixels = torch.cat([batch.x for batch in batches]) * data.spec.std[0] + data.spec.mean[0]
    first = torch.arange(64).view(8, 8) / 255
    assert bool(((pixels[:, 0] - first).abs().amax((1, 2)) < 1e-5).any())
    assert sum(len(batch.y) for batch in data.test_dataloader()) == data.spec.sizes["test"] == 50


def test_validation_images_are_the_sources_and_none_that_is_tested_or_trained_on() -> None:
    source = Digits(10, train_size=300, val_size=40, test_size=50, seed=1)
    data = Distilled(source, 8, 2, "real")
    data.setup()
    served = torch.cat([batch.x for batch in data.val_dataloader()])
    assert data.spec.sizes["val"] == len(served) == 40
    assert torch.equal(served, source.normalised(source.splits["val"][0]))
    assert Distilled(digits(), 8, 2, "real").val_dataloader() == []


def test_real_images_are_different_training_images_of_their_class() -> None:
    source = digits()
    data = Distilled(source, 8, 5, "real")
    data.setup()
    assert data.training is not None
    images, labels = data.training
    every, classes = source.splits["train"]
    actual = [(every == image).flatten(1).all(1).nonzero().flatten().tolist() for image in images]
    assert all(label in classes[rows].tolist() for rows, label in zip(actual, labels.tolist(), strict=True))
    assert len({tuple(rows) for rows in actual}) == 50
    assert data.spec.sizes["train"] == 50  # one pass
    again = Distilled(digits(), 8, 5, "real")
    again.setup()
    assert again.training is not None
    assert torch.equal(again.training[0], images)
    with pytest.raises(DataError, match="100 asked"):
        Distilled(digits(), 8, 100, "real").setup()


def test_noise_is_what_a_recovery_starts_from() -> None:
    data = Distilled(digits(), 8, 20, "noise")
    data.setup()
    assert data.training is not None
    x = (data.training[0].float() / 255 - data.spec.mean[0]) / data.spec.std[0]
    inside = x[(data.training[0] > 0) & (data.training[0] < 255)]
    assert -1 < float(inside.mean()) < 1
    assert 0.3 < float(inside.std()) <= 1
    assert data.training[0].dtype == torch.uint8
    darker = Normal(0.0, 1.0).cdf(torch.tensor(-data.spec.mean[0] / data.spec.std[0]))  # than black, and so black
    assert float((data.training[0] == 0).float().mean()) == pytest.approx(float(darker), abs=0.02)


def test_noise_has_the_mean_of_each_channel(tmp_path: Path) -> None:
    data = Distilled(folder(tmp_path), 4, 20, "noise")
    data.setup()
    assert data.training is not None
    middle = data.training[0].float().transpose(0, 1).flatten(1).median(1).values
    assert middle.tolist() == pytest.approx([255 * mean for mean in (0.485, 0.456, 0.406)], abs=4)


def test_a_dry_run_gets_some_random_images() -> None:
    data, again = (Distilled(digits(), 4, 5, "noise", generated=True) for _ in range(2))
    for each in (data, again):
        each.setup()
        assert each.training is not None
    images, labels = data.training  # type: ignore[misc]
    assert (images.shape, images.dtype) == ((16, 1, 8, 8), torch.uint8)  # four batches of the 50 images
    assert labels.tolist() == [*range(10), *range(6)]
    assert 0 <= int(images.min()) < 20 < 235 < int(images.max()) <= 255
    assert torch.equal(again.training[0], images)  # type: ignore[index]


def test_wrong_images_are_refused() -> None:
    with pytest.raises(DataError, match="expected one of recovered, real, noise"):
        Distilled(digits(), 8, 2, "generated")
    with pytest.raises(DataError, match="go together"):
        Distilled(digits(), 8, 2)
    with pytest.raises(DataError, match="go together"):
        Distilled(digits(), 8, 2, "real", recovered=fed(20))
    with pytest.raises(DataError, match="expected"):
        Distilled(digits(), 8, 2, recovered=fed(10)).setup()


def folder(tmp_path: Path) -> ImageFolder:
    """A zip of grey squares, 3 a class in two classes; the grey tells the photo."""
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        for split in ("train", "val"):
            for label, name in enumerate("ab"):
                for number in range(3):
                    stored = BytesIO()
                    Image.new("RGB", (24, 20), (100 * label + 20 * number + 10,) * 3).save(stored, "png")
                    archive.writestr(f"{split}/{name}/{number}.png", stored.getvalue())
    return ImageFolder(str(tmp_path / "photos"), 4, image_size=16, num_workers=0)


def test_real_photos_are_decoded_as_they_would_be_tested(tmp_path: Path) -> None:
    data = Distilled(folder(tmp_path), 4, 3, "real")
    data.setup()
    assert data.training is not None
    images, labels = data.training
    assert images.shape == (6, 3, 16, 16)
    assert images.dtype == torch.uint8
    assert labels.tolist() == [0, 1, 0, 1, 0, 1]
    greys = images[:, 0, 8, 8]
    assert sorted(greys[::2].tolist()) == [10, 30, 50]
    assert sorted(greys[1::2].tolist()) == [110, 130, 150]
    assert sum(len(batch.y) for batch in data.test_dataloader()) == 6
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (data.spec.mean, data.spec.std))
    served = torch.cat([batch.x for batch in data.train_dataloader()]) * std + mean
    assert (255 * served[:, 0, 8, 8]).sort().values.tolist() == pytest.approx([10, 30, 50, 110, 130, 150], abs=1e-3)
