"""`make bench`: what the frame costs, as ratios against plain PyTorch, and what a paper's networks cost beside
independent implementations of them; always measured side by side in one process."""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.table import Table

from experiments import cli, compose
from experiments.console import out
from experiments.errors import InputError, typed

HELP = """\
Measure the frame against plain PyTorch: the cost of a training step, and the in-memory data path. With a paper, measure
its networks against independent implementations (`bench` in its file): inference and, unless one of them is frozen, a
training step.

  python -m experiments.benchmark                        about two minutes on one core
  python -m experiments.benchmark rounds=5               more rounds, less noise
  python -m experiments.benchmark paper=K                the networks of one paper
  python -m experiments.benchmark paper=K only=tiny      those whose name contains a text

Each pair is measured alternately; the best round of each counts, and the spread of all rounds is shown.

"""
BATCH, STEPS = 128, 40  # long enough that the one checkpoint weighs what it weighs in a real stage
NETWORK = {"_target_": "torchvision.models.resnet18", "num_classes": 10}
OPTIMIZER = {"_target_": "torch.optim.SGD", "_partial_": True, "lr": 0.01, "momentum": 0.9}
AUGMENT: list[dict[str, Any]] = [
    {"_target_": "datamodules.common.augment.RandomCrop", "padding": 4},
    {"_target_": "datamodules.common.augment.HorizontalFlip"},
]


@dataclass(frozen=True)
class Pair:
    """An entry of a paper's `bench`: a network of ours beside an independent one, on the same random input.

    Attributes:
        name: what the table calls it.
        ours, theirs: configurations with `_target_`; what they build takes a batch of images.
        input: (C, H, W).
        batch: images per call.
    """

    name: str
    ours: dict[str, Any]
    theirs: dict[str, Any]
    input: tuple[int, ...]
    batch: int = 4


def main(argv: list[str]) -> int:
    given = {"rounds": "3", "paper": "", "only": ""}
    for argument in argv:
        key, _, value = argument.partition("=")
        if key not in given:
            raise InputError(f"{argument!r}: expected rounds=N, paper=K or only=TEXT")
        given[key] = value
    if not given["rounds"].isdigit() or int(given["rounds"]) < 1:
        raise InputError(f"rounds={given['rounds']}: expected a whole number from 1")
    rounds = int(given["rounds"])
    import torch

    torch.set_num_threads(1)
    return networks(given["paper"], given["only"], rounds) if given["paper"] else frame(rounds)


def networks(paper: str, only: str, rounds: int) -> int:
    """Time a paper's networks beside independent ones. Raises InputError if it names none."""
    items = compose.paper_file(paper).get("bench") or []
    pairs: list[Pair] = [typed(Pair, item, f"bench.{number}") for number, item in enumerate(items)]
    if not (chosen := [pair for pair in pairs if only in pair.name]):
        names = f"; it has {', '.join(pair.name for pair in pairs)}" if pairs else ""
        raise InputError(f"{paper} has no network to compare{f' called {only!r}' if only else ''}{names}")
    table = Table(title=f"{paper}: best of {rounds} rounds, one thread, fp32", title_justify="left")
    for column in ("network", "parameters", "what", "theirs", "ours", "ratio", "ratio round by round"):
        table.add_column(column, justify="left" if column in ("network", "what") else "right")
    for pair in chosen:
        for row in _pair_rows(pair, rounds):
            table.add_row(*row)
    out.print(table)
    return 0


def _pair_rows(pair: Pair, rounds: int) -> list[list[str]]:
    import torch

    from experiments.instantiate import build

    both = [build(pair.theirs, f"bench {pair.name}.theirs"), build(pair.ours, f"bench {pair.name}.ours")]
    counts = list(dict.fromkeys(f"{sum(p.numel() for p in network.parameters()):,}" for network in both))
    x = torch.randn(pair.batch, *pair.input)
    rows = []
    functions = [("inference", _inference_seconds), ("training step", _step_seconds)]
    if not all(any(p.requires_grad for p in network.parameters()) for network in both):
        del functions[1]  # a frozen network is not trained
    for what, timed in functions:
        theirs, ours = alternate(rounds, [partial(timed, network, x) for network in both])
        each = sorted(b / a for a, b in zip(theirs, ours, strict=True))
        shown = [_range(theirs, 1e3, "ms"), _range(ours, 1e3, "ms"), f"{min(ours) / min(theirs):.3f}"]
        rows.append([pair.name, " / ".join(counts), f"{what}, {pair.batch} images", *shown])
        rows[-1].append(f"{each[0]:.3f} to {each[-1]:.3f}")
    return rows


def _inference_seconds(network: Any, x: Any) -> float:
    """CPU seconds of one forward pass."""
    import torch

    network.eval()
    with torch.inference_mode():
        began = time.process_time()
        network(x)
    return time.process_time() - began


def _step_seconds(network: Any, x: Any) -> float:
    """CPU seconds of forward, backward and an SGD update."""
    import torch

    network.train()
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-6)
    began = time.process_time()
    optimizer.zero_grad()
    network(x).square().mean().backward()
    optimizer.step()
    return time.process_time() - began


def frame(rounds: int) -> int:
    """Time the frame beside plain PyTorch."""
    table = Table(title=f"best of {rounds} rounds, one thread", title_justify="left")
    for column in ("what", "plain PyTorch", "this suite", "ratio", "wanted"):
        table.add_column(column, justify="left" if column == "what" else "right")
    with tempfile.TemporaryDirectory() as folder:
        plain, ours = alternate(rounds, [plain_steps, lambda: stage_steps(Path(folder))])
    table.add_row(
        f"training step, ResNet-18 at 32x32, batch {BATCH}",
        _range(plain, 1e3, "ms"),
        _range(ours, 1e3, "ms"),
        f"{min(ours) / min(plain):.3f}",
        "at most 1.05",
    )
    per_sample, workers, in_memory = alternate(
        rounds, [lambda: per_sample_path(0), lambda: per_sample_path(2), in_memory_path]
    )
    best = per_sample if min(per_sample) < min(workers) else workers
    table.add_row(
        f"images per second, 3x32x32, crop and flip ({'no' if best is per_sample else '2'} workers)",
        f"{1 / min(best):,.0f}",
        f"{1 / min(in_memory):,.0f}",
        f"{min(best) / min(in_memory):.1f}",
        "at least 5",
    )
    out.print(table)
    return 0


def alternate(rounds: int, functions: Sequence[Callable[[], float]]) -> list[list[float]]:
    """Seconds per unit of each, one list of `rounds` values each, measured in turns after one warm-up."""
    for function in functions:
        function()
    seconds: list[list[float]] = [[] for _ in functions]
    for _ in range(rounds):
        for values, function in zip(seconds, functions, strict=True):
            values.append(function())
    return seconds


def _range(values: Sequence[float], scale: float, unit: str) -> str:
    return f"{min(values) * scale:.1f} {unit} (median {statistics.median(values) * scale:.1f})"


def _data(augment: bool) -> dict[str, Any]:
    data = {"_target_": "datamodules.common.torchvision_sets.CIFAR10", "generated": True, "batch_size": BATCH}
    return {**data, "train_size": 4 * BATCH, "augment": AUGMENT if augment else []}


def plain_steps() -> float:
    """Seconds per step of a hand-written loop: the same network, optimiser and loader."""
    import torch
    from torch.nn import functional as F

    from experiments.instantiate import build

    data = build(_data(augment=False))
    data.setup()
    torch.manual_seed(0)
    network = build(NETWORK).train()
    optimizer = build(OPTIMIZER)(network.parameters())
    loader = data.train_dataloader()
    began = time.perf_counter()
    for epoch in range(STEPS // 4):
        loader.sampler.set_epoch(epoch)
        for x, y in loader:
            optimizer.zero_grad()
            F.cross_entropy(network(x), y).backward()
            optimizer.step()
    return (time.perf_counter() - began) / STEPS


def stage_steps(folder: Path) -> float:
    """Seconds per step of the same as a stage, with its record, seeds, means, progress and checkpoint."""
    from experiments import training
    from experiments.plan import Plan, Stage

    training.quiet()
    trainer = {"accelerator": "cpu", "devices": 1, "strategy": "auto", "precision": "32-true", "max_epochs": STEPS // 4}
    stage = Stage(
        name="bench",
        module={
            "_target_": "modules.common.classifier.Classifier",
            "classes": 10,
            "network": NETWORK,
            "optimizer": OPTIMIZER,
        },
        data=_data(augment=False),
        trainer=trainer,
        test=False,
        directory=folder / str(time.monotonic_ns()),
    )
    config = {"checkpoint_seconds": 30, "logger": {"name": "csv"}, "seeds": [1]}
    result = training.train(Plan("bench", "bench", None, 0, {"bench": stage}, config), stage)
    return result["fit_seconds"] / STEPS


def in_memory_path() -> float:
    """Seconds per image of the suite's in-memory loader."""
    from experiments.instantiate import build

    data = build(_data(augment=True))
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

    from experiments.instantiate import build

    data = build(_data(augment=False))
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
    options: dict[str, Any] = {"num_workers": workers, "persistent_workers": workers > 0}
    loader = DataLoader(PerSample(), batch_size=BATCH, shuffle=True, **options)
    for _ in loader:  # starts the workers
        continue
    began = time.perf_counter()
    for _ in range(passes):
        for _ in loader:
            continue
    return (time.perf_counter() - began) / (passes * len(images))


if __name__ == "__main__":
    sys.exit(cli.main(main, HELP))
