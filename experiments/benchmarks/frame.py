"""The frame beside what a user would write or take instead: a training step, images in memory, photos from files."""

from __future__ import annotations

import tempfile
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.table import Table

from experiments.benchmarks.alternate import alternate, spread
from experiments.common.errors import InputError
from experiments.common.plain import Arguments, Config
from experiments.pages.console import out

BATCH = 128
SIDE, PHOTOS, PHOTO_BATCH = 224, 256, 64
OPTIMIZER = {"_target_": "torch.optim.SGD", "_partial_": True, "lr": 0.01, "momentum": 0.9}
AUGMENT: list[Config] = [
    {"_target_": "datamodules.common.augment.RandomCrop", "padding": 4},
    {"_target_": "datamodules.common.augment.HorizontalFlip"},
]


@dataclass(frozen=True)
class Step:
    """A training step of one network, hand-written and as a stage.

    Attributes:
        name: what the table calls it.
        network: its configuration.
        data: that of a dataset whose epochs have `epoch` steps.
        epochs: how many are timed; long enough that the one checkpoint weighs what it weighs in a real stage.
        wanted: the largest ratio we accept.
    """

    name: str
    network: Config
    data: Config
    epoch: int
    epochs: int
    wanted: float


def _random(augment: bool = False) -> Config:
    """Random images 3x32x32, four batches of them."""
    data = {"_target_": "datamodules.common.torchvision_sets.CIFAR10", "generated": True, "batch_size": BATCH}
    return {**data, "augment": AUGMENT if augment else []}


TINY = {"_target_": "modules.common.networks.ConvNet", "in_channels": 1, "input_size": 28, "classes": 10}
VIT = {"_target_": "timm.create_model", "model_name": "vit_tiny_patch16_224", "img_size": 32, "patch_size": 8}
ITEMS = {"_target_": "datamodules.common.torchvision_sets.FashionMNIST", "batch_size": BATCH, "train_size": 20 * BATCH}
STEPS = (
    Step("tiny ConvNet, 1x28x28", {**TINY, "widths": [8, 16], "strides": [2, 2]}, ITEMS, 20, 20, 1.5),
    Step("ResNet-18, 3x32x32", {"_target_": "torchvision.models.resnet18", "num_classes": 10}, _random(), 4, 10, 1.03),
    Step("ViT, 3x32x32", {**VIT, "depth": 2, "num_classes": 10}, _random(), 4, 10, 1.03),
)


def frame(rounds: int, only: str) -> int:
    """Print a table of the rows whose name contains `only`. Raises InputError if none does."""
    table = Table(title=f"best of {rounds} rounds, one thread", title_justify="left")
    for column in ("what", "instead", "this suite", "ratio", "wanted"):
        table.add_column(column, justify="left" if column == "what" else "right")
    rows: dict[str, Callable[[], list[list[str]]]] = {
        f"training step, {step.name}, batch {BATCH}": partial(_step_rows, step, rounds) for step in STEPS
    }
    rows["images in memory, 3x32x32, crop and flip"] = lambda: _memory_rows(rounds)
    rows["photos, 224 px crops and flips"] = lambda: _photo_rows(rounds)
    chosen = {name: make for name, make in rows.items() if only in name}
    if not chosen:
        raise InputError(f"only={only}: expected a part of one of {'; '.join(rows)}")
    for name, make in chosen.items():
        for note, *cells in make():
            table.add_row(f"{name}{note}", *cells)
    out.print(table)
    return 0


def _step_rows(step: Step, rounds: int) -> list[list[str]]:
    with tempfile.TemporaryDirectory() as folder:
        plain, ours = alternate(rounds, [lambda: plain_steps(step), lambda: stage_steps(step, Path(folder))])
    ratio = f"{min(ours) / min(plain):.3f}"
    return [["", spread(plain, 1e3, "ms"), spread(ours, 1e3, "ms"), ratio, f"at most {step.wanted}"]]


def _memory_rows(rounds: int) -> list[list[str]]:
    per_sample, workers, ours = alternate(
        rounds, [lambda: per_sample_path(0), lambda: per_sample_path(2), in_memory_path]
    )
    best = per_sample if min(per_sample) < min(workers) else workers
    note = f" (instead: {'no' if best is per_sample else '2'} workers)"
    return [_rates(note, best, ours, "at least 5")]


def _photo_rows(rounds: int) -> list[list[str]]:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_photos(root)
        loaders = [timm_photos(root), *(our_photos(root, decoder) for decoder in ("pillow", "torchvision"))]
        timm, pillow, torchvision = alternate(rounds, [partial(cpu_seconds_per_image, loader) for loader in loaders])
    instead = " (instead: timm's loader, CPU time, no workers)"
    return [
        _rates(instead, timm, pillow, "at least 1"),
        _rates(f"{instead}, decoder=torchvision", timm, torchvision, "at least 1"),
    ]


def _rates(note: str, instead: list[float], ours: list[float], wanted: str) -> list[str]:
    ratio = min(instead) / min(ours)
    return [note, f"{1 / min(instead):,.0f} a second", f"{1 / min(ours):,.0f} a second", f"{ratio:.2f}", wanted]


def plain_steps(step: Step) -> float:
    """Seconds per step of a hand-written loop: the same network, optimiser and loader."""
    import torch
    from torch.nn import functional as F

    from experiments.config.instantiate import build

    data = build(step.data)
    data.setup()
    torch.manual_seed(0)
    network = build(step.network).train()
    optimizer = build(OPTIMIZER)(network.parameters())
    loader = data.train_dataloader()
    began = time.perf_counter()
    for epoch in range(step.epochs):
        loader.sampler.set_epoch(epoch)
        for x, y in loader:
            optimizer.zero_grad()
            F.cross_entropy(network(x), y).backward()
            optimizer.step()
    return (time.perf_counter() - began) / (step.epochs * step.epoch)


def stage_steps(step: Step, folder: Path) -> float:
    """Seconds per step of the same as a stage, with its record, seeds, means, progress and checkpoint."""
    from experiments.running import training
    from experiments.running.plan import Plan, Stage

    training.quiet()
    trainer = {"accelerator": "cpu", "devices": 1, "strategy": "auto", "precision": "32-true"}
    classifier = {"_target_": "modules.common.classifier.Classifier", "classes": 10}
    stage = Stage(
        name="bench",
        module={**classifier, "network": step.network, "optimizer": OPTIMIZER},
        data=step.data,
        trainer={**trainer, "max_epochs": step.epochs},
        test=False,
        directory=folder / str(time.monotonic_ns()),
    )
    config = {"checkpoint_seconds": 30, "logger": {"name": "csv"}, "seeds": [1], "threads": 1}
    result = training.train(Plan("bench", "bench", None, 0, {"bench": stage}, config), stage)
    return result["fit_seconds"] / (step.epochs * step.epoch)


def in_memory_path() -> float:
    """Seconds per image of the suite's in-memory loader."""
    from experiments.config.instantiate import build

    data = build(_random(augment=True))
    data.setup()
    loader = data.train_dataloader()
    passes = 20
    began = time.perf_counter()
    for epoch in range(passes):
        loader.sampler.set_epoch(epoch)
        for _ in loader:
            continue
    return (time.perf_counter() - began) / (passes * 4 * BATCH)


def per_sample_path(workers: int) -> float:
    """Seconds per image of a Dataset and DataLoader with the same augmentation, an image at a time."""
    import torch
    from torch.utils.data import DataLoader, Dataset
    from torchvision.transforms import v2

    from experiments.config.instantiate import build

    data = build(_random())
    data.setup()
    images, labels = data.splits["train"]
    transform = v2.Compose(
        [
            v2.RandomCrop(32, padding=4),
            v2.RandomHorizontalFlip(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(data.spec.mean, data.spec.std),
        ]
    )

    class PerSample(Dataset):
        def __len__(self) -> int:
            return len(images)

        def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
            return transform(images[index]), labels[index]

    passes = 4
    options: Arguments = {"num_workers": workers, "persistent_workers": workers > 0}
    loader = DataLoader(PerSample(), batch_size=BATCH, shuffle=True, **options)
    for _ in loader:  # starts the workers
        continue
    began = time.perf_counter()
    for _ in range(passes):
        for _ in loader:
            continue
    return (time.perf_counter() - began) / (passes * len(images))


def write_photos(root: Path) -> None:
    """Photo-like files of usual size: 500x375 pixels, about 60 kB, in a class folder each of train and val."""
    import torch
    from torchvision.io import encode_jpeg

    source = torch.Generator().manual_seed(0)
    for split, count in (("train", PHOTOS), ("val", 1)):
        folder = root / split / "any"
        folder.mkdir(parents=True)
        for number in range(count):
            scales = [torch.rand(1, 3, 3 * n, 4 * n, generator=source) for n in (4, 16, 64)]
            layers = [torch.nn.functional.interpolate(scale, (375, 500), mode="bilinear") for scale in scales]
            pixels = sum(w * layer for w, layer in zip((0.6, 0.25, 0.15), layers, strict=True))
            jpeg = encode_jpeg((pixels[0] * 255).to(torch.uint8), quality=90)  # type: ignore[index]
            (folder / f"{number}.jpg").write_bytes(jpeg.numpy().tobytes())


def timm_photos(root: Path) -> Iterable[Any]:
    import torch
    from timm.data import ImageDataset, create_loader

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return create_loader(
            ImageDataset(str(root / "train")),
            (3, SIDE, SIDE),
            PHOTO_BATCH,
            is_training=True,
            scale=(0.08, 1),
            color_jitter=0,
            interpolation="bilinear",
            num_workers=0,
            persistent_workers=False,
            device=torch.device("cpu"),
            pin_memory=False,
        )


def our_photos(root: Path, decoder: str) -> Iterable[Any]:
    from datamodules.common.folders import ImageFolder

    data = ImageFolder(str(root), PHOTO_BATCH, image_size=SIDE, num_workers=0, decoder=decoder)
    data.setup()
    return data.train_dataloader()


def cpu_seconds_per_image(loader: Iterable[Any]) -> float:
    """CPU seconds of decoding, cropping, collating and normalising, per image, in this process alone."""
    began = time.process_time()
    images = sum(len(x) for x, _ in loader)
    return (time.process_time() - began) / images
