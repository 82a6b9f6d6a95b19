"""What a machine runs out of is told in one line with what to do, whatever library met it and however deep."""

from __future__ import annotations

import errno

import pytest

from experiments.common import errors


@pytest.mark.parametrize(
    ("error", "told", "code"),
    [
        (OSError(errno.ENOSPC, "no space"), "the disk is full", 1),
        (OSError(errno.EFBIG, "too large"), "the disk is full", 1),
        (OSError(errno.ENOLCK, "no locks"), "this file system has no locks", 2),
        (NotImplementedError("FileSystem does not appear to support flock"), "this file system has no locks", 2),
        (MemoryError(), "there is not enough memory", 1),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "there is not enough memory", 1),
        (ImportError("libtorch.so: failed to map segment from shared object"), "there is not enough memory", 1),
        (RuntimeError("can't start new thread"), "there is not enough memory", 1),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "there is not enough memory", 1),
        (
            RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "),
            "a process that reads data was killed",
            1,
        ),
        (
            RuntimeError("DataLoader worker (pid(s) 7, 8) exited unexpectedly"),
            "a process that reads data was killed",
            1,
        ),
        (RuntimeError("unable to write to file </torch_1_2_3>: No space left"), "shared memory (/dev/shm) is full", 1),
        (RuntimeError("DataLoader worker is killed by signal: Bus error."), "shared memory (/dev/shm) is full", 1),
    ],
)
def test_what_runs_out_is_told_with_what_to_do(error: Exception, told: str, code: int) -> None:
    outer = ValueError("a stage failed")
    outer.__cause__ = error
    for link in (error, outer):
        said, exit_code = errors.explain(link)
        assert said.startswith(told)
        assert (exit_code, len(said.splitlines())) == (code, 1)
        assert errors.is_foreseen(link)


def test_what_is_not_implemented_is_no_lock() -> None:
    said, code = errors.explain(NotImplementedError("this loss"))
    assert (said, code) == ("NotImplementedError: this loss", 1)
