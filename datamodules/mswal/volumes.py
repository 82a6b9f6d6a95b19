"""3-D scans with a label for every voxel: random patches to train on, whole scans to test on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.common.base import Batches, DataError, DataModule, Share, Spec, generator, stream
from datamodules.common.loader import Loader, WorkerLoader
from datamodules.common.subsets import Repeated

Augmentation = Callable[[Sequence[int]], Any]
Key = tuple[int, int, bool]  # volume, seed, forced to show foreground


@dataclass(frozen=True)
class Volume:
    """One scan as the network sees it.

    Attributes:
        image: (1, D, H, W) float32, normalised.
        label: (D, H, W) whole numbers.
        voxels: places (n, 3) of each foreground class, all or a sample of them.
    """

    image: Tensor
    label: Tensor
    voxels: Mapping[int, Tensor]


def places(label: Tensor, classes: int, most: int | None = None) -> dict[int, Tensor]:
    """Voxels (n, 3) of each foreground class that a label map (D, H, W) has, evenly thinned to `most`."""
    voxels = {number: (label == number).nonzero() for number in range(1, classes)}
    if most is not None:
        voxels = {number: at[:: max(1, -(-len(at) // most))] for number, at in voxels.items()}
    return {number: at for number, at in voxels.items() if len(at)}


def cut(volume: Tensor, start: Sequence[int], size: Sequence[int]) -> Tensor:
    """The box (..., *size) that begins at `start`, zero where it reaches outside."""
    outside = [(max(-a, 0), max(a + s - n, 0)) for a, s, n in zip(start, size, volume.shape[-3:], strict=True)]
    inside: tuple[Any, ...] = (..., *(slice(max(a, 0), max(a + s, 0)) for a, s in zip(start, size, strict=True)))
    return torch.nn.functional.pad(volume[inside], [n for pair in reversed(outside) for n in pair])


def nnunet_augmentation(patch: Sequence[int]) -> Any:
    """nnU-Net's training augmentation for isotropic patches, of "image" and "label" (1, *box) with a box that holds
    the patch: rotation by up to 30 degrees about each axis, zoom, the patch cut out, noise, blur, brightness, contrast,
    low resolution, gamma on the inverted and on the plain image, mirroring of all axes.

    What nnU-Net calls the noise's variance, up to 0.1, is the standard deviation it draws with. It blurs or coarsens
    each channel of a chosen patch with probability 0.5, which halves both probabilities of a scan with one channel.
    """
    from monai import transforms as t

    both, image = ["image", "label"], ["image"]
    sigma = (0.5, 1.0)
    gamma: dict[str, Any] = {"gamma": (0.7, 1.5), "retain_stats": True}
    operations = [
        t.RandAffined(both, prob=0.2, rotate_range=[0.5236] * 3, mode=["bilinear", "nearest"], padding_mode="zeros"),
        t.RandZoomd(
            both, prob=0.2, min_zoom=0.7, max_zoom=1.4, mode=["trilinear", "nearest-exact"], padding_mode="constant"
        ),
        t.CenterSpatialCropd(both, list(patch)),
        t.RandGaussianNoised(image, prob=0.1, std=0.1),
        t.RandGaussianSmoothd(image, prob=0.1, sigma_x=sigma, sigma_y=sigma, sigma_z=sigma),
        t.RandScaleIntensityd(image, prob=0.15, factors=0.25),
        t.RandScaleIntensityFixedMeand(image, prob=0.15, factors=0.25, preserve_range=True),
        t.RandSimulateLowResolutiond(image, prob=0.125, zoom_range=(0.5, 1.0)),
        t.RandAdjustContrastd(image, prob=0.1, invert_image=True, **gamma),
        t.RandAdjustContrastd(image, prob=0.3, **gamma),
        *(t.RandFlipd(both, prob=0.5, spatial_axis=axis) for axis in range(3)),
    ]
    return t.Compose(operations)


@dataclass(frozen=True)
class PatchSampling:
    """How training patches are drawn.

    Attributes:
        size: side lengths of a patch, voxels.
        iterations: batches in an epoch.
        foreground: fraction of each batch that must show foreground, its last patches (nnU-Net's rule: one of two).
        margin: the box handed to the augmentation is so many times larger than the patch.
        augment: makes of the patch's size a MONAI transform that draws its own random numbers, see nnunet_augmentation.
    Raises:
        DataError: not three side lengths, or no fraction.
    """

    size: Sequence[int]
    iterations: int = 250
    foreground: float = 0.33
    margin: float = 1.0
    augment: Augmentation | None = None

    def __post_init__(self) -> None:
        if len(self.size) != 3 or min(self.size) < 1:
            raise DataError(f"size={list(self.size)}: expected three side lengths of a patch")
        if not 0 <= self.foreground <= 1:
            raise DataError(f"foreground={self.foreground}: expected a fraction between 0 and 1")


class Patches(Dataset):
    """Random patches: the key fixes the volume, the place and the augmentation.

    A patch forced to show foreground is centred, as far as the scan allows, on a random voxel of a random class that
    the volume has. Gives (1, *patch) float32 and (*patch) int64.

    Args:
        volumes: indexed by the key's first entry.
        sampling: size, margin and augmentation of the patches.
    """

    def __init__(self, volumes: Sequence[Volume], sampling: PatchSampling) -> None:
        self.volumes = volumes
        self.patch = list(sampling.size)
        self.more = [round(side * (sampling.margin - 1) / 2) for side in self.patch]  # on either side
        self.augment = None if sampling.augment is None else sampling.augment(self.patch)

    def start(self, volume: Volume, forced: bool, source: torch.Generator) -> list[int]:
        """Where the patch begins; a scan smaller than the patch lies in its middle."""
        room = [n - p for n, p in zip(volume.label.shape, self.patch, strict=True)]
        if forced and volume.voxels:
            at = list(volume.voxels.values())[int(torch.randint(len(volume.voxels), (), generator=source))]
            voxel = at[int(torch.randint(len(at), (), generator=source))].tolist()
            wanted = [v - p // 2 for v, p in zip(voxel, self.patch, strict=True)]
        else:
            wanted = [int(torch.randint(max(r, 0) + 1, (), generator=source)) for r in room]
        return [min(max(w, 0), r) if r >= 0 else -(-r // 2) for w, r in zip(wanted, room, strict=True)]

    def __getitem__(self, key: Key) -> tuple[Tensor, Tensor]:
        index, seed, forced = key
        volume = self.volumes[index]
        start = self.start(volume, forced, torch.Generator().manual_seed(seed))
        size = list(self.patch)
        if self.augment is not None:
            start = [a - m for a, m in zip(start, self.more, strict=True)]
            size = [p + 2 * m for p, m in zip(self.patch, self.more, strict=True)]
        item = {"image": cut(volume.image, start, size), "label": cut(volume.label, start, size)[None].float()}
        if self.augment is not None:
            self.augment.set_random_state(seed=seed % 2**32)
            item = {name: value.as_tensor() for name, value in self.augment(item).items()}
        return item["image"].float().contiguous(), item["label"][0].long().contiguous()


def patch_keys(share: Share, foreground: float) -> list[Key]:
    """The keys of a share of a batch; of each global batch the last `foreground` patches are forced."""
    first = round(share.total * (1 - foreground))
    places = range(share.start, share.start + len(share.indices))
    pairs = zip(share.indices.tolist(), places, strict=True)
    return [(index, stream("patch", share.seed, place), place >= first) for index, place in pairs]


class VolumeData(DataModule):
    """Scans with a train and a test split, some also to choose by; an epoch is so many batches of patches, every scan
    drawn equally often.

    Args:
        batch_size: patches in the global batch, over all devices. Whole scans are tested and validated one at a time.
        patches: how patches are drawn.
        num_workers: processes that cut and augment; does not change what is served.
        seed, generated: see DataModule.
    """

    def __init__(
        self,
        batch_size: int,
        patches: PatchSampling,
        num_workers: int = 0,
        seed: int = 0,
        generated: bool = False,
    ) -> None:
        super().__init__(batch_size, seed, generated)
        self.patches = patches
        self.patch = list(patches.size)
        self.num_workers = num_workers
        self.train: Sequence[Volume] = ()
        self._spec: Spec | None = None

    def declared(self) -> Spec:
        """The spec before anything is read."""
        raise NotImplementedError

    def read(self) -> Spec:
        """Fill `train` and whatever `pair` needs; the spec of what was read."""
        raise NotImplementedError

    def pair(self, index: int) -> tuple[Tensor, Tensor]:
        """A test scan: image (1, D, H, W) as the network sees it, label (D', H', W') as it was annotated."""
        raise NotImplementedError

    def chosen_by(self, index: int) -> tuple[Tensor, Tensor]:
        """The same for a scan to choose by, where the spec's `val` counts some."""
        raise NotImplementedError

    def tested(self, count: int) -> list[tuple[Tensor, Tensor]]:
        """The `count` of the first dozen test scans that have the most classes."""
        shown = [self.pair(index) for index in range(min(12, self.spec.sizes["test"]))]
        return sorted(shown, key=lambda pair: -len(pair[1].unique()))[:count]

    @property
    def spec(self) -> Spec:
        return self._spec or self.declared()

    def setup(self, stage: str | None = None) -> None:
        if self._spec is not None:
            return
        if not self.generated:
            self._spec = self.read()
            return
        declared = self.declared()
        volume = self._random(len(declared.classes))
        self.train = [volume] * min(declared.sizes["train"], self.batch_size)
        self.pair = self.chosen_by = lambda index: (volume.image, volume.label)  # type: ignore[method-assign]
        val = min(1, declared.sizes["val"])
        self._spec = replace(declared, source="generated", sizes={**declared.sizes, "val": val, "test": 1})

    def _random(self, classes: int) -> Volume:
        source = generator("stand-in", self.seed)
        label = torch.randint(classes, self.patch, generator=source, dtype=torch.uint8)
        return Volume(torch.randn(1, *self.patch, generator=source), label, places(label, classes, 1000))

    def train_dataloader(self) -> WorkerLoader:
        """Batches (B, 1, *patch), (B, *patch)."""
        rank, world = self.rank_and_world
        size = self.patches.iterations * self.batch_size
        batches = Repeated(len(self.train), size, self.batch_size, shuffle=True, seed=self.seed, rank=rank, world=world)
        patches = Patches(self.train, self.patches)
        return WorkerLoader(patches, batches, self._keys, num_workers=self.num_workers)

    def _keys(self, share: Share) -> list[Key]:
        return patch_keys(share, self.patches.foreground)

    def val_dataloader(self) -> list[Loader]:
        """As the test, of scans to choose by; empty where there are none."""
        return [self._scans("val", self.chosen_by)] if self.spec.sizes["val"] else []

    def test_dataloader(self) -> Loader:
        """Scans one at a time, each on one process: image (1, 1, D, H, W), annotated label (1, D', H', W')."""
        return self._scans("test", self.pair)

    def _scans(self, split: str, pair: Callable[[int], tuple[Tensor, Tensor]]) -> Loader:
        rank, world = self.rank_and_world

        def fetch(share: Share) -> tuple[Tensor, Tensor]:
            image, label = pair(int(share.indices))
            return image[None], label[None]

        return Loader(Batches(self.spec.sizes[split], world, shuffle=False, rank=rank, world=world), fetch)
