"""Processes that must not outlive the one that started them, and measurements that nothing may run beside."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

_watching: set[int] = set()


def end_with_parent() -> None:
    """End this process when its parent is gone, instead of training on for nobody. Once per process, forks included."""
    if os.getpid() in _watching:
        return
    _watching.add(os.getpid())
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)  # what is on the disk is whole at any moment, and the same command continues it

    threading.Thread(target=watch, daemon=True).start()


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
