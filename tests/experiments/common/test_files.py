"""Files are whole or not there, and locks lie where nobody else can reach them."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest

from experiments.common import files
from experiments.common.errors import RunError
from experiments.common.paths import ROOT
from experiments.running import processes
from experiments.running.processes import on_this_machine


def test_replacing_leaves_the_old_file_when_writing_fails(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    files.write_json(path, {"a": [1, 2.5, -3e-05]})
    assert path.read_text() == '{\n "a": [1, 2.5, -3e-05]\n}\n'

    def fail() -> None:
        with files.replacing(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert files.read_json(path) == {"a": [1, 2.5, -3e-05]}
    assert [f.name for f in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_a_file_grants_what_the_users_umask_grants(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        files.write_text(tmp_path / "a", "x")
        files.write_text(tmp_path / "a", "y")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == mode


def test_a_file_system_without_modes_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EPERM, "no modes here")

    monkeypatch.setattr(os, "chmod", refuse)
    files.write_text(tmp_path / "a", "x")
    assert (tmp_path / "a").read_text() == "x"


def test_locks_lie_in_a_folder_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder = processes.private_folder()
    assert folder == processes.private_folder()
    assert folder.stat().st_mode & 0o777 == 0o700

    target = tmp_path / "precious"
    target.write_text("kept")
    (folder / "turn").symlink_to(target)
    with pytest.raises(OSError, match="symbolic"), on_this_machine(False, list):
        pass
    assert target.read_text() == "kept"

    (folder / "turn").unlink()
    folder.chmod(0o777)
    with pytest.raises(RunError, match="others cannot enter"):
        processes.private_folder()
    folder.rmdir()
    folder.symlink_to(tmp_path)
    with pytest.raises(RunError, match="others cannot enter"):
        processes.private_folder()


def test_who_measures_time_waits_for_others_and_lets_nobody_in_before(tmp_path: Path) -> None:
    order: list[str] = []
    waits = threading.Event()

    def wait(_: str) -> None:
        waits.set()

    def place(name: str, exclusive: bool) -> None:
        with on_this_machine(exclusive, wait, tmp_path):
            order.append(name)

    with on_this_machine(False, wait, tmp_path), on_this_machine(False, wait, tmp_path):  # two side by side
        measuring = threading.Thread(target=place, args=("alone", True))
        measuring.start()
        assert waits.wait(60)
        late = threading.Thread(target=place, args=("late", False))
        late.start()
        order.append("first")
    measuring.join()
    late.join()
    assert order == ["first", "alone", "late"]


@pytest.mark.skipif(not Path("/proc/locks").exists(), reason="the system does not say who holds a lock")
def test_workers_of_one_command_take_turns_without_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    sibling = subprocess.Popen(["sleep", "600"])
    try:
        monkeypatch.setattr(os, "getppid", os.getpid)  # as if this process were started by the one that started it
        assert not processes._is_of_this_command(sibling.pid)  # no worker
        monkeypatch.setattr(processes.multiprocessing, "parent_process", lambda: "the command")
        assert processes._is_of_this_command(sibling.pid)
        assert not processes._is_of_this_command(1)
        assert not processes._is_of_this_command(2**30)  # none
    finally:
        sibling.kill()
        sibling.wait()


@pytest.mark.skipif(not Path("/proc/locks").exists(), reason="the system does not say who holds a lock")
def test_who_waits_is_told_for_whom_and_that_it_is_stopped(tmp_path: Path) -> None:
    hold = f"""
import sys, time
from pathlib import Path
from experiments.running.processes import on_this_machine
with on_this_machine(False, print, Path({str(tmp_path)!r})):
    print("held", flush=True)
    time.sleep(600)
"""
    holder = subprocess.Popen([sys.executable, "-c", hold], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        holder.send_signal(signal.SIGSTOP)
        os.waitpid(holder.pid, os.WUNTRACED)
        told: list[str] = []

        def end_it(processes: str) -> None:
            told.append(processes)
            holder.kill()

        with on_this_machine(True, end_it, tmp_path):
            assert told == [f"process {holder.pid} (stopped)"]
    finally:
        holder.kill()
        holder.wait()
