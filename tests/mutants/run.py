"""mutmut in a copy of the checkout: it forks each mutant from a process that has imported the tests, and runs those
tests alone that reach the mutated function."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from experiments.common.errors import RunError
from experiments.common.paths import ROOT
from tests.mutants.room import Room

KILLED, TIMEOUT, SURVIVED, UNREACHED, BROKEN = "killed", "timeout", "survived", "unreached", "broken"
# mutmut's exit codes (mutmut.stats): of pytest, of a mutant that no test reaches, of a limit that was met.
WORDS = {0: SURVIVED, 1: KILLED, 3: KILLED, 5: UNREACHED, 33: UNREACHED, 24: TIMEOUT, -24: TIMEOUT, 36: TIMEOUT}
WORDS |= {152: TIMEOUT, 255: TIMEOUT, -9: TIMEOUT, -6: KILLED, -11: KILLED}  # the last two: the tests crash
# Seconds that a mutant's tests may last besides their usual time, all times FACTOR: a busy machine is no endless loop.
MARGIN = 20.0
FACTOR = 10.0


def copy(folder: Path) -> None:
    """What git tracks and what it would track, so that no mutant ever lies in the checkout."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in listed.stdout.decode().split("\0"):
        source = ROOT / name
        if name and source.is_file() and not source.is_symlink():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)


def configure(folder: Path, room: Room) -> None:
    """Tell mutmut, in the copy's own pyproject.toml, what to mutate and what judges."""
    everything = sorted(path.name for path in folder.iterdir() if path.name != "mutants")
    settings = {
        "source_paths": list(room.files),
        "also_copy": everything,
        "pytest_add_cli_args_test_selection": list(room.tests),
        "pytest_add_cli_args": ["-m", "not slow", "-p", "no:cacheprovider", "-p", "no:xdist"],
        "process_isolation": "forkserver",  # torch's threads do not live through a fork of what has used them
        "timeout_constant": MARGIN,
        "timeout_multiplier": FACTOR,
        "use_git_change_detection": False,
    }
    lines = [f"{key} = {json.dumps(value)}" for key, value in settings.items()]  # JSON's values are TOML's, here
    with (folder / "pyproject.toml").open("a", encoding="utf-8") as project:
        project.write("\n[tool.mutmut]\n" + "\n".join(lines) + "\n")


def judge(folder: Path, room: Room, names: Sequence[str], jobs: int, told: Callable[[int], None]) -> dict[str, str]:
    """Test each of these mutants.

    Args:
        folder: a configured copy.
        names: mutmut's names of the mutants.
        jobs: mutants at the same time, each on one thread.
        told: called with the number of those that are done.

    Raises:
        RunError: the tests fail without any mutant, or mutmut itself does.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    environment.setdefault("REPRISE_DATA", str(ROOT / "data"))
    log = folder / "mutmut.log"
    command = [sys.executable, "-m", "mutmut", "run", "--max-children", str(jobs), *names]
    with log.open("wb") as output:
        # in a group of its own, so that Ctrl-C ends the forks with it
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            while process.poll() is None:
                time.sleep(1)
                told(len(_exit_codes(folder, room, names)))
        finally:
            _end(process)

    codes = _exit_codes(folder, room, names)
    if process.returncode or len(codes) < len(names):
        said = log.read_text(encoding="utf-8", errors="replace").replace("\r", "\n").splitlines()
        spoken = [line for line in said if line.strip() and not line.startswith(tuple("⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"))]
        raise RunError(f"{room.name}: {len(codes)} of {len(names)} mutants were tested:\n" + "\n".join(spoken[-40:]))
    return {name: WORDS.get(code, BROKEN) for name, code in codes.items()}


def _exit_codes(folder: Path, room: Room, names: Sequence[str]) -> dict[str, int]:
    """Those that are there; mutmut writes a file anew after each mutant, so one may be half-written just now."""
    codes: dict[str, int] = {}
    for file in room.files:
        path = folder / "mutants" / f"{file}.meta"
        try:
            codes |= json.loads(path.read_text(encoding="utf-8"))["exit_code_by_key"]
        except (FileNotFoundError, json.JSONDecodeError):
            continue
    return {name: codes[name] for name in names if codes.get(name) is not None}


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the group, also where its leader has ended: what a test started may still run."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    finally:
        process.wait()
