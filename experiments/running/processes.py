"""Processes that must not outlive the one that started them, and measurements that nothing may run beside."""

from __future__ import annotations

import contextlib
import fcntl
import multiprocessing
import os
import signal
import stat
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import IO

from experiments.common.errors import RunError

TRIES = 2  # of a stage one of whose processes is killed: once more, from what was saved
_watching: set[int] = set()
_ended: set[int] = set()  # processes that were told to end


def cpu_seconds() -> float:
    """CPU time of this process so far, and of all its children that have ended: data loaders and ranks among them."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


def end_with_parent(parent: int | None = None) -> None:
    """End this process when its parent is gone, instead of training on for nobody. Once per process, forks included.

    Args:
        parent: the process that began it all, to end with too; it may be gone before this one has asked for its own.
    """
    if os.getpid() in _watching:
        return
    _watching.add(os.getpid())
    near = os.getppid()

    def watch() -> None:
        while os.getppid() == near and (parent is None or _exists(parent)):
            time.sleep(0.5)
        os._exit(1)  # what is on the disk is whole at any moment, and the same command continues it

    threading.Thread(target=watch, daemon=True).start()


def _exists(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # another user's
    return True


def end_as_interrupted() -> None:
    """SIGTERM does what Ctrl-C does: save, then stop. A second one does nothing more; a second Ctrl-C stops at once."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        handler = signal.getsignal(signal.SIGINT)
        if told_to_end():
            return
        _ended.add(os.getpid())
        if not callable(handler):  # a shell's background jobs ignore Ctrl-C, and must end all the same
            handler = signal.default_int_handler
        handler(signal.SIGINT, frame)

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, interrupt)


def requeue_when_asked() -> None:
    """In a Slurm job, SIGUSR1 (its time or its place is running out) puts the job back into the queue.

    Slurm then ends the job with SIGTERM, which saves, and starts it again: it goes on from what was saved. Lightning's
    own way would leave a second kind of checkpoint; it steps back where the signal has a handler.
    """
    job = os.environ.get("SLURM_JOB_ID")
    if not job or threading.current_thread() is not threading.main_thread():
        return
    if signal.getsignal(signal.SIGUSR1) not in (None, signal.SIG_DFL):
        return  # whoever launched the job has his own way

    def requeue(number: int, frame: FrameType | None) -> None:
        subprocess.run(["scontrol", "requeue", job], check=False, timeout=60)

    signal.signal(signal.SIGUSR1, requeue)


def leave_requeueing_to_the_parent() -> None:
    """Slurm signals every process of a job, and would end those that do not listen."""
    if os.environ.get("SLURM_JOB_ID") and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)


def how_it_ended(code: int) -> str:
    """What the exit code of a process means, below 0 a signal that ended it."""
    if code == -signal.SIGKILL:
        return "its process was killed, as a machine does that runs out of memory"
    return f"its process was ended by {signal.Signals(-code).name}" if code < 0 else f"its process ended with {code}"


def told_to_end() -> bool:
    """Whether this process got a SIGTERM."""
    return os.getpid() in _ended


@contextlib.contextmanager
def on_this_machine(exclusive: bool, waiting: Callable[[str], None], folder: Path | None = None) -> Iterator[None]:
    """Hold a place on the machine: many may hold one; who is `exclusive` waits for all others and holds the only one.

    Those who come later wait behind one that waits to be alone, so that it gets its turn. What a process held is free
    when it ends, however it ends.

    Args:
        exclusive: nothing that holds a place runs meanwhile.
        waiting: called once with the processes that are waited for, if there are any: "process 7 (stopped)". That
            a command's own workers take turns is no news to whoever started it.
        folder: where the locks lie; None is a private one among the machine's temporary files.
    Raises:
        RunError: the folder is another user's, open to others, or a link.
    """
    base = folder or private_folder()
    with _lock_file(base / "turn") as turn, _lock_file(base / "places") as places:
        kind = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
        try:
            fcntl.flock(turn, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.flock(places, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            holders = _holders(turn) | _holders(places)
            others = {process for process in holders if not _is_of_this_command(process) or _is_stopped(process)}
            if others or not holders:
                waiting(_named(others))
        fcntl.flock(turn, fcntl.LOCK_EX)
        fcntl.flock(places, kind)
        fcntl.flock(turn, fcntl.LOCK_UN)
        yield


def _holders(locked: IO[bytes]) -> set[int]:
    """Processes that hold a file's lock; none where the system does not tell (it is Linux that does)."""
    status = os.fstat(locked.fileno())
    file = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    try:
        lines = Path("/proc/locks").read_text(encoding="ascii").splitlines()
    except OSError:
        return set()
    # "1: FLOCK  ADVISORY  READ 4711 fe:00:4242 0 EOF"; who waits has "->" behind the number
    fields = [line.split() for line in lines]
    return {int(f[4]) for f in fields if len(f) > 5 and f[1] == "FLOCK" and f[5] == file} - {os.getpid()}


def _is_of_this_command(process: int) -> bool:
    """Whether this process is a worker and the other one is of the same pool."""
    if multiprocessing.parent_process() is None:
        return False
    return _parent(process) == os.getppid()


def _parent(process: int) -> int | None:
    """The process that started one; None where the system does not say."""
    try:
        status = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return int(status.rpartition(")")[2].split()[1])


def _named(processes: set[int]) -> str:
    """Their numbers, with a note beside those that are stopped and let nobody on."""
    words = [f"{process} (stopped)" if _is_stopped(process) else str(process) for process in sorted(processes)]
    if not words:
        return "other processes"
    return f"process{'es' if len(words) > 1 else ''} {', '.join(words)}"


def _is_stopped(process: int) -> bool:
    try:
        status = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] in ("T", "t")


def private_folder() -> Path:
    """A folder among the machine's temporary files that nobody else can put anything into.

    Raises RunError if something else has its name.
    """
    path = Path(tempfile.gettempdir()) / f"reprise-{os.getuid()}"
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or stat.S_IMODE(status.st_mode) & 0o077:
        raise RunError(f"{path}: expected a folder of yours that others cannot enter; remove it")
    return path


def _lock_file(path: Path) -> IO[bytes]:
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600), "r+b")
