"""Processes that must not outlive the one that started them."""

from __future__ import annotations

import os
import threading
import time

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
