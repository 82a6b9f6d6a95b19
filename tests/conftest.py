"""Shared by all tests: one thread each (they run side by side), the same draws whatever ran before, no network, runs
in a temporary folder."""

from __future__ import annotations

import gc
import hashlib
import os
import random
import resource
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["WANDB_MODE"] = "offline"

from experiments.common import files
from experiments.common.errors import unknown
from experiments.common.paths import ROOT
from experiments.config import compose, overlay
from experiments.running.plan import Plan, Stage, plan
from tests import preloaded, selection
from tests.kinds import kind_of

collect_ignore = ["overlay/mine"]  # the tests of an overlay, which run where it is open


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _layout() -> Iterator[Any]:
    """Pictures are drawn with their parts where they fall: to look for room takes as long as to draw, and runs no code
    of ours. A test that asks for `real_layout` gets the look for room too."""
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    real = ConstrainedLayoutEngine.execute
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ConstrainedLayoutEngine, "execute", lambda *_: None)
        yield real


@pytest.fixture
def real_layout(_layout: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("matplotlib.layout_engine.ConstrainedLayoutEngine.execute", _layout)


@pytest.fixture(scope="session", autouse=True)
def _ticks_when_shown() -> Iterator[None]:
    """Ticks are made once they are shown or asked for, not to be told how: most pictures are rows of images without
    any, and their ticks take a third of the time."""
    from matplotlib.axis import Axis

    def without_making(method: Callable[..., None]) -> Callable[..., None]:
        def tell(axis: Axis, *arguments: Any, **options: Any) -> None:
            missing = [ticks for ticks in ("majorTicks", "minorTicks") if ticks not in vars(axis)]
            vars(axis).update({ticks: [] for ticks in missing})
            method(axis, *arguments, **options)
            for ticks in missing:
                if not vars(axis).get(ticks, True):
                    del vars(axis)[ticks]

        return tell

    with pytest.MonkeyPatch.context() as patch:
        for name in ("set_clip_path", "set_tick_params"):
            patch.setattr(Axis, name, without_making(getattr(Axis, name)))
        yield


@pytest.fixture(scope="session", autouse=True)
def _no_power_cut() -> Iterator[None]:
    """Files are not forced onto the disk, which takes milliseconds a file: no test ends the machine, and what a killed
    process wrote the system keeps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def _composed_once(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What Hydra composed of options of groups in one of the processes that run tests, the others read."""
    if not hasattr(pytestconfig, "workerinput"):  # it runs all tests itself
        yield
        return
    here = compose._of_options
    shared = tmp_path_factory.getbasetemp().parent / "composed"

    @lru_cache(maxsize=here.cache_parameters()["maxsize"])
    def anywhere(*asked: Any) -> bytes:
        path = shared / hashlib.sha256(repr(asked).encode()).hexdigest()
        if not path.exists():
            composed = here(*asked)
            with files.replacing(path) as temporary:
                temporary.write_bytes(composed)
        return path.read_bytes()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compose, "_of_options", anywhere)
        yield


@pytest.fixture(scope="session", autouse=True)
def _plugins_once() -> Iterator[None]:
    """Each trainer would look through every installed package for callbacks that it brings."""
    from lightning_fabric.utilities import registry

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "entry_points", lru_cache(registry.entry_points))
        yield


@pytest.fixture(scope="session", autouse=True)
def _no_turns(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A stage that measures time is alone among those of this process: it waits neither for the tests beside it nor
    for a run that somebody has on the machine, and keeps neither waiting. No test asks how fast anything is."""
    from experiments.running import engine

    places = tmp_path_factory.mktemp("places")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "on_this_machine", partial(engine.on_this_machine, folder=places))
        yield


@pytest.fixture(scope="session", autouse=True)
def _unpacked_once() -> Iterator[None]:
    """The shipped garments are unpacked once: two thirds of all papers read them, anew for each of their stages."""
    from datamodules.common.torchvision_sets import FashionMNIST

    read = FashionMNIST.read
    unpacked: list[Any] = []

    def copy(self: FashionMNIST) -> Any:
        if self.subset != "embedded":
            return read(self)
        if not unpacked:
            unpacked.extend(read(self))
        return tuple((images.clone(), labels.clone()) for images, labels in unpacked)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FashionMNIST, "read", copy)
        yield


@pytest.fixture
def forked_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    """What begins a stage on several devices is a fork of a process that has imported everything, like a command."""
    from experiments.running import training

    def run(
        command: list[str], *, env: dict[str, str], stdout: IO[str], stderr: IO[str], check: bool
    ) -> subprocess.CompletedProcess[str]:
        assert command[:2] == [sys.executable, "-m"]
        assert stdout is stderr
        done = preloaded.server().run(command[2:], ROOT, env)
        stdout.write(done.stdout + done.stderr)
        return done

    monkeypatch.setattr(training, "subprocess", SimpleNamespace(run=run))


@pytest.fixture(autouse=True)
def _same_draws() -> None:
    import numpy as np

    from datamodules.common.base import seed_torch

    seed_torch(0)
    np.random.seed(0)
    random.seed(0)


@pytest.fixture(scope="session")
def _begun() -> Iterator[weakref.WeakSet[Any]]:
    """The iterators of loaders that have processes."""
    from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter as Served

    begun: weakref.WeakSet[Any] = weakref.WeakSet()
    begin = Served.__init__

    def noted(self: Any, *arguments: Any) -> None:
        begin(self, *arguments)
        begun.add(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Served, "__init__", noted)
        yield begun


@pytest.fixture(autouse=True)
def _workers_end(_begun: weakref.WeakSet[Any]) -> Iterator[None]:
    """What reads photos for a loader ends with the test.

    A loader is part of a reference cycle: garbage collection would close its queues before its processes are told to
    end, and then wait five seconds for each, in whatever test it falls.
    """
    yield
    for served in list(_begun):
        served._shutdown_workers()
    _begun.clear()


@pytest.fixture
def make_plan(tmp_path: Path) -> Callable[..., Plan]:
    """A plan from a command line, at smoke scale unless told otherwise, that writes below tmp_path."""

    def make(*lines: str, seed: int = 0) -> Plan:
        scale = [] if any(line.startswith("scale=") for line in lines) else ["scale=smoke"]
        request = compose.request([*scale, *lines, f"runs_dir={tmp_path}"])
        return plan(compose.compose(request.overrides), seed)

    return make


@pytest.fixture
def _checkpoints_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of the stages that need another reads its checkpoint, which takes as long as an epoch here."""
    from experiments.running import training

    read = training.read_checkpoint

    @lru_cache(maxsize=16)
    def known(path: Path, *_: int) -> tuple[dict[str, Any], str]:
        return read(path)

    def read_once(path: Path) -> tuple[dict[str, Any], str]:
        status = path.stat()
        return known(path, status.st_ino, status.st_size, status.st_mtime_ns)

    monkeypatch.setattr(training, "read_checkpoint", read_once)


@lru_cache(maxsize=1)
def _garments(read: Callable[[Any], Any]) -> Any:
    from datamodules.common.torchvision_sets import FashionMNIST

    return read(FashionMNIST(1))


@pytest.fixture
def _garments_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each stage unpacks the images that come with the install, which takes 50 ms: here once a process."""
    from datamodules.common.torchvision_sets import FashionMNIST

    read = FashionMNIST.read
    monkeypatch.setattr(FashionMNIST, "read", lambda self: _garments(read) if self.subset == "embedded" else read(self))


@pytest.fixture
def _one_of_a_kind_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes as long as training: of stages that are of one kind, the first makes its pictures; of those that
    one method makes under one name for stages of several kinds, the first is drawn, small."""
    from matplotlib.figure import Figure

    from experiments.running import training

    kinds: set[tuple[Any, ...]] = set()
    drawn: set[tuple[Any, str]] = set()
    draw = training._draw

    def draw_once(module: Any, data: Any, stage: Stage) -> None:
        if kind_of(stage) in kinds:
            return
        kinds.add(kind_of(stage))
        save = Figure.savefig

        def save_once(figure: Figure, path: Path, **options: Any) -> None:
            picture = (type(module).pictures, path.name.split(".png")[0])
            if picture not in drawn:
                drawn.add(picture)
                save(figure, path, **{**options, "dpi": 30})

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Figure, "savefig", save_once)
            draw(module, data, stage)

    monkeypatch.setattr(training, "_draw", draw_once)


@pytest.fixture
def _few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """To draw all weights of a network of published size takes as long as a step: of a large tensor a part is drawn,
    over and over. It is of a prime length, so that no two rows are equal."""
    import torch

    drawn_at_once = 65_521
    for name in ("uniform_", "normal_"):
        draw = getattr(torch.Tensor, name)

        def repeated(tensor: Any, *numbers: float, draw: Any = draw, **options: Any) -> Any:
            if tensor.numel() <= drawn_at_once or not tensor.is_contiguous() or tensor.is_meta:
                return draw(tensor, *numbers, **options)
            flat = tensor.detach().view(-1)
            part = draw(flat[:drawn_at_once], *numbers, **options)
            for start in range(drawn_at_once, len(flat), drawn_at_once):
                rest = flat[start : start + drawn_at_once]
                rest.copy_(part[: len(rest)])
            return tensor

        monkeypatch.setattr(torch.Tensor, name, repeated)


@pytest.fixture(scope="session")
def every_target() -> dict[str, tuple[str, ...]]:
    """paper -> every target that its files and the data they choose name, read without composing them."""
    return {paper: selection.targets_of(paper) for paper in compose.papers()}


@pytest.fixture
def logged() -> Callable[..., dict[str, float]]:
    """What a module logs of a test of these batches, without a trainer."""

    def run(module: Any, *batches: Any) -> dict[str, float]:
        logged: dict[str, float] = {}
        module.log = lambda name, value, **_: logged.update({name: float(value)})
        module.log_dict = lambda values, **_: logged.update({name: float(value) for name, value in values.items()})
        for number, batch in enumerate(batches):
            module.test_step(batch, number)
        module.on_test_epoch_end()
        return logged

    return run


@pytest.fixture
def birds(tmp_path: Path) -> Path:
    """CUB-200-2011 with six photos of three kinds; the bird is a light square in the box."""
    import numpy as np
    from PIL import Image

    tables: dict[str, list[str]] = {
        name: [] for name in ("images", "image_class_labels", "train_test_split", "bounding_boxes")
    }
    for n in range(1, 7):
        folder = tmp_path / "images" / f"{n % 3:03d}.kind"
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.full((60, 80, 3), 20, np.uint8)
        pixels[10:40, 20:65] = (200, 100 + 10 * n, 50)
        pixels[20:30, 30:40] = 0
        Image.fromarray(pixels).save(folder / f"{n}.png")
        tables["images"].append(f"{n} {n % 3:03d}.kind/{n}.png")
        tables["image_class_labels"].append(f"{n} {n % 3 + 1}")
        tables["train_test_split"].append(f"{n} {int(n <= 4)}")
        tables["bounding_boxes"].append(f"{n} 20.0 10.0 45.0 30.0")
    for name, table in tables.items():
        (tmp_path / f"{name}.txt").write_text("\n".join(table) + "\n")
    return tmp_path


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--paper", help="only the tests of what this paper's files reach: make test PAPER=K")
    parser.addoption("--extra", help="the tests of an overlay and of its papers, with it open: make test EXTRA=../mine")


def pytest_configure(config: pytest.Config) -> None:
    """An overlay is open for the whole session, before papers are listed. What runs commands begins here and now."""
    if hasattr(config, "workerinput"):
        preloaded.fork_server()
    if folder := config.getoption("--extra"):
        opened = overlay.opened(folder)
        opened.__enter__()
        config.add_cleanup(lambda: opened.__exit__(None, None, None))


def pytest_collection() -> None:
    """Until everything is imported, nothing is garbage."""
    gc.disable()


def pytest_collection_finish() -> None:
    """What is imported by now stays: a process that a test forks would copy all that its garbage collection visits.

    To look through all objects takes a third of a second; to do it as often as by default, a tenth of all time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(300_000, 10, 100)
    gc.enable()


MOST_GARBAGE = 400 * 2**20  # bytes by which a process may grow before all objects are looked through
_sizes = [0]  # of this process, each time that they were


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown() -> None:
    """Collect what lives on in cycles, such as a stage's trainer with all that it holds, once that may be much."""
    if _size() > _sizes[-1] + MOST_GARBAGE:
        gc.collect()
        _sizes.append(_size())


def _size() -> int:
    """Bytes of memory that this process takes; where the system does not say, that it ever took."""
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The tests of one paper, if asked; long tests first, so that two processes end at about the same time."""
    paper, extra = config.getoption("--paper"), config.getoption("--extra")
    if paper or extra:
        if paper and paper not in compose.papers():
            raise pytest.UsageError(str(unknown("paper", paper, compose.papers())))
        selected = selection.select_of_overlay(items, paper) if extra else selection.select(items, paper)
        config.hook.pytest_deselected(items=[item for item in items if item not in set(selected)])
        items[:] = selected
    items.sort(key=lambda item: (item.get_closest_marker("slow") is None, _place(item)))


# Parts of tests' names, longest tests first: which are left for the end decides how long one process waits for another.
LONG = ("dry_run[vit_vqgan]", "dry_run[simclr_v2]")  # minutes
LONG += ("::test_full_recipe_", "::test_smoke_runs_", "::test_every_stage_runs_", "::test_every_setting_")
LONG += ("tests/reliability/", "tests/overlay/", "tests/experiments/")


def _place(item: pytest.Item) -> int:
    return next((place for place, part in enumerate(LONG) if part in item.nodeid), len(LONG))
