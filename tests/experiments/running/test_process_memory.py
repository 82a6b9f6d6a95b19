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


def printed(code: str, more: Mapping[str, str] = MappingProxyType({})) -> list[str]:
    """The words of FAULTS and further code, in a process whose allocator nobody tuned but `more`."""
    environment = {k: v for k, v in os.environ.items() if k not in process_memory.TUNED}
    environment |= {"PYTHONPATH": str(ROOT), **more}
    command = [sys.executable, "-c", FAULTS + code]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.split()


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
@pytest.mark.parametrize("tuned", [False, True])
def test_a_freed_block_is_asked_for_again_without_new_pages(tuned: bool) -> None:
    """Unless the user tuned the allocator: then the pages of each block come anew."""
    environment, first, later = printed("", {"MALLOC_TOP_PAD_": "131072"} if tuned else {})
    assert environment == str(not tuned)
    assert (int(later) > 5 * int(first)) if tuned else (int(later) <= int(first))


@pytest.mark.skipif(not GLIBC, reason="only glibc's allocator is told")
def test_a_large_block_goes_back_by_itself() -> None:
    """What a recipe of full size frees, or a process would hold gigabytes after its dry run."""
    code = """
before = resident()
block = torch.ones(128 * 2**20)  # more than the freed blocks of above and the pad behind them, together 256 MiB
held = resident()
del block
print(held - before, resident() - before)
"""
    held, left = map(int, printed(code)[-2:])
    assert left < 0.1 * held


@pytest.mark.skipif(not GLIBC, reason="only glibc's allocator is told")
def test_what_was_kept_is_given_back() -> None:
    code = """
[torch.ones(6 * 2**20) for _ in range(10)]
held = resident()
process_memory.give_back_freed_blocks()
print(held - resident())
"""
    pages = 240 * 2**20 // os.sysconf("SC_PAGESIZE")
    assert int(printed(code)[-1]) > 0.9 * pages
