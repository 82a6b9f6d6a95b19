"""A process that has imported the libraries which every command imports, and forks one process for each command.

A command in a process of its own takes four seconds, nearly all of them for importing torch and Lightning. A fork
starts with them imported. Each of several processes that run tests forks this one before it imports what it tests. For
commands of this checkout a second process has imported its modules too; one of a copy imports its own, from the folder
that it is asked to run in.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import random
import runpy
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import IO, Any, NoReturn

from experiments.common.paths import ROOT

LIBRARIES = ("hydra", "matplotlib.figure", "pydantic", "pytorch_lightning", "scipy.stats", "sklearn.datasets", "torch")
# None of these is a command: Python warns where one is imported before it is run.
PROJECT = (
    "experiments.commands.cli",
    "experiments.evidence.results",
    "experiments.pages.progress",
    "experiments.running.engine",
    "experiments.running.training",
)


class Server:
    """Runs modules as commands, one after the other.

    Args:
        ask, answered: how this process is told what to run, and tells how that ended; a line each.
    """

    def __init__(self, ask: IO[str], answered: IO[str]) -> None:
        self._ask = ask
        self._answered = answered

    @classmethod
    def start(cls) -> Server:
        """In a process of its own."""
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.preloaded"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        return cls(process.stdin, process.stdout)

    @classmethod
    def fork(cls) -> Server:
        """As a fork of this process, which then need not import the libraries a second time."""
        for library in LIBRARIES:
            importlib.import_module(library)
        asked, ask = os.pipe()
        answered, answer = os.pipe()
        if os.fork() == 0:
            os.close(ask)  # or it would wait for itself
            os.close(answered)
            _forget_pytest(asked, answer)
            serve()
            os._exit(0)
        os.close(asked)
        os.close(answer)
        return cls(os.fdopen(ask, "w"), os.fdopen(answered))

    def run(
        self, arguments: Sequence[str], folder: Path, environment: dict[str, str]
    ) -> subprocess.CompletedProcess[str]:
        """`python -m arguments...` in a folder, with this environment and no other."""
        with tempfile.TemporaryDirectory() as place:
            out, err = Path(place) / "out", Path(place) / "err"
            ask = {"arguments": list(arguments), "folder": str(folder), "environment": environment}
            self._ask.write(json.dumps({**ask, "out": str(out), "err": str(err)}) + "\n")
            self._ask.flush()
            code = int(self._answered.readline())
            told = (out.read_text(encoding="utf-8"), err.read_text(encoding="utf-8"))
        return subprocess.CompletedProcess(list(arguments), code, *told)


_forked: list[Server] = []


def fork_server() -> None:
    """From now on `server` is a fork of this process as it is now: before it has imported what it tests."""
    _forked.append(Server.fork())


@cache
def server() -> Server:
    """Of this process; it ends when its input does, as with this process."""
    return _forked[0] if _forked else Server.start()


def _forget_pytest(asked: int, answer: int) -> None:
    """Be a process that Python has just started in the repository's folder, with these as its input and output."""
    os.dup2(asked, 0)
    os.dup2(answer, 1)
    os.close(asked)
    os.close(answer)
    sys.stdin = os.fdopen(0, closefd=False)
    sys.stdout = os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, errors="backslashreplace", closefd=False)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(ROOT)
    sys.path[:] = [str(ROOT), *(place for place in sys.path if place not in ("", str(ROOT)))]
    sys.meta_path[:] = [finder for finder in sys.meta_path if not type(finder).__module__.startswith("_pytest")]


class Project:
    """A fork that has imported this checkout's modules and composed once, and forks for each command in its turn."""

    def __init__(self) -> None:
        asked, self._ask = os.pipe()
        self._answered, answer = os.pipe()
        if os.fork() == 0:
            os.close(self._ask)  # or it would wait for itself
            self._serve(asked, answer)
            os._exit(0)
        os.close(asked)
        os.close(answer)

    @staticmethod
    def _serve(asked: int, answer: int) -> None:
        for name in PROJECT:
            importlib.import_module(name)
        from experiments.config import compose

        compose.compose(compose.request([]).overrides)  # reads what nearly every command reads
        gc.freeze()
        with os.fdopen(asked) as lines:
            for line in lines:
                os.write(answer, f"{fork(json.loads(line))}\n".encode())

    def run(self, line: str) -> int:
        """How the command of a line of the input ended."""
        os.write(self._ask, line.encode())
        return int(os.read(self._answered, 100))


def serve() -> None:
    """Fork for each line of the input, and answer with how the fork ended."""
    for library in LIBRARIES:
        importlib.import_module(library)
    gc.freeze()  # a fork that looks through what it has not made copies it
    project: Project | None = None
    for line in sys.stdin:
        ask = json.loads(line)
        if Path(ask["folder"]) == ROOT:
            project = project or Project()
            code = project.run(line)
        else:
            code = fork(ask)
        print(code, flush=True)


def fork(ask: dict[str, Any]) -> int:
    """Run a command in a fork of this process; its exit code."""
    child = os.fork()
    if child == 0:
        become(ask)
        end_with(runs(*ask["arguments"]))
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def become(ask: dict[str, Any]) -> None:
    """Be the process of a command: its input, output, folder, environment, and draws that no other process makes."""
    import numpy as np

    with open(os.devnull) as nothing, open(ask["out"], "w") as out, open(ask["err"], "w") as err:
        for number, file in enumerate((nothing, out, err)):
            os.dup2(file.fileno(), number)
    os.chdir(ask["folder"])
    os.environ.clear()
    os.environ.update(ask["environment"])
    random.seed()
    np.random.seed()
    if Path(ask["folder"]) != ROOT:
        for name in [name for name in sys.modules if name.split(".")[0] in ("experiments", "tests")]:
            del sys.modules[name]
    sys.path[0] = ask["folder"]


def runs(module: str, *arguments: str) -> int:
    """The exit code of `python -m module arguments...`."""
    sys.argv[1:] = arguments
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except Exception:  # noqa: BLE001 - any that a command lets through ends it as it would end Python
        traceback.print_exc()
        return 1
    return 0


def end_with(code: int) -> NoReturn:
    """End this process as Python does, but for taking the libraries apart, which takes a second."""
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    serve()
