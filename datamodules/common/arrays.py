"""Small data, held in memory as one tensor per split and augmented a batch at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from datamodules.common.augment import Augmentation
from datamodules.common.base import Batches, DataError, DataModule, Draws, Spec, hashed, mix

Split = tuple[Tensor, Tensor]  # images (N, C, H, W) uint8, labels (N,) int64


class ArrayLoader:
    """Batches of a tensor already in memory: index, scale, augment, normalise.

    On a GPU the whole split lives on the device. Yields (images (B, C, H, W) float32, labels (B,) int64).
    """

    def __init__(
        self,
        split: Split,
        batches: Batches,
        spec: Spec,
        peak: int,
        augment: Sequence[Augmentation],
        device: torch.device,
    ) -> None:
        self.images, self.labels = (tensor.to(device) for tensor in split)
        self.batches, self.augment, self.peak = batches, augment, float(peak)
        self.mean = torch.tensor(spec.mean, device=device).view(1, -1, 1, 1)
        self.std = torch.tensor(spec.std, device=device).view(1, -1, 1, 1)
        self.sampler, self.batch_sampler = batches, None  # where Lightning looks for set_epoch

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Split]:
        for share in self.batches:
            indices = share.indices.to(self.images.device)
            images = self.images.index_select(0, indices).float().div_(self.peak)  # many times faster than [indices]
            if self.augment:
                draws: Draws = share.generator()
                for operation in self.augment:
                    images = operation(images, draws)
            yield images.sub_(self.mean).div_(self.std), self.labels.index_select(0, indices)

    def state_dict(self) -> dict[str, int]:
        return self.batches.state_dict()

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.batches.load_state_dict(state)


class ArrayData(DataModule):
    """In-memory images with a train, val and test split.

    Args:
        batch_size: the global batch, over all devices.
        train_size, val_size, test_size: images per split; None takes all there is. Train and val are disjoint draws
            from the training images, fixed by the seed.
        label_noise: fraction of training labels replaced by random classes (a replaced label may stay right by chance).
        augment: operations applied to training batches, in order.
        seed, generated: see DataModule.
    Raises:
        DataError: fewer images than asked for, or data that is missing or damaged.
    """

    peak = 255  # the value that stands for white

    def __init__(
        self,
        batch_size: int,
        train_size: int | None = None,
        val_size: int = 0,
        test_size: int | None = None,
        label_noise: float = 0.0,
        augment: Sequence[Augmentation] = (),
        seed: int = 0,
        generated: bool = False,
    ) -> None:
        super().__init__(batch_size, seed, generated)
        if not 0 <= label_noise <= 1:
            raise DataError(f"label_noise={label_noise}: expected a fraction between 0 and 1")
        self.train_size, self.val_size, self.test_size = train_size, val_size, test_size
        self.label_noise, self.augment = label_noise, augment
        self.splits: dict[str, Split] = {}
        self.clean_labels = torch.empty(0, dtype=torch.long)  # of the training split, before label noise
        self._spec: Spec | None = None

    def declared(self) -> Spec:
        """The spec of the whole dataset, before sizes are chosen: `sizes` holds what there is."""
        raise NotImplementedError

    def read(self) -> tuple[Split, Split | None]:
        """(training images, test images); None for the second when the test split is drawn from the first."""
        raise NotImplementedError

    @property
    def spec(self) -> Spec:
        return self._spec or self._sized(self.declared())

    def _sized(self, declared: Spec) -> Spec:
        there = declared.sizes
        own_test = "test" in there
        test = self.test_size if self.test_size is not None else there.get("test", 0)
        left = there["train"] - self.val_size - (0 if own_test else test)
        train = self.train_size if self.train_size is not None else left
        if train > left or train < 1 or (own_test and test > there["test"]):
            has = " + ".join(str(n) for n in there.values())
            raise DataError(
                f"{declared.name} has {has} images; cannot take train={train}, val={self.val_size}, test={test}"
            )
        split = declared.split
        if self.label_noise:
            split += f"; {self.label_noise:.0%} of the training labels replaced by random classes"
        return replace(declared, split=split, sizes={"train": train, "val": self.val_size, "test": test})

    def setup(self, stage: str | None = None) -> None:
        if self.splits:
            return
        spec = self._sized(self.declared())
        if self.generated:
            self.splits = {name: self._random(spec, n) for name, n in spec.sizes.items()}
            self.clean_labels = self.splits["train"][1].clone()
            self._spec = replace(spec, source="generated")
            return
        (images, labels), test = self.read()
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(mix(self.seed, 1)))
        start = 0
        for name in ("train", "val") if test is not None else ("train", "val", "test"):
            part = order[start : start + spec.sizes[name]]  # cut from one shuffled order: no image is in two parts
            self.splits[name] = (images[part], labels[part])
            start += spec.sizes[name]
        if test is not None:
            chosen = torch.arange(len(test[0]))
            if spec.sizes["test"] < len(chosen):
                chosen = torch.randperm(len(chosen), generator=torch.Generator().manual_seed(mix(self.seed, 2)))
            chosen = chosen[: spec.sizes["test"]]
            self.splits["test"] = (test[0][chosen], test[1][chosen])
        self._spec = replace(spec, identity=hashed(*(t for split in self.splits.values() for t in split)))
        self.clean_labels = self.splits["train"][1].clone()
        if self.label_noise:
            source = torch.Generator().manual_seed(mix(self.seed, 3))
            noisy = torch.rand(len(self.clean_labels), generator=source) < self.label_noise
            random = torch.randint(len(spec.classes), (len(self.clean_labels),), generator=source)
            self.splits["train"] = (self.splits["train"][0], torch.where(noisy, random, self.clean_labels))

    def _random(self, spec: Spec, count: int) -> Split:
        count = min(count, 4 * self.batch_size)
        source = torch.Generator().manual_seed(mix(self.seed, 4))
        images = torch.randint(self.peak + 1, (count, *spec.shape), generator=source, dtype=torch.uint8)
        return images, torch.randint(len(spec.classes), (count,), generator=source)

    def relabelled(self, count: int) -> Split:
        changed = (self.splits["train"][1] != self.clean_labels).nonzero().flatten()[:count]
        images, labels = self.splits["train"]
        return images[changed], labels[changed]

    def normalised(self, images: Tensor) -> Tensor:
        """uint8 images (B, C, H, W) as the network sees them, without augmentation."""
        mean, std = (torch.tensor(value).view(1, -1, 1, 1) for value in (self.spec.mean, self.spec.std))
        return (images.float() / self.peak - mean) / std

    def _loader(self, name: str) -> ArrayLoader:
        train = name == "train"
        split = self.splits[name]
        device = self.trainer.strategy.root_device if self.trainer is not None else torch.device("cpu")
        batches = self.batches(len(split[0]), shuffle=train)
        return ArrayLoader(split, batches, self.spec, self.peak, self.augment if train else (), device)

    def train_dataloader(self) -> ArrayLoader:
        return self._loader("train")

    def val_dataloader(self) -> ArrayLoader | list[ArrayLoader]:
        return self._loader("val") if self.spec.sizes["val"] else []

    def test_dataloader(self) -> ArrayLoader:
        return self._loader("test")
