"""A short, fixed slice of what `make soak` does at random, and what must never be written anywhere."""

from __future__ import annotations

import itertools
import os
import random
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock

from experiments.commands import check_results, cli
from experiments.common.errors import InputError
from experiments.common.paths import ROOT
from experiments.config import compose, instantiate
from experiments.evidence import results
from experiments.pages.progress import Board
from experiments.running import callbacks, engine, training
from tests.command import command
from tests.reliability.soak import __main__ as soak
from tests.reliability.soak import bench as benches
from tests.reliability.soak import disturb, hostile, machine, records, workers
from tests.reliability.soak.bench import Bench

PAPER = compose.default("paper")
LINES = [f"paper={PAPER}", *benches.LINES]
FEW = ["stages.*.data.train_size=80", "stages.*.data.val_size=50", "stages.*.data.test_size=100"]  # it runs 60 times


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return benches.make([*LINES, *FEW, f"runs_dir={tmp_path_factory.mktemp('planned')}"])


@pytest.fixture(scope="module")
def victim(whole: Any) -> str:
    return disturb.small(whole)[0]


@pytest.fixture(scope="module")
def bench(whole: Any, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """The smallest part of a run in which one trained stage needs another."""
    victim, dependent = disturb.small(whole)
    return Bench(benches.portion(whole, dependent or victim), tmp_path_factory.mktemp("bench"))


@pytest.fixture(scope="module")
def single(whole: Any, victim: str, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """One trained stage."""
    return Bench(benches.portion(whole, victim), tmp_path_factory.mktemp("single"))


@pytest.fixture(scope="module")
def states(whole: Any, bench: Bench) -> dict[str, Any]:
    return dict(zip(("finished", "open"), disturb.states(bench, *disturb.small(whole)), strict=True))


def test_killed_at_random_moments(bench: Bench) -> None:
    trials = [t for t in disturb.kills(bench, 3, random.Random(0), float("inf")) if t.kind == "kill"]
    assert len(trials) == 3
    assert [t for t in trials if t.problem] == []


def test_killed_while_saving_leaves_nothing_behind(bench: Bench, states: dict[str, Any]) -> None:
    this = bench.fresh(states["open"])
    assert bench.again(this) == ""
    assert benches.litter(bench, this) == ""


CHECKPOINT = [("last.ckpt", how) for how in ("empty", "garbage", "pickle", "zipped")]
RECORD = [(file, how) for file in ("metrics.json", "manifest.json", "config.yaml") for how in ("garbage", "empty")]
BOTH = [*CHECKPOINT, *RECORD, ("metrics.csv", "empty")]


@pytest.mark.parametrize(
    ("state", "file", "how"),
    [
        *(("finished", *pair) for pair in BOTH),
        *(
            ("open", *pair)
            for pair in [*BOTH, ("metrics.csv", "garbage"), ("metrics.json", "list"), ("manifest.json", "list")]
        ),
        *((state, "last.ckpt", how) for state in ("finished", "open") for how in ("flip tensor", "cut", "popped")),
        *(("finished", file, "list") for file in ("metrics.json", "manifest.json")),
        ("finished", "metrics.json", "digit"),
        ("finished", "metrics.csv", "garbage"),
    ],
)
def test_damaged_files_are_noticed(
    bench: Bench, states: dict[str, Any], victim: str, state: str, file: str, how: str
) -> None:
    assert disturb.corruption(bench, states[state], victim, file, how).problem == ""


def test_a_stage_that_another_process_is_training_is_not_used_half_trained(states: dict[str, Any], victim: str) -> None:
    """Its checkpoint is there before it is done, as when another process makes a damaged stage again."""
    with pytest.raises(engine.Damaged):
        training.load(states["open"], victim)


def test_two_processes_on_one_run(bench: Bench) -> None:
    assert disturb.concurrent(bench).problem == ""


@pytest.mark.slow
def test_reproduce_a_sweep_and_reports_at_the_same_time(tmp_path: Path) -> None:
    """Over the same runs: each ends well, every page is whole, and nothing is left to do."""
    lines = [f"paper={PAPER}", "scale=smoke", "trainer=cpu", f"runs_dir={tmp_path / 'runs'}"]
    reproduces, sweeps = ["reproduce", *lines, "jobs=1"], ["run", "-m", *lines, "seed=1,0"]
    output = {"cwd": ROOT, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    children = [
        subprocess.Popen([sys.executable, "-m", f"experiments.{module}", *words], **output)
        for module, *words in (reproduces, sweeps)
    ]

    pages = 0
    while any(child.poll() is None for child in children):
        assert command("commands.report", PAPER, f"site={tmp_path / 'site'}").returncode == 0
        for page in (tmp_path / "site").glob("*.html"):
            assert page.read_text(encoding="utf-8").rstrip().endswith("</html>")
            pages += 1
        time.sleep(1)  # they take turns with those who write
    assert pages
    for child in children:
        said = child.communicate(timeout=60)[0]
        assert child.returncode == 0, said[-500:]
    assert "0 stages run" in command(*reproduces).stdout


@pytest.mark.slow
def test_the_processes_of_a_killed_stage_end_with_it(bench: Bench, victim: str, tmp_path: Path) -> None:
    if not Path("/proc/self/cmdline").exists():
        pytest.skip("needs /proc to find them")
    lines = [f"paper={PAPER}", "scale=smoke", "trainer=ddp_cpu", "checkpoint_seconds=0", f"runs_dir={tmp_path}"]
    this = benches.portion(benches.make([*lines, f"stages.{victim}.trainer.max_epochs=1000"]), victim)
    folder = this.stages[victim].directory

    def alive() -> list[int]:
        return disturb.processes_of(folder / "request.json")

    child = benches.fork(lambda: engine.exit_code(engine.run(this)), tmp_path / "log.txt", tmp_path / "temporary")
    deadline = time.monotonic() + 120
    while not (folder / "last.ckpt").exists() and child.exitcode is None and time.monotonic() < deadline:
        time.sleep(0.05)
    child.kill()
    child.join()
    try:
        with FileLock(folder.with_name(f".{folder.name}.lock"), timeout=60):
            patience = time.monotonic() + 3
            while alive() and time.monotonic() < patience:
                time.sleep(0.05)
            assert alive() == [], "the stage can be started again while it is still being trained"
    finally:
        for process in alive():
            os.kill(process, signal.SIGKILL)


@pytest.mark.slow
def test_a_stage_goes_on_when_one_of_its_processes_is_killed(victim: str, tmp_path: Path) -> None:
    if not Path("/proc/self/cmdline").exists():
        pytest.skip("needs /proc to find them")
    whole = benches.make([*LINES, "trainer=ddp_cpu", f"stages.{victim}.trainer.max_epochs=40"])
    pair = Bench(benches.portion(whole, victim), tmp_path)
    assert [t.problem for t in disturb.ranks(pair, victim, random.Random(0), 2)] == ["", ""]


def test_a_disk_that_is_full_from_any_file_on(single: Bench) -> None:
    trials = []
    for number in itertools.count():
        trial = disturb.full_at(single, number)
        if trial is None:
            break
        trials.append(trial)
    assert len(trials) >= 5
    assert [t for t in trials if t.problem] == []


def test_states_are_compared_whatever_they_hold() -> None:
    """A module may keep more than tensors in its state, as one with an extra state does."""
    state = {"weight": torch.tensor([1.0]), "extra": {"mean": torch.tensor(2.0), "images": 3}}
    assert benches.same(state, {"weight": torch.tensor([1.0]), "extra": {"mean": torch.tensor(2.0), "images": 3}})
    for other in ({"mean": torch.tensor(2.5), "images": 3}, {"mean": torch.tensor(2.0), "images": 4}, {}, None):
        assert not benches.same(state, {**state, "extra": other})


def test_a_file_system_without_room(bench: Bench) -> None:
    size = sum(f.stat().st_size for f in benches.root(bench.undisturbed).rglob("*") if f.is_file())
    trial = disturb.full_disk(bench, size // 4)
    if trial is None:
        pytest.skip("this user cannot mount one")
    assert trial.problem == ""


def test_a_folder_that_cannot_be_written(bench: Bench) -> None:
    assert disturb.read_only(bench).problem == ""


def test_a_clock_that_jumps(bench: Bench) -> None:
    assert disturb.clock_jump(bench, 0).problem == ""


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_in_training(bench: Bench, times: int) -> None:
    """Once: it saves and ends. Twice: it ends at once. The same command then gives the same results."""
    assert disturb.interrupt(bench, times).problem == ""


@pytest.mark.parametrize("what", ["locks", "folder", "clock", "library", "room", "memory"])
def test_what_is_pulled_away_under_a_run(bench: Bench, what: str) -> None:
    """One line or the same results, and afterwards the same results."""
    trial = {
        "locks": lambda: machine.no_locks(bench),
        "folder": lambda: machine.no_folder(bench, 1),
        "clock": lambda: machine.clock_back(bench),
        "library": lambda: machine.other_library(bench),
        "room": lambda: machine.no_room_for_a_file(bench, 3_000),
        "memory": lambda: machine.no_memory(bench, 1),
    }[what]()
    assert not trial.problem


def test_a_writer_that_is_killed_leaves_a_whole_record(tmp_path: Path) -> None:
    trials = list(machine.killed_writers("bagel", tmp_path / "results", random.Random(0), 3))
    assert [trial.problem for trial in trials] == [""] * 3


def test_an_altered_record_is_not_written_on(tmp_path: Path) -> None:
    assert [trial for trial in records.altered("bagel", tmp_path) if trial.problem] == []


def test_a_process_that_reads_data_is_killed(tmp_path: Path) -> None:
    assert workers.reading_worker(tmp_path).problem == ""


@pytest.mark.slow
@pytest.mark.parametrize("what", ["killed", "starved"])
def test_a_worker_of_a_pool_runs_out_of_memory(bench: Bench, what: str) -> None:
    assert workers.pool_worker(bench, what).problem == ""


def test_two_machines_on_one_folder_lose_nothing(bench: Bench) -> None:
    assert workers.two_machines(bench).problem == ""


def test_two_processes_are_served_what_one_is(tmp_path: Path) -> None:
    assert workers.shares(PAPER, tmp_path).problem == ""


def test_batches_that_are_not_shared_out_are_told() -> None:
    batch, half, other = torch.arange(4), torch.arange(2), torch.arange(2, 4)
    assert workers.unlike([(batch,)], [[(half,)], [(other,)]]) == ""
    assert workers.unlike([(batch,)], [[(half,)], [(half,)]]) == "column 0 of batch 0 is another one"
    assert workers.unlike([(batch,)], [[(half,)], []]) == "[1, 0] batches of 1"


@pytest.mark.parametrize("name", ["photo that is a pickle", "photo that is HTML", "photo of 3.6 billion pixels"])
def test_a_folder_that_holds_no_photos_is_refused(name: str, tmp_path: Path) -> None:
    folder = hostile.unpacked(tmp_path / "photos", hostile.photos(tmp_path)[name])
    assert hostile.refused(partial(hostile.serve, folder)) == ""
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    "name", ["a pickle", "of a header of 2^60 bytes", "of a header that is no JSON", "of four terabytes", "empty"]
)
def test_weights_that_are_none_are_refused(name: str, tmp_path: Path) -> None:
    content = hostile.weights(tmp_path)[name]
    assert hostile.refused(partial(hostile.load_weights, tmp_path / "a.safetensors", content)) == ""
    assert not (tmp_path / "owned").exists()


def test_ctrl_c_while_libraries_are_imported_ends_in_one_line() -> None:
    code = "import experiments.commands; raise KeyboardInterrupt"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stderr == "error: interrupted; nothing had begun\n"
    assert done.returncode in (130, -signal.SIGINT)


def test_ctrl_c_in_testing(bench: Bench) -> None:
    def press(*_: Any) -> None:
        signal.raise_signal(signal.SIGINT)

    this = bench.fresh()
    child = bench.start(this, before=lambda: setattr(callbacks.StepSeed, "on_test_start", press))
    assert bench.ended(child, this, 130) == ""
    assert "interrupted; finished stages are kept" in bench.text(this)
    assert bench.again(this) == ""


@pytest.mark.parametrize("target", hostile.TARGETS, ids=lambda t: str(t)[:50])
def test_targets_that_build_nothing_are_refused(target: Any) -> None:
    assert hostile.refused(partial(instantiate.locate, target, "stages.x.module")) == ""


def test_what_is_sound_is_not_refused(tmp_path: Path) -> None:
    hostile.serve(hostile.archive(tmp_path / "photos.zip", "train/a/0.png", hostile.photo()))
    for target in (
        "modules.common.module.StageModule",
        "torch.optim.SGD",
        "timm.create_model",
        "datamodules.common.augment.RandomCrop",
    ):
        assert callable(instantiate.locate(target, "x"))


ARCHIVES = list(hostile.archives(Path()))


@pytest.mark.parametrize("name", ARCHIVES)
def test_archives_that_hold_no_photos_are_refused(name: str, tmp_path: Path) -> None:
    member, content, changes = hostile.archives(tmp_path)[name]
    path = hostile.archive(tmp_path / "photos.zip", member, content, **changes)
    assert hostile.refused(partial(hostile.serve, path)) == ""
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("name", list(hostile.digits()))
def test_files_of_digits_that_are_damaged_are_refused(name: str, tmp_path: Path) -> None:
    assert hostile.refused(partial(hostile.read_digits, tmp_path, hostile.digits()[name])) == ""


@pytest.mark.parametrize("how", list(records.damages()))
def test_a_damaged_record_of_results_is_named_and_stays(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    content = records.damages()[how]((results.RESULTS / f"{PAPER}.json").read_bytes())
    path = tmp_path / f"{PAPER}.json"
    path.write_bytes(content)
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    assert cli.main(check_results.main, "", []) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert str(path) in line
    assert path.read_bytes() == content


@pytest.mark.parametrize("name", ["../../x", "a/b", ""])
def test_stage_names_that_are_paths_are_refused(name: str, victim: str, tmp_path: Path) -> None:
    assert hostile.refused(partial(hostile.stage_named, name, LINES, victim, tmp_path)) == ""


COMMANDS = list(hostile.commands("x", Path()))


@pytest.mark.parametrize("name", COMMANDS)
def test_wrong_command_lines_end_in_one_line(name: str, victim: str, tmp_path: Path) -> None:
    arguments = [*LINES, f"runs_dir={tmp_path / 'runs'}", hostile.commands(victim, tmp_path)[name]]
    assert hostile.in_a_fork(partial(hostile.typed, arguments), tmp_path, InputError.exit_code) == ""
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("where", [f"paper/{PAPER}.yaml", f"recipe/{PAPER}/smoke.yaml"])
@pytest.mark.parametrize("text", [f"evil: {hostile.TAG} [/]", "evil: [1"])
def test_configuration_that_is_no_plain_yaml_ends_in_one_line(where: str, text: str, tmp_path: Path) -> None:
    assert hostile.in_a_fork(partial(hostile.configured, where, text, LINES, tmp_path), tmp_path, 2) == ""


def test_hostile_names_are_text_on_a_page(bench: Bench, tmp_path: Path) -> None:
    assert hostile.in_a_fork(partial(hostile.page, bench.undisturbed, tmp_path), tmp_path, 0) == ""


def test_hostile_names_are_text_on_a_terminal(bench: Bench, tmp_path: Path) -> None:
    assert hostile.in_a_fork(partial(hostile.terminal, bench.undisturbed, tmp_path), tmp_path, 0) == ""


SECRETS = {
    "WANDB_API_KEY": "0f1e2d3c4b5a69788796a5b4c3d2e1f00f1e2d3c",
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY00",
    "MY_TOKEN": "ghp_0123456789abcdefghijklmnopqrstuvwxyz",
    "DB_PASSWORD": "correct-horse-battery-staple-0001",
}


@pytest.mark.parametrize("logger", ["csv", "tensorboard", "wandb"])
def test_no_secret_of_the_environment_is_written(
    logger: str, victim: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Neither by a stage that succeeds nor by one that fails, in no file and on no stream."""
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    runs = tmp_path / "runs"
    lines = [f"paper={PAPER}", "scale=smoke", "trainer=cpu", f"logger={logger}", f"runs_dir={runs}"]

    def fail(*_: Any) -> None:
        raise RuntimeError("failed for the test")

    for seed, status in ((0, "done"), (1, "failed")):
        if status == "failed":
            monkeypatch.setattr(training, "_test", fail)
        this = benches.portion(benches.make(lines, seed), victim)
        with Board(this.title, len(this.stages)) as board:
            assert engine.run(this, board)[victim].status == status
    shown = capfd.readouterr()
    written = [f for f in runs.rglob("*") if f.is_file()]
    assert any(f.name == "failure.txt" for f in written)
    for name, value in SECRETS.items():
        assert value not in shown.out + shown.err, name
        assert [f for f in written if value.encode() in f.read_bytes()] == [], name


@pytest.mark.parametrize("argument", ["kills=x", "kills=-1", "sed=1", "paper=nothing", "twice", "only=inputs"])
def test_soak_says_what_it_does_not_understand(argument: str) -> None:
    with pytest.raises(InputError):
        soak.main([argument])


def test_soak_help_needs_no_torch() -> None:
    code = "import sys; from experiments.commands import cli; from tests.reliability.soak import __main__ as soak; "
    code += "cli.main(soak.main, soak.HELP, ['--help']); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert b"kills=20" in done.stdout


def test_soak_counts_what_was_lost(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """One bad trial among good ones: named, counted, exit code 1, and how to see it again."""
    made = [benches.Trial("kill", "at 0.10 s"), benches.Trial("kill", "at [/x] s", "init/last.ckpt is missing")]
    monkeypatch.setattr(soak, "schedule", lambda *_, **__: iter(made))
    assert soak.main(["seed=7", f"paper={PAPER}"]) == 1
    shown = capsys.readouterr().out
    assert "at [/x] s: init/last.ckpt is missing" in shown
    assert "2 trials; lost 1, executed 0, tracebacks 0, other failures 0" in shown
    again = f"again: python -m tests.reliability.soak paper={PAPER} kills=20 seed=7 seconds=600 jobs=200 patience=180"
    assert again in shown
    monkeypatch.setattr(soak, "schedule", lambda *_, **__: iter(made[:1]))
    assert soak.main([]) == 0
