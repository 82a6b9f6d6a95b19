"""Patches of volumes: which are drawn, where they lie, how they are augmented, what each process serves."""

from __future__ import annotations

import pytest
import torch

from datamodules.common.base import Batches, DataError
from datamodules.mswal.phantoms import Phantoms
from datamodules.mswal.volumes import Patches, PatchSampling, Volume, cut, nnunet_augmentation, patch_keys, places
from tests.datamodules.mswal.helpers import AUGMENTED, SAMPLING, SMALL, served


@pytest.mark.parametrize("sampling", [SAMPLING, AUGMENTED])
def test_batches_repeat_and_resume(sampling: PatchSampling) -> None:
    data = Phantoms(2, sampling, **SMALL)
    whole, rest = served(data), served(data, skip=2)
    assert len(whole) == 4
    assert [x.shape for x, _ in whole] == [(2, 1, 16, 16, 16)] * 4
    assert whole[0][1].shape == (2, 16, 16, 16)
    assert whole[0][1].dtype == torch.int64
    assert all(torch.equal(a, b) for pair in zip(whole[2:], rest, strict=True) for a, b in zip(*pair, strict=True))
    assert not any(torch.equal(a, b) for (a, _), (b, _) in zip(whole, served(data, epoch=1), strict=True))


def test_every_volume_is_drawn_equally_often_whatever_the_epochs_length() -> None:
    """Five volumes, epochs of 8 draws: counts differ by one at most after each of them."""
    data = Phantoms(2, SAMPLING, **SMALL)
    data.setup()
    loader = data.train_dataloader()
    drawn: list[int] = []
    for epoch in range(10):
        loader.sampler.set_epoch(epoch)
        drawn += [index for keys in loader.loader.batch_sampler for index, _, _ in keys]
        counts = [drawn.count(number) for number in range(5)]
        assert len(drawn) == 8 * (epoch + 1)
        assert max(counts) - min(counts) <= 1


def test_where_a_loader_stands_is_what_was_consumed() -> None:
    data = Phantoms(2, AUGMENTED, **SMALL)
    data.setup()
    loader = data.train_dataloader()
    steps = iter(loader)
    next(steps)
    assert loader.state_dict() == {"position": 1}
    list(steps)
    assert loader.state_dict() == {"position": 0}


def test_workers_do_not_change_what_is_served() -> None:
    one, two = (served(Phantoms(2, AUGMENTED, **SMALL, num_workers=n)) for n in (0, 2))
    assert all(torch.equal(a, b) for pair in zip(one, two, strict=True) for a, b in zip(*pair, strict=True))


def test_two_processes_serve_what_one_does() -> None:
    data = Phantoms(2, AUGMENTED, **SMALL)
    data.setup()
    patches = Patches(data.train, data.patches)
    keys = []
    for rank, world in ((0, 1), (0, 2), (1, 2)):
        batches = Batches(5, 4, shuffle=True, seed=1, rank=rank, world=world)
        keys.append([key for share in batches for key in patch_keys(share, 0.33)])
    assert sorted(keys[0][:4]) == sorted(keys[1][:2] + keys[2][:2])
    assert torch.equal(patches[keys[0][0]][0], patches[keys[1][0]][0])


def test_training_batches_are_shared_out_over_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    shares = []
    for rank, world in ((0, 1), (0, 2), (1, 2)):
        monkeypatch.setattr(Phantoms, "rank_and_world", (rank, world))
        shares.append(served(Phantoms(2, SAMPLING, **SMALL)))
    for (x, y), first, second in zip(*shares, strict=True):
        assert torch.equal(x, torch.cat([first[0], second[0]]))
        assert torch.equal(y, torch.cat([first[1], second[1]]))


def test_every_scan_is_tested_on_exactly_one_process() -> None:
    data = Phantoms(2, SAMPLING, **SMALL)
    data.setup()
    loader = data.test_dataloader()
    assert len(loader) == 3
    assert [x.shape for x, _ in loader] == [(1, 1, 32, 32, 32)] * 3
    dealt = [
        index
        for rank in (0, 1)
        for share in Batches(3, 2, shuffle=False, rank=rank, world=2)
        for index in share.indices.tolist()
    ]
    assert sorted(dealt) == [0, 1, 2]


def test_the_last_third_of_a_batch_is_forced() -> None:
    for batch, forced in ((2, 1), (3, 1), (6, 2)):
        first = patch_keys(next(iter(Batches(12, batch, shuffle=True))), 0.33)
        assert [key[2] for key in first] == [False] * (batch - forced) + [True] * forced


def test_a_forced_patch_shows_foreground_and_classes_are_drawn_alike() -> None:
    label = torch.zeros(32, 32, 32, dtype=torch.uint8)
    label[3, 4, 5], label[20:30, 20:30, 20:30] = 1, 2  # one voxel of class 1, a thousand of class 2
    volume = Volume(label[None].float(), label, places(label, 3))
    patches = Patches([volume], PatchSampling([8, 8, 8]))
    forced = [patches[(0, seed, True)][1] for seed in range(200)]
    assert all(bool(y.any()) for y in forced)
    assert 70 < sum(bool((y == 1).any()) for y in forced) < 130
    free = [patches[(0, seed, False)][1] for seed in range(200)]
    assert sum(bool(y.any()) for y in free) < 150
    x, y = patches[(0, 1, True)]
    assert torch.equal(x[0].long(), y)  # the image was cut where the label was


def test_scans_smaller_than_the_patch_lie_in_its_middle() -> None:
    image = torch.ones(1, 4, 8, 6)
    volume = Volume(image, torch.ones(4, 8, 6, dtype=torch.uint8), {})
    x, y = Patches([volume], PatchSampling([8, 8, 8]))[(0, 0, True)]
    assert torch.equal(x[0, 2:6, :, 1:7], image[0])
    assert float(x.sum()) == float(y.sum()) == image.numel()


def test_cut_fills_with_zeros_outside() -> None:
    x = torch.arange(1, 28.0).view(1, 3, 3, 3)
    assert torch.equal(cut(x, [0, 0, 0], [3, 3, 3]), x)
    assert torch.equal(cut(x, [-1, -1, -1], [5, 5, 5])[:, 1:4, 1:4, 1:4], x)
    assert cut(x, [2, 2, 2], [3, 3, 3]).shape[-3:] == (3, 3, 3)
    assert float(cut(x, [2, 2, 2], [3, 3, 3]).sum()) == 27
    assert float(cut(x, [5, 0, 0], [2, 2, 2]).sum()) == 0
    assert float(cut(x, [-4, 0, 0], [2, 2, 2]).sum()) == 0


def test_augmentation_moves_labels_with_the_image() -> None:
    """An image that is its own label: after moving and mirroring the two still agree."""
    label = torch.zeros(44, 44, 44)
    label[10:30, 14:26, 12:34] = 1
    augment = nnunet_augmentation([32, 32, 32])
    spatial = type(augment)([op for op in augment.transforms if len(getattr(op, "keys", ())) == 2])
    changed = 0
    for seed in range(20):
        spatial.set_random_state(seed=seed)
        item = spatial({"image": label[None].clone(), "label": label[None].clone()})
        x, y = item["image"].as_tensor(), item["label"].as_tensor()
        assert x.shape == y.shape == (1, 32, 32, 32)
        assert set(y.unique().tolist()) <= {0, 1}
        assert float(((x > 0.5) != (y > 0.5)).float().mean()) < 0.01
        changed += not torch.equal(y, label[None, 6:38, 6:38, 6:38])
    assert changed > 10


def test_each_axis_is_mirrored_on_its_own() -> None:
    """All eight combinations occur, about equally often."""
    label = torch.arange(8.0).view(1, 2, 2, 2)
    augment = nnunet_augmentation([2, 2, 2])
    mirrors = type(augment)([op for op in augment.transforms if type(op).__name__ == "RandFlipd"])
    mirrors.set_random_state(seed=0)
    corners = [int(mirrors({"image": label, "label": label})["label"][0, 0, 0, 0]) for _ in range(160)]
    assert min(corners.count(number) for number in range(8)) > 8


def test_brightness_changes_by_a_quarter_at_most() -> None:
    """nnU-Net multiplies by 0.75 to 1.25, in 15% of the patches."""
    augment, x = nnunet_augmentation([2, 2, 2]), torch.ones(1, 2, 2, 2)
    (brighten,) = (op for op in augment.transforms if type(op).__name__ == "RandScaleIntensityd")
    brighten.set_random_state(seed=0)
    factors = torch.tensor([float(brighten({"image": x})["image"].mean()) for _ in range(600)])
    changed = factors[factors != 1]
    assert 60 < len(changed) < 120
    assert 0.75 <= float(changed.min()) < 0.8
    assert 1.2 < float(changed.max()) <= 1.25


def test_noise_and_low_resolution_are_as_frequent_and_as_strong_as_nnunets() -> None:
    augment, x = nnunet_augmentation([16, 16, 16]), torch.zeros(1, 16, 16, 16)
    (noise,) = (op for op in augment.transforms if type(op).__name__ == "RandGaussianNoised")
    noise.set_random_state(seed=0)
    spread = [float(noise({"image": x})["image"].std()) for _ in range(600)]
    there = [s for s in spread if s > 0]
    assert 35 < len(there) < 90
    assert 0.09 < max(there) < 0.105
    rough = torch.randn(1, 16, 16, 16)
    (low,) = (op for op in augment.transforms if type(op).__name__ == "RandSimulateLowResolutiond")
    low.set_random_state(seed=0)
    assert 45 < sum(not torch.equal(low({"image": rough})["image"], rough) for _ in range(600)) < 105


def test_wrong_samplings_are_named() -> None:
    assert PatchSampling([1, 1, 1], foreground=0.0).size == [1, 1, 1]
    with pytest.raises(DataError, match=r"size=\[8, 8\]"):
        PatchSampling([8, 8])
    with pytest.raises(DataError, match=r"foreground=2\.0"):
        PatchSampling([8, 8, 8], foreground=2.0)
