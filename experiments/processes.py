"""Processes that must not outlive the one that started them, and measurements that nothing may run beside."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

_watching: set[int] = set()
_ended: set[int] = set()  # processes that were told to end


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


def told_to_end() -> bool:
    """Whether this process got a SIGTERM."""
    return os.getpid() in _ended


@contextlib.contextmanager
def on_this_machine(exclusive: bool, waiting: Callable[[], None], folder: Path | None = None) -> Iterator[None]:
    """Hold a place on the machine: many may hold one; who is `exclusive` waits for all others and holds the only one.

    Those who come later wait behind one that waits to be alone, so that it gets its turn. What a process held is free
    when it ends, however it ends.

    Args:
        exclusive: nothing that holds a place runs meanwhile.
        waiting: called once if there is something to wait for before being alone.
        folder: where the locks lie; None is the machine's folder for temporary files.
    """
    base = (folder or Path(tempfile.gettempdir())) / f"reprise-{os.getuid()}"
    with base.with_suffix(".turn").open("w") as turn, base.with_suffix(".places").open("w") as places:
        if exclusive:
            try:
                fcntl.flock(turn, fcntl.LOCK_EX | fcntl.LOCK_NB)
                fcntl.flock(places, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                waiting()
        fcntl.flock(turn, fcntl.LOCK_EX)
        fcntl.flock(places, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH)
        fcntl.flock(turn, fcntl.LOCK_UN)
        yield
