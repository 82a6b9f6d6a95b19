"""The memory of this process: its peak during one stage, and freed blocks kept for the next step."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import sys
from pathlib import Path

import torch

TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3  # numbers of glibc's mallopt
LARGEST = 2**25  # of the blocks that are kept, bytes: the largest that mallopt takes
TUNED = (
    "GLIBC_TUNABLES",
    "MALLOC_TRIM_THRESHOLD_",
    "MALLOC_TOP_PAD_",
    "MALLOC_MMAP_THRESHOLD_",
    "MALLOC_MMAP_MAX_",
    "LD_PRELOAD",
)


def keep_freed_blocks() -> bool:
    """Let glibc keep what is freed: a training step asks for the same blocks again.

    By default freed memory goes back to the system, and the next block comes page by page, each of them emptied anew:
    up to a third of a small network's step. Blocks of more than 32 MiB go back as before, so that a process holds
    little more than its steps need. Nothing is computed differently. Whoever tuned the allocator or chose another one
    is left alone, as are systems without glibc.

    Returns:
        whether it is so now.
    """
    if any(os.environ.get(name) for name in TUNED):
        return False
    mallopt = _glibc("mallopt")
    if mallopt is None:
        return False
    return bool(mallopt(MMAP_THRESHOLD, LARGEST) and mallopt(TRIM_THRESHOLD, 2**31 - 1) and mallopt(TOP_PAD, 2**26))


def give_back_freed_blocks() -> None:
    """What was kept goes back to the system, for other processes and the next stage's own peak."""
    trim = _glibc("malloc_trim")
    if trim is not None:
        trim(0)


def _glibc(name: str) -> ctypes._NamedFuncPointer | None:
    if not sys.platform.startswith("linux"):
        return None
    function: ctypes._NamedFuncPointer | None = getattr(ctypes.CDLL(None), name, None)
    return function


def forget_peak() -> None:
    """A worker's earlier stages are not this one's memory. Where the system cannot forget, the peak is the worker's."""
    give_back_freed_blocks()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def resident() -> int:
    """Bytes that this process takes now; where the system does not say, that it ever took."""
    with contextlib.suppress(OSError):
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def peak() -> int:
    """Bytes: of the GPU where one is used, else of this process."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    with contextlib.suppress(OSError):
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return 1024 * int(status.split("VmHWM:")[1].split()[0])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
