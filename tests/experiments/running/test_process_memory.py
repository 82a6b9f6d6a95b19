"""A stage's own peak of memory, and blocks that are asked for again."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import pytest

from experiments.common.paths import ROOT
from experiments.running import process_memory

GLIBC = sys.platform.startswith("linux") and hasattr(ctypes.CDLL(None), "mallopt")
FAULTS = """
import resource, sys
import torch
from experiments.running import process_memory
kept = process_memory.keep_freed_blocks()
torch.set_num_threads(1)
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    [torch.ones(6 * 2**20) for _ in range(8)]  # 192 MiB in all, more than glibc keeps by itself
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
first, *later = [faults() for _ in range(11)]
print(kept, first, sum(later))
from pathlib import Path
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1])
"""
LARGE = """
before = resident()
block = torch.ones(128 * 2**20)  # more than the freed blocks of above and the pad behind them, together 256 MiB
held = resident()
del block
print(held - before, resident() - before)
"""
KEPT = """
[torch.ones(6 * 2**20) for _ in range(10)]
held = resident()
process_memory.give_back_freed_blocks()
print(held - resident())
"""


def printed(code: str, more: Mapping[str, str] = MappingProxyType({})) -> list[list[str]]:
    """The words of each line of FAULTS and further code, in a process whose allocator nobody tuned but `more`."""
    environment = {k: v for k, v in os.environ.items() if k not in process_memory.TUNED}
    environment |= {"PYTHONPATH": str(ROOT), **more}
    command = [sys.executable, "-c", FAULTS + code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return [line.split() for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def untuned() -> list[list[str]]:
    """Of one process for all that is asked of a process that nobody tuned: each imports torch."""
    return printed(LARGE + KEPT)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux forgets a peak")
def test_peak_memory_is_the_stages_own() -> None:
    process_memory.forget_peak()
    before = process_memory.peak()
    block = bytearray(200 * 2**20)
    assert process_memory.peak() > before + 150 * 2**20
    del block
    process_memory.forget_peak()
    assert process_memory.peak() < before + 100 * 2**20


@pytest.mark.skipif(not GLIBC, reason="only glibc's allocator is told")
def test_a_freed_block_is_asked_for_again_without_new_pages(untuned: list[list[str]]) -> None:
    ours, first, later = untuned[0]
    assert ours == "True"
    assert int(later) <= int(first)


@pytest.mark.skipif(not GLIBC, reason="only glibc's allocator is told")
def test_where_the_user_tuned_the_allocator_the_pages_of_each_block_come_anew() -> None:
    ((ours, first, later),) = printed("", {"MALLOC_TOP_PAD_": "131072"})
    assert ours == "False"
    assert int(later) > 5 * int(first)


@pytest.mark.skipif(not GLIBC, reason="only glibc's allocator is told")
def test_a_large_block_goes_back_by_itself(untuned: list[list[str]]) -> None:
    """What a recipe of full size frees, or a process would hold gigabytes after its dry run."""
    held, left = map(int, untuned[1])
    assert left < 0.1 * held


@pytest.mark.skipif(not GLIBC, reason="only glibc's allocator is told")
def test_what_was_kept_is_given_back(untuned: list[list[str]]) -> None:
    pages = 240 * 2**20 // os.sysconf("SC_PAGESIZE")
    (given_back,) = map(int, untuned[2])
    assert given_back > 0.9 * pages
